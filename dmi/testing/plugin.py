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

import gc
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dmi.heap import Heap
    from dmi.testing._baseline import Baseline
    from dmi.testing._case import Case

NAME: Final = "dmi"
JUDGE: Final = "dmi-judge"
PROPERTY: Final = "dmi"
NOTE: Final = "dmi-note"
SHOWN: Final = 10
AGAIN: Final = 20
"""Further runs of a test that broke a limit. Hypothesis's caches took 16 to be full."""

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
        "--dmi-again",
        type=int,
        metavar="N",
        default=AGAIN,
        help="a test without a mark that broke a limit is run up to N times more, and fails when "
        f"it breaks it each time ({AGAIN}); 0: it fails at once",
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
    config.pluginmanager.register(_Judge(config), JUDGE)


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
        self.notes: dict[str, list[str]] = {}
        self.again: int = config.getoption("dmi_again")
        self.baseline: Baseline | None = None
        self.case: Case | None = None
        """The test that runs, when it is judged."""
        self.ended: pytest.Item | None = None
        """The test before it, when that was judged to the end."""
        self.collected = False
        self.write = config.getoption("dmi_baseline_write")
        if self.suite and not self.all:
            given = ", ".join(f"--dmi-{name.replace('_', '-')}" for name in self.suite)
            raise pytest.UsageError(f"{given}: limits of a whole suite need --dmi")
        if not 0 <= self.again <= 1_000_000:
            raise pytest.UsageError(f"--dmi-again must be from 0 to 1,000,000, not {self.again}")
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

    def judges(self, item: pytest.Item) -> bool:
        """Whether the test is judged at all."""
        return self.all or item.get_closest_marker(NAME) is not None

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

    def pytest_collection_finish(self) -> None:
        """What was collected stays to the end: no collection of garbage need look at it."""
        if self.all:
            gc.collect()
            gc.freeze()

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        """A judged test is told of when its fixtures are gone: only then it is known."""
        if not self.judges(item) or _others_run(item):
            return None
        from _pytest.runner import runtestprotocol

        item.stash[_TOLD_LATE] = True
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            told = report
            if report.when == "call" and (made := item.stash.get(_FAILED, None)) is not None:
                made.sections = report.sections
                made.start, made.stop = report.start, report.stop
                made.duration = report.duration
                told = made
            item.ihook.pytest_runtest_logreport(report=told)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A test which cannot be judged fails here, so that it is an error."""
        self.case = None
        self.collected = self.ended is not None and self.ended.parent is item.parent
        self.ended = None
        # What an earlier run of the same test left.
        if _CASE in item.stash:
            del item.stash[_CASE]
        if _FAILED in item.stash:
            del item.stash[_FAILED]
        values = self.marked(item)
        if values is None:
            return (yield)
        from dmi.testing._case import Case

        self.case = item.stash[_CASE] = case = Case(item, values, self.baseline)
        result = yield
        with _said_short():
            case.check()
        self._begin(case)
        return result

    def _begin(self, case: Case) -> None:
        """Once: growth begins, and ends when what is made from here on is gone."""
        if not case.begun:
            case.begin(collected=self.collected)
            case.item.addfinalizer(lambda: self._end(case))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Before the first fixture of the test's own; later ones of wider scope are kept apart."""
        case = self.case
        if case is None:
            return (yield)
        if fixturedef.scope == "function":
            self._begin(case)
            return (yield)
        if not case.begun:
            return (yield)
        with case.apart():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        case = item.stash.get(_CASE, None)
        if case is None:
            return (yield)
        case.begin_call()
        result = yield
        with _said_short():
            case.end_call()
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
                case.begin_call()
        case.looped = True
        return True

    def _end(self, case: Case) -> None:
        """The last finalizer of the test: what its fixtures made is gone."""
        item = case.item
        _let_go(item)
        if case.again:
            _forget_records(item)
        case.judge()
        if case.found is None or case.again:
            return
        if self.again and case.repeatable and item.get_closest_marker(NAME) is None:
            self._confirm(case)
        self.ended = item
        item.user_properties.append((PROPERTY, json.dumps(case.found.as_dict())))
        if case.said and _TOLD_LATE in item.stash:
            item.stash[_FAILED] = _failed(item, case)
        elif case.said:
            # Another plugin runs the tests and has told already that this one passed.
            pytest.fail(_text(case), pytrace=False)

    def _confirm(self, case: Case) -> None:
        """Nobody chose this test: only what it does again is its fault."""
        from dmi.testing._again import confirm
        from dmi.testing._case import Case

        item = case.item

        def make(walked: bool) -> Case:
            self.collected = False
            self.case = made = item.stash[_CASE] = Case(
                item, self.marked(item) or {}, None, again=True, walked=walked
            )
            return made

        try:
            confirm(case, self.again, make, self._begin)
        finally:
            self.case = item.stash[_CASE] = case
        item.user_properties += [(NOTE, text) for text in case.notes]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Also where the setup failed, imports are as they were."""
        try:
            return (yield)
        finally:
            if (case := item.stash.get(_CASE, None)) is not None:
                case.stop()
            self.case = None

    # ---- the whole run -----------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when in ("call", "teardown"):
            for name, value in report.user_properties:
                if name == PROPERTY:
                    self.rows[report.nodeid] = json.loads(str(value))
                elif name == NOTE and value not in self.notes.get(report.nodeid, ()):
                    self.notes.setdefault(report.nodeid, []).append(str(value))
        if self.case is not None:
            self.case.told(report)

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
        if self.notes:
            terminalreporter.section("dmi: broken once, and not again: no failures")
            for name, texts in self.notes.items():
                for text in texts:
                    terminalreporter.write_line(f"{name}: {text}")
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


_CASE: Final = pytest.StashKey["Case"]()
_TOLD_LATE: Final = pytest.StashKey[bool]()
"""Set when the test's reports wait until its fixtures are gone."""
_FAILED: Final = pytest.StashKey[pytest.TestReport]()
"""The report to tell instead of the call's."""


