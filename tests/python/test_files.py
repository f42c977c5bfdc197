"""The one door for files: what is no regular file is refused, and nothing is followed or waited
for."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from profiles import page, profile

import dmi
from dmi import _files, windbg
from dmi.profile import FORMATS, Profile, write
from dmi.python import startup
from dmi.testing._baseline import Baseline
from dmi.windbg import _clothes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = [
    pytest.mark.reads,
    pytest.mark.skipif(sys.platform == "win32", reason="no such files there"),
]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.with_name("victim").write_text("precious")
    path.symlink_to("victim")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def folder(path: Path) -> None:
    path.mkdir()


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


ODD = [fifo, link, dangling, folder, plug]


def save_snapshot(path: Path) -> None:
    with dmi.Heap() as heap:
        heap.malloc(100)
        dmi.snapshot(blocks=True).save(path)


def save_trace(path: Path) -> None:
    dmi.trace.save(dmi.trace.check(b"", objects=0), path)


def save_profile(path: Path) -> None:
    with dmi.profile() as sampler:
        pass
    sampler.save(path)


def save_blamed(kind: str) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        write(profile([page([[48, 1]])]), path, kind)

    return save


def save_profile_again(path: Path) -> None:
    Profile.from_dict(profile([page([[48, 1]])])).save(path)


def save_baseline(path: Path) -> None:
    _files.write_text(path, Baseline({}).text())


WRITERS = [
    lambda path: _files.write_text(path, "text"),
    save_snapshot,
    save_trace,
    save_profile,
    save_profile_again,
    save_baseline,
    *map(save_blamed, FORMATS),
]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_regular_file_is_not_written(
    tmp_path: Path, odd: Callable[[Path], None], writer: Callable[[Path], None]
) -> None:
    target = tmp_path / "target"
    odd(target)
    before = target.lstat()
    with pytest.raises(OSError, match="it is ") as caught:
        writer(target)
    assert caught.value.filename == os.fspath(target)
    assert target.lstat() == before
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"target", "victim"}
    if "victim" in left:
        assert (tmp_path / "victim").read_text() == "precious"
    with pytest.raises(OSError, match="it is "):
        _files.check_target(target)


def test_a_link_beside_a_snapshot_is_not_followed_either(tmp_path: Path) -> None:
    link(tmp_path / "moment.json.blocks")
    with pytest.raises(OSError, match="a symbolic link"):
        save_snapshot(tmp_path / "moment.json")
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "moment.json.blocks"}
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_replaced_whole_and_for_its_owner_alone(
    tmp_path: Path, writer: Callable[[Path], None]
) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(0o666)
    held = target.open()
    writer(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert held.read() == "old"  # another file
    held.close()
    assert {path.name for path in tmp_path.iterdir()} <= {"target", "target.blocks"}


@pytest.mark.parametrize("odd", ODD)
def test_the_startup_file_of_an_environment_is_no_exception(
    tmp_path: Path, odd: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be read by whoever may read the code, which nobody else may write."""
    target = tmp_path / startup.FILE
    monkeypatch.setattr(startup, "startup_file", lambda: target)
    monkeypatch.setattr(startup, "is_environment", lambda: True)
    monkeypatch.setattr("dmi.python._checks.refusal", lambda *_: None)
    odd(target)
    before = target.lstat()
    with pytest.raises(OSError, match="it is "):
        startup.enable()
    assert target.lstat() == before
    target.rmdir() if odd is folder else target.unlink()
    assert startup.enable().enabled
    code = Path(startup.__file__).with_name("_start.py")
    assert stat.S_IMODE(target.stat().st_mode) == code.stat().st_mode & 0o644
    assert {path.name for path in tmp_path.iterdir()} <= {startup.FILE, "victim"}


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")

    def half() -> None:
        with _files.replacing(target) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may not write to, root or not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    yield path
    if os.getuid() == 0:
        os.seteuid(0)
    path.rmdir()


def test_a_folder_that_may_not_be_written_is_named(read_only: Path) -> None:
    target = read_only / "target"
    with pytest.raises(PermissionError) as caught:
        _files.write_text(target, "text")
    assert caught.value.filename == os.fspath(target)
    with pytest.raises(PermissionError, match="may not be written"):
        _files.check_target(target)


@pytest.mark.parametrize("name", ["", "missing/target", "/"])
def test_what_names_no_file_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError):
        _files.check_target(f"{tmp_path}/{name}" if name != "/" else name)


@pytest.mark.parametrize("odd", [fifo, folder])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    odd(target)
    for reader in (
        lambda path: _files.read_bytes(path, 100, pipe=True),
        dmi.Snapshot.load,
        dmi.trace.load,
        windbg.read,
    ):
        with pytest.raises(OSError, match="it is a") as caught:
            reader(target)
        assert caught.value.filename == os.fspath(target)


