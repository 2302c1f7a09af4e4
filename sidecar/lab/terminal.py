"""How the demonstration looks: a live table on a terminal, plain lines in a pipe, nothing at all for programs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.lab.demo import Report, Sidecar

REFRESHES = 10
"""Redraws a second."""


class Lines:
    """A line for everything that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, sidecars: list[Sidecar]) -> None:
        """Show nothing: a pipe is no place for a picture that changes."""

    def tell(self, seconds: float, text: str) -> None:
        """Print one line."""
        self._console.print(_line(seconds, text), soft_wrap=True)


class LiveTable:
    """The lines, and below them a table of the sidecars as they are now."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lines: list[Text] = []

    def show(self, sidecars: list[Sidecar]) -> None:
        """Redraw the table."""
        self._live.update(Group(*self._lines, _table(sidecars)))

    def tell(self, seconds: float, text: str) -> None:
        """Add a line; it is drawn with the next table."""
        self._lines.append(_line(seconds, text))


class Silence:
    """Nothing at all."""

    def show(self, sidecars: list[Sidecar]) -> None:
        """Show nothing."""

    def tell(self, seconds: float, text: str) -> None:
        """Say nothing."""


@contextmanager
def reporting(*, quiet: bool) -> Iterator[Report]:
    """Report on standard output in the way that fits it."""
    console = Console(highlight=False)
    if quiet:
        yield Silence()
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=REFRESHES) as live:
            yield LiveTable(live)
    else:
        yield Lines(console)


def _line(seconds: float, text: str) -> Text:
    return Text.assemble((f"{seconds:6.2f} s  ", "dim"), text)


def _table(sidecars: list[Sidecar]) -> Table:
    table = Table("identity", "port", "process", "answer of /", "role")
    for sidecar in sidecars:
        answer = "" if sidecar.answer is None else f'{{"name":"{sidecar.answer}"}}'
        style = "bold green" if sidecar.names_itself else "" if sidecar.state == "running" else "dim"
        table.add_row(sidecar.identity, str(sidecar.port), sidecar.state, answer, sidecar.role, style=style)
    return table
