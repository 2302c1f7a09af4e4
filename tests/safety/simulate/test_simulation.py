"""Thousands of seeds without a violation; and the simulation finds what is planted, or it would prove nothing."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sidecar.election import Wait
from tests.safety.simulate import __main__ as program
from tests.safety.simulate.plan import DRIFT, FULL, OFF, OURS, SLOWEST, STOCK, Fault, Participant, Plan, draw
from tests.safety.simulate.plantedbugs import PLANTED
from tests.safety.simulate.play import play
from tests.safety.simulate.seeds import Tally, freeze, play_seed
from tests.safety.simulate.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.election import Moment, State

ROOT: Final = Path(__file__).parents[3]

SEEDS: Final = 2000
BLOCK: Final = 25
"""Seeds of one test: few enough for a machine that is busy."""

WITHIN: Final = 150
"""Seeds within which a planted bug has to be found."""


@pytest.fixture(autouse=True)
def _lean() -> Iterator[None]:
    """Spare the collection after each seed what is loaded by now."""
    freeze()
    yield
    gc.unfreeze()


# -- Seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_shows_a_violation(first: int) -> None:
    """Nobody ever sees two leaders, and after the faults everything recovers; and leaders did change under faults."""
    tally = Tally()
    for seed in range(first, first + BLOCK):
        tally.add(play_seed(seed))
    told = [f"seed {played.seed}: {played.violations[0]}" for played in tally.failed]
    assert not told, "\n".join([*told, "again: python -m tests.safety.simulate --seeds 1 --story --seed ..."])
    assert tally.terms > BLOCK
    assert sum(tally.elected_under.values()) > sum(tally.seeds_with.values()) / 3


def test_every_kind_of_fault_is_drawn_often() -> None:
    """Among a few hundred seeds each kind of fault stands several times, so that none is left out in CI."""
    kinds: dict[str, int] = {}
    for seed in range(300):
        for fault in draw(seed).faults:
            kinds[fault.kind] = kinds.get(fault.kind, 0) + 1
    assert len(kinds) == 23
    assert min(kinds.values()) >= 3, kinds


def test_fleets_of_every_kind_are_drawn() -> None:
    """Elections with and without balance, with both, and with stock peers; clocks at the bound, never beyond it."""
    plans = [draw(seed) for seed in range(100)]
    fleets = {frozenset((each.kind, each.balance) for each in plan.participants) for plan in plans}
    assert frozenset({(OURS, OFF)}) in fleets
    assert frozenset({(OURS, FULL)}) in fleets
    assert any(len({balance for _, balance in fleet}) > 1 for fleet in fleets)
    assert any(STOCK in {kind for kind, _ in fleet} for fleet in fleets)
    ratios = []
    for plan in plans:
        rates = [participant.rate for participant in plan.participants]
        ratios.append(max(rates) / min(rates))
        assert {len(plan.participants) > 1, plan.ends_at > plan.longest_ttl} == {True}
    assert max(ratios) == pytest.approx(DRIFT)
    assert max(ratios) < 1.5


# -- Planted bugs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Each bug that could make a second leader is found within a small number of seeds."""
    with PLANTED[bug]():
        for seed in range(WITHIN):
            if play_seed(seed).violations:
                return
    pytest.fail(f"{WITHIN} seeds did not show it")


def test_a_failing_plan_is_shrunk() -> None:
    """Faults that a violation does not need are left out; what is left still fails, and is told by its numbers."""
    with PLANTED["leadership judged by a timer"]():
        failing = next(outcome for seed in range(WITHIN) if (outcome := play(draw(seed))).violations)
        smallest, left_out = shrink(failing)
        assert smallest.violations
        assert len(smallest.plan.faults) == len(failing.plan.faults) - len(left_out)
        for index in range(len(smallest.plan.faults)):
            kept = [number for number in range(1, len(failing.plan.faults) + 1) if number not in left_out]
            assert failing.plan.faults[kept[index] - 1] == smallest.plan.faults[index]
    assert not play(smallest.plan).violations


