"""An alarm of a whole suite is one only when the test does it again.

Nobody chose the tests that the options of a whole suite judge, and the first run of a test fills
what is filled once: caches of the program, of libraries, of the test's own engine. So a test that
broke a limit is run again, up to so many times, with its own fixtures made anew and those of wider
scope kept. A leak goes on; a cache is full at some time. What is no leak, or cannot be run again,
is a note.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import _pytest.tmpdir
from _pytest.outcomes import TEST_OUTCOME

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import pytest

    from dmi.testing._case import Case

__all__ = ["confirm"]

ENOUGH: Final = 256 << 20
"""Once further runs have left so many bytes it is a leak, and the machine's memory is spared."""


class _NotRunAgainError(Exception):
    """The test passed once, and cannot be run again."""


def confirm(
    case: Case, times: int, make: Callable[[bool], Case], begin: Callable[[Case], None]
) -> None:
    """Leave of what the case found broken only what each further run breaks again.

    make makes a case for a further run, known to the hooks of fixtures, and is told whether heaps
    are walked; begin begins it, once. To be called when the fixtures of the test itself are gone
    and those of wider scope are not.
    """
    item = case.item
    open_names = {name for name in case.broken if name in case.repeatable}
    first = {name: case.broken[name] for name in sorted(open_names)}
    left = 0
    with _quiet(item), _other_instances(item):
        for run in range(1, times + 1):
            # A walk costs more than all else, and growth needs none.
            again = make(open_names != {"max_growth"})
            try:
                _run(again, begin)
                open_names &= again.broken_again(case)
                why = f"not in run {run + 1}"
            except _NotRunAgainError as error:
                open_names.clear()
                why = f"it could not be run again: {error}"
            for name in first.keys() - open_names:
                if case.broken.pop(name, None) is not None:
                    case.notes += [f"{text}; in the first run, {why}" for text in first[name]]
            left += max(0, again.found.busy_growth) if again.found is not None else 0
            case.repeated = run if open_names else 0
            if not open_names or left > ENOUGH:
                break


def _run(case: Case, begin: Callable[[Case], None]) -> None:
    """The test once more, as pytest would run it, and its memory judged."""
    item: Any = case.item
    state = item.session._setupstate
    # As pytest's own runner does for a test that is run again.
    if hasattr(item, "_request"):
        item._initrequest()
    for name in ("_instance", "_excinfo"):
        item.__dict__.pop(name, None)
    # The fixture tmp_path asks at its end how the test went, and has forgotten it by now.
    if (key := getattr(_pytest.tmpdir, "tmppath_result_key", None)) is not None:
        item.stash[key] = {}
    if hasattr(item, "_obj"):
        item._obj = None
    try:
        try:
            state.setup(item)
            case.check()
            begin(case)
            case.begin_call()
            item.runtest()
            # unittest keeps what went wrong for the report.
            if item.__dict__.get("_excinfo"):
                raise item._excinfo[0].value
            case.end_call()
        finally:
            # Where the setup failed before the item was there, there is nothing to tear down.
            if item in state.stack:
                state.teardown_exact(item.parent)
    except TEST_OUTCOME as error:
        words = str(error).strip().splitlines()
        raise _NotRunAgainError(": ".join([type(error).__name__, *words[:1]])) from None
    finally:
        case.stop()
        item.__dict__.pop("_excinfo", None)
        if "_instance" not in item.__dict__:
            # The teardown that goes on deletes it.
            item._instance = None


@contextmanager
def _other_instances(item: pytest.Item) -> Generator[None]:
    """Hypothesis refuses a method that runs on one instance and then on another, as ours does."""
    name = "_hypothesis_internal_use_settings"
    method = getattr(item, "obj", None)
    function = getattr(method, "__func__", method)
    settings: Any = getattr(function, name, None)
    if settings is None:
        yield
        return
    from hypothesis import HealthCheck

    allowed = {*settings.suppress_health_check, HealthCheck.differing_executors}
    setattr(function, name, type(settings)(parent=settings, suppress_health_check=allowed))
    try:
        yield
    finally:
        setattr(function, name, settings)


@contextmanager
def _quiet(item: pytest.Item) -> Generator[None]:
    """Nothing of the further runs is told or kept: no subtests' reports, no output."""
    hooks: Any = item.ihook
    mine = "pytest_runtest_logreport" in vars(hooks)
    before = hooks.pytest_runtest_logreport
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")

    def taken() -> tuple[str, str]:
        if capture is None or not capture.is_globally_capturing():
            return "", ""
        out, err = capture.read_global_capture()
        return out, err

    for name, text in zip(("stdout", "stderr"), taken(), strict=True):
        item.add_report_section("teardown", name, text)
    hooks.pytest_runtest_logreport = lambda **_: None
    try:
        yield
    finally:
        if mine:
            hooks.pytest_runtest_logreport = before
        else:
            del hooks.pytest_runtest_logreport
        taken()
