"""What a fault is, and what it works on."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from tests.safety.chaos.schedule import Kind

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from tests.safety.chaos.fleet import Fleet, Pod
    from tests.safety.chaos.schedule import Planned
    from tests.testbed.apiserver import RealAPIServer

REQUEST_SECONDS = 5.0
"""That a request of the administrator's may take."""


class MissedError(Exception):
    """A fault could not begin, because of another one or for want of whom it is aimed at; nothing is amiss."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where faults happen."""

    server: RealAPIServer
    fleet: Fleet
    folder: Path
    """For the logs of whatever a fault starts."""
    clientgo: Path | None
    """The peer's program."""

    async def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> Any:  # noqa: ANN401 - JSON
        """Send a request as the administrator. Raises APIError or OSError."""
        read = partial(
            self.server.connection.request, method, path, body, content_type=content_type, seconds=REQUEST_SECONDS
        )
        return await asyncio.to_thread(read)

    def lock(self, election: str) -> str:
        """Return the path of an election's lock object."""
        return f"/api/v1/namespaces/{self.fleet.namespace}/endpoints/{election}"


class Fault(ABC):
    """One fault, from `begin` to `end`. A subclass is a kind; its docstring says what happens."""

    name: ClassVar[str]
    traits: ClassVar[frozenset[str]] = frozenset()
    """See `schedule.CLASHES`."""
    leases: ClassVar[tuple[float, float]] = (0.3, 2.0)
    """How long it lasts."""
    touches_all: ClassVar[bool] = False
    """Whether every election feels it, rather than the one that it is aimed at."""

    def __init__(self, stage: Stage, planned: Planned) -> None:
        self.stage = stage
        self.planned = planned
        self.election = stage.fleet.elections[planned.election]
        self.target = ""
        """Whom or what it hit, once it has begun."""
        self.writes = 0
        """What strangers tried to write on a lock object, as far as known once it is over."""
        self._repeated: asyncio.Task[None] | None = None

    @classmethod
    def kind(cls) -> Kind:
        """Return what a plan needs to know."""
        return Kind(name=cls.name, traits=cls.traits, leases=cls.leases)

    async def begin(self) -> None:
        """Let it happen. Raises MissedError, and OSError or APIError of a server that another fault has in its grip."""
        await self._begin()

    async def end(self) -> None:
        """Let it be over; called also when `begin` failed half-way. Raises OSError or APIError, and can be repeated."""
        await self._end()

    @abstractmethod
    async def _begin(self) -> None: ...

    async def _end(self) -> None:  # noqa: B027 - what is over as soon as it was done has nothing to undo
        pass

    async def pause(self, leases: float) -> None:
        """Wait for so many lease durations."""
        await asyncio.sleep(leases * self.stage.fleet.shape.ttl)

    def repeat(self, doing: Coroutine[None, None, None]) -> None:
        """Let something go on beside, until `stop_repeating`."""
        self._repeated = asyncio.create_task(doing)

    async def stop_repeating(self) -> None:
        """End what goes on beside. Raises what went wrong with it."""
        if self._repeated is not None:
            self._repeated.cancel()
            await asyncio.gather(self._repeated, return_exceptions=True)
            if not self._repeated.cancelled() and (error := self._repeated.exception()):
                raise error

    def choose(self, *subjects: str) -> Pod:
        """Return a running pod to which nothing of these subjects happens yet, and mark it.

        It is of the planned election, and its leader or somebody else, as planned; where there is no such one, of
        another election. Raises MissedError when there is none at all.
        """
        fleet = self.stage.fleet
        later = fleet.elections[self.planned.election :]
        for election in (self.election, *later, *fleet.elections):
            free = [one for one in fleet.members(election) if one.is_running and one.harmed.isdisjoint(subjects)]
            if not free:
                continue
            self.election = election
            leader = fleet.leader(election)
            wanted = [one for one in free if (one is leader) is self.planned.at_leader] or free
            pod = wanted[int(self.planned.luck * len(wanted))]
            pod.harmed.update(subjects)
            return pod
        raise MissedError("everybody has something of the kind already")
