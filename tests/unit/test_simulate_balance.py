"""What the simulation is for: leaders end spread as evenly as they can be, from every start and after every loss."""

from __future__ import annotations

import pytest

from sidecar.lab import trial
from sidecar.lab.scenario import Scenario

MOVES = 4
"""Hand-overs of one election, at most, while a group settles."""


@pytest.mark.parametrize(
    ("asked", "seeds"),
    [
        (Scenario(mixed_starts=True, starts=1), range(20)),
        (Scenario(mixed_starts=True, starts=20), range(20, 30)),
        (Scenario(nodes=5, node_return=True, late_node=True), range(4)),
        (Scenario(rolling_restart=True), range(4)),
        (Scenario(apps=20, replicas=3, nodes=5, placement="restricted", restricted_to=2, node_return=True), range(2)),
        (Scenario(apps=20, replicas=3, nodes=5, weights=(1, 4), node_return=True), range(2)),
    ],
    ids=["starts", "slow-starts", "nodes", "rolling-restart", "restricted", "weights"],
)
def test_leaders_end_balanced(asked: Scenario, seeds: range) -> None:
    """Every phase of every trial ends settled and balanced; no election moved more often than allowed."""
    for seed in seeds:
        for outcome in trial.run(asked, "full", seed):
            where = f"seed {seed}, {outcome.phase}"
            assert outcome.balanced, where
            assert outcome.settled_after < trial.LIMIT, where
            if outcome.phase != "rolling restart":  # one disturbance after the other
                assert max(outcome.handovers.values()) <= MOVES, where


def test_a_settled_group_is_quiet() -> None:
    """In an hour without a disturbance nothing moves, and an election of five sends no more than it should.

    That is one renewal in 2.5 s, a stamp of each registration in five minutes, a look in ten minutes, and now and then
    a new watch. The looks of the first half minute belong to the start.
    """
    _, quiet = trial.run(Scenario(apps=2, quiet=3600.0), "full", 1)
    assert not any(quiet.handovers.values())
    assert sum(quiet.requests.values()) <= 2 * 0.43 * 3600
    assert max(quiet.lists.values()) <= 3600 / 600 + 3
