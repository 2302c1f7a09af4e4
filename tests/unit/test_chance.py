"""Where pods run, and what chance makes of it."""

from __future__ import annotations

from random import Random

import pytest

from sidecar.lab.chance import chance, sorted_loads
from sidecar.lab.optimum import Contest, least_cost
from sidecar.lab.placement import candidates_per_node, spread

NODES = ("node-1", "node-2", "node-3")


def _random(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - places pods, protects nothing


@pytest.mark.parametrize("seed", range(20))
def test_pods_of_an_application_are_spread(seed: int) -> None:
    """No node has two pods of one application more than another, and none two pods more than another in all."""
    pods = spread(5, 5, NODES, _random(seed))
    per_node = candidates_per_node(pods)
    assert [sorted(counts.values()) for counts in per_node.values()] == [[1, 2, 2]] * 5
    assert sorted(sum(counts[node] for counts in per_node.values()) for node in NODES) == [8, 8, 9]


def test_pods_are_named_like_those_of_stateful_sets() -> None:
    """Each application's pods are numbered from 0, and no two pods have one name."""
    pods = spread(2, 3, NODES, _random(1))
    assert [pod.identity for pod in pods] == ["app-1-0", "app-1-1", "app-1-2", "app-2-0", "app-2-1", "app-2-2"]
    assert [pod.election for pod in pods] == ["app-1"] * 3 + ["app-2"] * 3


def test_the_seed_decides_where_pods_run() -> None:
    """The same seed gives the same placement, and some other seed another one."""
    placements = [spread(5, 5, NODES, _random(seed)) for seed in (1, 1, 2, 3, 4)]
    assert placements[0] == placements[1]
    assert any(placement != placements[0] for placement in placements[2:])


def test_the_stock_algorithm_on_three_nodes() -> None:
    """Five elections that are led on any of three nodes alike: the multinomial distribution's ordered means."""
    found = chance([dict.fromkeys(NODES, 1)] * 5, NODES)
    assert found.best == (2, 2, 1)
    assert found.mean == pytest.approx((225 / 81, 130 / 81, 50 / 81))
    assert found.balanced == pytest.approx(90 / 243)


def test_candidates_weigh_in_by_their_number() -> None:
    """A node with three of four candidates leads in three of four cases."""
    found = chance([{"node-1": 3, "node-2": 1}] * 2, ("node-1", "node-2"))
    assert found.balanced == pytest.approx(2 * 3 / 4 * 1 / 4)
    assert found.mean == pytest.approx((2 * (9 / 16 + 1 / 16) + 6 / 16, 6 / 16))


def test_a_placement_bounds_what_is_possible() -> None:
    """Where all candidates are on one node, uneven is the best there is, and certain."""
    found = chance([{"node-1": 2}] * 3, NODES)
    assert (found.best, found.mean, found.balanced) == ((3, 0, 0), (3.0, 0.0, 0.0), 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_is_the_optimum(seed: int) -> None:
    """What enumeration finds to be the most even costs what matching finds to be the least."""
    random = _random(seed)
    nodes = [f"node-{number}" for number in range(random.randint(2, 5))]
    elections = [random.sample(nodes, random.randint(1, len(nodes))) for _ in range(random.randint(1, 6))]
    found = chance([dict.fromkeys(candidates, 1) for candidates in elections], nodes)
    contests = {f"app-{number}": Contest(1, tuple(sorted(at))) for number, at in enumerate(elections)}
    assert sum(load * load for load in found.best) == least_cost(contests, {})
    assert sum(found.mean) == pytest.approx(len(elections))
    assert 0 < found.balanced <= 1


def test_loads_are_compared_sorted() -> None:
    """The most loaded node comes first."""
    assert sorted_loads([1, 3, 0]) == (3, 1, 0)
