"""dmi.blame(): sums, shares, errors, names and the words of bad input."""

from __future__ import annotations

import json
import random
import statistics
from fractions import Fraction
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import STACKS, by_chance, page, profile

import dmi
from dmi.profile import MEASURES, Profile, Row
from dmi.profile._measure import samples
from dmi.profile._own import asks_for_memory, owner_of_file

if TYPE_CHECKING:
    from pathlib import Path

ONE = [name for name in MEASURES if name != "grew"]


ASKING = """malloc calloc realloc xmalloc xcalloc zmalloc ztrymalloc_usable g_malloc0_n xstrdup
    PyMem_RawMalloc PyObject_Malloc operator_new ngx_palloc std::vector::allocate strdup
    posix_memalign je_malloc"""


def rows(values: Any, by: Any = "line", what: Any = "pinned") -> dict[str, Row]:
    return {row.name: row for row in dmi.blame(values, by, what).rows}


def test_the_free_bytes_of_a_page_are_shared_in_equal_parts() -> None:
    # A small block keeps the page as well as a large one does.
    found = rows(profile([page([[16, 1], [2000, 3]], weight=1.0)]))
    assert found["cache.py:57 put"].bytes == found["app.py:9 run"].bytes == (4096 - 2016) // 2


def test_what_does_not_divide_goes_to_the_first_block() -> None:
    found = rows(profile([page([[15, 1], [16, 3], [16, 3]], weight=1.0)]))
    assert [found["cache.py:57 put"].bytes, found["app.py:9 run"].bytes] == [1350, 2699]


def test_measures_of_one_page() -> None:
    marks = [
        page([[96, 1]], weight=64.0),
        page([], fate="goes_back", number=1),
        page([], fate="empty", number=2),
    ]
    large = [{"address": 1, "size": 10**6, "retained": 7, "weight": 1.0, "stack": 1}]
    values = profile(marks, large=large, allocated=[[1, 640.0, 64.0]])
    sums = {what: dmi.blame(values, what=what).bytes for what in ONE}  # type: ignore[arg-type]
    assert sums == {
        "pinned": 64 * 4000 + 7,
        "retained": 64 * 4000 + 7 + 64 * 4096,
        "busy": 64 * 96 + 10**6,
        "allocated": 640,
    }
    assert rows(values, what="retained")["(nobody: goes back by itself)"].bytes == 64 * 4096


def test_of_a_block_that_reaches_over_the_page_only_what_lies_on_it_counts() -> None:
    mark = page([[4096, 1]])
    mark["blocks"][0][0] -= 1000
    assert dmi.blame(profile([mark]), what="busy").bytes == 64 * 3096
    del mark["page"]
    mark["blocks"][0][1] = 5000
    assert dmi.blame(profile([mark]), what="busy").bytes == 64 * 4096


@given(st.integers(0, 10**9))
@settings(max_examples=20, deadline=None)
def test_no_byte_is_lost_or_made(seed: int) -> None:
    values = by_chance(seed, pages=60)
    parsed = Profile.from_dict(values)
    exact: dict[str, Fraction] = {}
    for what in ("pinned", "retained", "busy"):
        total = Fraction(0)
        for weight, parts, _ in samples(parsed, what):
            total += Fraction(weight) * sum(int(part.size) for part in parts)
        exact[what] = total
    free = {
        fates: sum(
            (Fraction(m["weight"]) * m["free"] for m in values["marks"] if m["fate"] in fates),
            Fraction(0),
        )
        for fates in (("pinned",), ("pinned", "goes_back"))
    }
    kept = sum((Fraction(b["weight"]) * b["retained"] for b in values["large"]), Fraction(0))
    assert exact["pinned"] == free["pinned",] + kept
    assert exact["retained"] == free["pinned", "goes_back"] + kept
    for what in ONE:
        for by in ("line", "function", "stack", "type", "size"):
            found = dmi.blame(parsed, by, what)  # type: ignore[arg-type]
            assert sum(row.bytes for row in found.rows) == found.bytes
            assert what not in exact or abs(found.bytes - exact[what]) <= Fraction(1, 2)


def test_each_page_shares_out_its_free_bytes_to_the_byte() -> None:
    parsed = Profile.from_dict(by_chance(5, pages=500))
    shared = [sum(part.size for part in parts) for _, parts, _ in samples(parsed, "pinned")]
    pinned = [m.free for m in parsed.marks if m.fate == "pinned"]
    assert shared[: len(pinned)] == pinned


