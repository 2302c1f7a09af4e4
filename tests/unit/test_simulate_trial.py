"""One trial: what happens in each phase, what is counted, and that two leaders never go unseen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.lab import optimum, trial
from sidecar.lab.scenario import Scenario
from sidecar.lab.trial import LIMIT, SafetyError

if TYPE_CHECKING:
    from sidecar.lab.trial import Outcome

SMALL = Scenario(apps=3, replicas=3, nodes=3)
"""A scenario that is cheap to play."""


def phases(asked: Scenario, policy: str = "stock", seed: int = 0) -> dict[str, Outcome]:
    """Play a trial; return its phases by name."""
    return {outcome.phase: outcome for outcome in trial.run(asked, policy, seed)}


def test_every_election_gets_one_leader() -> None:
    """After a start every election has had exactly one leader, on a node that counts for the loads."""
    start = phases(Scenario())["start"]
    assert start.leaders == {f"app-{number}": 1 for number in range(1, 6)}
    assert sum(start.loads) == 5
    assert list(start.loads) == sorted(start.loads, reverse=True)
    assert start.leaderless == 0
    assert math.isfinite(start.settled_after)


def test_requests_are_counted_by_verb() -> None:
    """Of the stock policy: a watch for each candidate, a renewal for each leader within a retry period, no LIST."""
    start = phases(Scenario(starts=0))["start"]
    assert start.requests["watch"] == 25
    assert start.requests["create"] >= 5
    assert start.requests["update"] == 5
    assert "list" not in start.requests
    assert set(start.lists.values()) == {0}


def test_ordered_starts_make_the_first_pod_lead() -> None:
    """When each pod waits for the one before it, the first of each application has led long before the last starts."""
    start = phases(Scenario(ordered=True, starts=0))["start"]
    assert start.led_after == 0
    assert start.settled_after == 0
    assert set(start.leaders.values()) == {1}


@pytest.mark.parametrize("ttl", [4, 20])
def test_a_lost_node_is_waited_out_for_a_lease(ttl: int) -> None:
    """Who led on a lost node is replaced, on another node, once its lease ran out and soon after."""
    outcomes = phases(replace(SMALL, node_loss=True, ttl=ttl), seed=1)
    assert outcomes["start"].loads[0] > 0
    loss = outcomes["node loss"]
    assert 0 < sum(loss.leaders.values()) < 3
    assert ttl * 0.7 < loss.led_after < ttl + 1
    assert len(loss.loads) == 2
    assert sum(loss.loads) == 3


def test_a_lost_node_returns() -> None:
    """Candidates start on it again; under the stock policy nothing moves."""
    outcomes = phases(replace(SMALL, node_return=True), seed=1)
    assert len(outcomes["node return"].loads) == 3
    assert set(outcomes["node return"].leaders.values()) == {0}
    assert outcomes["node return"].requests["watch"] == 3


def test_a_late_node_has_nothing_at_first() -> None:
    """Two nodes share the leaders until the third one's candidates start."""
    outcomes = phases(replace(SMALL, late_node=True))
    assert len(outcomes["start"].loads) == 2
    assert len(outcomes["late node"].loads) == 3
    assert outcomes["start"].requests["watch"] == 6
    assert outcomes["late node"].requests["watch"] == 3


def test_a_rolling_restart_replaces_everybody() -> None:
    """Each candidate leaves and a new one starts in its place; an election changes its leader at least once."""
    restart = phases(replace(SMALL, rolling_restart=True))["rolling restart"]
    assert restart.requests["watch"] == 9
    assert all(count >= 1 for count in restart.leaders.values())
    assert restart.leaderless == 0


def test_a_quiet_time_is_looked_at() -> None:
    """While nothing happens, stock leaders renew once in a retry period, and nothing else is sent."""
    quiet = phases(replace(SMALL, quiet=100))["quiet"]
    assert set(quiet.requests) == {"update"}
    assert abs(quiet.requests["update"] - 3 * (100 + SMALL.settle) / 2.5) <= 6


