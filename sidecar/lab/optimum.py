"""How even leaders are, and how even they could be: the yardstick that assignments are judged by.

Written apart from the balance that the sidecars use, so that the judge does not share the defects of the judged.

An *assignment* says on which node each election is led. Its cost is the sum of the squared loads. With weights that are
all the same it is optimal exactly when no cost-reducing path is left (Harvey, Ladner, Lovasz, Tamir: Semi-matchings for
bipartite graphs and load balancing, 2006). With others finding the optimum is NP-hard; there an assignment counts as
balanced when no single move improves it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Contest:
    """One election: how much it weighs, and the nodes on which it has candidates, sorted, at least one."""

    weight: int
    nodes: tuple[str, ...]


def loads_of(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> dict[str, int]:
    """Return the weight that is led on each node on which anything could be led."""
    loads = {node: 0 for contest in contests.values() for node in contest.nodes}
    for election, node in assignment.items():
        loads[node] = loads.get(node, 0) + contests[election].weight
    return loads


def cost(loads: Iterable[int]) -> int:
    """Return the sum of the squared loads."""
    return sum(load * load for load in loads)


def is_balanced(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> bool:
    """Tell whether nothing can be improved: by any path, or with different weights by any single move."""
    if _are_alike(contests):
        return _improving_path(contests, assignment) is None
    return _improving_move(contests, assignment) is None


def least_cost(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> int:
    """Return the cost of an optimal assignment; with different weights, the least that was found.

    That is the better of two: one by descent from `assignment`, by moves and exchanges, and one from scratch, the
    heaviest election first.
    """
    if _are_alike(contests):
        found = {**_placed_greedily(contests), **assignment}
        while (path := _improving_path(contests, found)) is not None:
            found.update(path)
        return cost(loads_of(contests, found).values())
    scratch = _placed_greedily(contests)
    return min(_descended(contests, start) for start in (scratch, {**scratch, **assignment}))


def _are_alike(contests: Mapping[str, Contest]) -> bool:
    return len({contest.weight for contest in contests.values()}) <= 1


def _improving_path(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the moves of a path from a node to one with at least two leaders fewer; `None` when there is none."""
    loads = Counter(assignment.values())
    nodes = sorted({node for contest in contests.values() for node in contest.nodes})
    led: dict[str, list[str]] = {}
    for election, node in assignment.items():
        led.setdefault(node, []).append(election)
    # From the lightest nodes backwards: whatever can reach one of them by a path is found in one search.
    reaching: dict[str, list[tuple[str, str]]] = {}
    for election, node in assignment.items():
        for other in contests[election].nodes:
            if other != node:
                reaching.setdefault(other, []).append((election, node))
    cleared: set[str] = set()
    for end in sorted(nodes, key=lambda node: (loads[node], node)):
        steps: dict[str, tuple[str, str]] = {}
        frontier = deque([end])
        while frontier:
            node = frontier.popleft()
            for election, start in reaching.get(node, ()):
                if start == end or start in steps or start in cleared:
                    continue
                steps[start] = (election, node)
                if loads[start] >= loads[end] + 2:
                    return _moves(steps, start, end)
                frontier.append(start)
        # What reaches this node has at most one leader more, and so it has no path to a heavier end either.
        cleared |= {end, *steps}
    return None


def _moves(steps: Mapping[str, tuple[str, str]], start: str, end: str) -> dict[str, str]:
    moves = {}
    while start != end:
        election, start = steps[start]
        moves[election] = start
    return moves


def _improving_move(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the single move that helps most, `None` when none does."""
    loads = loads_of(contests, assignment)
    best, best_gain = None, 0
    for election, node in assignment.items():
        weight = contests[election].weight
        for other in contests[election].nodes:
            gain = weight * (loads[node] - loads[other] - weight)
            if other != node and gain > best_gain:
                best, best_gain = {election: other}, gain
    return best


def _improving_exchange(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> dict[str, str] | None:
    """Return two moves, each to where the other election was, that help together; `None` when there are none."""
    loads = loads_of(contests, assignment)
    elections = sorted(assignment)
    for index, one in enumerate(elections):
        here = assignment[one]
        for other in elections[index + 1 :]:
            there = assignment[other]
            surplus = contests[one].weight - contests[other].weight
            if (
                surplus * (loads[here] - loads[there] - surplus) > 0
                and there in contests[one].nodes
                and here in contests[other].nodes
            ):
                return {one: there, other: here}
    return None


def _descended(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> int:
    found = dict(assignment)
    while moves := _improving_move(contests, found) or _improving_exchange(contests, found):
        found.update(moves)
    return cost(loads_of(contests, found).values())


def _placed_greedily(contests: Mapping[str, Contest]) -> dict[str, str]:
    """Return an assignment made from scratch: the heaviest election first, each to where least is led."""
    placed: dict[str, str] = {}
    loads: Counter[str] = Counter()
    for election in sorted(contests, key=lambda election: (-contests[election].weight, election)):
        contest = contests[election]
        placed[election] = min(contest.nodes, key=lambda node: (loads[node], node))
        loads[placed[election]] += contest.weight
    return placed
