"""The screen of the live view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

from rich.markup import escape
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Sparkline, Static

from dmi.top._look import OtherLook, OwnLook

if TYPE_CHECKING:
    from collections.abc import Callable

    from dmi.top._look import HeapLine, Look

__all__ = ["Top"]

MIB: Final = 1 << 20
COLUMNS: Final = ("Kind", "Heap", "Committed", "Busy", "Retained", "Page bound", "Policy", "Why")


def mib(size: float | None) -> str:
    """MiB with one digit; "-" is not known."""
    return "-" if size is None else f"{size / MIB:,.1f}"


class Ask(ModalScreen[str | None]):
    """One line of text, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel")]
    CSS = """
    Ask { align: center middle; }
    Ask > Vertical { width: 70; height: auto; padding: 1 2; border: round $accent; }
    """

    def __init__(self, question: str, value: str) -> None:
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        """The question and a line to answer in."""
        with Vertical():
            yield Static(self._question)
            yield Input(self._value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The answer."""
        self.dismiss(event.value)

    def action_leave(self) -> None:
        """No answer."""
        self.dismiss(None)


class Top(App[None]):
    """The application; ``look`` is where its figures come from."""

    TITLE = "dmi top"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("space", "pause", "Pause"),
        Binding("t", "trim", "Trim"),
        Binding("p", "policy", "Policy"),
        Binding("s", "snapshot", "Snapshot"),
    ]
    CSS = """
    #head { height: auto; padding: 0 1; }
    #body { height: 1fr; }
    #heaps { height: 1fr; min-height: 5; }
    #layers { width: 56; height: 100%; padding: 0 1; border-left: solid $panel; }
    #left { width: 1fr; }
    .spark { height: 3; margin: 0 1; }
    .cap { height: 1; padding: 0 1; color: $text-muted; }
    .-narrow #body { layout: vertical; }
    .-narrow #left { width: 100%; height: 1fr; }
    .-narrow #layers { width: 100%; height: 9; border-left: none; border-top: solid $panel; }
    .-short #layers, .-short .spark, .-short .cap { display: none; }
    """
    # From these widths and heights on: a small terminal is for the heaps first. They are no class
    # variables to textual.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (112, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (24, "-tall")]  # noqa: RUF012

    def __init__(self, look: OwnLook | OtherLook, every: float = 1.0) -> None:
        super().__init__()
        self._look = look
        self._every = every
        self._paused = False
        self._rows: list[HeapLine] = []

    def compose(self) -> ComposeResult:
        """Figures of the process above, heaps and history below, layers beside them."""
        yield Static(id="head")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield DataTable(id="heaps", cursor_type="row", zebra_stripes=True)
                yield Static("committed, MiB", classes="cap", id="cap-committed")
                yield Sparkline(id="committed", classes="spark", summary_function=max)
                yield Static("busy, MiB", classes="cap", id="cap-busy")
                yield Sparkline(id="busy", classes="spark", summary_function=max)
            yield Static(id="layers")
        yield Footer()

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#heaps", DataTable).add_columns(*COLUMNS)
        self.refresh_figures()
        self.set_interval(self._every, self._tick)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that change a heap work on the own process only."""
        if action in ("trim", "policy", "snapshot"):
            return self._look.own
        return True

    def _tick(self) -> None:
        if not self._paused:
            self.refresh_figures()

    def refresh_figures(self) -> None:
        """Read and draw."""
        begin = time.monotonic()
        found = self._look.read()
        # A line each, cut where the terminal is narrower.
        above = Text.from_markup(head(found, time.monotonic() - begin, self._paused)).split("\n")
        for each in above:
            each.truncate(max(10, self.size.width - 2), overflow="ellipsis")
        self.query_one("#head", Static).update(Text("\n").join(above))
        self._draw_heaps(found)
        self.query_one("#layers", Static).update(layers_text(found))
        history = list(self._look.history)
        for name, values in (
            ("committed", [float(row[0]) for row in history]),
            ("busy", [float(row[1]) for row in history]),
        ):
            self.query_one(f"#{name}", Sparkline).data = values
            if values:
                text = f"{name}, MiB: now {mib(values[-1])}, most {mib(max(values))}"
                self.query_one(f"#cap-{name}", Static).update(text)

    def _draw_heaps(self, found: Look) -> None:
        table = self.query_one("#heaps", DataTable)
        rows = sorted(found.heaps, key=lambda each: -(each.retained or 0))
        cells = [line(each) for each in rows]
        if [each.handle for each in rows] != [each.handle for each in self._rows]:
            chosen = self._chosen()
            table.clear()
            for each, row in zip(rows, cells, strict=True):
                table.add_row(*row, key=f"{each.kind}-{each.handle}")
            # The cursor stays with its heap, wherever that stands now.
            again = [n for n, each in enumerate(rows) if chosen and each.handle == chosen.handle]
            table.move_cursor(row=again[0] if again else 0)
        else:
            for number, row in enumerate(cells):
                for column, cell in enumerate(row):
                    place = Coordinate(number, column)
                    if table.get_cell_at(place) != cell:
                        table.update_cell_at(place, cell, update_width=True)
        self._rows = rows

    # ---- keys --------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop or go on."""
        self._paused = not self._paused
        self.refresh_figures()

    def action_trim(self) -> None:
        """Trim the heap under the cursor."""
        self._do(lambda look, handle: look.trim(handle))

    def action_policy(self) -> None:
        """Ask for a policy for the heap under the cursor."""
        chosen = self._chosen()
        if chosen is None:
            return

        def answered(text: str | None) -> None:
            if text:
                self._do(lambda look, _: look.set_policy(chosen.handle, text))

        self.push_screen(
            Ask(f"Policy of {chosen.name or hex(chosen.handle)}", chosen.policy), answered
        )

    def action_snapshot(self) -> None:
        """Ask for a file and write a snapshot."""

        def answered(path: str | None) -> None:
            if path:
                self._do(lambda look, _: look.save(path))

        self.push_screen(Ask("Snapshot into the file", "snapshot.json"), answered)

    def _chosen(self) -> HeapLine | None:
        number = self.query_one("#heaps", DataTable).cursor_row
        return self._rows[number] if 0 <= number < len(self._rows) else None

    def _do(self, work: Callable[[OwnLook, int], str]) -> None:
        chosen = self._chosen()
        if not isinstance(self._look, OwnLook) or chosen is None:
            self.notify("there is no heap to work on", severity="warning")
            return
        try:
            self.notify(escape(work(self._look, chosen.handle)))
        except (ValueError, OSError, RuntimeError) as error:
            self.notify(escape(str(error)), severity="error")
        self.refresh_figures()


def line(each: HeapLine) -> tuple[str, ...]:
    """The cells of a heap. Names of others are text, not markup."""
    why = ", ".join(f"{name} {mib(size)}" for name, size in each.reasons[:3])
    name = escape(f"{each.handle:x} {each.name}".rstrip())
    return (
        each.kind,
        name,
        mib(each.committed),
        mib(each.busy),
        mib(each.retained),
        mib(each.page_bound),
        escape(each.policy) or "-",
        why or "-",
    )


def head(found: Look, took: float, paused: bool) -> str:
    """The lines above: memory of the process, its cgroup, rates, and how old walks are."""
    if found.ended:
        return f"[b]{found.title}[/b] has ended"
    get = found.physical.get
    lines = [
        f"[b]{found.title}[/b]  resident {mib(get('Rss'))} MiB, swapped {mib(get('Swap'))}, "
        f"lazily freed {mib(get('LazyFree'))}" + ("  [reverse] paused [/reverse]" if paused else "")
    ]
    group = found.cgroup
    if group is not None:
        limit = "no limit" if group.limit is None else f"limit {mib(group.limit)} MiB"
        parts = ", ".join(f"{name} {mib(size)}" for name, size in group.parts.items())
        lines.append(f"cgroup {mib(group.current)} MiB, {limit}  ({parts})")
    rates = (
        f"given back {mib(found.given_back_rate)} MiB/s, taken again {mib(found.taken_again_rate)}"
    )
    age = "-" if found.walk_age is None else f"{found.walk_age:.0f} s"
    lines.append(f"{rates}; walks are {age} old; this look took {1000 * took:.1f} ms")
    lines += [f"[dim]{escape(note)}[/dim]" for note in found.notes[:2]]
    return "\n".join(lines)


def layers_text(found: Look) -> str:
    """The layers: what each holder holds, uses and retains."""
    if found.layers is None:
        return "layers are not known"
    rows = [f"[b]{'MiB':<24}{'holds':>9}{'uses':>9}{'keeps':>9}[/b]"]
    for layer in found.layers.layers:
        rows.append(f"[b]{layer.number} {escape(layer.name)}[/b]")
        for part in layer.parts:
            name = escape(part.name[:23])
            cells = "".join(f"{mib(n):>9}" for n in (part.holds, part.uses, part.retains))
            rows.append(f" {name:<23}{cells}")
    return "\n".join(rows)
