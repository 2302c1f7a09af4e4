"""The elections of one namespace as they are observed, and where their leaders should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.lab.chance import chance, sorted_loads
from sidecar.lab.fleet import STARTING
from sidecar.lab.placement import candidates_per_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.lab.fleet import Fleet, Sidecar
    from sidecar.lab.observer import Observer
    from sidecar.lab.placement import Pod

NAMED = 5
"""Sidecars or elections that a line names one by one."""


@dataclass(frozen=True, slots=True)
class Place:
    """The living pods of one application on one node."""

    answering: int = 0
    starting: int = 0
    leads: bool = False
    """One of those that answer says that it leads."""


@dataclass(frozen=True, slots=True)
class Board:
    """Who leads where at one instant."""

    title: str
    nodes: tuple[str, ...]
    places: Mapping[str, Mapping[str, Place]]
    """By application and node."""
    lost: str = ""
    """The node that is lost, if any."""
    note: str = ""

    def leaders_on(self, node: str) -> int:
        """Return how many applications are led there."""
        return sum(row[node].leads for row in self.places.values())


class ObservedGroup:
    """The elections of one namespace as they are observed, and where their leaders should be."""

    def __init__(self, fleet: Fleet, observer: Observer, nodes: tuple[str, ...]) -> None:
        self.fleet = fleet
        self.observer = observer
        self.lost = ""
        """The node that is lost, if any."""
        self._nodes = nodes

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that are there."""
        return tuple(node for node in self._nodes if node != self.lost)

    @property
    def starting(self) -> list[Sidecar]:
        """The sidecars that have not answered yet."""
        return [sidecar for sidecar in self.fleet.living if sidecar.state == STARTING]

    @property
    def loads(self) -> dict[str, int]:
        """How many elections are led on each node that is there, as all their candidates say."""
        led = Counter(leader.pod.node for leader in self.observer.leaders().values())
        return {node: led[node] for node in self.nodes}

    @property
    def leaderless(self) -> list[str]:
        """The elections whose candidates do not all name the same one of them."""
        return sorted(self.observer.elections().keys() - self.observer.leaders().keys())

    @property
    def best(self) -> tuple[int, ...]:
        """The most even leaders per node that the living candidates allow."""
        return _best(frozenset(sidecar.pod for sidecar in self.fleet.living), self.nodes)

    @property
    def balanced(self) -> bool:
        """Tell whether every election has its leader, and the leaders are spread as evenly as they can be."""
        return not self.leaderless and sorted_loads(self.loads.values()) == self.best

    @property
    def state(self) -> str:
        """One line on what is not as it should be."""
        if starting := [sidecar.pod.identity for sidecar in self.starting]:
            return f"no answer from {_few(starting)}"
        if self.leaderless:
            return f"no leader that all candidates name in {_few(self.leaderless)}"
        loads = ", ".join(f"{node} has {load}" for node, load in self.loads.items())
        return f"{loads}; possible is {ratio(self.best)}"

    @property
    def suspects(self) -> list[Sidecar]:
        """Those whose logs may tell why: who does not answer; or who has no leader; or else the leaders."""
        leaderless = [one for election in self.leaderless for one in self.observer.elections()[election]]
        return self.starting or leaderless or list(self.observer.leaders().values())

    def board(self, title: str, note: str = "") -> Board:
        """Return who leads where now."""
        places = {
            election: {node: self._place([one for one in candidates if one.pod.node == node]) for node in self._nodes}
            for election, candidates in sorted(self.observer.elections().items(), key=_by_number)
        }
        return Board(title, self._nodes, places, lost=self.lost, note=note)

    def _place(self, sidecars: Sequence[Sidecar]) -> Place:
        starting = sum(sidecar.state == STARTING for sidecar in sidecars)
        leads = any(self.observer.names_itself(sidecar) for sidecar in sidecars)
        return Place(len(sidecars) - starting, starting, leads)


def ratio(loads: Iterable[int]) -> str:
    """Return leaders per node as they are written: `2 : 2 : 1`."""
    return " : ".join(map(str, loads))


@lru_cache(maxsize=8)
def _best(pods: frozenset[Pod], nodes: tuple[str, ...]) -> tuple[int, ...]:
    # Asked for many times a second, and worked out anew only when pods come or go.
    return chance(candidates_per_node(pods).values(), nodes).best


def _few(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _by_number(election: tuple[str, object]) -> int:
    return int(election[0].rpartition("-")[2])