def test_the_estimate_has_no_bias_and_its_interval_holds() -> None:
    """A heap of which all is known, marked a hundred times: one small pin a page on most."""
    chance = random.Random(1)
    heap = []
    for number in range(2000):
        blocks = [[48, 1]] if chance.random() < 0.7 else [[64, 3]] * chance.randint(1, 20)
        heap.append(page(blocks, weight=16.0, number=number))
    truth = sum(m["free"] for m in heap if m["blocks"][0][2] == 1)
    estimates, inside = [], 0
    for _ in range(100):
        marked = [m for m in heap if chance.random() < 1 / 16]
        row = rows(profile(marked, one_in=16))["cache.py:57 put"]
        estimates.append(row.bytes)
        inside += abs(row.bytes - truth) <= row.error
    spread = statistics.stdev(estimates)
    assert abs(statistics.mean(estimates) - truth) < 4 * spread / 10
    assert inside >= 85


def test_blocks_whose_stacks_chance_left_out_are_in_the_others() -> None:
    """Of each page half of the blocks, or one in four, has its stack: sums and intervals hold."""
    chance = random.Random(2)
    heap = [page([[64, chance.choice([1, 1, 3])] for _ in range(20)], number=n) for n in range(800)]
    truth = sum(m["free"] / 20 * sum(b[2] == 1 for b in m["blocks"]) for m in heap)
    estimates, inside = [], 0
    for _ in range(100):
        marked = []
        for whole in heap:
            if chance.random() < 1 / 16:
                blocks = [[*b[:3], None, 0] for b in whole["blocks"]]
                for block in blocks:
                    times = 2 if block[2] == 1 else 4
                    block[4] = times * (chance.random() < 1 / times)
                marked.append(whole | {"blocks": blocks, "weight": 16.0})
        values = profile(marked, one_in=16)
        row = rows(values)["cache.py:57 put"]
        estimates.append(row.bytes)
        inside += abs(row.bytes - truth) <= row.error
        # Where no stack matters each block stands for itself.
        assert dmi.blame(values, "size").bytes == sum(16 * m["free"] for m in marked)
        assert sum(r.bytes for r in dmi.blame(values).rows) == dmi.blame(values).bytes
    spread = statistics.stdev(estimates)
    assert abs(statistics.mean(estimates) - truth) < 4 * spread / 10
    assert 85 <= inside <= 99


def test_samples_count_for_what_they_say() -> None:
    """One block that stands for 32 says no more than one, however many others there are."""
    marks = [page([[64, 1]], number=n) for n in range(60)]
    assert rows(profile(marks))["cache.py:57 put"].samples == 60
    marks[0]["blocks"][0] += [None, 32]
    row = rows(profile(marks))["cache.py:57 put"]
    assert row.samples == round((59 + 32) ** 2 / (59 + 32**2))
    assert not row.named
    assert Profile.from_dict(profile(marks)).as_dict()["marks"][0]["blocks"][0][3:] == [None, 32]


def test_a_line_is_the_programs_own() -> None:
    marks = [page([[64, n]], weight=1.0, number=n) for n in range(len(STACKS))]
    found = rows(profile(marks))
    # json is Python's, flask is installed, an address of nobody is no line: their callers count,
    # where there are any.
    assert {name: row.samples for name, row in found.items()} == {
        "cache.py:57 put": 2, "main.py:10 serve": 2, "app.py:9 run": 1,
    }  # fmt: skip
    stacks = rows(profile(marks), by="stack")
    assert "decoder.py:353 raw_decode < cache.py:57 put < main.py:10 serve" in stacks


def test_a_function_that_is_to_be_skipped_leaves_its_caller() -> None:
    values = profile([page([[64, 1]], weight=1.0)])
    assert [row.name for row in dmi.blame(values, skip=["put"]).rows] == ["main.py:10 serve"]


@pytest.mark.parametrize(
    "name",
    [
        "malloc",
        "calloc",
        "realloc",
        "xmalloc",
        "xcalloc",
        "zmalloc",
        "ztrymalloc_usable",
        "g_malloc0_n",
        "PyMem_RawMalloc",
        "PyObject_Malloc",
        "operator_new",
        "ngx_palloc",
        "std::vector::allocate",
        "strdup",
        "xstrdup",
        "posix_memalign",
        "je_malloc",
    ],
)
def test_functions_that_only_ask_for_memory(name: str) -> None:
    assert asks_for_memory(name.replace("operator_new", "operator new[]"))


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "put",
        "session_new",
        "cache_alloc",
        "make_session",
        "load",
        "intern",
        "malloc_stats_all",
    ],
)
def test_functions_that_do_more(name: str) -> None:
    assert not asks_for_memory(name)