def test_a_longer_look_sees_what_follows() -> None:
    """What is counted is counted until nothing changed for so long; the looks that follow a change are among it."""
    short, long = (phases(replace(SMALL, settle=seconds), "full")["start"] for seconds in (4.0, 60.0))
    assert short.settled_after == long.settled_after
    assert long.requests["update"] >= short.requests["update"] + 3 * 20
    assert sum(long.lists.values()) > sum(short.lists.values())


def test_latency_is_felt() -> None:
    """A first leader takes a read and a write, two ways each: four times the latency."""
    slow = phases(replace(SMALL, starts=0, latency=(0.2, 0.2)))["start"]
    fast = phases(replace(SMALL, starts=0, latency=(0.01, 0.01)))["start"]
    assert slow.led_after == pytest.approx(0.8, abs=0.01)
    assert fast.led_after == pytest.approx(0.04, abs=0.01)


def test_weights_are_what_is_led() -> None:
    """Loads are sums of weights; the weight of an election goes over the wire in its claim."""
    start = phases(replace(SMALL, weights=(4,)), "full")["start"]
    assert start.loads == (4, 4, 4)


def test_a_trial_is_the_same_again() -> None:
    """The same seed takes the same course, to the last request, and another one another."""
    asked = replace(SMALL, node_return=True, rolling_restart=True)
    assert trial.run(asked, "full", 3) == trial.run(asked, "full", 3)
    assert trial.run(asked, "full", 3) != trial.run(asked, "full", 4)


def test_hand_overs_are_counted() -> None:
    """A leader that is alone at first gives way when others start: each hand-over is one more leader."""
    starts = [phases(Scenario(ordered=True, starts=0), "full", seed)["start"] for seed in range(4)]
    assert all(start.balanced for start in starts)
    assert sum(sum(start.handovers.values()) for start in starts) >= 1
    for start in starts:
        for election, handovers in start.handovers.items():
            assert start.leaders[election] == 1 + handovers


def test_backoff_alone_moves_nothing() -> None:
    """Without hand-over each election keeps the leader that it had first."""
    start = phases(Scenario(ordered=True), "backoff")["start"]
    assert set(start.handovers.values()) == {0}
    assert set(start.leaders.values()) == {1}
    assert sum(start.lists.values()) > 0


def test_two_leaders_do_not_go_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """When two candidates of one election lead in the same instant, the trial fails and says when and who."""
    monkeypatch.setattr(trial._Observed, "is_leading", lambda self: self.is_ready())
    with pytest.raises(SafetyError, match=r"^\d+\.\d{3} s: app-\d-\d#1 and app-\d-\d#1 both lead$"):
        phases(SMALL)


def test_a_name_without_leadership_does_not_go_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a candidate answers its own name and does not lead, the trial fails."""
    monkeypatch.setattr(trial._Observed, "is_leading", lambda _: False)
    with pytest.raises(SafetyError, match="names itself and does not lead"):
        phases(SMALL)


def test_a_candidate_that_fails_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a candidate is not taken for an election without a leader."""

    async def fail(_: object) -> None:
        raise ZeroDivisionError("so")

    monkeypatch.setattr(trial._Observed, "_go_round", fail)
    with pytest.raises(ExceptionGroup) as group:
        phases(SMALL)
    assert group.group_contains(ZeroDivisionError, match="so")


def test_what_does_not_settle_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is to balance and does not is given its time, and is then said not to have settled."""
    monkeypatch.setattr(optimum, "is_balanced", lambda *_: False)
    start = phases(replace(SMALL, starts=0), "full")["start"]
    assert not start.balanced
    assert start.settled_after == math.inf
    assert start.led_after < 10
    assert start.requests["update"] >= 3 * int(LIMIT / 2.5) - 3


def test_who_never_leads_is_said_to_be_leaderless() -> None:
    """With requests that all come too late there is no leader, and no time at which all were led."""
    start = phases(replace(SMALL, latency=(3, 3)))["start"]
    assert start.leaderless == 3
    assert start.led_after == math.inf
    assert start.settled_after == math.inf
    assert not start.balanced
