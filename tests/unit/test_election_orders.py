"""Orders from whoever runs the process: not to stand for election, to step down, to end without a release or later."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sidecar.election import (
    Abstain,
    Balance,
    Conflicted,
    Failed,
    Fetched,
    Leave,
    Leaving,
    Read,
    Stand,
    Wait,
    WatchStarted,
    Write,
    Written,
    step_down,
)
from sidecar.record import CHECKING, STEP_DOWN_ANNOTATION, Record, Snapshot, step_down_request
from sidecar.registration import registration_key
from tests.unit.player import (
    LEASE,
    RETRY,
    Player,
    candidacy,
    checker,
    follower,
    held,
    leader,
    lock,
    released,
    result,
)

UNHEALTHY = Abstain("the main container is not healthy")
CORDONED = Abstain("its node is cordoned", patience=LEASE)


def observed(player: Player) -> Snapshot:
    """Return the lock object as the player knows it."""
    assert player.state.observed is not None
    assert player.state.observed.snapshot is not None
    return player.state.observed.snapshot


def asked(snapshot: Snapshot, version: int, request: str | None = None) -> Snapshot:
    """Return the lock object after somebody asked on it for the end of a term: by default, of that of its record."""
    assert isinstance(snapshot.record, Record)
    annotation = {STEP_DOWN_ANNOTATION: request or step_down_request(snapshot.record)}
    return lock(version, snapshot.text, snapshot.claim, {**dict(snapshot.annotations), **annotation} | annotation)


# -- Abstaining --------------------------------------------------------------------------------------------------------


def test_revokes_before_it_asks_anything() -> None:
    """With the order, leadership is over; what is held is read, released, and this candidate stays."""
    player = leader()
    player.happens(UNHEALTHY, at=1.0)
    assert not player.leads
    assert player.names == ""
    assert player.state.note == "stopped leading: the main container is not healthy"
    player.reads(observed(player))
    write = player.does(Write)
    assert (write.record.holder, write.why) == ("", "release")
    player.happens(Written(result(write, 2), player.now))
    assert not player.leads
    assert player.does(Wait).until > player.now


def test_does_not_bid_while_it_abstains() -> None:
    """However long a lock is vacant: it is read where no watch shows it, and never written."""
    player = Player()
    player.happens(UNHEALTHY)
    player.reads(None)
    player.happens(WatchStarted())
    wait = player.does(Wait, at=3600.0)
    assert wait.until == math.inf
    assert "the main container is not healthy" in wait.why


def test_polls_while_it_abstains() -> None:
    """Where no watch shows it, who leads by now has to be asked for, and is told."""
    player = Player()
    player.happens(UNHEALTHY)
    player.reads(None)
    assert [*player.waits()][-1] <= 1.5 * RETRY
    assert isinstance(player.actions[-1], Read)
    player.happens(Fetched(held(5), player.now))
    assert player.names == "b"


def test_bids_once_it_stands_again() -> None:
    """The vacancy is looked at once more, and then taken."""
    player = Player()
    player.happens(UNHEALTHY)
    player.reads(released(5))
    player.happens(WatchStarted())
    player.does(Wait, at=30.0)
    player.happens(Stand(UNHEALTHY.why))
    player.reads(released(5))
    player.does(Write)


def test_one_reason_that_is_gone_is_not_all() -> None:
    """Who abstains for two reasons stands again when both are gone."""
    player = Player()
    player.happens(UNHEALTHY)
    player.happens(replace(UNHEALTHY, why="another"))
    player.reads(released(5))
    player.happens(Stand("another"))
    player.reads(released(5), at=5.0)
    player.does(Wait)
    player.happens(Stand(UNHEALTHY.why))
    assert not player.state.abstentions


def test_an_abstention_ends_by_itself() -> None:
    """At its instant, after a fresh read."""
    player = leader()
    player.happens(Abstain("x", until=21.0), at=1.0)
    player.reads(observed(player))
    player.writes(2)
    assert player.state.abstains(20.9) == "x"
    assert player.state.abstains(21.0) == ""
    assert [*player.waits()][-1] == 21.0
    assert isinstance(player.actions[-1], Read)
    player.happens(Fetched(observed(player), player.now))
    player.does(Write)


def test_patience_ends_with_a_vacancy_that_lasts() -> None:
    """Nobody else wanted the lock for so long: better somebody who would rather not than nobody."""
    player = follower(released(5))
    player.happens(CORDONED)
    waited = [*player.waits()][-1]
    assert LEASE <= waited < LEASE + 1
    assert isinstance(player.actions[-1], Read)
    player.happens(Fetched(released(5), player.now))
    player.writes(6)
    assert player.leads
    for _ in player.waits():
        assert player.leads, "it was given up once, and is kept now"


def test_a_follower_that_abstains_writes_nothing() -> None:
    """Nothing is held, so there is nothing to release; who leads is told as before."""
    player = follower(held(5))
    player.happens(UNHEALTHY)
    player.does(Wait)
    assert player.names == "b"


def test_an_order_during_the_bid_ends_it() -> None:
    """The answer to a write that was under way begins no term; what it wrote is released."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.happens(UNHEALTHY)
    player.happens(Written(result(write, 1), player.now))
    assert not player.leads
    player.reads(result(write, 1))
    assert player.does(Write).record.holder == ""


