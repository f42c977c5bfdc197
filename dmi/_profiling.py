"""The sampler of this process: which code holds its memory.

    with dmi.profile() as p:
        serve()
    p.save("service.profile")       # what was held at the end; `dmi blame service.profile`

What is sampled are places: one page in ``one_in``, of those in use and of those that come to be,
and every block that is handed out on it leaves its stack. So what is said of these pages holds,
times ``one_in``, of all, however long or short blocks live. Who has blocks from before is not
known.
"""

from __future__ import annotations

import errno
import json
import operator
from typing import TYPE_CHECKING, Any, Final, Self

from dmi import _files, _inspect

if TYPE_CHECKING:
    import os
    from types import TracebackType

__all__ = ["ONE_IN", "Profiler", "profile"]

ONE_IN: Final = 64
"""One page in so many is sampled, unless told otherwise."""
COST: Final = 0.008
"""Of the time that passes the sampler takes about that, unless told otherwise."""
_MOST: Final = 1 << 20
_NO_BOUND: Final = (1 << 32) - 1


class Profiler:
    """One run of the sampler; there is one at a time in a process.

    >>> with dmi.profile(one_in=64) as p:
    ...     work()
    >>> p.save("work.profile")

    While it runs, data() and save() tell what is held now; afterwards, what was held when it ended.
    """

    def __init__(
        self, one_in: int = ONE_IN, *, cost: float | None = COST, seed: int | None = None
    ) -> None:
        if cost is not None and not (isinstance(cost, int | float) and 1e-6 <= cost <= 1):
            raise ValueError(
                f"cost must be a share from 0.000001 to 1, or None for no bound, not {cost!r:.40}"
            )
        self._ppm = _NO_BOUND if cost is None else round(cost * 1e6)
        self._one_in = _within("one_in", one_in, 1, _MOST)
        self._seed = 0 if seed is None else _within("seed", seed, 1, (1 << 64) - 1)
        self._runs = False
        self._text: bytes | None = None

    @property
    def one_in(self) -> int:
        """One page in so many is sampled."""
        return self._one_in

    @property
    def running(self) -> bool:
        """Whether it samples now."""
        return self._runs

    def start(self) -> Self:
        """Begin. RuntimeError where the process is sampled already."""
        try:
            _inspect.profile_start(self._one_in, self._ppm, self._seed)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RuntimeError(
                    "this process is sampled already: by another dmi.profile(), or by dmi run "
                    "--profile. Stop that one first"
                ) from None
            if error.errno == errno.ENOMEM:
                raise MemoryError("no memory for the tables of the sampler") from None
            raise
        self._runs = True
        self._text = None
        return self

    def stop(self) -> None:
        """End, and keep what is held now. Nothing where it does not run."""
        if not self._runs:
            return
        try:
            self._text = _inspect.profile_text()
        finally:
            self._runs = False
            _inspect.profile_stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def text(self) -> bytes:
        """The profile as it stands in a file (JSON). RuntimeError before the start."""
        if self._runs:
            return _inspect.profile_text()
        if self._text is None:
            raise RuntimeError("the sampler was not started: with dmi.profile() as p: ...")
        return self._text

    def data(self) -> dict[str, Any]:
        """The profile as plain data, as docs/profile-format.md has it."""
        found: dict[str, Any] = json.loads(self.text())
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file, mode 0600, which takes its name when it is whole. OSError where
        something else than a regular file has the name."""
        _files.write_bytes(path, self.text())

    def __repr__(self) -> str:
        state = "running" if self._runs else "new" if self._text is None else "ended"
        return f"<dmi.profile one_in={self._one_in}, {state}>"


def profile(
    one_in: int = ONE_IN, *, cost: float | None = COST, seed: int | None = None
) -> Profiler:
    """A sampler of this process that ``with`` or ``start()`` starts: which code holds its memory.

    one_in   one page in so many is sampled, 1 to 1,048,576; the fewer, the less it costs and the
             less it knows
    cost     when it has long taken more than this share of the time, half of the sampled pages
             are given up, at random, and the others count twice. Where one_in is below 64 it may
             take as many times more, up to eight times; None: no bound
    seed     draw the same pages again (1 to 2**64 - 1); None: others each time
    """
    return Profiler(one_in, cost=cost, seed=seed)


def _within(name: str, value: object, least: int, most: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r:.40}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most:,}, not {number}")
    return number
