"""The yardstick: what the simulation calls balanced is what an exhaustive search calls optimal."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.lab.optimum import Contest, cost, is_balanced, least_cost, loads_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NODES = ("a", "b", "c", "d")


def all_assignments(contests: Mapping[str, Contest]) -> Iterator[dict[str, str]]:
    """Go through every way to lead these elections."""
    for nodes in itertools.product(*(contest.nodes for contest in contests.values())):
        yield dict(zip(contests, nodes, strict=True))


def cost_of(contests: Mapping[str, Contest], assignment: Mapping[str, str]) -> int:
    """Return the sum of the squared loads."""
    return cost(loads_of(contests, assignment).values())


@st.composite
def cases(draw: st.DrawFn, weights: tuple[int, ...] = (1,)) -> tuple[dict[str, Contest], dict[str, str]]:
    """Draw elections with candidates on some nodes each, and where each is led."""
    contests = {}
    assignment = {}
    for number in range(draw(st.integers(1, 5))):
        nodes = sorted(draw(st.sets(st.sampled_from(NODES), min_size=1)))
        contests[f"e{number}"] = Contest(draw(st.sampled_from(weights)), tuple(nodes))
        assignment[f"e{number}"] = draw(st.sampled_from(nodes))
    return contests, assignment


@settings(max_examples=300, deadline=None)
@given(cases())
def test_balanced_is_optimal(case: tuple[dict[str, Contest], dict[str, str]]) -> None:
    """With weights that are alike: balanced exactly when no assignment costs less, and that least cost is found."""
    contests, assignment = case
    least = min(cost_of(contests, other) for other in all_assignments(contests))
    assert least_cost(contests, assignment) == least
    assert is_balanced(contests, assignment) == (cost_of(contests, assignment) == least)


@settings(max_examples=300, deadline=None)
@given(cases(weights=(1, 4)))
def test_with_weights_balanced_is_what_no_single_move_improves(
    case: tuple[dict[str, Contest], dict[str, str]],
) -> None:
    """With different weights: balanced exactly when no election can be led elsewhere at less cost."""
    contests, assignment = case
    if len({contest.weight for contest in contests.values()}) == 1:
        return
    present = cost_of(contests, assignment)
    moved = [{**assignment, election: node} for election in contests for node in contests[election].nodes]
    assert is_balanced(contests, assignment) == all(cost_of(contests, other) >= present for other in moved)


@settings(max_examples=300, deadline=None)
@given(cases(weights=(1, 4)))
def test_with_weights_the_reference_lies_between_optimum_and_present(
    case: tuple[dict[str, Contest], dict[str, str]],
) -> None:
    """What is found as the least cost is possible, and never more than the present cost: no distance is negative."""
    contests, assignment = case
    costs = {cost_of(contests, other) for other in all_assignments(contests)}
    assert least_cost(contests, assignment) in costs
    assert least_cost(contests, assignment) <= cost_of(contests, assignment)


@pytest.mark.parametrize(
    ("assignment", "balanced", "distance"),
    [
        ({"e1": "a", "e2": "a", "e3": "b"}, False, 2),
        ({"e1": "a", "e2": "b", "e3": "c"}, True, 0),
    ],
)
def test_a_chain_needs_every_step(assignment: dict[str, str], *, balanced: bool, distance: int) -> None:
    """Where no single move helps, a path of several is found: e2 from a to b, because e3 goes from b to c."""
    contests = {"e1": Contest(1, ("a",)), "e2": Contest(1, ("a", "b")), "e3": Contest(1, ("b", "c"))}
    assert is_balanced(contests, assignment) is balanced
    assert cost_of(contests, assignment) - least_cost(contests, assignment) == distance


def test_loads_name_every_node_that_could_lead() -> None:
    """A node with candidates and no leader has load 0; weights are added up."""
    contests = {"e1": Contest(4, ("a", "b")), "e2": Contest(1, ("a", "c"))}
    assert loads_of(contests, {"e1": "a", "e2": "a"}) == {"a": 5, "b": 0, "c": 0}
