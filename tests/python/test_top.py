"""The live view: what it reads, and its screen, driven as a person would."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import dmi
from dmi import cli
from dmi.top import OtherLook, OwnLook

pytest.importorskip("textual")

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import dmi, sys
heap = dmi.Heap("never", name="[b]cache")
for block in [heap.malloc(1000) for _ in range(20000)][100:]: heap.free(block)
print(heap.stats().busy, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program() -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.busy = int(process.stdout.readline())  # type: ignore[attr-defined]
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_own_heaps(tmp_path: Path) -> None:
    with dmi.Heap("never", name="mine") as heap:
        blocks = [heap.malloc(500) for _ in range(20_000)]
        look = OwnLook()
        first = look.read()
        found = next(each for each in first.heaps if each.handle == heap.handle)
        assert (found.committed, found.busy) == (heap.stats().committed, heap.stats().busy)
        assert found.page_bound == heap.stats(detail=True).page_bound
        for block in blocks:
            heap.free(block)
        assert "confirms" in look.trim(heap.handle)
        second = look.read()
        assert second.given_back_rate is not None
        assert second.given_back_rate > 1 << 20
        assert "eager" in look.set_policy(heap.handle, "eager")
        with pytest.raises(ValueError):
            look.set_policy(heap.handle, "sometimes")
        look.save(tmp_path / "s.json")
        assert dmi.Snapshot.load(tmp_path / "s.json").heaps
        assert len(look.history) == 2


def test_walks_back_off() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5  # every look at the clock takes half a second
        return now[0]

    with dmi.Heap():
        look = OwnLook(clock)
        ages = [look.read().walk_age or 0.0 for _ in range(30)]
    assert max(ages) > 20
    assert ages == sorted(ages)


def test_another_process(program: Any) -> None:
    look = OtherLook(program.pid)
    found = look.read()
    kinds = {each.kind for each in found.heaps}
    assert {"dmi", "glibc"} <= kinds
    heap = next(each for each in found.heaps if each.kind == "dmi")
    assert heap.busy == program.busy
    assert heap.page_bound is None, "not known from outside"
    assert found.layers is not None
    program.stdin.close()
    program.wait()
    assert look.read().ended
    with pytest.raises(ProcessLookupError):
        OtherLook(4_194_000).read()


def screen_of(app: Any) -> str:
    """All text on the screen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


def test_the_screen(program: Any) -> None:
    from dmi.top._app import Top

    async def look() -> str:
        app = Top(OtherLook(program.pid), 60)
        async with app.run_test(size=(160, 40)) as pilot:
            await pilot.press("t", "p", "space")  # the first two are for own heaps only
            await pilot.pause()
            return screen_of(app)

    text = asyncio.run(look())
    assert "[b]cache" in text, "names are no markup"
    assert "paused" in text
    assert f"{program.busy / (1 << 20):,.1f}" in text
    assert "Trim" not in text


@pytest.mark.keeps
def test_keys_on_own_heaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from textual.widgets import DataTable, Input

    from dmi.top._app import Ask, Top

    monkeypatch.chdir(tmp_path)
    with dmi.Heap("never", name="keyed") as heap:
        for block in [heap.malloc(500) for _ in range(40_000)]:
            heap.free(block)
        kept = heap.stats().committed

        async def press() -> str:
            app = Top(OwnLook(), 60)
            async with app.run_test(size=(160, 40)) as pilot:
                # There may be other heaps in this process.
                (place,) = (n for n, each in enumerate(app._rows) if each.handle == heap.handle)
                app.query_one(DataTable).move_cursor(row=place)
                await pilot.press("t")
                for key, answer in (("p", "eager"), ("s", "snapshot.json")):
                    await pilot.press(key)
                    while not isinstance(app.screen, Ask):
                        await pilot.pause(0.01)
                    app.screen.query_one(Input).value = answer
                    await pilot.press("enter")
                    while isinstance(app.screen, Ask):
                        await pilot.pause(0.01)
                return screen_of(app)

        text = asyncio.run(press())
        assert "keyed" in text
        assert heap.stats().committed < kept // 2
        assert str(heap.decommit) == "eager"
        assert (tmp_path / "snapshot.json").exists()


def test_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--pid", "4194000"]) == 2
    assert "4194000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["top", "--pid", "1", "--every", "0"])
    assert "not seconds" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(40, 12), (60, 20), (80, 24), (200, 50)])
def test_heaps_are_seen_in_every_terminal(size: tuple[int, int]) -> None:
    from dmi.top._app import Top

    async def seen() -> None:
        with dmi.Heap("never", name="mine") as heap:
            heap.malloc(1000)
            app = Top(OwnLook(), every=60)
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                width, height = size
                table, head = app.query_one("#heaps").region, app.query_one("#head").region
                assert table.width >= min(width, 80) - 2
                assert table.height >= 5
                assert head.height <= 5
                layers = app.query_one("#layers")
                assert layers.display == (height >= 24)

    asyncio.run(seen())
