"""What the test bed tells people while something takes long: one line on stderr."""

from __future__ import annotations

import sys


def progress(line: str) -> None:
    """Write a line to stderr at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