@pytest.mark.parametrize(
    ("path", "python", "owner"),
    [
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", False, "runtime"),
        ("/lib/x86_64-linux-gnu/libstdc++.so.6.0.30", False, "runtime"),
        ("/usr/bin/python3.11", False, "runtime"),
        ("/usr/lib/libpython3.13t.so.1.0", False, "runtime"),
        ("/x/site-packages/dmi/libdmi_malloc.so", False, "allocator"),
        ("/usr/lib/x86_64-linux-gnu/libglib-2.0.so.0", False, "library"),
        ("/x/lib/python3.11/site-packages/numpy/core/_multiarray.cpython-311.so", False, "library"),
        ("/usr/lib/python3.11/lib-dynload/_json.cpython-311.so", False, "runtime"),
        ("/srv/app/native.so", False, "program"),
        ("/usr/bin/redis-server", False, "program"),
        ("/srv/app/main.py", True, "program"),
        ("<string>", True, "program"),
        ("<frozen importlib._bootstrap>", True, "runtime"),
        ("/usr/lib/python3.11/json/__init__.py", True, "runtime"),
        ("/opt/py/lib/python3.13t/json/__init__.py", True, "runtime"),
        ("/usr/lib/python3/dist-packages/yaml/loader.py", True, "library"),
        ("/srv/venv/bin/gunicorn", True, "library"),
    ],
)
def test_whose_a_file_is(path: str, python: bool, owner: str) -> None:
    assert owner_of_file(path, python=python) == owner


def test_a_name_is_said_from_fifty_samples_on() -> None:
    few = profile([page([[48, 1]], number=n) for n in range(2)])
    found = dmi.blame(few)
    assert found.top is None
    assert found.sentence == "No line is named: too few (2): use --sample 2."
    assert "cache.py" not in str(found)
    assert "(one page in 64)" in str(found)
    fewer = dmi.blame(profile([page([[48, 1]], number=n, weight=256.0) for n in range(2)]))
    assert fewer.sentence == "No line is named: too few (2): use --sample 2 --cost off."
    assert "(one page in 64, of which up to one in 4 is left)" in str(fewer)
    enough = dmi.blame(profile([page([[48, 1]], number=n) for n in range(50)]))
    assert enough.top is not None
    assert enough.sentence.startswith("100 % of what stays although it is free is pinned by cache")


def test_what_is_no_estimate_is_named_at_once() -> None:
    found = dmi.blame(profile([page([[48, 1]], weight=1.0)], one_in=1))
    assert found.top is not None
    assert (found.top.error, found.error) == (0, 0)


def test_a_line_with_too_few_samples_hides_none_below_it() -> None:
    # The first may be the largest, so the second is not called it.
    large = [{"address": 1, "size": 9, "retained": 10**9, "weight": 1000.0, "stack": 3}]
    marks = [page([[48, 1]], number=n) for n in range(60)]
    assert dmi.blame(profile(marks, large=large)).top is None


def test_what_grew() -> None:
    before = profile([page([[48, 1]], number=n) for n in range(60)])
    after = profile([page([[48, 1], [1024, 3]], number=n) for n in range(60)], time=2e9)
    found = dmi.blame((before, after), what="grew")
    assert found.bytes == 60 * 64 * 1024
    assert found.top is not None
    assert found.top.name == "app.py:9 run"
    pinned = dmi.blame((before, after), what="pinned")
    assert pinned.bytes == -60 * 64 * 1024
    with pytest.raises(ValueError, match="between two moments"):
        dmi.blame(before, what="grew")
    with pytest.raises(ValueError, match="two processes, 42 and 43"):
        dmi.blame((before, after | {"pid": 43}))
    assert dmi.blame((before, after | {"pid": 43}), what="grew", across=True).bytes == found.bytes
    with pytest.raises(ValueError, match="earlier than the first"):
        dmi.blame((after, before))


def test_types_and_sizes() -> None:
    mark = page([[48, 1], [96, 1]], weight=1.0)
    mark["blocks"][0].append("dict")
    found = rows(profile([mark]), by="type", what="busy")
    assert {name: row.bytes for name, row in found.items()} == {
        "dict": 48,
        "(type not recorded)": 96,
    }
    found = rows(profile([mark]), by="size", what="busy")
    assert {name: row.bytes for name, row in found.items()} == {"48 bytes": 48, "96 bytes": 96}


def test_json_is_as_its_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((resources.files("dmi.profile") / "blame.schema.json").read_text())
    for by in ("line", "function", "stack", "type", "size"):
        jsonschema.validate(dmi.blame(by_chance(3), by).as_dict(), schema)


