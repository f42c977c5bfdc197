"""The pytest plugin: tests that fail when memory does not come back.

    @pytest.mark.dmi(max_retained="1 MiB", returns="95 %", no_second_order_leak=True, loops=20)
    def test_import_of_a_large_file(): ...

It runs the test, collects, trims, and judges dmi's own counts: see dmi.testing.Limits for the
limits.
Python code is judged where Python's objects are on dmi (`dmi run -- python -m pytest`, or
`dmi.python.install()`); a test that uses a heap of its own names it (``heap="cache"``) or hands it
to the fixture ``dmi_watch``. Where the memory is not on dmi the test is an error, never a pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from dmi.heap import Heap
    from dmi.testing import Found, Limits, Watch
    from dmi.testing._baseline import Baseline

NAME: Final = "dmi"
PROPERTY: Final = "dmi"
PINS: Final = 5
SHOWN: Final = 10

_OPTIONS: Final = (
    ("max_retained", "SIZE", "of each test: what may stay committed unused (1 MiB)"),
    ("max_growth", "SIZE", "of each test: what may stay allocated"),
    ("returns", "SHARE", "of each test: the share of its memory that must go back (95 %%)"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a whole suite."""
    group = parser.getgroup("dmi", "memory that must come back (dmi)")
    group.addoption(
        "--dmi", action="store_true", help="judge every test, not only those that are marked"
    )
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--dmi-{name.replace('_', '-')}", metavar=metavar, default=None, help=text)
    group.addoption(
        "--dmi-no-second-order-leak",
        action="store_true",
        help="of each test: memory that it freed must come back",
    )
    group.addoption(
        "--dmi-loops", type=int, metavar="N", default=None, help="run each judged test N times"
    )
    group.addoption(
        "--dmi-baseline", metavar="FILE", default=None, help="compare each judged test with FILE"
    )
    group.addoption(
        "--dmi-baseline-write", metavar="FILE", default=None, help="write what was found to FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; check the options."""
    config.addinivalue_line(
        "markers",
        "dmi(max_retained, max_growth, returns, no_second_order_leak, tolerance, loops, heap): the "
        "memory of the test must come back, in dmi's own counts",
    )
    config.pluginmanager.register(_Judge(config), "dmi-judge")


def _suite_values(config: pytest.Config) -> dict[str, Any]:
    values = {name: config.getoption(f"dmi_{name}") for name, _, _ in _OPTIONS}
    values["no_second_order_leak"] = config.getoption("dmi_no_second_order_leak") or None
    values["loops"] = config.getoption("dmi_loops")
    return {name: value for name, value in values.items() if value is not None}


class _Judge:
    """What one run of pytest keeps."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.all = bool(config.getoption("dmi"))
        self.suite = _suite_values(config)
        self.rows: dict[str, dict[str, int]] = {}
        self.baseline: Baseline | None = None
        self.write = config.getoption("dmi_baseline_write")
        if self.suite and not self.all:
            given = ", ".join(f"--dmi-{name.replace('_', '-')}" for name in self.suite)
            raise pytest.UsageError(f"{given}: limits of a whole suite need --dmi")
        if self.suite:
            from dmi.testing import Limits

            try:
                Limits.of(self.suite)
            except (TypeError, ValueError) as error:
                raise pytest.UsageError(f"--dmi: {error}") from None
        if self.write is not None and not hasattr(config, "workerinput"):
            from dmi import _files

            try:
                _files.check_target(self.write)
            except OSError as error:
                raise pytest.UsageError(f"--dmi-baseline-write: {error}") from None
        if (path := config.getoption("dmi_baseline")) is not None:
            from dmi.testing._baseline import Baseline

            try:
                self.baseline = Baseline.load(Path(path))
            except (OSError, ValueError) as error:
                raise pytest.UsageError(f"--dmi-baseline: {error}") from None

    # ---- one test ----------------------------------------------------------------------------

    def marked(self, item: pytest.Item) -> dict[str, Any] | None:
        """The arguments of the test's marks, the closest first; None when it is not judged."""
        marks = list(item.iter_markers(NAME))
        if not marks and not self.all:
            return None
        values = dict(self.suite)
        for mark in reversed(marks):
            if mark.args:
                raise pytest.UsageError(
                    f"{item.nodeid}: the mark dmi takes its limits by name, not {mark.args!r:.60}"
                )
            values.update(mark.kwargs)
        return values

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Here and not in the call, so that a test which cannot be judged is an error."""
        values = self.marked(item)
        if values is not None:
            item.stash[_CASE] = case = _Case(item, values, self.baseline)
            case.check()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        case = item.stash.get(_CASE, None)
        if case is None:
            return (yield)
        case.begin()
        result = yield
        found, said = case.end()
        item.user_properties.append((PROPERTY, json.dumps(found.as_dict())))
        if said:
            pytest.fail(_failure(found, said), pytrace=False)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        case = pyfuncitem.stash.get(_CASE, None)
        if case is None or case.limits.loops == 1:
            return None
        names = pyfuncitem._fixtureinfo.argnames
        arguments = {name: pyfuncitem.funcargs[name] for name in names}
        for loop in range(case.limits.loops):
            result = pyfuncitem.obj(**arguments)
            if hasattr(result, "__await__") or hasattr(result, "__aiter__"):
                pytest.fail("loops needs a plugin that makes async tests plain calls", False)
            if loop == 0:
                case.begin()
        case.looped = True
        return True

    # ---- the whole run -----------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    self.rows[report.nodeid] = json.loads(str(value))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        from dmi._sizes import show_size

        if self.write is not None and not hasattr(self.config, "workerinput"):
            from dmi import _files
            from dmi.testing._baseline import Baseline

            _files.write_text(self.write, Baseline(self.rows).text())
            terminalreporter.write_line(f"dmi: {len(self.rows)} tests written to {self.write}")
        if self.baseline is not None:
            new = [name for name in self.rows if name not in self.baseline.tests]
            if new:
                terminalreporter.write_line(
                    f"dmi: {len(new)} tests are not in the baseline, {new[0]} first"
                )
        if self.all and self.rows:
            terminalreporter.section("dmi: what tests left behind")
            most = sorted(
                self.rows.items(),
                key=lambda row: -max(row[1]["retained_growth"], row[1]["busy_growth"]),
            )
            for name, row in most[:SHOWN]:
                terminalreporter.write_line(
                    f"retained {show_size(row['retained_growth']):>12}  "
                    f"allocated {show_size(row['busy_growth']):>12}  {name}"
                )


class _Case:
    """One judged test."""

    def __init__(
        self, item: pytest.Item, values: Mapping[str, Any], baseline: Baseline | None
    ) -> None:
        from dmi.testing import Limits

        self.item = item
        self.baseline = baseline
        self.names = _names(item, values.get("heap"))
        limits = {name: value for name, value in values.items() if name != "heap"}
        try:
            self.limits: Limits = Limits.of(limits)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: mark dmi: {error}") from None
        self.own: Watch | None = item.stash.get(_WATCH, None)
        self.watch: Watch | None = None
        self.looped = False
        if not self.limits.any and baseline is None and not item.config.getoption("dmi"):
            raise pytest.UsageError(f"{item.nodeid}: the mark dmi names no limit")
        if self.limits.loops > 1 and not isinstance(item, pytest.Function):
            raise pytest.UsageError(f"{item.nodeid}: loops needs a test that is a plain function")

    def check(self) -> None:
        """NotOnDmiError where nothing could be said of the test's memory."""
        from dmi.testing import heaps_of_process

        if not self.names and self.own is None:
            heaps_of_process()

    def begin(self) -> None:
        """This moment is where growth begins."""
        from dmi.testing import Watch

        if self.names:
            self.watch = Watch(_named(self.names))
        elif self.own is not None:
            self.own.again()
        else:
            self.watch = Watch(every=True)

    def end(self) -> tuple[Found, list[str]]:
        """What was found, and which limits are broken."""
        if self.limits.loops > 1 and not self.looped:
            raise pytest.UsageError(f"{self.item.nodeid}: loops: another plugin ran the test")
        watch = self.own if self.watch is None else self.watch
        assert watch is not None
        if self.names:
            present = {heap.name: heap for heap in _named(self.names)}
            missing = [name for name in self.names if name not in present]
            if missing and not watch.count:
                from dmi.testing import NotOnDmiError

                raise NotOnDmiError(f"no heap is named {missing[0]!r}: nothing was measured")
            watch.add_new(present.values())
        found = watch.found(pins=PINS)
        said = self.limits.broken(found)
        if self.baseline is not None:
            said += self.baseline.broken(self.item.nodeid, found)
        return found, said


_CASE: Final = pytest.StashKey[_Case]()
_WATCH: Final = pytest.StashKey["Watch"]()


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
    import dmi

    return [heap for heap in dmi.heaps() if heap.name in names]


@pytest.fixture
def dmi_watch(request: pytest.FixtureRequest) -> Callable[[Heap], Heap]:
    """A function that takes a dmi.Heap, watches it from then on, and returns it.

    The limits are those of the test's mark, and hold for the heaps that were handed over.
    """
    from dmi.testing import Watch

    if not request.node.get_closest_marker(NAME) and not request.config.getoption("dmi"):
        raise pytest.UsageError(f"{request.node.nodeid}: dmi_watch needs the mark dmi with limits")
    watch = Watch()
    request.node.stash[_WATCH] = watch
    return watch.add


def _failure(found: Found, said: list[str]) -> str:
    from dmi._sizes import show_size

    lines = ["memory did not come back:", *(f"  {text}" for text in said), ""]
    lines.append(f"  {'heap':<24}{'allocated':>14}{'committed':>14}{'retained':>14}")
    for each in found.heaps:
        if not (each.busy_growth or each.committed_growth or each.kept_by_policy):
            continue
        growth = (each.busy_growth, each.committed_growth, each.retained_growth)
        lines.append(f"  {each.name[:24]:<24}" + "".join(f"{show_size(n):>14}" for n in growth))
        reasons = {k: v for k, v in (each.after.reasons or {}).items() if v}
        if reasons:
            top = sorted(reasons.items(), key=lambda row: -row[1])[:4]
            lines.append("    retained: " + ", ".join(f"{k} {show_size(v)}" for k, v in top))
        lines += [
            f"    block {pin.address:#x} of {pin.size} B pins {show_size(pin.pinned)}"
            for pin in each.pins
            if pin.pinned
        ]
    return "\n".join(lines + _lines_of_code())


def _lines_of_code() -> list[str]:
    """Which lines pin and hold the memory now, where the process is sampled."""
    from dmi.heap import current_profile

    values = current_profile()
    if values is None:
        return []
    from dmi.profile import blame

    said = []
    for what in ("pinned", "busy"):
        try:
            said.append(f"  {blame(values, 'line', what).sentence}")
        except (ImportError, ValueError) as error:
            said.append(f"  the lines are not known: {error}")
    return ["", *said]
