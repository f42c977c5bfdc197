"""dmi.profile(): places are sampled, so that what the profile says holds for all, whatever the
order of allocations and frees. Each estimate is held against the exact truth, with a bound of four
standard errors; seeds are fixed."""

from __future__ import annotations

import collections
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import dmi

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
ONE_IN = 8


def line_of(profile: dict[str, Any], stack: int | None) -> str:
    """The function of the innermost Python frame."""
    if stack is None:
        return "?"
    for number in profile["stacks"][stack]:
        frame = profile["frames"][number]
        if "function" in frame:
            return str(frame["function"])
    return "native"


def sums(profile: dict[str, Any], what: str) -> dict[str, tuple[float, float]]:
    """By function: the estimate and its standard error."""
    total: dict[str, float] = collections.defaultdict(float)
    variance: dict[str, float] = collections.defaultdict(float)
    for mark in profile["marks"]:
        here: dict[str, float] = collections.defaultdict(float)
        weight = mark["weight"]
        for _, size, stack, *more in mark["blocks"]:
            value = size if what == "busy" else mark["free"] / len(mark["blocks"])
            times = more[1] if len(more) == 2 else 1
            here[line_of(profile, stack)] += times * value
            variance[line_of(profile, stack)] += weight * times * max(0, times - 1) * value * value
        for name, value in here.items():
            total[name] += weight * value
            variance[name] += weight * (weight - 1) * value * value
    return {name: (total[name], math.sqrt(variance[name])) for name in total}


def near(found: tuple[float, float] | None, truth: float, *, least: float = 0.0) -> bool:
    """Within four standard errors of the truth; least is what one sample more or less makes."""
    value, error = found or (0.0, 0.0)
    return abs(value - truth) <= 4 * error + least


@pytest.fixture
def heap() -> dmi.Heap:
    made = dmi.Heap(decommit="never", name="profiled")
    # Sizes have to be in use before pages are carved for them.
    for size in (48, 64, 256, 1024):
        for block in [made.malloc(size) for _ in range(20)]:
            made.free(block)
    return made