# -- The same course each time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 14, 52])
def test_a_seed_takes_the_same_course_each_time(seed: int) -> None:
    """The story of a seed is the same to the byte: twice in one process, and in one that hashes otherwise."""
    first = play(draw(seed)).story
    gc.collect()
    _other_things = [play(draw(seed + 1)) for _ in range(2)]
    assert play(draw(seed)).story == first
    told = subprocess.run(
        [sys.executable, "-m", "tests.safety.simulate", "--seed", str(seed), "--seeds", "1", "--story"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert told.stdout.splitlines() == first
    assert len(first) > 50


# -- What the checker sees ---------------------------------------------------------------------------------------------


def plan(*faults: Fault, ttls: tuple[int, ...] = (10, 10), stock: int | None = None, ends_at: float = 40.0) -> Plan:
    """Return a plan of one election, whose first candidate is there first."""
    participants = tuple(
        Participant(
            identity=f"red-{index}",
            election="red",
            node=f"n{index + 1}",
            ttl=ttl,
            kind=STOCK if index == stock else OURS,
            starts_at=float(index),
        )
        for index, ttl in enumerate(ttls)
    )
    return Plan(seed=1, participants=participants, faults=faults, ends_at=ends_at)


DEAF: Final = Fault(at=9.0, kind="cut", targets=("red-0",), lasts=20.0, how={"ways": "both", "deliver": True})


def edited(edit: str, at: float = 9.2) -> Fault:
    """Return an edit by hand."""
    return Fault(at=at, kind="hand edit", targets=("red",), how={"edit": edit})


def test_nothing_wrong_nothing_found() -> None:
    """Without any fault there is one term, and everything is as it has to be at once."""
    outcome = play(plan())
    assert not outcome.violations
    assert len(outcome.began) == 1
    assert outcome.recovered_after < 1


@pytest.mark.parametrize("ttls", [(10, 10), (15, 4)], ids=["one ttl", "two ttls"])
@pytest.mark.parametrize("edit", ["delete", "strip", "rename", "impersonate", "strip claim", "garble"])
def test_hands_do_not_make_two_leaders(edit: str, ttls: tuple[int, ...]) -> None:
    """Whatever a hand does while the leader is cut off, whoever saw the lock held waits the lease out."""
    outcome = play(plan(DEAF, edited(edit), ttls=ttls))
    assert not outcome.violations
    assert not outcome.excused
    assert len(outcome.began) >= 2, "somebody has to lead in the end"


def test_a_release_by_hand_is_excused_and_told() -> None:
    """Somebody who releases a lock by hand, whose leader is cut off, makes a second leader; that is told, not held."""
    outcome = play(plan(DEAF, edited("release")))
    assert not outcome.violations
    assert len(outcome.excused) == 1
    assert "red-0#1 and red-1#1 both lead red" in outcome.excused[0]


def test_a_deletion_is_excused_only_for_who_never_saw_it_held() -> None:
    """A candidate that starts after the lock object was deleted cannot know that it was held."""
    late = plan(DEAF, edited("delete"))
    participants = (late.participants[0], replace(late.participants[1], starts_at=9.5))
    outcome = play(replace(late, participants=participants))
    assert not outcome.violations
    assert len(outcome.excused) == 1


def test_a_leader_that_leads_on_after_a_hand_is_seen() -> None:
    """A leader that learns of an edit and leads on is told, although nobody else leads."""
    with PLANTED["deaf to deletion"]():
        outcome = play(plan(edited("delete")))
    assert "has seen the delete by hand" in outcome.violations[0]


def test_who_leads_within_a_stock_peers_lease_is_seen() -> None:
    """One of ours that takes over from a stock peer before the lease of its last write is over is told."""
    crash = Fault(at=9.0, kind="crash", targets=("red-0",), how={"power_cut": True, "again": "never", "after": 0.0})
    sound = play(plan(crash, stock=0))
    assert not sound.violations
    assert len(sound.began) == 1
    with PLANTED["half of the lease"]():
        outcome = play(plan(crash, stock=0))
    assert "leads before the lease of red-0#1 ends" in outcome.violations[0]


def test_who_leads_on_after_a_stock_peer_took_over_is_seen() -> None:
    """One of ours that answers that it leads when a stock peer has taken over is told."""
    stopped = Fault(at=9.0, kind="pause", targets=("red-0",), lasts=25.0)
    assert not play(plan(stopped, stock=1)).violations
    with PLANTED["leadership judged by a timer"]():
        outcome = play(plan(stopped, stock=1))
    assert "red-0#1 leads on in term" in outcome.violations[0]
    assert "red-1#1 has taken over" in outcome.violations[0]


def test_who_never_recovers_is_told() -> None:
    """When nobody leads for long after the last fault, that is a violation: a candidate that gave up for good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.election._bid", _wait_for_ever)
        outcome = play(plan())
    assert "red has 0 leaders" in outcome.violations[0]


def _wait_for_ever(state: State, _observed: object, moment: Moment) -> tuple[State, Wait]:
    return state, Wait(moment.now + 5, "planted")


def test_slow_and_fast_clocks_are_paired_at_the_bound() -> None:
    """At the bound itself nothing is wrong yet: the slowest leader is cut off, and the fastest waits."""
    asked = plan(DEAF)
    slow, fast = asked.participants
    pair = (replace(slow, rate=SLOWEST), replace(fast, rate=SLOWEST * DRIFT))
    outcome = play(replace(asked, participants=pair))
    assert not outcome.violations
    assert len(outcome.began) == 2
    beyond = (pair[0], replace(fast, rate=SLOWEST * 1.8))
    assert "writes over the record of red-0#1" in play(replace(asked, participants=beyond)).violations[0]


# -- Found, and mended -------------------------------------------------------------------------------------------------

FOUND: Final = {
    "A record that a hand had made unreadable was waited out for the follower's own ttl, not for the longer lease that "
    "the record had named before.": plan(DEAF, edited("garble"), ttls=(15, 4)),
}
"""What went wrong once, in a sentence, and the plan that showed it."""


@pytest.mark.parametrize("sentence", FOUND)
def test_what_was_found_stays_mended(sentence: str) -> None:
    """No plan that showed a violation once shows one again."""
    assert not play(FOUND[sentence]).violations


# -- The command line --------------------------------------------------------------------------------------------------


def test_seeds_are_counted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a violation the exit code is 0, and figures are printed: for people, or with --json for programs."""
    assert program.main(["--seeds", "3", "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("3 seeds in ")
    assert program.main(["--seeds", "12", "--workers", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seeds"], told["failed"]) == (12, [])
    assert told["terms"] > 0


def test_a_violation_is_told_with_what_plays_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, and the line says what was violated and which command tells the story."""
    with PLANTED["stale fencing token"]():
        assert program.main(["--seeds", "50", "--workers", "1"]) == 1
        out, err = capsys.readouterr()
        assert "again: python -m tests.safety.simulate --seed 0 --seeds 1 --story" in err
        assert out.startswith("1 seeds in "), "the first violation ends it"
        assert program.main(["--seeds", "3", "--workers", "1", "--keep-going", "--json"]) == 1
        out, _ = capsys.readouterr()
        assert [each["seed"] for each in json.loads(out)["failed"]] == [0, 1, 2]
        assert program.main(["--seed", "0", "--seeds", "1", "--story"]) == 1
        assert "VIOLATION: " in capsys.readouterr().out


def test_shrinking_tells_what_to_leave_out(capsys: pytest.CaptureFixture[str]) -> None:
    """`--shrink` prints the smaller plan, and a command with `--without` that plays just that."""
    number = len(draw(1).faults)
    with PLANTED["stale fencing token"]():
        assert program.main(["--seed", "1", "--seeds", "1", "--shrink"]) == 1
        without = ",".join(map(str, range(1, number + 1)))
        out, err = capsys.readouterr()
        assert "fault 1" not in out
        assert f"--seed 1 --seeds 1 --without {without} --story" in err
        assert program.main(["--seed", "1", "--seeds", "1", "--without", without, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["without"] == list(range(1, number + 1))


@pytest.mark.parametrize(
    "wrong",
    [["--seeds", "0"], ["--seeds", "2", "--story"], ["--seeds", "1", "--without", "99"], ["--seed", "x"]],
    ids=" ".join,
)
def test_wrong_usage_is_refused(wrong: list[str]) -> None:
    """What makes no sense ends with 2, before anything is played."""
    with pytest.raises(SystemExit) as ended:
        program.main(wrong)
    assert ended.value.code == 2
