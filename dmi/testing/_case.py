"""One test that is judged: when its memory is measured, and what counts.

Python's objects, and a heap that is named, are measured before the fixtures of the test itself are
made and after they are gone, so what a fixture gives back is no growth. Fixtures of a class, a
module or the session come and go outside of that. A heap that a fixture makes and closes, or that
is handed to dmi_watch, is measured around the test alone: afterwards it is gone.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from dmi.heap import find, heaps
from dmi.testing import Found, Limits, NotOnDmiError, Watch, heaps_of_process
from dmi.testing._imports import imports_apart

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from dmi.heap import Heap
    from dmi.testing._baseline import Baseline

__all__ = ["WATCH", "Case"]

PINS: Final = 5
BASELINE: Final = "baseline"
WATCH: Final = pytest.StashKey[Watch]()
"""What the fixture dmi_watch was made."""


class Case:
    """One judged test."""

    def __init__(
        self,
        item: pytest.Item,
        values: Mapping[str, Any],
        baseline: Baseline | None,
        *,
        again: bool = False,
        walked: bool = False,
    ) -> None:
        self.item = item
        self.again = again
        """Whether the test was run before, and is run again to see whether it leaks again."""
        self.walked = walked
        """Whether it matters how far apart lies what stays."""
        self.baseline = baseline
        self.names = _names(item, values.get("heap"))
        limits = {name: value for name, value in values.items() if name != "heap"}
        try:
            self.limits: Limits = Limits.of(limits)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: mark dmi: {error}") from None
        if not self.limits.any and baseline is None and not item.config.getoption("dmi"):
            raise pytest.UsageError(f"{item.nodeid}: the mark dmi names no limit")
        if self.limits.loops > 1 and not isinstance(item, pytest.Function):
            raise pytest.UsageError(f"{item.nodeid}: loops needs a test that is a plain function")
        self.begun = False
        self.looped = False
        self.outer: Watch | None = None
        """From before the fixtures of the test on."""
        self.inner: Watch | None = None
        """From the test's own begin on, or from the end of its first loop."""
        self.called: Found | None = None
        """What was seen when the test had passed, its fixtures still there."""
        self.found: Found | None = None
        self.broken: dict[str, list[str]] = {}
        """The limits that are broken, each with its sentences."""
        self.notes: list[str] = []
        """What was broken once and not again."""
        self.repeated = 0
        """Further runs that broke the limits, each of them."""
        self._looks: list[Found] = []
        self._while = ExitStack()
        self._aside = False
        self._objects: Heap | None = None
        """Where Python's objects are."""
        self._calling = False
        self._reports: list[pytest.TestReport] = []
        """Those that pytest was told of while the test ran."""
        self._begun_at = 0

    @property
    def said(self) -> list[str]:
        """A sentence for each limit that is broken."""
        return [text for texts in self.broken.values() for text in texts]

    @property
    def repeatable(self) -> set[str]:
        """Limits of which a further run tells more. A baseline is of first runs."""
        return self.broken.keys() - {BASELINE}

    @property
    def own(self) -> Watch | None:
        """What was handed to dmi_watch, where no heap is named."""
        return None if self.names else self.item.stash.get(WATCH, None)

    def check(self) -> None:
        """NotOnDmiError where nothing could be said of the test's memory."""
        if not self.names and self.own is None:
            heaps_of_process()

    # ---- in the order of time ----------------------------------------------------------------

    def begin(self, *, collected: bool) -> None:
        """Before the fixtures of the test itself. Those of wider scope are there.

        collected: a judged test of the same module or class has just ended.
        """
        self.begun = True
        if (block := find(id(bytes(203)))) is not None:
            self._objects = block.heap
        if self.names:
            self.outer = Watch(_named(self.names), walked=self.walked)
        elif "dmi_watch" not in getattr(self.item, "fixturenames", ()):
            self.outer = Watch(every=True, collected=collected, walked=self.walked)
        self._while.enter_context(imports_apart(self.apart))

    @contextmanager
    def apart(self) -> Generator[None]:
        """What happens inside is not the test's doing: a fixture of wider scope, an import."""
        if self._aside:
            yield
            return
        self._aside = True
        try:
            with ExitStack() as stack:
                for watch in (self.outer, self.inner):
                    if watch is not None and watch is not self.own:
                        stack.enter_context(watch.apart())
                yield
        finally:
            self._aside = False

    def told(self, report: pytest.TestReport) -> None:
        """pytest is told of a report, and keeps it. Subtests have theirs while the test runs."""
        if self._calling:
            self._reports.append(report)

    def _leave_out_reports(self, watch: Watch | None, first: int = 0) -> None:
        """What reports from the first one on hold."""
        if watch is not None and self._objects is not None:
            seen: set[int] = set()
            size = sum(_size(each, seen) for each in self._reports[first:])
            watch.leave_out(self._objects.handle, size)

    def begin_call(self) -> None:
        """The test begins, or its first loop has ended."""
        self._calling = True
        self._begun_at = len(self._reports)
        if self.own is not None:
            self.own.again()
        elif self.names:
            self.inner = Watch(_named(self.names), walked=self.walked)
        elif self.limits.loops > 1:
            self.inner = Watch(every=True, walked=self.walked)

    def end_call(self) -> None:
        """The test went well; its fixtures are still there."""
        self._calling = False
        self._leave_out_reports(self.inner, self._begun_at)
        if self.limits.loops > 1 and not self.looped:
            raise pytest.UsageError(f"{self.item.nodeid}: loops: another plugin ran the test")
        if self.names:
            assert self.inner is not None
            assert self.outer is not None
            self.inner.add_new(_named(self.names))
            if not self.inner.count and not self.outer.count:
                raise NotOnDmiError(f"no heap is named {self.names[0]!r}: nothing was measured")
        watch = self.inner if self.own is None else self.own
        self.called = Found(())
        if watch is not None and (watch.count or not self.names):
            self.called = watch.found(pins=PINS)

    def stop(self) -> None:
        """The test is over, whatever became of it. Can be called again."""
        self._while.close()

    def judge(self) -> None:
        """The fixtures of the test are gone, those of wider scope are not."""
        self.stop()
        if self.called is None:
            return
        # What the test printed stays in its report.
        self._leave_out_reports(self.outer)
        printed = sum(
            sys.getsizeof(text) for *_, text in getattr(self.item, "_report_sections", ())
        )
        for watch in (self.outer, self.inner):
            # What a further run prints is not kept.
            if watch is not None and self._objects is not None and not self.again:
                watch.leave_out(self._objects.handle, printed)
        self._looks = self._looked()
        self.found, self.broken = self._looks[0], self._broken(self._looks[0])
        # What all is back of after the fixtures is no leak, whatever it was before.
        if self.broken and len(self._looks) > 1 and not self._broken(self._looks[1]):
            self.broken = {}
        if self.broken and not self.again and self.own is None and not self.names:
            assert self.outer is not None
            self.found = self.outer.with_pins(self.found, PINS)

    def broken_again(self, first: Case) -> set[str]:
        """The limits that this further run breaks, beside the first one."""
        assert first.found is not None
        names = set(first.broken)
        for found in self._looks:
            names &= self.limits.broken_again(found, first.found)
        return names if self._looks else set()

    def _looked(self) -> list[Found]:
        """What is judged, and what else must be broken too."""
        assert self.called is not None
        if self.own is not None:
            return [self.called]
        assert self.outer is not None
        after = self._after_named() if self.names else self.outer.found()
        return [after] if self.limits.loops == 1 else [self.called, after]

    def _after_named(self) -> Found:
        """Each heap from the earliest moment to the latest at which it was there."""
        assert self.called is not None
        rows = self.called.by_handle()
        for watch in (self.inner, self.outer):
            if watch is not None and watch.count:
                rows |= watch.found(pins=PINS).by_handle()
        return Found(tuple(rows.values()), self.called.left_out)

    def _broken(self, found: Found) -> dict[str, list[str]]:
        broken = self.limits.broken_by_name(found)
        if self.baseline is not None and (said := self.baseline.broken(self.item.nodeid, found)):
            broken[BASELINE] = said
        return broken


def _size(value: object, seen: set[int]) -> int:
    """Bytes of blocks that plain data takes, each object once."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value) + 15 & ~15
    if isinstance(value, dict):
        size += sum(_size(each, seen) for pair in value.items() for each in pair)
    elif isinstance(value, (list, tuple, set)):
        size += sum(_size(each, seen) for each in value)
    elif not isinstance(value, type):
        size += sum(
            _size(getattr(value, name, None), seen)
            for name in ("__dict__", *getattr(value, "__slots__", ()))
        )
    return size


def _names(item: pytest.Item, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    names: tuple[Any, ...] = ()
    if isinstance(value, (str, list, tuple)):
        names = (value,) if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(name, str) for name in names):
        raise pytest.UsageError(
            f"{item.nodeid}: mark dmi: heap must be a heap's name or a list of names, "
            f"not {value!r:.60}"
        )
    return tuple(names)


def _named(names: tuple[str, ...]) -> list[Heap]:
    return [heap for heap in heaps() if heap.name in names]