def test_a_bid_of_unknown_outcome_is_found_out() -> None:
    """If it was applied, it is released."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.happens(UNHEALTHY)
    player.happens(Failed(write=True))
    for _ in player.waits():
        pass
    player.happens(Fetched(result(write, 1), player.now))
    assert player.does(Write).record.holder == ""


def test_a_release_that_failed_is_tried_again() -> None:
    """Also when it may stand again meanwhile: what was begun is ended, and nobody leads in between."""
    player = leader()
    player.happens(UNHEALTHY, at=1.0)
    player.reads(observed(player))
    player.does(Write)
    player.happens(Conflicted())
    player.happens(Stand(UNHEALTHY.why))
    for _ in player.waits():
        assert not player.leads
    player.happens(Fetched(observed(player), player.now))
    assert player.does(Write).record.holder == ""


def test_what_somebody_else_holds_is_not_released() -> None:
    """The read shows another holder: then nothing was held."""
    player = leader()
    player.happens(UNHEALTHY, at=1.0)
    player.reads(held(7))
    player.does(Wait)
    assert not player.state.yielding


def test_a_restarted_container_does_not_resume_while_it_abstains() -> None:
    """Its pod holds the lock, and nobody knows yet whether it is well: neither renewed nor released, and not led."""
    before = leader()
    player = Player()
    player.happens(UNHEALTHY)
    player.reads(observed(before))
    player.happens(WatchStarted())
    player.does(Wait)
    assert not player.leads
    player.happens(Stand(UNHEALTHY.why))
    player.reads(observed(before))
    assert player.does(Write).why.startswith("resume")


def test_whoever_keeps_a_lock_by_patience_resumes_it() -> None:
    """A term that ended in an outage is gone on with: nobody else wanted the lock before, either."""
    player = follower(released(5))
    player.happens(CORDONED)
    for _ in player.waits():
        pass
    player.happens(Fetched(released(5), player.now))
    mine = player.writes(6)
    player.does(Write, at=player.now + RETRY)
    player.happens(Failed(write=True), at=player.now + LEASE)
    assert not player.leads
    for _ in player.waits():
        pass
    player.happens(Fetched(mine, player.now))
    assert player.does(Write).why.startswith("resume")


def test_patience_is_waited_for_once() -> None:
    """Whoever bids because nobody else wanted the lock takes no census, which could hold the bid back once more."""
    player = follower(released(5), balance=Balance())
    player.happens(CORDONED)
    waited = [*player.waits()][-1]
    assert waited < LEASE + 1
    player.happens(Fetched(released(5), player.now))
    assert player.does(Write).why == "take over"


def test_a_checker_gives_up_as_well() -> None:
    """It holds the lock, though it does not lead; its registration goes with the same write."""
    player = checker()
    player.happens(UNHEALTHY, at=1.0)
    player.reads(observed(player))
    write = player.does(Write)
    assert write.record.holder == ""
    assert write.others == {registration_key("a"): None}


# -- Stepping down -----------------------------------------------------------------------------------------------------


def test_steps_down_for_two_leases() -> None:
    """A stock candidate waits its whole ttl after a release: two leases leave it time to bid."""
    player = leader()
    player.happens(step_down(player.state.candidacy, 1.0, "was told to"), at=1.0)
    player.reads(observed(player))
    player.writes(2)
    assert [*player.waits()][-1] == 1.0 + 2 * LEASE


def test_heeds_a_request_on_the_lock_object() -> None:
    """It revokes as soon as it sees it; the write that releases takes the request off."""
    player = leader()
    requested = asked(observed(player), 2)
    player.sees(requested, at=1.0)
    assert not player.leads
    assert player.state.note == "stopped leading: was asked to step down"
    player.reads(requested)
    write = player.does(Write)
    assert write.record.holder == ""
    assert write.others == {STEP_DOWN_ANNOTATION: None}
    after = result(write, 3)
    player.happens(Written(after, player.now))
    assert STEP_DOWN_ANNOTATION not in after.annotations
    player.does(Wait)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param("true", id="anything"),
        pytest.param('{"holder":"b","acquired":"2023-11-14T22:13:20Z"}', id="another-holder"),
        pytest.param('{"holder":"a","acquired":"2020-01-01T00:00:00Z"}', id="an-earlier-term"),
    ],
)
def test_a_request_for_another_term_is_not_heeded(request_: str) -> None:
    """It came too late, or was never well-formed: the leader goes on, and takes it off as it renews."""
    player = leader()
    player.sees(asked(observed(player), 2, request_), at=1.0)
    assert player.leads
    write = player.does(Write, at=RETRY)
    assert write.others == {STEP_DOWN_ANNOTATION: None}
    assert write.record.holder == "a"


def test_a_request_that_a_read_shows_is_heeded() -> None:
    """Where there is no watch, the next read shows it."""
    player = leader()
    requested = asked(observed(player), 2)
    player.does(Write, at=RETRY)
    player.happens(Conflicted())
    for _ in player.waits():
        pass
    player.happens(Fetched(requested, player.now))
    assert not player.leads


def test_a_follower_leaves_a_request_alone() -> None:
    """It is the leader's to heed."""
    player = follower(asked(held(5), 6))
    player.does(Wait)
    assert not player.state.abstentions


