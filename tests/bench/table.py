"""Tables: lines of cells, the first one the heading, as text for people and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of text, every column but the first aligned to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of Markdown. What belongs to the line before, and is indented, is marked: spaces would be lost."""
    heading, *rest = lines
    told = [[line[0].replace("  ", "\u2013 ", 1) if line[0].startswith("  ") else line[0], *line[1:]] for line in rest]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return ["| " + " | ".join(line) + " |" for line in [heading, rule, *told]]
