"""How the demonstration looks to people."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from sidecar.lab.observed import Board, Place
from sidecar.lab.terminal import Lines, reporting

if TYPE_CHECKING:
    import pytest

NODES = ("node-1", "node-2")
BOARD = Board(
    "cold start",
    NODES,
    {
        "app-1": {"node-1": Place(answering=2, leads=True), "node-2": Place(answering=1)},
        "app-2": {"node-1": Place(starting=1), "node-2": Place(answering=2, starting=1, leads=True)},
    },
    note="1 : 1, balanced",
)


def _printed(*boards: Board, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=width, highlight=False)
    Lines(console).picture(boards)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(("│", "┃", "|"))]
    return [
        [cell.strip() for cell in line.strip("│┃|").replace("┃", "│").replace("|", "│").split("│")] for line in lines
    ]


def test_a_table_shows_who_leads_where() -> None:
    """A row for each application, a column for each node: leader first, then candidates, then those that start."""
    text = _printed(BOARD)
    assert _rows(text) == [
        ["", "node-1", "node-2"],
        ["app-1", "●○", "○"],
        ["app-2", "·", "●○·"],
        ["leaders", "█ 1", "█ 1"],
    ]
    assert "cold start" in text
    assert "1 : 1, balanced" in text


def test_a_lost_node_is_marked() -> None:
    """A node that is lost says so, and has no sum; one without leaders has 0."""
    places = {"app-1": {"node-1": Place(), "node-2": Place()}}
    rows = _rows(_printed(Board("lost", NODES, places, lost="node-2")))
    assert rows[0] == ["", "node-1", "node-2 lost"]
    assert rows[-1] == ["leaders", "0", ""]


def test_tables_stand_side_by_side_where_there_is_room() -> None:
    """Two tables share their lines on 80 columns, and stand below each other on 40."""
    assert any(line.count("app-1") == 2 for line in _printed(BOARD, BOARD, width=80).splitlines())
    assert not any(line.count("app-1") == 2 for line in _printed(BOARD, BOARD, width=40).splitlines())


def test_an_ascii_terminal_gets_ascii() -> None:
    """Where the encoding has no circles and blocks, there are signs that it has."""
    rows = _rows(_printed(BOARD, encoding="ascii"))
    assert ["app-2", ".", "*o."] in rows
    assert ["leaders", "# 1", "# 1"] in rows


def test_a_line_is_one_line() -> None:
    """However long a line is, it is not broken; it begins with the time."""
    raw = io.StringIO()
    Lines(Console(file=raw, width=40)).tell(1.5, "word " * 40)
    assert raw.getvalue().startswith("  1.50 s  word")
    assert raw.getvalue().count("\n") == 1


def test_programs_are_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Where only figures are wanted, nothing is printed."""
    with reporting(quiet=True) as report:
        report.tell(0.0, "something")
        report.show(BOARD)
        report.picture([BOARD])
    assert capsys.readouterr() == ("", "")
