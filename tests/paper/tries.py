"""Runs that do not count, or do not come to their end, are made again, a few times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.paper.waiting import StateError
from tests.testbed.hey import HeyError

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 3
"""How often a run is made until the experiment goes on without it."""


def tried(
    make: Callable[[], None],
    *,
    counts: Callable[[], bool],
    restore: Callable[[], None],
    said: str,
    progress: Callable[[str], None],
) -> None:
    """Make a run until it `counts`, at most `TRIES` times; after one that broke off, `restore` the cluster first.

    Raises what broke the last one off: StateError or HeyError.
    """
    for left in reversed(range(TRIES)):
        if counts():
            return
        try:
            make()
        except (StateError, HeyError) as error:
            if not left:
                raise
            progress(f"{said}: again, for {error}")
            restore()
