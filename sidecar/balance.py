"""The balance, as pure functions: a census, the delay of a bid, and a plan.

The census says how many leaders each node has, the delay how long a bid for one more holds back, the plan which
elections should be led elsewhere.

Spreading leaders is an *optimal semi-matching* (Harvey, Ladner, Lovasz, Tamir: Semi-matchings for bipartite graphs and
load balancing, Journal of Algorithms 59, 2006): every election is matched with one of the nodes that it has a candidate
on, so that the sum of the squared loads is as small as it can be. An assignment is optimal exactly when no
*cost-reducing path* is left: elections e1, ..., ek, led on u, x1, ..., where each can move to the next node of the path
and the last to v, and v has at least two leaders fewer than u.

Everybody who has the same census makes the same plan, so nobody has to be asked: no randomness, ties go by name.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.record import CHECKING, CLAIM_ANNOTATION, RECORD_ANNOTATION, Claim, Record, parse_claim, parse_record
from sidecar.registration import registration_key, registrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

DELAY_CAP = 4
"""Leaders more than on the least loaded node, beyond which a bid holds back no longer."""

NODES = 5_000
"""Nodes of a group that are counted: as many as a cluster may have (Kubernetes, considerations for large clusters)."""

PLANNED_MOVES = 500
"""Moves after which a plan is long enough: later ones are planned when these are made. It bounds what a plan costs."""

MOVE_LIMIT = 4
"""Hand-overs of one election between two quiet spells, so that disagreement can never become a storm."""


# -- The census --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LockSeen:
    """One lock object, as a list shows it. `name` is `namespace/election`."""

    name: str
    version: int
    annotations: Mapping[str, str]

    @cached_property
    def record(self) -> Record | None:
        """The record; `None` when there is none that can be read."""
        text = self.annotations.get(RECORD_ANNOTATION)
        record = parse_record(text) if text is not None else None
        return record if isinstance(record, Record) else None

    @property
    def holder(self) -> str | None:
        """The name in the record, `""` in one that was released; `None` when there is none that can be read."""
        return self.record.holder if self.record is not None else None

    @cached_property
    def claim(self) -> Claim | None:
        """The claim, when it is the record's. Stock candidates make none."""
        claim = parse_claim(self.annotations.get(CLAIM_ANNOTATION))
        return claim if claim is not None and self.record is not None and claim.belongs_to(self.record) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """One election of the group.

    `node` is where it is led, or about to be led; `""` says that nobody leads it, or that nobody knows where. `nodes`
    is where it has candidates. The greater `term`, the younger the leadership. One that is not `movable` stays: its
    leader does not take part in this, or it was moved often enough. One that `moves` is about to, or about to decide.
    """

    name: str
    node: str
    weight: int = 1
    term: int = 0
    nodes: frozenset[str] = frozenset()
    movable: bool = False
    moves: bool = False


@dataclass(frozen=True, slots=True)
class Census:
    """Where every election of a group is led, and where it could be."""

    elections: tuple[Election, ...]

    def loads(self, *, without: str = "") -> dict[str, int]:
        """Return the weight that is led on each node of the group, the election `without` left out."""
        loads: Counter[str] = Counter()
        for election in self.elections:
            loads.update(dict.fromkeys(election.nodes, 0))
            if election.node:
                loads[election.node] += 0 if election.name == without else election.weight
        return dict(sorted(loads.items()))


def take_census(seen: Iterable[LockSeen], nodes_of_holders: Mapping[str, str]) -> Census:
    """Count. `nodes_of_holders` has the node of a holder that made no claim, by the name of its lock."""
    elections = sorted((_election(lock, nodes_of_holders) for lock in seen), key=lambda election: election.name)
    led = dict.fromkeys(election.node for election in elections if election.node)
    possible = dict.fromkeys(node for election in elections for node in sorted(election.nodes))
    if len(nodes := led | possible) > NODES:
        counted = frozenset(islice(nodes, NODES))
        elections = [_within(counted, election) for election in elections]
    return Census(tuple(elections))


def _within(nodes: frozenset[str], election: Election) -> Election:
    is_known = election.node in nodes
    return replace(
        election,
        node=election.node if is_known else "",
        nodes=election.nodes & nodes,
        movable=election.movable and is_known,
    )