@pytest.mark.skipif(sys.platform != "linux", reason="core files are read on Linux")
@pytest.mark.parametrize("odd", [fifo, folder])
def test_what_is_no_regular_file_is_no_core(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    odd(target)
    with pytest.raises((OSError, dmi.DmiError)), dmi.open_core(target):
        pass


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_devices_are_not_read(name: str) -> None:
    with pytest.raises(OSError, match="a device"):
        _files.read_bytes(name, 100)


def test_a_shell_may_hand_over_a_pipe() -> None:
    code = "from dmi import _files; print(_files.read_bytes('/dev/stdin', 9, pipe=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"abc", capture_output=True, check=True
    )
    assert done.stdout.strip() == b"b'abc'"


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[-Infinity]",
        "1e999",
        "9" * 50,
        "[" * 5000,
        '{"a":' * 5000,
        "{",
        "\udcff",
        '"\\ud800" x',
        "",
    ],
)
def test_odd_json_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON|no number|too large"):
        _files.parse_json(text.encode("utf-8", "surrogateescape"))


def test_json_of_any_width_is_read() -> None:
    value = {"a": [1, 2.5, None, "\U0001f600"], "b": -(10**30)}
    for coding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-le"):
        text = json.dumps(value, ensure_ascii=False)
        assert _files.parse_json(text.encode(coding)) == value


# ---- memory -------------------------------------------------------------------------------------

_CHILD = """
import sys
import dmi, dmi.trace, dmi.diagnose, dmi.windbg, json
from dmi import _files
try: import zstandard, memray
except ImportError: pass

def peak():  # of this program alone; what getrusage tells begins with that of the parent
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"): return int(line.split()[1])

base = peak()
try:
    exec(sys.argv[1], {"dmi": dmi, "path": sys.argv[2], "_files": _files})
except (ValueError, dmi.DmiError, OSError) as error:
    print(peak() - base, type(error).__name__, error)
"""