def pinned_by(heap: dmi.Heap, blocks: dict[str, list[int]], size: int) -> dict[str, float]:
    """What each group pins, exactly: of each page its free bytes in equal parts."""
    busy: dict[int, list[str]] = collections.defaultdict(list)
    bytes_on: dict[int, int] = collections.defaultdict(int)
    for name, addresses in blocks.items():
        for at in addresses:
            for page in range(at // PAGE, (at + size - 1) // PAGE + 1):
                busy[page].append(name)
                bytes_on[page] += min(at + size, (page + 1) * PAGE) - max(at, page * PAGE)
    found: dict[str, float] = collections.defaultdict(float)
    for page, names in busy.items():
        for name in names:
            found[name] += (PAGE - bytes_on[page]) / len(names)
    return found


def test_temporary_then_keep(heap: dmi.Heap) -> None:
    """The trap of last in, first out: the temporary block of each round goes to the same place."""

    def temporary() -> int:
        return heap.malloc(64)

    def keep() -> int:
        return heap.malloc(64)

    with dmi.profile(ONE_IN, cost=None, seed=1) as p:
        kept = []
        for _ in range(40000):
            passing = temporary()
            kept.append(keep())
            heap.free(passing)
    found = sums(p.data(), "busy")
    assert near(found["test_temporary_then_keep.<locals>.keep"], 64 * len(kept))
    assert "test_temporary_then_keep.<locals>.temporary" not in found


@pytest.mark.plain
def test_a_pair_leaves_nothing(heap: dmi.Heap) -> None:
    """A tight pair uses one block over and over; it holds nothing, and costs a bounded number of
    stacks."""
    with dmi.profile(1, cost=None, seed=2) as p:  # every page
        for _ in range(50000):
            heap.free(heap.malloc(48))
    found = p.data()
    assert sum(size for m in found["marks"] for _, size, *_ in m["blocks"]) == 0
    heap.validate()


def test_a_queue_is_who_filled_it_last(heap: dmi.Heap) -> None:
    def early() -> int:
        return heap.malloc(64)

    def late() -> int:
        return heap.malloc(64)

    with dmi.profile(ONE_IN, cost=None, seed=3) as p:
        queue = collections.deque(early() for _ in range(20000))
        for number in range(60000):
            heap.free(queue.popleft())
            queue.append(late() if number >= 50000 else early())
    found = sums(p.data(), "busy")
    names = "test_a_queue_is_who_filled_it_last.<locals>"
    early_found = sum(v[0] for n, v in found.items() if n.startswith(f"{names}.early"))
    early_error = math.sqrt(sum(v[1] ** 2 for n, v in found.items() if ".early" in n))
    # A generator expression runs the first ones.
    assert near(found[f"{names}.late"], 64 * 10000)
    assert near((early_found, early_error), 64 * 10000)


@pytest.mark.plain
def test_one_small_pin_a_page(heap: dmi.Heap) -> None:
    """What byte sampling cannot see: 48 bytes keep each page."""

    def pin() -> int:
        return heap.malloc(48)

    def bulk() -> int:
        return heap.malloc(48)

    with dmi.profile(ONE_IN, cost=None, seed=4) as p:
        pins, others = [], []
        for number in range(100000):
            if number % 85 == 40:
                pins.append(pin())
            else:
                others.append(bulk())
        for block in others:
            heap.free(block)
    data = p.data()
    found = sums(data, "pinned")
    name = "test_one_small_pin_a_page.<locals>"
    truth = pinned_by(heap, {"pin": pins}, 48)["pin"]
    assert truth > 3_000_000
    assert near(found[f"{name}.pin"], truth)
    assert f"{name}.bulk" not in found
    assert sum(mark["fate"] == "pinned" for mark in data["marks"]) > 50


@pytest.mark.plain
@pytest.mark.parametrize("seed", range(1, 9))
def test_bursts_of_one_phase(heap: dmi.Heap, seed: int) -> None:
    """Many go, few come: what comes takes the places that were freed last, not all sampled ones."""

    def old() -> int:
        return heap.malloc(256)

    def new() -> int:
        return heap.malloc(256)

    with dmi.profile(ONE_IN, cost=None, seed=seed) as p:
        first = [old() for _ in range(16000)]
        for block in first[::2]:
            heap.free(block)
        fresh = [new() for _ in range(1000)]
    found = p.data()
    name = "test_bursts_of_one_phase.<locals>"
    busy = sums(found, "busy")
    assert near(busy[f"{name}.old"], 256 * 8000)
    assert near(busy.get(f"{name}.new"), 256 * len(fresh), least=256 * 16 * ONE_IN)
    truth = pinned_by(heap, {"old": first[1::2], "new": fresh}, 256)
    pinned = sums(found, "pinned")
    assert near(pinned[f"{name}.old"], truth["old"])
    heap.validate()


@pytest.mark.plain
def test_the_mean_over_many_draws_is_the_truth() -> None:
    """No bias: over seeds, the mean of the estimate is the truth within its own error."""

    def temporary(heap: dmi.Heap) -> int:
        return heap.malloc(112)

    def keep(heap: dmi.Heap) -> int:
        return heap.malloc(112)

    values = []
    for seed in range(1, 41):
        heap = dmi.Heap(decommit="never")
        for block in [heap.malloc(112) for _ in range(20)]:
            heap.free(block)
        with dmi.profile(16, cost=None, seed=seed) as p:
            kept, passing = [], collections.deque[int]()
            for number in range(6000):
                passing.append(temporary(heap))
                if number % 3 == 0:
                    kept.append(keep(heap))
                if len(passing) > 50 + number % 40:
                    heap.free(passing.popleft())
            while passing:
                heap.free(passing.popleft())
        found = sums(p.data(), "busy")
        name = "test_the_mean_over_many_draws_is_the_truth.<locals>.keep"
        values.append(found.get(name, (0.0, 0.0))[0])
    truth = 112 * len(kept)
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    assert abs(mean - truth) < 4 * error
    assert error < truth / 10


@pytest.mark.plain
def test_few_stacks_of_many_from_one_place_and_no_bias() -> None:
    """A line that keeps one block in a hundred, and frees the others at once, is asked for a stack
    less and less often; what it keeps is still known, and what is rare has its stack always."""

    def make(heap: dmi.Heap) -> int:
        return heap.malloc(96)

    def rare(heap: dmi.Heap) -> int:
        return heap.malloc(96)

    values, rares, recorded, handed = [], [], 0, 0
    for seed in range(1, 25):
        heap = dmi.Heap(decommit="never")
        for block in [heap.malloc(96) for _ in range(20)]:
            heap.free(block)
        with dmi.profile(64, cost=1.0, seed=seed) as p:
            kept, passing = list[int](), collections.deque[int]()
            for number in range(60000):
                (kept if number % 30 == 0 else passing).append(make(heap))
                if number % 200 == 0:
                    kept.append(rare(heap))
                if len(passing) > 2000:
                    heap.free(passing.popleft())
        found = sums(data := p.data(), "busy")
        name = "test_few_stacks_of_many_from_one_place_and_no_bias.<locals>"
        values.append(found.get(f"{name}.make", (0.0, 0.0))[0])
        rares.append(found.get(f"{name}.rare", (0.0, 0.0))[0])
        recorded += sum(samples for *_, samples in data["allocated"])
        handed += round(sum(n for _, _, n, *_ in data["allocated"]) / 64)
    for estimates, truth in ((values, 96 * (2000 + 2001)), (rares, 96 * 300)):
        mean = sum(estimates) / len(estimates)
        spread = sum((v - mean) ** 2 for v in estimates) / (len(estimates) - 1)
        assert abs(mean - truth) < 4 * math.sqrt(spread / len(estimates))
    assert recorded < handed * 0.9


@pytest.mark.plain
def test_pages_are_given_up_at_random_when_they_cost_too_much(heap: dmi.Heap) -> None:
    """A cache that is replaced all the time: fewer and fewer pages stand for more and more."""

    def put() -> int:
        return heap.malloc(256)

    with dmi.profile(1, cost=1e-6, seed=9) as p:
        cache = [put() for _ in range(30000)]
        # In the end none would be left: looked at is the first moment at which most are gone.
        for number in range(400000):
            place = number * 7919 % len(cache)
            heap.free(cache[place])
            cache[place] = put()
            if number % 1000 == 0:
                data = p.data()
                weights = {mark["weight"] for mark in data["marks"]}
                if min(weights) >= 4:
                    break
    assert min(weights) >= 4
    assert len(data["marks"]) < 30000 * 256 // PAGE // 4 * 1.25
    assert all(math.log2(weight).is_integer() for weight in weights)
    held = [(sum(s for _, s, *_ in m["blocks"]), m["weight"]) for m in data["marks"]]
    value = sum(size * weight for size, weight in held)
    error = math.sqrt(sum(weight * (weight - 1) * size * size for size, weight in held))
    assert near((value, error), 256 * len(cache))
    heap.validate()


@pytest.mark.plain
def test_larger_blocks_are_sampled_by_bytes(heap: dmi.Heap) -> None:
    with dmi.profile(ONE_IN, cost=None, seed=6) as p:
        kept = [heap.malloc(size) for size in (40000, 100000, 3_000_000) for _ in range(40)]
        for block in kept[::2]:
            heap.free(block)
        moved = heap.realloc(heap.malloc(2_000_000), 9_000_000)
    data = p.data()
    total = sum(block["weight"] * block["size"] for block in data["large"])
    truth = 20 * (40000 + 100000 + 3_000_000) + 9_000_000
    assert truth * 0.9 < total < truth * 1.1
    assert {b["address"] for b in data["large"]} <= {*kept[1::2], moved}
    assert any(
        line_of(data, block["stack"]).endswith("sampled_by_bytes") for block in data["large"]
    )


@pytest.mark.parametrize("size", [16, 48, 112, 1040, 5000, 30000])
def test_everything_else_holds_while_pages_are_watched(size: int) -> None:
    """realloc, find, walk, validate, trim, double frees: on watched pages as on any other."""
    heap = dmi.Heap(decommit="lazy", clock="manual")
    count = max(200, 400000 // size)
    with dmi.profile(1, cost=None, seed=7):  # all of them
        blocks = [heap.malloc(size) for _ in range(count)]
        heap.validate()
        found = dmi.find(blocks[-1])
        assert found is not None
        assert (found.address, found.state) == (blocks[-1], "busy")
        for block in blocks[1::2]:
            heap.free(block)
        with pytest.raises(dmi.HeapError):
            heap.free(blocks[1])
        assert dmi.find(blocks[1]).state == "free"  # type: ignore[union-attr]
        kept = [heap.realloc(block, size + size // 4 + 16) for block in blocks[::2]]
        heap.advance(10)
        heap.trim()
        heap.validate()
        more = [heap.malloc(size) for _ in range(count)]
        stats = heap.stats(detail=True)
        assert stats.busy_blocks == len(kept) + len(more)
        assert len([r for r in heap.walk() if r.state == "busy"]) == stats.busy_blocks
        for block in kept + more:
            heap.free(block)
        heap.trim()
    heap.validate()
    assert heap.stats().busy == 0


def test_only_one_at_a_time_and_clear_errors(tmp_path: Path) -> None:
    p = dmi.profile()
    with pytest.raises(RuntimeError, match="not started"):
        p.data()
    with p:
        assert p.running
        with pytest.raises(RuntimeError, match="sampled already"):
            dmi.profile().start()
    assert not p.running
    p.save(tmp_path / "one.profile")
    assert json.loads((tmp_path / "one.profile").read_text()) == p.data()
    for wrong in (0, -1, 1 << 21):
        with pytest.raises(ValueError, match="one_in must be from 1 to"):
            dmi.profile(wrong)
    with pytest.raises(TypeError, match="one_in must be a whole number"):
        dmi.profile("64")
    for cost in (0, -1, 2, "much"):
        with pytest.raises(ValueError, match="cost must be a share"):
            dmi.profile(cost=cost)
    with pytest.raises(FileNotFoundError):
        p.save(tmp_path / "none" / "x")


def test_a_hardened_heap_is_not_sampled_and_works() -> None:
    heap = dmi.Heap(hardened=True, name="hardened")
    with dmi.profile(1) as p:
        blocks = [heap.malloc(64) for _ in range(1000)]
        for block in blocks:
            heap.free(block)
    assert not [m for m in p.data()["marks"] if m["heap"] == heap.name and m["blocks"]]


PROGRAM = """
import os, signal, sys
kept = []
def put(n):
    kept.append(bytearray(n))
def work():
    for i in range(30000):
        bytes(100 + i % 500)
        put(40)
work()
if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGURG)
    sys.stdin.read(1)
"""


def run(*arguments: str, program: str = PROGRAM, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dmi", "run", *arguments, "--", sys.executable, "-c", program, "x"][
            : None if options.pop("waits", False) else -1
        ],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def ended(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return err


def test_dmi_run_writes_a_profile_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "one.profile"
    ended(run("--profile", str(file), "--sample", "16", "--cost", "off"))
    data = json.loads(file.read_text())
    assert (data["kind"], data["version"], data["one_in"]) == ("dmi-profile", 1, 16)
    assert data["program"] == os.path.realpath(f"/proc/{os.getpid()}/exe")
    assert data["mappings"]
    assert any(line_of(data, row[0]) == "put" for row in data["allocated"])


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "import threading"])
def test_a_python_program_still_holds_what_it_held(tmp_path: Path, end: str) -> None:
    """Python frees it before the program's own end, at which nothing would be left to see."""
    file = tmp_path / "held.profile"
    ended(
        run("--profile", str(file), "--sample", "8", "--cost", "off", program=f"{PROGRAM}\n{end}\n")
    )
    found = sums(json.loads(file.read_text()), "busy")
    assert near(found["put"], 30000 * (64 + 48), least=30000 * 16)


GLOBALS = r"""
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
struct Cache {
    std::map<int, std::unique_ptr<char[]>> of;
    ~Cache() { std::fputs("gone\n", stderr); }
};
static Cache global;
static void keep() {
    static Cache local;
    for (int i = 0; i < 20000; i++) {
        global.of[i].reset(new char[64]);
        local.of[i].reset(new char[64]);
    }
}
int main(int, char **words) {
    std::atexit([] { global.of.clear(); });
    keep();
    if (*words[1] == 'e') std::exit(3);
    return 3;
}
"""


@pytest.mark.parametrize("end", ["return", "exit"])
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_globals_of_cpp_are_still_there(tmp_path: Path, end: str) -> None:
    """They are destroyed before a destructor of a library runs; handlers of atexit run before."""
    (tmp_path / "globals.cpp").write_text(GLOBALS)
    program, file = tmp_path / "globals", tmp_path / "globals.profile"
    subprocess.run(["g++", "-g", "-o", program, tmp_path / "globals.cpp"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "dmi", "run", "--profile", file, "--sample", "1", "--cost", "off",
         "--", program, end],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("gone") == 2  # and they still are
    found = dmi.blame(file, "function", "busy")
    assert found.rows[0].name.startswith("keep")
    # Two maps of 20,000 nodes, and what they point to: 48 and 64 bytes. The first few blocks of a
    # size are not seen.
    assert found.rows[0].bytes == pytest.approx(2 * 20000 * (48 + 64), rel=0.01)


def test_a_program_that_is_not_python_has_its_profile_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "sh.profile"
    command = [
        sys.executable,
        "-m",
        "dmi",
        "run",
        "--profile",
        str(file),
        "--",
        "sort",
        "/dev/null",
    ]
    subprocess.run(command, check=True, timeout=60)
    assert json.loads(file.read_text())["kind"] == "dmi-profile"


def test_dmi_run_writes_a_profile_when_a_signal_asks(tmp_path: Path) -> None:
    file = tmp_path / "%n.profile"
    process = run(
        "--profile", str(file), "--sample", "8", "--cost", "off", "--at", "SIGURG", waits=True
    )
    first = tmp_path / "1.profile"
    until = time.monotonic() + 30
    while not first.exists() and time.monotonic() < until:
        time.sleep(0.05)
    found = sums(json.loads(first.read_text()), "busy")
    # The objects and their buffers: 56 and 41 bytes, in blocks of 64 and 48.
    assert near(found["put"], 30000 * (64 + 48), least=30000 * 16)
    process.send_signal(signal.SIGURG)
    ended(process)
    assert not list(tmp_path.glob(".*"))


def test_a_snapshot_carries_the_profile(tmp_path: Path) -> None:
    ended(
        run("--profile", str(tmp_path / "p"), "--sample", "16", "--snapshot", str(tmp_path / "s"))
    )
    inside = json.loads((tmp_path / "s").read_text())["profile"]
    assert inside["kind"] == "dmi-profile"
    assert dmi.Snapshot.load(tmp_path / "s").heaps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sample", "8"], "--sample needs --profile FILE"),
        (["--at", "exit"], "--at needs --snapshot FILE or --profile FILE"),
        (["--profile", "x", "--sample", "0"], "--sample must be a number from 1"),
        (["--cost", "0.1"], "--cost needs --profile FILE"),
        (["--profile", "x", "--cost", "2"], "--cost must be a share from 0.000001 to 1, or off"),
        (["--profile", "x", "--cost", "none"], "--cost must be a share from 0.000001 to 1, or off"),
        (["--profile", "x", "--sample", "many"], "--sample must be a number from 1"),
        (["--profile", "/nowhere/x"], "--profile: there is no directory"),
        (["--profile", "a:b"], "--profile: a path without comma and colon"),
    ],
)
def test_dmi_run_says_what_is_wrong(arguments: list[str], words: str) -> None:
    process = run(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert words in err


FORKS = """
import os
kept = [bytearray(40) for _ in range(20000)]
child = os.fork()
more = [bytearray(40) for _ in range(20000)]
del more
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_fork_child_works_and_leaves_its_parents_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "f.profile"
    process = run("--profile", str(file), "--sample", "1", "--cost", "off", program=FORKS)
    ended(process)
    assert json.loads(file.read_text())["pid"] == process.pid


THREADS = """
import dmi, threading
heap = dmi.Heap(decommit="lazy:delay=0.01")
boxes = [[] for _ in range(4)]
def work(me):
    for i in range(3000):
        boxes[me].append(heap.malloc(16 + i % 700))
        other = boxes[(me + i) % 4]
        try:
            heap.free(other.pop())
        except IndexError:
            pass
with dmi.profile(2, cost=0.001) as p:
    for _ in range(3):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads: t.start()
        for _ in range(20): p.data(); heap.validate()
        for t in threads: t.join()
for box in boxes:
    for block in box: heap.free(block)
heap.validate()
assert heap.stats().busy == 0
"""


def test_threads_free_each_others_blocks() -> None:
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=100)


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="64 Pythons; one is counted elsewhere")
def test_pythons_that_start_are_not_disturbed(tmp_path: Path) -> None:
    """A module that is imported while another one's lock is being taken would end the import."""
    environment = {
        **os.environ,
        "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": dmi.get_preload_path(),
    }
    for every in range(1, 65):
        environment["DMI_OPTIONS"] = f"profile={tmp_path / 'a'}:sample={every}"
        subprocess.run(
            [sys.executable, "-c", "import json"], env=environment, check=True, timeout=60
        )
