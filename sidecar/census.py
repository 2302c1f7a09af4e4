"""Taking a census: one list, the pods of leaders that made no claim, and limits on all of it.

A census that fails is never in the way of an election: it is given up soon, and not tried again for a while.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.balance import take_census
from sidecar.kube import DENIAL_SECONDS, ApiError, ForbiddenError
from sidecar.record import LOOK_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.balance import Census, LockSeen
    from sidecar.group import Group
    from sidecar.troubles import Troubles

CENSUS_SECONDS = 1.0
"""How long a census may take: a bid waits for it."""

FAILURE_SECONDS = 5.0
"""After a census that failed, none is taken for so long."""

ELECTIONS = 5_000
"""Elections of a group that are counted, the first ones by name."""

PODS = 20
"""Pods that are looked up for one census; those of later leaders without a claim are looked up for the next."""

KNOWN_PODS = 2_000
"""Pods whose node is remembered, or that there is none to be had; no more are looked up."""

KNOWN_SECONDS = 600.0
"""How long it is. A pod never changes its node, but a StatefulSet makes another one of the same name elsewhere."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A census, and when it was taken, in seconds since the epoch."""

    census: Census
    at: int
    nudges: dict[str, str]
    """The counters of nudges that there are, by the name of the lock."""


class CensusTaker:
    """Takes the censuses of one candidate. `last` is the last one that succeeded."""

    def __init__(
        self,
        group: Group,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        troubles: Troubles,
    ) -> None:
        self._group = group
        self._now = now
        self._wall = wall
        self._troubles = troubles
        self._not_before = float("-inf")
        self._nodes: dict[tuple[str, str], tuple[str, float]] = {}
        """By namespace and pod, the node, `""` where none is known, and until when to remember it."""
        self.last: Taken | None = None

    async def take(self, *, cached: bool) -> Census | None:
        """Return the census as it is now, or as the API server's cache has it; `None` when there is none to be had."""
        if self._now() < self._not_before:
            return None
        try:
            async with asyncio.timeout(CENSUS_SECONDS):
                locks = sorted(await self._group.locks(cached=cached), key=lambda lock: lock.name)[:ELECTIONS]
                nodes = await self._nodes_of_holders([lock for lock in locks if lock.holder and lock.claim is None])
        except ForbiddenError as error:
            self._not_before = self._now() + DENIAL_SECONDS
            self._troubles.met("list", error)
            return None
        except (ApiError, TimeoutError) as error:
            self._not_before = self._now() + FAILURE_SECONDS
            told = error if isinstance(error, ApiError) else ApiError(f"no census within {CENSUS_SECONDS:g} s")
            self._troubles.met("list", told)
            return None
        self._troubles.ended("list")
        census = take_census(locks, nodes)
        nudges = {lock.name: lock.annotations[LOOK_ANNOTATION] for lock in locks if LOOK_ANNOTATION in lock.annotations}
        self.last = Taken(census, int(self._wall()), nudges)
        return census

    async def _nodes_of_holders(self, unclaimed: Sequence[LockSeen]) -> dict[str, str]:
        holders = {lock.name: (lock.name.partition("/")[0], lock.holder or "") for lock in unclaimed}
        now = self._now()
        self._nodes = {pod: known for pod, known in self._nodes.items() if now < known[1]}
        unknown = [pod for pod in dict.fromkeys(holders.values()) if pod not in self._nodes]
        room = max(0, KNOWN_PODS - len(self._nodes))
        for pod in unknown[: min(PODS, room)]:
            self._nodes[pod] = (await self._group.node_of(*pod), now + KNOWN_SECONDS)
        return {name: self._nodes[pod][0] for name, pod in holders.items() if pod in self._nodes}