def refused(code: str, path: Path) -> tuple[int, str]:
    """What a child that reads the file says, and the KiB that it took on top of what it had."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, code, os.fspath(path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout, "it was read"
    taken, _, words = done.stdout.partition(" ")
    return int(taken), words


MOST = 64 << 10


@pytest.mark.parametrize(
    "content",
    [
        b"[" * (30 << 20),
        b"[]," * (8 << 20),
        b'{"a":1},' * (3 << 20),
        b'"' + b"x" * (60 << 20),
        b'["' + "\U0001f600".encode() * (4 << 20) + b'",',
        b'["' + b"\\u00e9" * (2 << 20) + b'", "\\ud83d\\ude00",',
        b" " * (20 << 20),
        b"[" + b"1," * (1 << 19),
    ],
    ids=["open", "lists", "objects", "string", "wide", "escaped", "blank", "numbers"],
)
@pytest.mark.parametrize(
    "code", ["dmi.Snapshot.load(path)", "__import__('dmi.profile').profile.Profile.load(path)"]
)
def test_refused_json_takes_little_memory(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "moment.json"
    path.write_bytes(content)
    taken, _ = refused(code, path)
    assert taken < MOST


def test_refused_blocks_take_little_memory(tmp_path: Path) -> None:
    """Ranges that are all in order, and one more promised than there are."""
    import zlib

    path = tmp_path / "moment.json"
    with dmi.Heap() as heap:
        heap.malloc(100)
        dmi.snapshot(blocks=True).save(path)
        record = bytes(heap.ranges().records[:40])
    values = json.loads(path.read_bytes())
    count = 2 << 20
    address, size = int.from_bytes(record[:8], "little"), int.from_bytes(record[8:16], "little")
    packer = zlib.compressobj(1)
    with (tmp_path / "moment.json.blocks").open("wb") as file:
        file.write(b"DMIBLK01")
        for number in range(0, count, 4096):
            file.write(
                packer.compress(
                    b"".join(
                        (address + at * size).to_bytes(8, "little") + record[8:]
                        for at in range(number, number + 4096)
                    )
                )
            )
        file.write(packer.flush())
    for each in values["heaps"]:
        each["blocks"] = None
    values["heaps"][0]["blocks"] = count + 1
    path.write_text(json.dumps(values))
    taken, words = refused("dmi.Snapshot.load(path)", path)
    assert "ranges" in words
    assert taken < MOST


def own(header: bytes, records: bytes = b"") -> bytes:
    return b"DMITRACE" + header + bytes(28) + records


def header(count: int, objects: int, threads: int = 1) -> bytes:
    return struct.pack("<HHIQIII", 1, 64, 0, count, objects, threads, 0)


def record(op: int, number: int, size: int) -> bytes:
    return struct.pack("<BBHIQ", op, 0, 0, number, size)


def frames(parts: Iterable[bytes], **settings: Any) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    stream = zstandard.ZstdCompressor(level=1, **settings).compressobj()
    return b"".join([stream.compress(part) for part in parts] + [stream.flush()])


def many_records() -> Iterator[bytes]:
    """Four million blocks that never die, and then a record that makes no sense."""
    count = 4 << 20
    yield own(header(count + 1, count))
    for first in range(0, count, 1 << 16):
        yield b"".join(record(1, number, 1 << 40) for number in range(first, first + (1 << 16)))
    yield record(9, 0, 0)


def many_lines() -> Iterator[bytes]:
    yield b"v 10501 3\n"
    for first in range(16, 4 << 20, 1 << 16):
        numbers = range(first, first + (1 << 16))
        yield b"".join(b"t %x 0\n+ 10 1 %x\n" % (number, number) for number in numbers)
    yield b"+ 10 1\n"


def sparse(path: Path) -> None:
    """A file that claims 256 million objects, and is long enough, and is a hole."""
    count = (4 << 30) // 16 - 4
    path.write_bytes(own(header(count, count)))
    os.truncate(path, 4 << 30)


def compressed_hole(path: Path) -> None:
    count = (1 << 30) // 16
    zeros = bytes(1 << 20)
    path.write_bytes(frames([own(header(count, count)), *(zeros for _ in range(1024))]))


def claims(path: Path) -> None:
    path.write_bytes(frames([own(header((4 << 30) // 16 - 4, (4 << 30) // 16 - 4))]))


def wide_window(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    stream = compressor.compressobj()
    body = own(header(1, 1), bytes(200 << 20))
    path.write_bytes(stream.compress(body) + stream.flush())


def bomb_of_lines(path: Path) -> None:
    path.write_bytes(frames([b"v 10501 3\n", *(b"X" * (1 << 20) for _ in range(300)), b"\n+ 1\n"]))


def xz_window(path: Path) -> None:
    path.write_bytes(lzma.compress(own(header(1, 1), bytes(1 << 20)), preset=9))


def gzip_hole(path: Path) -> None:
    path.write_bytes(gzip.compress(own(header(1 << 26, 1)) + bytes(64 << 20), compresslevel=1))


def whole_but_for_the_end(path: Path) -> None:
    path.write_bytes(frames(many_records()))


def text_but_for_the_end(path: Path) -> None:
    path.write_bytes(frames(many_lines()))


def memray_of_nothing(path: Path) -> None:
    pytest.importorskip("memray")
    path.write_bytes(b"memray\0" + bytes([12, 0, 0, 0]) + b"\xff" * (1 << 20))


@pytest.mark.parametrize(
    "make",
    [
        sparse,
        compressed_hole,
        claims,
        wide_window,
        bomb_of_lines,
        xz_window,
        gzip_hole,
        memray_of_nothing,
        pytest.param(whole_but_for_the_end, marks=pytest.mark.long),
        pytest.param(text_but_for_the_end, marks=pytest.mark.long),
    ],
)
def test_refused_recordings_take_little_memory(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "recording"
    make(path)
    taken, words = refused("dmi.trace.load(path)", path)
    assert "TraceError" in words
    assert taken < MOST


@pytest.mark.long
@pytest.mark.parametrize(
    "line",
    [
        b"nothing that is a table " * 80 + b"\r\n",
        80 * "nothing \u20ac that is a table ".encode("utf-16-le") + b"\r\0\n\0",
        b"x" * (1 << 20),
    ],
    ids=["lines", "wide", "one line"],
)
def test_refused_logs_take_little_memory(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.txt"
    head = b"\xff\xfe" if b"\0" in line else b""
    path.write_bytes(head + line * ((40 << 20) // len(line)))
    taken, words = refused("dmi.windbg.read(path)", path)
    assert "no !heap -s table" in words
    assert taken < MOST
    taken, words = refused("dmi.diagnose.from_files([path, path])", path)
    assert taken < MOST


def test_a_log_that_is_not_in_memory_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Path(__file__).parent.parent / "golden" / "heap-summaries.txt"
    text = golden.read_text()
    page = "<html><pre>" + text.replace("\n", "<br>\n") + "</pre></html>"
    path = tmp_path / "log.txt"
    for data in (
        text.encode(),
        text.replace("\n", "\r\n").encode("utf-16"),
        text.replace("\n", "\r").encode("utf-8-sig"),
        b"\x92\x92 \r\n" + text.encode(),
        page.encode(),
    ):
        path.write_bytes(data)
        with monkeypatch.context() as patch:
            whole = windbg.read(path)
            patch.setattr(windbg, "_MAX_WHOLE", 0)
            for piece in (7, 1 << 20):
                patch.setattr(_clothes, "_PIECE", piece)
                assert windbg.read(path) == whole
    assert whole.heaps


@pytest.mark.skipif(sys.platform != "linux", reason="core files are read on Linux")
def test_notes_of_a_core_file_that_are_a_hole_take_little(tmp_path: Path) -> None:
    path = tmp_path / "core"
    claim = 8 << 30
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    path.write_bytes(head + struct.pack("<IIQQQQQQ", 4, 0, 0x1000, 0, 0, claim, claim, 4))
    os.truncate(path, 2 * claim)
    code = "\nwith dmi.open_core(path) as core: core.snapshot()\nraise ValueError('read')"
    taken, _ = refused(code, path)
    assert taken < MOST


def test_the_yardstick_sees_what_is_taken(tmp_path: Path) -> None:
    taken, _ = refused("x = bytes(b'1' * (80 << 20)); raise ValueError(path)", tmp_path)
    assert taken > MOST