@contextmanager
def _said_short() -> Generator[None]:
    """That a test cannot be judged is told without our own lines of code."""
    from dmi.testing import NotOnDmiError

    try:
        yield
    except NotOnDmiError as error:
        pytest.fail(str(error), pytrace=False)


def _others_run(item: pytest.Item) -> bool:
    """Whether another plugin than pytest's own runs the tests, as those that run them again do."""
    return any(
        not (each.wrapper or each.hookwrapper) and each.plugin_name not in ("runner", JUDGE)
        for each in item.ihook.pytest_runtest_protocol.get_hookimpls()
    )


def _text(case: Case) -> str:
    from dmi.testing._text import failure_text

    assert case.found is not None
    return failure_text(case.found, case.said, case.repeated)


def _failed(item: pytest.Item, case: Case) -> pytest.TestReport:
    """As if the test had failed itself, so that xfail and other plugins have their say."""
    failed: pytest.CallInfo[None] = pytest.CallInfo.from_call(
        lambda: pytest.fail(_text(case), pytrace=False), "call"
    )
    made: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=failed)
    return made


def _let_go(item: pytest.Item) -> None:
    """What pytest itself would hold of the test until its teardown has ended, or for good."""
    values = getattr(item, "funcargs", None)
    info = getattr(item, "_fixtureinfo", None)
    if isinstance(values, dict) and info is not None:
        for name, found in info.name2fixturedefs.items():
            if found and found[-1].scope == "function":
                values.pop(name, None)
    if getattr(item, "_instance", None) is not None:
        # The instance of a test class, with what the test set in it. It is made again on demand.
        item._instance = item._obj = None  # type: ignore[attr-defined]
    try:
        from _pytest.logging import caplog_records_key
    except ImportError:
        return
    item.stash.get(caplog_records_key, {}).clear()


def _forget_records(item: pytest.Item) -> None:
    """The log records of a further run: nobody is told of them."""
    plugin = item.config.pluginmanager.getplugin("logging-plugin")
    for name in ("caplog_handler", "report_handler"):
        if (handler := getattr(plugin, name, None)) is not None:
            handler.reset()


@pytest.fixture
def dmi_watch(request: pytest.FixtureRequest) -> Callable[[Heap], Heap]:
    """A function that takes a dmi.Heap, watches it from then on, and returns it.

    The limits are those of the test's mark, and hold for the heaps that were handed over.
    """
    from dmi.testing import Watch
    from dmi.testing._case import WATCH

    if not request.node.get_closest_marker(NAME) and not request.config.getoption("dmi"):
        raise pytest.UsageError(f"{request.node.nodeid}: dmi_watch needs the mark dmi with limits")
    case = request.node.stash.get(_CASE, None)
    watch = Watch(walked=case is not None and case.walked)
    request.node.stash[WATCH] = watch
    return watch.add
