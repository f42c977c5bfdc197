"""What a test that failed says of its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi._sizes import show_size

if TYPE_CHECKING:
    from dmi.testing import Found

__all__ = ["failure_text"]


def failure_text(found: Found, said: list[str], repeated: int = 0) -> str:
    """repeated: further runs of the test, each of which did it again."""
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
    if repeated:
        lines.append(f"  the test did it again in each of {repeated} further runs")
    if found.left_out:
        lines.append(
            f"  not counted: {show_size(found.left_out)} of imports and of fixtures of wider scope"
        )
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
