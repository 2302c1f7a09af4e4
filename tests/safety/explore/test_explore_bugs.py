"""Planted bugs: the exploration finds each of them, and tells the shortest story of how it goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import election
from sidecar.election import Moment, State
from sidecar.record import Claim, Record, Snapshot
from tests.safety.explore.__main__ import main
from tests.safety.explore.scenarios import BY_NAME
from tests.safety.explore.search import Found, Search
from tests.safety.explore.server import Server
from tests.safety.explore.story import story

if TYPE_CHECKING:
    from tests.safety.explore.world import World

Plant = Callable[[pytest.MonkeyPatch], None]

STATES = 60_000
"""Within which each is found."""


def own_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower counts its own lease, not the one in the record."""
    real = election._vacancy

    def vacancy(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
        if snapshot is not None and isinstance(snapshot.record, Record) and snapshot.holder:
            record = replace(snapshot.record, lease_seconds=state.candidacy.lease_seconds)
            snapshot = replace(snapshot, record=record)
        return real(state, snapshot, moment, asked_at)

    monkeypatch.setattr(election, "_vacancy", vacancy)


def counts_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader's validity is counted from the answer, not from the request."""
    real = election._written

    def written(state: State, snapshot: Snapshot, _asked_at: float, moment: Moment) -> State:
        return real(state, snapshot, moment.now, moment)

    monkeypatch.setattr(election, "_written", written)


def no_compare_and_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes are no compare-and-swap."""
    real = Server.swap

    def swap(server: Server, world: World, _base: Snapshot | None, changes: Any) -> Any:  # noqa: ANN401 - passed on
        return real(server, world, world.stored, changes)

    monkeypatch.setattr(Server, "swap", swap)


def any_pod_of_my_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record in my name is mine, whichever pod wrote it."""

    def is_mine(state: State, snapshot: Snapshot | None) -> bool:
        return snapshot is not None and snapshot.holder == state.candidacy.identity and snapshot.valid_claim is not None

    monkeypatch.setattr(election, "_is_mine", is_mine)


def claim_of_any_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim counts beside every record of its holder, also of one that knows no claims."""
    monkeypatch.setattr(Claim, "belongs_to", lambda claim, record: claim.holder == record.holder)


def deletion_is_vacancy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock object that is gone may be taken at once."""
    real = election._vacancy

    def vacancy(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
        if snapshot is None:
            return moment.now, moment.now
        return real(state, snapshot, moment, asked_at)

    monkeypatch.setattr(election, "_vacancy", vacancy)


def old_lease_of_a_deleted_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was cut off, and then finds no lock object, waits out only the lease that it saw last."""

    def held_still(state: State, moment: Moment, **_how: Any) -> float:  # noqa: ANN401 - left alone
        return state.observed.held_until if state.observed is not None else moment.now

    monkeypatch.setattr(election, "_held_still", held_still)


def judged_by_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader is asked what it last noticed, not what the clock says."""
    monkeypatch.setattr(State, "is_leading", lambda state, _now: state.term is not None and state.term.confirmed)


def releases_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that hands over releases the lock, and stops leading when that was answered."""
    real = election._revoke

    def revoke(state: State, why: str) -> State:
        return state if why.startswith("handing over") else real(state, why)

    monkeypatch.setattr(election, "_revoke", revoke)


def confirms_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that checks leads already."""
    real = election._written

    def written(state: State, snapshot: Snapshot, asked_at: float, moment: Moment) -> State:
        state = real(state, snapshot, asked_at, moment)
        return replace(state, term=replace(state.term, confirmed=True)) if state.term is not None else state

    monkeypatch.setattr(election, "_written", written)


def names_who_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower names the holder, also while that one is only checking."""

    def leader_name(state: State, now: float) -> str:
        if state.is_leading(now):
            return state.candidacy.identity
        observed = state.observed
        if observed is None or observed.mine or now >= observed.held_until:
            return ""
        return observed.holder if observed.holder != state.candidacy.identity else ""

    monkeypatch.setattr(State, "leader_name", leader_name)


def old_reads_are_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the watch shows holds, also where a read has shown something newer."""
    real = election._told

    def told(state: State, event: Any, moment: Moment) -> State:  # noqa: ANN401 - passed through
        if isinstance(event, election.Changed):
            return election._observe(state, event.snapshot, moment)
        return real(state, event, moment)

    monkeypatch.setattr(election, "_told", told)


def never_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without an answer ends all requests: nobody is elected any more."""
    real = election._failed

    def failing(state: State, moment: Moment, **how: Any) -> State:  # noqa: ANN401 - passed through
        failed = real(state, moment, **how)
        return replace(failed, not_before=float("inf")) if state.unheard else failed

    monkeypatch.setattr(election, "_failed", failing)


LEADERS: dict[Plant, str] = {
    own_ttl: "ttls",
    counts_from_the_answer: "pauses",
    no_compare_and_swap: "start",
    any_pod_of_my_name: "namesakes",
    claim_of_any_renewal: "stock-namesake",
    deletion_is_vacancy: "deletion",
    old_lease_of_a_deleted_lock: "deletion",
    judged_by_a_timer: "pauses",
}
"""Those that make two leaders, and the scenario that is about that."""

BREACHES: dict[Plant, tuple[str, str]] = {
    releases_first: ("hand-over", "releases the lock while it still leads"),
    confirms_before_the_answer: ("checking", "leads without the answer to a write of its own that says so"),
    names_who_checks: ("checking", "is only checking"),
    never_tries_again: ("answers", "nobody is elected"),
}
"""Those that break another rule first."""


def explored(name: str, sampled: int) -> tuple[Found, str]:
    """Explore a scenario, asking one of `sampled` states for a leader; return what was found, with its story."""
    scenario = replace(BY_NAME[name], sampled=sampled)
    found = Search(scenario, states=STATES).run()
    return found, "\n".join(story(scenario, found))


@pytest.mark.parametrize("plant", LEADERS, ids=lambda plant: plant.__name__)
def test_two_leaders_are_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that makes two leaders is found, and the story's last scene names both."""
    plant(monkeypatch)
    found, told = explored(LEADERS[plant], 0)
    assert found.breach.startswith("two lead at once: "), f"in {found.states} states: {found.breach or 'nothing'}"
    assert any(line.count(" LEADS") == 2 for line in told.splitlines()), told


@pytest.mark.parametrize("plant", BREACHES, ids=lambda plant: plant.__name__)
def test_other_breaches_are_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that breaks another rule is found, and the story says which."""
    plant(monkeypatch)
    name, what = BREACHES[plant]
    found, told = explored(name, 1)
    assert what in found.breach
    assert told.splitlines()[-1] == f"breach: {found.breach}"


def test_the_bound_of_the_clocks_is_needed() -> None:
    """With a clock that runs twice as fast, beyond lease / renew deadline, two lead: the assumption is not idle."""
    found = Search(replace(BY_NAME["drift-fine"], rates=(1.0, 2.0), sampled=0), states=STATES).run()
    assert found.breach.startswith("two lead at once: ")


def test_program_tells_a_breach(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A path to a breach is told again with status 1; one that does not exist is refused with status 2."""
    judged_by_a_timer(monkeypatch)
    found, told = explored("pauses", 0)
    assert main(["pauses", "--path", ".".join(map(str, found.path))]) == 1
    assert capsys.readouterr().out == f"{told}\n"
    assert main(["pauses", "--path", "99"]) == 2
    assert "there is no move 99" in capsys.readouterr().err


def test_what_the_core_raises_is_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that fails where a candidate would end of it is told like any other breach, also at the beginning."""

    def fails(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(election, "next_action", fails)
    for name in ("start", "pauses"):
        found, told = explored(name, 1)
        assert found.breach == "the core fails: RuntimeError('planted')"
        assert told.endswith(f"breach: {found.breach}")