def _election(lock: LockSeen, nodes_of_holders: Mapping[str, str]) -> Election:
    registered = registrations(lock.annotations)
    nodes = frozenset(registration.node for registration in registered.values())
    claim = lock.claim
    if claim is None:
        return Election(name=lock.name, node=nodes_of_holders.get(lock.name, "") if lock.holder else "", nodes=nodes)
    if not claim.holder:
        # Released in favour of a successor: a move in flight, counted where it will land.
        return Election(name=lock.name, node=claim.node, weight=claim.weight, nodes=nodes, moves=True)
    mine = registered.get(registration_key(claim.holder))
    return Election(
        name=lock.name,
        node=claim.node,
        weight=claim.weight,
        # The write that acquired the lock could not know its own version; it is the last one then.
        term=claim.term or lock.version,
        nodes=nodes,
        movable=bool(claim.node) and mine is not None and mine.pod_uid == claim.pod_uid and claim.moves < MOVE_LIMIT,
        moves=bool(claim.successor) or claim.state == CHECKING,
    )


# -- The delay ---------------------------------------------------------------------------------------------------------


def delay(census: Census, *, election: str, node: str, rivals: frozenset[str], slot: float) -> float:
    """Return the seconds that a candidate on `node` holds back its bid for `election`.

    `rivals` are the nodes of the other candidates, as far as known; without any, all nodes of the group are compared.
    """
    loads = census.loads(without=election)
    least = min(loads.get(other, 0) for other in (rivals or loads.keys()) | {node})
    return slot * min(loads.get(node, 0) - least, DELAY_CAP)


# -- The plan ----------------------------------------------------------------------------------------------------------


def plan(census: Census) -> dict[str, str]:
    """Return the elections that should move now, and to which node.

    These are moves on the way to an optimal assignment; with different weights, to one that no single move improves.
    They make nothing worse, all of them together or only some: each goes to a node that carries less, whatever becomes
    of the others. Where nothing moves, nothing can be improved; where something does, the next plan may have more.
    """
    weights = {election.weight for election in census.elections if election.node}
    desk = _Desk(census)
    if len(weights) <= 1:
        desk.balance_by_paths()
    else:
        desk.balance_greedily()
    return desk.moves


_Rank = tuple[int, int, str]
"""What elections on one node are sorted by: the weight, the youngest first, the name."""

_Path = list[tuple[Election, str]]
"""Moves, each of an election and to which node."""


