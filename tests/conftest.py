"""What all Python tests share."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest

import dmi

# A shell that runs the tests in the background has them ignore an interrupt, and with them all that
# they start: CPython's own tests then wait for one for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Timings on a shared machine say nothing; a failing example is printed so that it can be repeated.
hypothesis.settings.register_profile("dmi", deadline=None, print_blob=True)
hypothesis.settings.load_profile("dmi")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes is run where it is asked for by name; some tests want a plain process."""
    if dmi.find(id(bytes(203))) is not None:
        reason = "this process is on dmi, and the test presumes that only what it makes is"
        for item in items:
            if item.get_closest_marker("plain"):
                item.add_marker(pytest.mark.skip(reason=reason))
    if "nightly" in config.option.markexpr:
        return
    left = [item for item in items if item.get_closest_marker("nightly")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def pytest_collection_finish() -> None:
    """Tests that collect garbage look only at what came since: the collected tests stay anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def heap() -> Iterator[dmi.Heap]:
    """A heap with default options, sound when the test ends."""
    with dmi.Heap() as made:
        yield made
        if not made.closed:
            made.validate()
            made.stats(detail=True).check()


@pytest.fixture
def no_heap_left() -> Iterator[None]:
    """The test must leave no heap behind."""
    gc.collect()
    before = {heap.handle for heap in dmi.heaps()}
    yield
    gc.collect()
    assert {heap.handle for heap in dmi.heaps()} <= before
