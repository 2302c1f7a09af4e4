"""python -m tests.safety.chaos.planted BUG [FLAG...]: the sidecar with a bug in it, to see that the bug is found."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sidecar import election
from sidecar.__main__ import main
from sidecar.election import State

if TYPE_CHECKING:
    from sidecar.record import Snapshot

DEADLINE, NAMESAKE = "deadline", "namesake"


def ignore_the_deadline() -> None:
    """Name itself as long as nobody has said that the term is over, however long ago it was renewed."""

    def is_leading(state: State, now: float) -> bool:  # noqa: ARG001 - the bug
        return state.term is not None and state.term.confirmed

    def lapse(state: State, now: float) -> State:  # noqa: ARG001 - the bug
        return state

    State.is_leading = is_leading  # type: ignore[method-assign,assignment] # the bug
    election.lapse = lapse


def take_the_name_for_the_pod() -> None:
    """Take every record with its own name for its own, whichever pod wrote it."""

    def is_mine(state: State, snapshot: Snapshot | None) -> bool:
        return snapshot is not None and snapshot.holder == state.candidacy.identity

    election._is_mine = is_mine


BUGS = {DEADLINE: ignore_the_deadline, NAMESAKE: take_the_name_for_the_pod}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    main()
