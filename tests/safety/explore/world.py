"""The world that is explored: one lock object, the processes, what is under way between them.

A world is an immutable tuple, cheap to fork, because everything in it is shared with the world that it came from. Time
is a number of steps; all instants follow from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.safety.explore.scenarios import FAULTS

if TYPE_CHECKING:
    from sidecar.balance import Census
    from sidecar.election import Advice, Changed, Count, Deleted, Event, Order, Read, State, Write
    from sidecar.record import Snapshot
    from sidecar.settling import Look, Register, Settling
    from tests.safety.explore.stock import Attempt, Stock

_PLACE = {kind: index for index, kind in enumerate(FAULTS)}


class Surveyed(NamedTuple):
    """A census, as the answer to a look."""

    census: Census | None


class Request(NamedTuple):
    """What a process waits for. `asked_at` is on its clock, `None` before it was sent."""

    action: Read | Write | Count | Attempt | Register | Look
    asked_at: float | None
    answer: Event | Surveyed | None = None
    """What is on its way back, once it was served."""


class Process(NamedTuple):
    """One candidate's process, and what is under way to it."""

    state: State | Stock
    settling: Settling | None = None
    request: Request | None = None
    side: Request | None = None
    """The settler's request."""
    behind: tuple[Changed | Deleted, ...] = ()
    """What the watch has yet to show, or would show if it went on."""
    gap: int = 0
    """The last version that it will never show, because it fell back too far."""
    gone: bool = False


class World(NamedTuple):
    """Everything that there is."""

    tick: int
    version: int
    """The last version that was given to anything."""
    stored: Snapshot | None
    processes: tuple[Process, ...]
    budget: tuple[int, ...]
    """How many faults of each kind may still happen."""
    late: tuple[Write, ...] = ()
    """Writes whose senders have given them up, and which may still arrive."""
    token: int = 0
    """The greatest fencing token that anybody led with."""
    pods: int = 0
    """Pods that there have been."""
    group: int = 0
    """How the other elections of the group are led."""

    def left(self, kind: str) -> int:
        """Return how many faults of this kind may still happen."""
        return self.budget[_PLACE[kind]]

    def after(self, kind: str) -> World:
        """Return the world with one fault of this kind less to come."""
        place, budget = _PLACE[kind], self.budget
        return self._replace(budget=(*budget[:place], budget[place] - 1, *budget[place + 1 :]))

    def having(self, number: int, process: Process) -> World:
        """Return the world with this one in the place of the process of that number."""
        processes = self.processes
        return self._replace(processes=(*processes[:number], process, *processes[number + 1 :]))


class Move(NamedTuple):
    """Something that may happen: what, to whom, and which of several ways."""

    kind: str
    number: int = -1
    detail: float | int | str | Advice | Order | None = None