def test_a_profile_is_saved_and_loaded(tmp_path: Path) -> None:
    parsed = Profile.from_dict(by_chance(7))
    parsed.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == parsed
    assert dmi.blame(tmp_path / "p.json") == dmi.blame(parsed)


BROKEN: list[tuple[Any, str]] = [
    ([], "must be an object"),
    ({}, "kind is None"),
    (profile([], version=2), "version 2; this dmi reads 1"),
    (profile([], one_in=0), "one_in must be a whole number from 1"),
    (profile([], one_in=True), "one_in must be"),
    (profile([], frames=[{"file": "x"}]), r"frames\[0\] lacks 'function'"),
    (profile([], stacks=[[0], [9]]), r"stacks\[1\]: there is no frame 9; there are 5"),
    (profile([], stacks=[[-1]]), "no frame -1"),
    (profile([page([[48, 9]])]), r"marks\[0\].blocks\[0\]: there is no stack 9; there are 5"),
    (profile([page([[48, 0]], weight=0.5)]), "weight must be a number from 1"),
    (profile([page([[48, 0]]) | {"free": 5000}]), "5000 free bytes on 4096"),
    (profile([page([[48, 0]]) | {"fate": "lost"}]), "fate must be one of pinned"),
    (profile([page([[48, 0]], fate="empty")]), "is empty, and has blocks"),
    (profile([page([]) | {"blocks": [[1, 2]]}]), r"must be \[address, size, stack\]"),
    (profile([], large=[{"address": 1}]), r"large\[0\] lacks 'size'"),
    (profile([], allocated=[[0, -1.0, 1.0]]), "bytes must be a number from 0"),
    (profile([], mappings=[{"start": 2, "end": 1, "offset": 0, "path": ""}]), "ends before"),
]


@pytest.mark.parametrize(("values", "words"), BROKEN)
def test_what_is_wrong_is_named(values: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        Profile.from_dict(values)
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"p\.json: "):
        Profile.load(tmp_path / "p.json")


@given(st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_damage_is_refused_or_read(seed: int) -> None:
    """Any value of a profile replaced by any other: an answer, or ValueError."""
    chance = random.Random(seed)
    values: Any = json.loads(json.dumps(by_chance(seed % 5, pages=5)))
    for _ in range(chance.randint(1, 3)):
        at = values
        while True:
            places = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not places:
                break
            place = chance.choice(places)
            if isinstance(at[place], (dict, list)) and chance.random() < 0.9:
                at = at[place]
                continue
            at[place] = chance.choice(
                [None, True, -1, 0, 1 << 70, 1 << 63, 1e300, 0.5, "", "x" * 5000, [], {}, [[]], 7]
            )
            break
    try:
        found = dmi.blame(values, what="busy")
    except ValueError:
        return
    assert sum(row.bytes for row in found.rows) == found.bytes


def test_words_that_are_not_known() -> None:
    values = profile([])
    with pytest.raises(ValueError, match="by must be one of line, function"):
        dmi.blame(values, "file")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="what must be one of pinned"):
        dmi.blame(values, what="lost")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not int"):
        dmi.blame(5)
    with pytest.raises(ValueError, match="not 3"):
        dmi.blame([values] * 3)
    assert dmi.blame(values).sentence == "Nothing is pinned."


def test_a_stack_without_a_line_of_the_program_is_named_by_none() -> None:
    frames = [{"file": "/usr/lib/python3.11/json/decoder.py", "function": "scan", "line": 3}]
    marks = [page([[48, 0]], number=n) for n in range(60)]
    found = dmi.blame(profile(marks, frames=frames, stacks=[[0]]))
    assert [row.name for row in found.rows] == ["(no line of the program: scan)"]
    assert found.top is None
    assert found.sentence == "No line is known of what is pinned."


def test_what_only_the_caller_of_malloc_is_known_of_is_told() -> None:
    """Named first it would look like the line to mend; it may be a wrapper."""
    marks = [page([[48, 5]] if n % 4 else [[48, 1]], number=n) for n in range(400)]
    found = dmi.blame(profile(marks, stacks=[*STACKS, [4]]), what="pinned")
    assert found.cut == 300 * 64 * (4096 - 48)
    assert found.as_dict()["cut"] == found.cut
    assert "only the caller of malloc is known" in str(found)
    whole = dmi.blame(profile(marks, stacks=[*STACKS, [4, 1]]), what="pinned")
    assert whole.cut == 0
    assert "caller of malloc" not in str(whole)
