"""A live view of heaps in a terminal: `dmi top --pid N`, or ``dmi.top.run()`` inside a program.

The figures are counters, read at each refresh, and walks, read as often as their share of the time
allows and shown with their age. Needs the extra ``top``.
"""

from __future__ import annotations

from dmi.top._look import HeapLine, Look, OtherLook, OwnLook

__all__ = ["HeapLine", "Look", "OtherLook", "OwnLook", "run"]


def run(pid: int | None = None, *, every: float = 1.0) -> None:
    """Show process ``pid``, or the heaps of this one, until q is pressed.

    In this process it runs on the calling thread; other threads go on. ImportError, naming the
    extra, without textual; ProcessLookupError for a process that is not there.
    """
    try:
        import textual  # noqa: F401
    except ImportError:
        raise ImportError("dmi top needs the extra 'top': pip install 'dmi-heap[top]'") from None
    from dmi.top._app import Top

    look: OwnLook | OtherLook = OwnLook() if pid is None else OtherLook(pid)
    look.read()  # what is wrong is said before the screen is taken
    Top(look, every).run()
