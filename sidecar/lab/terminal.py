"""How the demonstration looks: a live table on a terminal, plain lines in a pipe, nothing at all for programs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.lab.demo import Report
    from sidecar.lab.observed import Board, Place

REFRESHES = 10
"""Redraws a second."""


class Signs:
    """What stands for what in a table."""

    def __init__(self, *, ascii_only: bool) -> None:
        self.leader, self.candidate, self.starting, self.bar = "*o.#" if ascii_only else "●○·█"


class Lines:
    """A line for everything that happens, and a table for every stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._signs = Signs(ascii_only=console.options.ascii_only)

    def show(self, board: Board) -> None:
        """Show nothing: a pipe is no place for a picture that changes."""

    def tell(self, seconds: float, text: str) -> None:
        """Print one line."""
        self._console.print(Text.assemble((f"{seconds:6.2f} s  ", "dim"), text), soft_wrap=True)

    def picture(self, boards: Sequence[Board]) -> None:
        """Print tables side by side, as far as there is room."""
        self._console.print()
        self._console.print(Columns([_table(board, self._signs) for board in boards], padding=(0, 4)))
        self._console.print()


class LiveTable(Lines):
    """The same, and below it a table of how things are now."""

    def __init__(self, live: Live) -> None:
        super().__init__(live.console)
        self._live = live

    def show(self, board: Board) -> None:
        """Redraw the table."""
        self._live.update(_table(board, self._signs))


class Silence:
    """Nothing at all."""

    def show(self, board: Board) -> None:
        """Show nothing."""

    def tell(self, seconds: float, text: str) -> None:
        """Say nothing."""

    def picture(self, boards: Sequence[Board]) -> None:
        """Print nothing."""


@contextmanager
def reporting(*, quiet: bool) -> Iterator[Report]:
    """Report on standard output in the way that fits it."""
    console = Console(highlight=False)
    if quiet:
        yield Silence()
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=REFRESHES, transient=True) as live:
            yield LiveTable(live)
    else:
        yield Lines(console)


def _table(board: Board, signs: Signs) -> Table:
    legend = f"{signs.leader} leads  {signs.candidate} candidate  {signs.starting} starting"
    table = Table(title=board.title, caption=board.note or legend, show_footer=True)
    table.add_column("", footer="leaders")
    for node in board.nodes:
        lost = node == board.lost
        load = board.leaders_on(node)
        table.add_column(
            Text(f"{node} lost" if lost else node, style="red" if lost else ""),
            footer="" if lost else f"{signs.bar * load} {load}".lstrip(),
        )
    for application, places in board.places.items():
        table.add_row(application, *(_pods(places[node], signs) for node in board.nodes))
    return table


def _pods(place: Place, signs: Signs) -> Text:
    return Text.assemble(
        (signs.leader * place.leads, "bold green"),
        signs.candidate * (place.answering - place.leads),
        (signs.starting * place.starting, "dim"),
    )
