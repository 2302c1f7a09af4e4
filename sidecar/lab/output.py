"""Standard output: as wide as the terminal is, and in a pipe as wide as what is printed."""

from __future__ import annotations

import io
import sys

from rich.console import Console

PIPE_COLUMNS = 10_000
"""Where there is no terminal that a line must fit."""


def output_console() -> Console:
    """Return a console that cuts nothing in a pipe, and shows in some way whatever somebody has called itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
