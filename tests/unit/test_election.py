"""The round of the loop: what client-go's leader election promises, ported in substance from its tests.

TestTryAcquireOrRenew, TestReleaseLease and TestFastPathLeaderElection of client-go's leaderelection package are the
source of the tables; where this election differs on purpose, the test says so.
"""

from __future__ import annotations

import pytest

from sidecar.election import (
    Changed,
    Conflicted,
    Deleted,
    Fetched,
    Leave,
    Leaving,
    Read,
    Wait,
    WatchStarted,
    Write,
    Written,
)
from sidecar.record import Claim, Snapshot, format_time
from tests.unit.player import DEADLINE, EPOCH, LEASE, RETRY, Player, follower, held, leader, lock, released, result

UNREADABLE = lock(5, "not a record")


def test_acquires_from_no_object() -> None:
    """Nothing is there: the newcomer reads once, creates the lock object at once and leads."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    assert write.base is None
    assert write.record.holder == "a"
    assert write.record.lease_seconds == LEASE
    assert write.record.acquire_time == write.record.renew_time == format_time(EPOCH)
    assert write.record.transitions == 0
    assert write.claim == Claim(holder="a", node="node-a", pod_uid="uid-a", renewed=format_time(EPOCH))
    assert not player.leads, "nobody leads before the write is answered"
    player.happens(Written(result(write, 1), player.now))
    assert player.leads
    assert player.names == "a"


@pytest.mark.parametrize(
    "vacant",
    [
        pytest.param(lock(5, None), id="object-without-record"),
        pytest.param(released(5), id="released"),
        pytest.param(lock(5, "{}"), id="record-without-holder"),
    ],
)
def test_acquires_what_is_vacant_at_first_sight(vacant: Snapshot) -> None:
    """A vacant lock is taken with one read and one write, in the place of exactly what was read."""
    player = Player()
    player.reads(vacant)
    write = player.does(Write)
    assert write.base is vacant
    assert write.record.holder == "a"
    player.happens(Written(result(write, 6), player.now))
    assert player.leads


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param(held(5), id="live"),
        pytest.param(held(5, renewed=-3600), id="renewed-an-hour-ago-by-its-own-clock"),
        pytest.param(held(5, renewed=3600), id="renewed-in-an-hour-by-its-own-clock"),
        pytest.param(held(5, "a", uid="uid-of-another-pod"), id="in-my-name-by-another-pod"),
        pytest.param(held(5, "a"), id="in-my-name-without-claim"),
        pytest.param(UNREADABLE, id="unreadable"),
    ],
)
def test_does_not_acquire_what_may_be_held(taken: Snapshot) -> None:
    """Whoever may hold the lock keeps it for its whole lease, whatever times its record shows."""
    player = follower(taken)
    assert [*player.waits()][-1] > LEASE
    assert isinstance(player.actions[-1], Read), "and then it is read anew before anything is written"


def test_takes_over_what_ran_out() -> None:
    """A lease that ran out, and a record that the fresh read shows unchanged: taken over, with one transition more."""
    old = held(5, transitions=3)
    player = follower(old)
    player.reads(old, at=LEASE + 1.0)
    write = player.does(Write)
    assert write.base == old
    assert write.record.holder == "a"
    assert write.record.transitions == 4
    assert write.record.acquire_time == format_time(EPOCH + 11)
    player.happens(Written(result(write, 6), player.now))
    assert player.leads


@pytest.mark.parametrize(
    ("before", "transitions"),
    [
        pytest.param(None, 0, id="no-object"),
        pytest.param(released(5, transitions=7), 8, id="released"),
        pytest.param(held(5, transitions=7), 8, id="expired"),
        pytest.param(held(5, "a", uid="elsewhere", transitions=7), 8, id="expired-in-my-name-by-another-pod"),
        pytest.param(lock(5, None), 1, id="object-without-record"),
        pytest.param(UNREADABLE, 1, id="unreadable"),
    ],
)
def test_counts_transitions(before: Snapshot | None, transitions: int) -> None:
    """A create is no transition, every other change of holder is one; a count that is lost starts anew."""
    player = Player()
    player.reads(before)
    player.happens(WatchStarted())
    for _ in player.waits():
        pass
    if isinstance(player.actions[-1], Read):
        player.happens(Fetched(before, player.now))
        player.does(Write)
    write = player.actions[-1]
    assert isinstance(write, Write)
    assert write.record.transitions == transitions


def test_renews_once_a_retry_period_from_the_last_version() -> None:
    """A leader writes once a retry period from the version that it saw last, without a read, and keeps its times."""
    player = leader()
    first = player.state.observed
    assert first is not None
    assert first.snapshot is not None
    assert player.does(Wait).until == RETRY
    write = player.does(Write, at=RETRY)
    assert write.base == first.snapshot
    assert write.record.acquire_time == format_time(EPOCH)
    assert write.record.renew_time == format_time(EPOCH + 2)
    assert write.record.transitions == 0
    player.happens(Written(result(write, 2), player.now))
    assert player.does(Wait).until == 2 * RETRY
    assert not any(isinstance(action, Read) for action in player.actions[1:])


def test_renewal_keeps_the_fencing_token() -> None:
    """The fencing token is the version of the write that began the term; renewals do not change it."""
    player = leader()
    player.writes(9, at=RETRY)
    assert player.state.term is not None
    assert player.state.term.token == 1


def test_every_term_has_a_greater_fencing_token() -> None:
    """A term that lapsed and was resumed is a new term, with the version of the write that began it."""
    player = leader()
    player.now = DEADLINE
    assert not player.leads
    player.writes(4)
    assert player.leads
    assert player.state.term is not None
    assert player.state.term.token == 4


def test_creating_too_late_is_following() -> None:
    """Two create at the same moment: the one that came second reads, and follows (the stock image dies)."""
    player = Player()
    player.reads(None)
    player.does(Write)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    player.reads(held(3))
    player.happens(WatchStarted())
    assert player.does(Wait).why == "b holds the lock"
    assert player.names == "b"


def test_bidding_too_late_is_following() -> None:
    """A take-over that lost its compare-and-swap is settled by reading, never by writing again."""
    old = held(5)
    player = follower(old)
    player.reads(old, at=LEASE + 1.0)
    player.does(Write)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    player.reads(held(6, "c"))
    assert player.does(Wait).why == "c holds the lock"
    assert player.names == "c"


def test_follower_in_the_steady_state_asks_nothing() -> None:
    """While the watch shows renewals, a follower sends no request, for as long as that goes on."""
    player = follower(held(1))
    for second in range(2, 600, 2):
        player.sees(held(1 + second, renewed=second), at=float(second))
        player.does(Wait)
    assert player.names == "b"


def test_released_lock_is_bid_for_soon() -> None:
    """A release that the watch shows is bid for within the jitter of a tenth of a second, after one fresh read."""
    player = follower(held(5))
    player.sees(released(6), at=3.0)
    assert player.names == ""
    wait = player.does(Wait)
    assert 3.0 <= wait.until <= 3.1
    player.reads(released(6), at=wait.until)
    player.writes(7)
    assert player.leads


@pytest.mark.parametrize("luck", [0.0, 0.25, 0.5, 0.999])
def test_bids_are_spread(luck: float) -> None:
    """Bids for one vacancy differ with luck, so that most candidates see the winner before they bid."""
    player = follower(held(5))
    player.luck = luck
    player.sees(released(6), at=3.0)
    observed = player.state.observed
    assert observed is not None
    assert observed.bid_at == pytest.approx(3.0 + 0.1 * luck)


def test_winner_seen_in_time_stops_the_bid() -> None:
    """A candidate that sees the winner before its own bid is due sends nothing."""
    player = follower(held(5))
    player.sees(released(6), at=3.0)
    player.does(Wait)
    player.sees(held(7, "c"), at=3.01)
    assert player.does(Wait).why == "c holds the lock"


def test_release_is_what_client_go_writes() -> None:
    """A release keeps the transitions, empties the holder and asks for a lease of one second; no claim stays."""
    player = leader()
    player.happens(Leaving(), at=1.0)
    snapshot = player.state.observed
    assert snapshot is not None
    player.reads(snapshot.snapshot)
    write = player.does(Write)
    assert write.record.holder == ""
    assert write.record.lease_seconds == 1
    assert write.record.transitions == 0
    assert write.record.acquire_time == write.record.renew_time == format_time(EPOCH + 1)
    assert write.claim is None
    player.happens(Written(result(write, 2), player.now))
    player.does(Leave)


def test_successor_of_a_release_counts_one_transition() -> None:
    """The released record keeps its count, and whoever takes it adds one."""
    player = Player()
    player.reads(released(2, transitions=4))
    assert player.does(Write).record.transitions == 5


def test_observes_nothing_older_from_the_watch() -> None:
    """A watch event that is not newer than what is known changes nothing."""
    player = follower(held(5, "b", renewed=4))
    before = player.state
    player.sees(held(4, "c", renewed=2), at=1.0)
    player.sees(held(5, "c", renewed=2), at=1.0)
    player.happens(Deleted(3), at=1.0)
    assert player.state == before


def test_read_that_the_watch_overtook_changes_nothing() -> None:
    """An answer that is older than what the watch showed since it was asked for is not believed."""
    player = follower(held(5))
    player.does(Read, at=LEASE + 1.0)
    player.sees(held(7, "c"), at=LEASE + 1.1)
    player.happens(Fetched(held(6, "d"), LEASE + 1.0), at=LEASE + 1.2)
    assert player.names == "c"
    player.happens(Fetched(None, LEASE + 1.0), at=LEASE + 1.3)
    assert player.names == "c"


def test_read_that_shows_more_than_the_watch_is_believed() -> None:
    """The watch told something while the read was under way, and the read shows what came after it."""
    player = follower(held(5))
    player.does(Read, at=LEASE + 1.0)
    player.sees(held(7, "c"), at=LEASE + 1.1)
    player.happens(Fetched(held(8, "d"), LEASE + 1.0), at=LEASE + 1.2)
    assert player.names == "d"


def test_version_that_goes_backwards_is_believed_from_a_read() -> None:
    """After etcd was restored from a backup, versions are smaller; a read asked since is the truth all the same."""
    player = follower(held(5000), watching=False)
    player.does(Read, at=RETRY * 1.5)
    player.happens(Fetched(held(40, "c"), player.now))
    assert player.names == "c"
    player.sees(held(41, "d"), at=4.0)
    assert player.names == "d"


def test_leader_of_a_restored_past_gives_up() -> None:
    """A leader whose record is not in the restored store revokes when it reads that, and waits the lease out."""
    player = leader()
    player.writes(5000, at=RETRY)
    player.does(Write, at=2 * RETRY)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    player.reads(held(40, "b"))
    assert not player.leads
    assert player.names == "b"


def test_change_of_something_else_in_the_object_is_no_renewal() -> None:
    """A new version with the same record does not start the lease anew; the next write replaces that version."""
    old = held(5)
    player = follower(old)
    player.sees(held(8), at=9.0)
    observed = player.state.observed
    assert observed is not None
    assert observed.held_until == LEASE
    player.reads(held(8), at=LEASE + 1.0)
    assert player.does(Write).base == held(8)


def test_change_of_something_else_does_not_disturb_the_leader() -> None:
    """Somebody labels the object: the leader goes on, and renews from the new version."""
    player = leader()
    text = player.state.observed.text if player.state.observed else None
    claim = Claim(holder="a", node="node-a", pod_uid="uid-a")
    labelled = lock(7, text, claim)
    player.happens(Changed(labelled), at=1.0)
    assert player.leads
    assert player.does(Write, at=RETRY).base is labelled


def test_says_in_a_sentence_what_it_does_and_why() -> None:
    """The note and each action's reason are for people: they name the holder, and why leadership ended."""
    player = follower(held(5))
    assert player.state.note == "b holds the lock"
    player.sees(released(6), at=1.0)
    assert player.state.note == "the lock was released"
    player.sees(lock(7, "x"), at=1.1)
    assert player.state.note.startswith("the record cannot be read (not JSON")
    player.sees(lock(8, None), at=1.2)
    assert player.state.note == "the lock object has no record"
    player.sees(held(9, "a"), at=1.3)
    assert player.state.note == "somebody else holds the lock under my name"
    player.happens(Deleted(10), at=1.4)
    assert player.state.note == "the lock object was deleted"