class _Desk:
    """Where a plan is worked out: the assignment as it would be, and the moves that may be made now."""

    def __init__(self, census: Census) -> None:
        self.moves: dict[str, str] = {}
        self._led_on = {election.name: election.node for election in census.elections}
        self._elections = {election.name: election for election in census.elections}
        self._loads = census.loads()
        self._left = dict(self._loads)
        """What each node carries once all that may leave it now has left."""
        self._filled = dict(self._loads)
        """What each node carries once all that may come to it now has come."""
        self._ways: dict[str, dict[str, list[_Rank]]] = {node: {} for node in self._loads}
        """By node and by other node, the ranks of what is led on the one and could be led on the other, sorted."""
        for election in sorted(census.elections, key=_rank):
            if election.node and election.movable:
                for end in election.nodes - {election.node}:
                    self._ways[election.node].setdefault(end, []).append(_rank(election))
        self._unit = max((election.weight for election in census.elections if election.node), default=1)

    def balance_by_paths(self) -> None:
        """Apply shortest cost-reducing paths until none is left, or that is enough."""
        planned = 0
        waiting = set(self._loads)
        by_load = [(-load, node) for node, load in self._loads.items()]
        heapify(by_load)
        while by_load and planned < PLANNED_MOVES:
            load, source = by_load[0]
            if source not in waiting or load != -self._loads[source]:
                heappop(by_load)
                continue
            # What is reached from the heaviest node is at most one leader lighter where no path is left. So neither
            # that node nor any of these can be the source, the middle or the end of one any more.
            path, reached = self._shortest_path(source, waiting)
            if not path:
                waiting.difference_update(reached)
                continue
            # Only the last edge, which lands on the light node, may act: from the end on the path unwinds.
            self._act(*path[-1], least_gain=self._unit)
            for election, end in path:
                self._move(election, end)
            planned += len(path)
            # In the middle of a path one comes and one goes.
            for node in (source, path[-1][1]):
                heappush(by_load, (-self._loads[node], node))

    def _shortest_path(self, source: str, within: AbstractSet[str]) -> tuple[_Path, AbstractSet[str]]:
        """Return the shortest path from `source` to a node with at least two leaders fewer, and all nodes reached.

        The path is empty when there is none.
        """
        light = self._loads[source] - 2 * self._unit
        reached: dict[str, str] = {source: ""}
        frontier = [source]
        while frontier:
            following: list[str] = []
            for start in frontier:
                for end, ranks in self._ways[start].items():
                    if ranks and end not in reached and end in within:
                        reached[end] = ranks[0][-1]
                        following.append(end)
            ends = [node for node in following if self._loads[node] <= light]
            if ends:
                return self._path(reached, min(ends, key=lambda node: (self._loads[node], node))), reached.keys()
            frontier = sorted(following)
        return [], reached.keys()

    def _path(self, reached: Mapping[str, str], end: str) -> _Path:
        path: _Path = []
        while name := reached[end]:
            path.append((self._elections[name], end))
            end = self._led_on[name]
        return path[::-1]

    def balance_greedily(self) -> None:
        """Make the best single move from the heaviest node that has one, until none is left, or that is enough."""
        stuck: set[str] = set()
        for _ in range(PLANNED_MOVES):
            best = self._best_move(stuck)
            if best is None:
                return
            election, end = best
            start = self._led_on[election.name]
            self._act(election, end, least_gain=election.weight + 1)
            self._move(election, end)
            # One node carries more now, and only one less: from nowhere else is there a move that was not there before.
            stuck = {node for node in stuck - {end} if self._best_weight(node, start)[0] <= 0}

    def _best_move(self, stuck: set[str]) -> tuple[Election, str] | None:
        """Return an election and where to, `None` when there is no move; what has none is added to `stuck`."""
        nodes = sorted(self._loads.keys() - stuck)
        for start in sorted(nodes, key=self._loads.__getitem__, reverse=True):
            ways = self._ways[start]
            heaviest = max((ranks[-1][0] for ranks in ways.values() if ranks), default=0)
            most, best = 0, ("", 0)
            for end in sorted(sorted(ways), key=self._loads.__getitem__):
                surplus = self._loads[start] - self._loads[end]
                if surplus <= 0 or _gain(min(heaviest, surplus // 2), surplus) <= most:
                    break  # No move there, nor to any heavier node, is better.
                gain, weight = self._best_weight(start, end)
                if gain > most:
                    most, best = gain, (end, weight)
            if most:
                end, weight = best
                index = bisect_left(ways[end], (weight,))
                return self._elections[ways[end][index][-1]], end
            stuck.add(start)
        return None

    def _best_weight(self, start: str, end: str) -> tuple[int, int]:
        """Return the gain of the best of what could be moved from one node to another, and its weight, rather less."""
        surplus = self._loads[start] - self._loads[end]
        weights = _nearest(self._ways[start].get(end, ()), surplus // 2)
        return max(((_gain(weight, surplus), weight) for weight in weights), key=lambda best: best[0], default=(0, 0))

    def _move(self, election: Election, end: str) -> None:
        start = self._led_on[election.name]
        self._led_on[election.name] = end
        self._loads[start] -= election.weight
        self._loads[end] += election.weight
        rank = _rank(election)
        for node in election.nodes:
            if node != start:
                ranks = self._ways[start][node]
                del ranks[bisect_left(ranks, rank)]
            if node != end:
                insort(self._ways[end].setdefault(node, []), rank)

    def _act(self, election: Election, end: str, *, least_gain: int) -> None:
        """Let a move be made now, if it starts where the election is and goes down by at least `least_gain`.

        That has to hold whichever of the other moves are made: the node that one of them goes to may be dead.
        """
        start = election.node
        if self._led_on[election.name] != start or election.name in self.moves:
            return
        if self._left[start] - self._filled[end] < least_gain:
            return
        self.moves[election.name] = end
        self._left[start] -= election.weight
        self._filled[end] += election.weight


def _rank(election: Election) -> _Rank:
    return election.weight, -election.term, election.name


def _nearest(ranks: Sequence[_Rank], weight: int) -> list[int]:
    """Return the weights among `ranks` next to `weight`, of the one below and of the one that is not."""
    index = bisect_left(ranks, (weight,))
    return [rank[0] for rank in ranks[max(0, index - 1) : index + 1]]


def _gain(weight: int, surplus: int) -> int:
    """Return half of what the sum of the squares falls by when `weight` moves to where `surplus` less is carried."""
    return weight * (surplus - weight)
