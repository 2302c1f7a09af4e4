"""Who leads, told to whoever listens: server-sent events, one for each change.

`Events` is what was told, as text, and what a reader that comes back has missed. It knows neither time nor I/O.
`Stream` tells it to the readers, and keeps three promises:

* A change is written to every reader before the call that told the candidate's listeners of it returns. So a reader is
  told that leadership has ended before the request that releases the lock is sent.
* What is sent is judged at the instant at which it is sent, by the candidate's clock. A process that was stopped for a
  minute does not begin with what was true before, and no event says that this candidate leads when it does not.
* A reader costs a bounded amount of memory. To one that does not keep up nothing is sent until it has taken what it
  was sent before; then it is sent the newest event, and not those in between. One that does not take it is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.record import go_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.candidate import Candidate

READER_LIMIT = 500
"""Readers at one time. With the other connections they fit into the 1024 descriptors that a process often has."""

REMEMBERED = 32
"""Events that a reader can have missed and still be sent."""

RETRY_SECONDS = 1.0
"""How long a reader is asked to wait before it comes back."""

HEARTBEAT_SECONDS = 2.0
"""How long readers are sent nothing, at least, before a heartbeat; a round more at most. Whoever hears nothing for
longer has to take this process for stopped. With the default ttl nobody else leads within 7.5 s of that."""

BEHIND_SECONDS = 10.0
"""How long a reader may take for what it was sent, before it is dropped."""

ROUND_SECONDS = 1.0
"""Seconds between two looks, while there are readers. The end of a validity is looked for at its very instant; but a
timer stands still while the machine is suspended, and the candidate's clock does not."""

CATCH_UP_SECONDS = 0.1
"""Seconds between two looks at readers that have something coming to them."""

_HEARTBEAT = b":\n\n"
_LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """How the election stands, as far as an event tells it. The fields are those of its JSON, in their order."""

    name: str
    """The current leader, as `/` tells it."""
    leading: bool
    """Whether this candidate leads, as `/leader` tells it."""
    fencing_token: int | None
    """While this candidate leads."""
    role: str


def standing(candidate: Candidate) -> Standing:
    """Return how the election stands, now."""
    status = candidate.status()
    return Standing(
        name=status.leader,
        leading=status.fencing_token is not None,
        fencing_token=status.fencing_token,
        role=status.role,
    )


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    standing: Standing
    text: bytes


class Events:
    """The last of the events that there were. Their ids are `<start>-<number>`; `start` is this process's alone."""

    def __init__(self, start: str) -> None:
        self._start = start
        self._events: deque[_Event] = deque(maxlen=REMEMBERED)

    def add(self, standing: Standing) -> bool:
        """Take note of how the election stands; return whether that is an event, since it stood otherwise before."""
        number = 1
        if self._events:
            if self._events[-1].standing == standing:
                return False
            number = self._events[-1].number + 1
        text = f"id: {self._start}-{number}\ndata: {go_json(asdict(standing))}\n\n"
        self._events.append(_Event(number, standing, text.encode()))
        return True

    def newest(self) -> bytes:
        """Return the last event; there must have been one."""
        return self._events[-1].text

    def since(self, last_id: str) -> bytes:
        """Return the events after this one, or the newest alone: after that one itself, and after one not remembered.

        Those in which this candidate led are not told afterwards: nobody is to act on a leadership that is over.
        """
        start, _, number = last_id[:_LONGEST_ID].rpartition("-")
        newest = self._events[-1]
        if start != self._start or not (number.isascii() and number.isdigit()):
            return newest.text
        seen = int(number)
        if not self._events[0].number - 1 <= seen < newest.number:
            return newest.text
        missed = (event for event in self._events if event.number > seen)
        return b"".join(event.text for event in missed if event is newest or not event.standing.leading)