def test_whoever_takes_over_strikes_an_old_request_out() -> None:
    """Its leader died before it heeded it; the next one's term is none of its business."""
    old = asked(held(5), 6)
    player = follower(old)
    player.reads(old, at=LEASE + 1.0)
    write = player.does(Write)
    assert write.record.holder == "a"
    assert write.others[STEP_DOWN_ANNOTATION] is None


# -- Ending ------------------------------------------------------------------------------------------------------------


def ending(*, releases_on_exit: bool = True, release_delay: float = 0.0, balance: Balance | None = None) -> Player:
    """Return a leader that ends in this way."""
    player = Player()
    me = replace(candidacy(balance=balance), releases_on_exit=releases_on_exit, release_delay=release_delay)
    player.state = replace(player.state, candidacy=me)
    player.reads(None)
    player.writes(1)
    player.happens(WatchStarted())
    assert player.leads
    return player


def test_ends_without_a_release() -> None:
    """It stops leading at once and goes; the record stays, and the others wait its lease out."""
    player = ending(releases_on_exit=False)
    player.happens(Leaving(), at=1.0)
    assert not player.leads
    player.does(Leave)


def test_keeps_the_lock_until_the_delay_is_over() -> None:
    """Nobody leads meanwhile: the lock is renewed as one that is only checked, so followers name nobody."""
    player = ending(release_delay=3 * RETRY)
    player.happens(Leaving(), at=1.0)
    end = 1.0 + 3 * RETRY
    kept = 0
    while True:
        player.reads(observed(player))
        for _ in player.waits():
            pass
        assert not player.leads
        write = player.actions[-1]
        assert isinstance(write, Write)
        snapshot = result(write, 10 + kept)
        player.happens(Written(snapshot, player.now))
        if not write.record.holder:
            break
        kept += 1
        assert write.claim is not None
        assert (write.record.holder, write.claim.state, write.why) == ("a", CHECKING, "keep the lock")
        assert player.now < end
        follower_ = follower(snapshot, identity="b")
        assert follower_.names == ""
    assert kept == 3
    assert player.now == pytest.approx(end)
    player.does(Leave)


def test_the_delay_is_not_for_who_holds_nothing() -> None:
    """A follower ends at once."""
    player = Player()
    player.state = replace(player.state, candidacy=replace(candidacy(), release_delay=60.0))
    player.reads(held(5))
    player.happens(Leaving(), at=1.0)
    player.does(Leave)


def test_the_delay_ends_when_the_lock_is_lost() -> None:
    """Somebody else has it: there is nothing to keep."""
    player = ending(release_delay=60.0)
    player.happens(Leaving(), at=1.0)
    player.reads(observed(player))
    player.does(Wait)
    player.sees(held(9, renewed=3), at=2.0)
    player.does(Leave)


def test_a_lock_that_is_kept_goes_on_to_be_held_for_the_others() -> None:
    """Each renewal during the delay starts their wait anew: the main container may still be writing."""
    player = ending(release_delay=60.0)
    other = follower(observed(player), identity="b")
    player.happens(Leaving(), at=1.0)
    player.reads(observed(player))
    for _ in player.waits():
        pass
    write = player.actions[-1]
    assert isinstance(write, Write)
    other.sees(result(write, 10), at=player.now)
    assert other.state.observed is not None
    assert other.state.observed.held_until == player.now + LEASE
