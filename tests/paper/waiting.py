"""Waiting until the stores are as an experiment needs them, and for no longer than that may take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = 1.0
"""Seconds from one look at the cluster to the next."""


class StateError(Exception):
    """The stores, or the cluster, are not what an experiment needs, or do not become it; the message is one line."""


def until(holds: Callable[[], bool], seconds: float, what: Callable[[], str], *, every: float = EVERY) -> None:
    """Wait until something holds, and for so long at the most. Raises StateError, which says `what` did not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise StateError(f"not within {seconds:g} s: {what()}")
        time.sleep(every)