class Reader(Protocol):
    """The connection of somebody who listens."""

    @property
    def is_near(self) -> bool:
        """Whether it is in this pod."""
        ...

    def write(self, data: bytes) -> None:
        """Send, without waiting; what the connection does not take yet is kept."""
        ...

    def is_behind(self) -> bool:
        """Tell whether something is kept that the connection has not taken."""
        ...

    def end(self) -> None:
        """Close the connection when all is sent."""
        ...

    def drop(self) -> None:
        """Close the connection, whatever is kept for it."""
        ...


@dataclass(slots=True, eq=False)
class _Place:
    reader: Reader
    behind_since: float | None = None
    is_owed: bool = False
    """Whether there was an event that it was not sent."""


class Stream:
    """The events of one candidate, and who listens to them.

    `now` is the candidate's clock. Nothing here waits, and nothing runs while nobody listens.
    """

    def __init__(self, candidate: Candidate, *, now: Callable[[], float], start: str) -> None:
        self._candidate = candidate
        self._now = now
        self._events = Events(start)
        self._places: dict[Reader, _Place] = {}
        self._told_at = now()
        self._timer: asyncio.TimerHandle | None = None
        self._events.add(standing(candidate))
        candidate.on_change(self.look)

    def __len__(self) -> int:
        """Return how many listen."""
        return len(self._places)

    @contextmanager
    def told_to(self, reader: Reader, last_id: str) -> Iterator[None]:
        """Tell a reader, while the block runs, how the election stands and every change from there.

        `last_id` is that of the last event that it knows of, if any.
        """
        self._make_room()
        self.look()
        self._places[reader] = _Place(reader)
        try:
            reader.write(f"retry: {RETRY_SECONDS * 1000:.0f}\n".encode() + self._events.since(last_id))
            self._arm()
            yield
        finally:
            self._places.pop(reader, None)
            self._arm()

    def look(self) -> None:
        """Tell the readers how the election stands, if it does not stand as it did."""
        if self._events.add(standing(self._candidate)):
            self._told_at = self._now()
            for place in self._places.values():
                self._tell(place)
        self._arm()

    def close(self) -> None:
        """End what every reader is told; those that do not keep up are dropped."""
        self.look()
        for reader in list(self._places):
            if reader.is_behind():
                reader.drop()
            else:
                reader.end()
        self._places.clear()
        self._arm()

    def _make_room(self) -> None:
        """Drop the oldest reader where there are too many, one from outside the pod if there is any.

        Whoever forgets to close connections keeps the last, and strangers do not drive out the main container.
        """
        while len(self._places) >= READER_LIMIT:
            oldest = next((reader for reader in self._places if not reader.is_near), next(iter(self._places)))
            del self._places[oldest]
            oldest.drop()

    def _tell(self, place: _Place) -> None:
        place.is_owed = place.reader.is_behind()
        if not place.is_owed:
            place.behind_since = None
            place.reader.write(self._events.newest())

    def _go_round(self) -> None:
        self._timer = None
        self.look()
        now = self._now()
        heartbeat = now - self._told_at >= HEARTBEAT_SECONDS
        if heartbeat:
            self._told_at = now
        for place in list(self._places.values()):
            self._attend(place, now, heartbeat=heartbeat)
        self._arm()

    def _attend(self, place: _Place, now: float, *, heartbeat: bool) -> None:
        """See to one reader: does it keep up, and has it something coming to it."""
        if place.reader.is_behind():
            if place.behind_since is None:
                place.behind_since = now
            elif now - place.behind_since >= BEHIND_SECONDS:
                del self._places[place.reader]
                place.reader.drop()
            return
        place.behind_since = None
        if place.is_owed:
            self._tell(place)
        elif heartbeat:
            place.reader.write(_HEARTBEAT)

    def _arm(self) -> None:
        """See to it that there is another look in time, as long as somebody listens."""
        if not self._places:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        loop = asyncio.get_running_loop()
        owing = any(place.is_owed for place in self._places.values())
        pause = min(CATCH_UP_SECONDS if owing else ROUND_SECONDS, self._candidate.same_until() - self._now())
        due = loop.time() + max(pause, 0.0)
        if self._timer is None or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(due, self._go_round)
