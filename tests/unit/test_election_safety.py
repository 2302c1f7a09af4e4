"""What keeps two from leading at once: one test for each way in which a rule could be broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.election import (
    Changed,
    Conflicted,
    Deleted,
    Failed,
    Fetched,
    Read,
    Wait,
    WatchStarted,
    Write,
    Written,
    next_action,
)
from sidecar.record import CHECKING, Claim, Snapshot
from tests.unit.player import DEADLINE, LEASE, RETRY, Player, follower, held, leader, lock, record, released, result

MINE = Claim(holder="a", node="node-a", pod_uid="uid-a")


# -- The lease of another: counted from my observation, on my clock ---------------------------------------------------


@pytest.mark.parametrize("lease", [1, 3, 10, 60, 3600])
def test_counts_the_lease_of_the_record(lease: int) -> None:
    """A follower waits out the lease that the record asks for, be it shorter or longer than its own ttl."""
    player = follower(held(5, lease=lease))
    observed = player.state.observed
    assert observed is not None
    assert observed.held_until == lease
    for instant in player.waits():
        assert instant <= lease + 0.1
    assert player.now >= lease


def test_counts_from_when_it_saw_the_change() -> None:
    """The lease starts anew when a changed record is seen, not when its holder says that it wrote it."""
    player = follower(held(5))
    player.sees(held(6, renewed=1), at=8.0)
    observed = player.state.observed
    assert observed is not None
    assert observed.held_until == 8.0 + LEASE


def test_counts_from_the_answer_of_a_slow_read() -> None:
    """A read that took long may show a record written just before its answer: the lease counts from the answer."""
    player = Player()
    player.does(Read)
    player.happens(Fetched(held(5), 0.0), at=4.0)
    observed = player.state.observed
    assert observed is not None
    assert observed.held_until == 4.0 + LEASE


def test_change_right_before_the_end_starts_the_lease_anew() -> None:
    """A renewal seen a moment before the lease ran out keeps the holder for a whole lease more."""
    player = follower(held(5))
    player.sees(held(6, renewed=9), at=LEASE - 0.001)
    player.does(Wait, at=LEASE + 1.0)
    assert player.names == "b"


def test_change_between_the_end_and_the_bid_starts_the_lease_anew() -> None:
    """A renewal seen after the lease ran out and before the bid is an observation like any other."""
    player = follower(held(5))
    player.does(Wait, at=LEASE + 0.01)
    player.sees(held(6, renewed=10), at=LEASE + 0.02)
    player.does(Wait, at=LEASE + 1.0)


def test_names_nobody_whose_lease_ran_out() -> None:
    """A holder is named until its lease ran out, to the instant, although nothing was heard of it since."""
    player = follower(held(5))
    player.now = LEASE - 0.001
    assert player.names == "b"
    player.now = LEASE
    assert player.names == ""


# -- A take-over: after a fresh read, by compare-and-swap -------------------------------------------------------------


def test_reads_afresh_before_taking_over() -> None:
    """However sure the watch makes it look, a take-over is preceded by a read asked after the lease ran out."""
    player = follower(held(5))
    player.does(Read, at=LEASE + 1.0)


def test_read_asked_before_the_lease_ran_out_is_not_fresh() -> None:
    """A poll that was asked a moment before the end does not count as the fresh read, even if answered after it."""
    player = follower(held(5), watching=False)
    player.does(Read, at=LEASE - 0.1)
    player.happens(Fetched(held(5), LEASE - 0.1), at=LEASE + 1.0)
    player.does(Read)


def test_changed_record_in_the_fresh_read_is_an_observation() -> None:
    """The fresh read shows a renewal that the watch did not: nothing is written, the lease is counted anew."""
    player = follower(held(5))
    player.reads(held(6, renewed=9), at=LEASE + 1.0)
    player.does(Wait)
    assert player.names == "b"
    observed = player.state.observed
    assert observed is not None
    assert observed.held_until == 2 * LEASE + 1.0


def test_writes_in_the_place_of_what_was_decided_on() -> None:
    """The write names the version of the very snapshot that the decision was made on."""
    old = held(5)
    player = follower(old)
    fresh = held(5)
    player.reads(fresh, at=LEASE + 1.0)
    assert player.does(Write).base is fresh


def test_paused_between_read_and_write_does_not_matter() -> None:
    """A candidate that slept for an hour after its fresh read still writes by compare-and-swap on what it read."""
    player = follower(held(5))
    player.reads(held(5), at=LEASE + 1.0)
    write = player.does(Write, at=3600.0)
    assert write.base == held(5)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    player.does(Read)


# -- My own validity: from before the send, to the renew deadline -----------------------------------------------------


def test_validity_counts_from_before_the_send() -> None:
    """An answer that took 4 s leaves 2 s of a renew deadline of 6 s."""
    player = leader()
    player.does(Write, at=RETRY)
    write = player.actions[-1]
    assert isinstance(write, Write)
    player.happens(Written(result(write, 2), RETRY), at=RETRY + 3.5)
    assert player.state.term is not None
    assert player.state.term.valid_until == RETRY + DEADLINE


def test_validity_ends_at_the_renew_deadline_not_at_the_lease() -> None:
    """A leader that cannot renew stops naming itself at the renew deadline, before anybody may take over."""
    player = leader()
    player.now = DEADLINE - 0.001
    assert player.names == "a"
    player.now = DEADLINE
    assert not player.leads
    assert player.names == ""


def test_first_answer_after_a_pause_is_right() -> None:
    """A process that was stopped for a minute does not name itself in its first answer; no timer has to run first."""
    player = leader()
    player.now = 60.0
    assert not player.leads
    assert player.names == ""


def test_pause_ends_the_term_before_anything_is_sent() -> None:
    """After a pause the term is over for good: what comes next begins a new one, with a new fencing token."""
    player = leader()
    player.does(Write, at=60.0)
    assert player.state.term is None
    assert player.state.note == "stopped leading: the lease was not renewed before the renew deadline"


def test_late_answer_gives_no_leadership() -> None:
    """A bid whose answer came after the renew deadline had passed makes nobody leader, although it was applied."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.happens(Written(result(write, 1), 0.0), at=DEADLINE)
    assert not player.leads
    assert player.state.term is None, "and none was ever told"
    player.writes(2)
    assert player.leads


def test_late_answer_to_a_renewal_gives_no_leadership() -> None:
    """The same for a renewal: asked in time, answered too late."""
    player = leader()
    write = player.does(Write, at=RETRY)
    player.happens(Written(result(write, 2), RETRY), at=RETRY + DEADLINE)
    assert not player.leads


@pytest.mark.parametrize("shown", [held(1, "b"), lock(1, None), held(1, "a", uid="uid-a", renewed=-2)])
def test_answer_that_shows_another_record_gives_no_leadership(shown: Snapshot) -> None:
    """An answer to a bid that does not show what was written makes nobody leader, and is settled by reading."""
    player = Player()
    player.reads(None)
    player.does(Write)
    player.happens(Written(shown, player.now))
    assert not player.leads
    for _ in player.waits():
        pass
    assert isinstance(player.actions[-1], Read)


def test_answer_that_shows_the_record_before_is_no_renewal() -> None:
    """A renewal that is answered with the lock as it was (a proxy that turns it into a read) extends nothing."""
    player = leader()
    observed = player.state.observed
    assert observed is not None
    assert observed.snapshot is not None
    player.does(Write, at=RETRY)
    player.happens(Written(observed.snapshot, RETRY))
    assert player.state.term is not None
    assert player.state.term.valid_until == DEADLINE


def test_waits_for_the_end_of_its_term() -> None:
    """A leader that backs off is woken when its term ends, so that the end is told when it comes."""
    player = leader()
    player.does(Write, at=RETRY)
    player.happens(Failed(refused=True, retry_after=3600.0), at=DEADLINE - 0.5)
    assert player.does(Wait).until == DEADLINE


# -- Lost answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Failed(), Failed(refused=True), Conflicted()])
@pytest.mark.parametrize("leads", [True, False])
def test_unknown_outcome_is_settled_by_reading(event: Failed | Conflicted, *, leads: bool) -> None:
    """After any write that was not answered as applied, the next request is a read."""
    if leads:
        player = leader()
        player.does(Write, at=RETRY)
    else:
        player = Player()
        player.reads(None)
        player.does(Write)
    player.happens(event)
    for _ in player.waits():
        pass
    assert isinstance(player.actions[-1], Read)


def test_lost_answer_of_a_renewal_that_was_applied() -> None:
    """The read shows what I wrote: I go on, renew at once, and validity counts from the renewal that was answered."""
    player = leader()
    lost = player.does(Write, at=RETRY)
    player.happens(Failed(), at=RETRY + 1.0)
    for _ in player.waits():
        pass
    player.happens(Fetched(result(lost, 2), player.now))
    assert player.state.term is not None
    assert player.state.term.valid_until == DEADLINE, "a read proves nothing about when the renewal was sent"
    player.writes(3)
    assert player.leads
    assert player.state.term is not None
    assert player.state.term.token == 1


def test_lost_answer_of_a_renewal_that_was_not_applied() -> None:
    """The read shows the record before: it is still mine, and is renewed."""
    player = leader()
    before = player.state.observed
    assert before is not None
    player.does(Write, at=RETRY)
    player.happens(Failed(), at=RETRY + 1.0)
    for _ in player.waits():
        pass
    player.happens(Fetched(before.snapshot, player.now))
    assert player.leads
    player.writes(2)
    assert player.leads


def test_renewal_that_is_applied_late() -> None:
    """A renewal that was given up for lost and is applied after the read is recognised when it shows."""
    player = leader()
    before = player.state.observed
    assert before is not None
    late = player.does(Write, at=RETRY)
    player.happens(Failed(), at=RETRY + 0.5)
    for _ in player.waits():
        pass
    player.happens(Fetched(before.snapshot, player.now))
    player.does(Write)
    player.happens(Changed(result(late, 2)))
    assert player.leads
    player.happens(Conflicted())
    for _ in player.waits():
        pass
    player.happens(Fetched(result(late, 2), player.now))
    player.writes(3)
    assert player.leads


def test_lost_answer_of_a_bid_that_was_applied() -> None:
    """The read shows my record: it is mine, and leadership begins with a renewal that is answered, not before."""
    player = Player()
    player.reads(None)
    lost = player.does(Write)
    player.happens(Failed(), at=1.0)
    for _ in player.waits():
        pass
    player.happens(Fetched(result(lost, 1), player.now))
    assert not player.leads
    assert player.names == ""
    player.writes(2)
    assert player.leads


def test_watch_alone_gives_no_leadership() -> None:
    """My record in the watch proves that the write was applied, not when: only its answer begins a term."""
    player = Player()
    player.reads(None)
    write = player.does(Write)
    player.sees(result(write, 1), at=0.1)
    assert not player.leads
    player.happens(Written(result(write, 1), 0.0), at=0.2)
    assert player.leads


# -- News that ends leadership at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "news",
    [
        pytest.param(Deleted(2), id="deleted"),
        pytest.param(Changed(held(2, "b")), id="taken-over"),
        pytest.param(Changed(released(2)), id="emptied-by-hand"),
        pytest.param(Changed(lock(2, None)), id="annotations-stripped"),
        pytest.param(Changed(lock(2, None, MINE)), id="record-stripped"),
        pytest.param(Changed(lock(2, "garbage", MINE)), id="damaged"),
        pytest.param(Changed(lock(2, record("a", renewed=77).encode(), MINE)), id="edited-in-my-name-beside-my-claim"),
        pytest.param(Changed(held(2, "a", uid="uid-elsewhere", renewed=1)), id="my-name-in-another-pod"),
        pytest.param(Changed(held(2, "a", renewed=1)), id="my-name-without-a-claim"),
    ],
)
def test_revokes_at_once(news: Changed | Deleted) -> None:
    """A leader that learns that the lock is not as it wrote it stops leading in that instant."""
    player = leader()
    player.happens(news, at=0.5)
    assert not player.leads
    assert player.names in {"", "b"}
    assert player.state.note.startswith("stopped leading: ")
    player.does(Wait)


def test_revokes_when_a_read_says_so() -> None:
    """The same when it is a read that brings the news."""
    player = leader()
    player.does(Write, at=RETRY)
    player.happens(Failed())
    for _ in player.waits():
        pass
    player.happens(Fetched(None, player.now))
    assert not player.leads


def test_renewal_answered_after_worse_news_gives_no_leadership() -> None:
    """A renewal was applied, then somebody changed the lock, and the watch tells it before the answer comes."""
    player = leader()
    write = player.does(Write, at=RETRY)
    player.happens(Deleted(3), at=RETRY + 0.1)
    player.happens(Written(result(write, 2), RETRY), at=RETRY + 0.2)
    assert not player.leads


def test_earlier_record_of_mine_that_is_put_back_is_not_mine() -> None:
    """Somebody put back what I wrote before my last renewal: the lock is not as I left it, so it is not mine."""
    player = leader()
    before = player.state.observed
    assert before is not None
    assert before.text is not None
    player.writes(2, at=RETRY)
    player.sees(lock(3, before.text, MINE), at=RETRY + 0.5)
    assert not player.leads


def test_record_of_mine_that_comes_back_from_a_backup_is_not_mine() -> None:
    """Somebody led since: whatever put my old record back, that leader does not know of it yet."""
    player = leader()
    mine = player.state.observed
    assert mine is not None
    assert mine.text is not None
    player.sees(held(2, "b"), at=1.0)
    player.sees(lock(3, mine.text, MINE), at=1.5)
    assert not player.leads
    assert player.names == ""
    assert [*player.waits()][-1] >= 1.5 + LEASE


# -- What is no vacancy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("gone", [Deleted(6), Changed(lock(6, None)), Changed(lock(6, None, MINE))])
def test_deletion_is_no_vacancy_for_whoever_saw_it_held(gone: Deleted | Changed, *, leads: bool) -> None:
    """The holder may lead on until it learns of it: its lease is waited out, by itself as well."""
    player = leader() if leads else follower(held(5))
    player.happens(gone, at=3.0)
    assert player.names == ""
    waited = [*player.waits()]
    assert waited[-1] >= LEASE
    assert isinstance(player.actions[-1], Read)


def test_deletion_is_no_vacancy_when_a_read_shows_it() -> None:
    """The same without a watch: polls show that the object is gone, and its holder's lease is still waited out."""
    player = follower(held(5), watching=False)
    polls = 0
    while True:
        for _ in player.waits():
            pass
        if isinstance(player.actions[-1], Write):
            break
        polls += 1
        player.happens(Fetched(None, player.now))
    assert player.now >= LEASE
    assert polls >= LEASE / RETRY
    assert player.actions[-1].base is None


def test_object_made_again_and_deleted_again_is_no_vacancy() -> None:
    """A lease is carried on through a deletion, and through a record that is stripped and deleted after it."""
    player = follower(held(5))
    player.happens(Deleted(6), at=1.0)
    player.sees(lock(7, None), at=2.0)
    player.happens(Deleted(8), at=3.0)
    assert [*player.waits()][-1] >= LEASE


@pytest.mark.parametrize("gone", [None, lock(7, None)], ids=["deleted", "stripped"])
@pytest.mark.parametrize("seen", [held(5), held(5, lease=3), released(5)], ids=["held", "held-shortly", "released"])
def test_whoever_was_cut_off_waits_a_lease_for_what_vanished(seen: Snapshot, gone: Snapshot | None) -> None:
    """Renewals were missed: the holder may have renewed right before, so the lease that was seen last says nothing."""
    player = follower(seen, watching=False)
    player.happens(Fetched(gone, 60.0), at=60.0)
    player.happens(WatchStarted())
    assert [*player.waits()][-1] >= 60.0 + LEASE


def test_longer_lease_of_what_vanished_is_waited_out() -> None:
    """The holder's own lease counts where it is the longer one."""
    player = follower(held(5, lease=3 * LEASE), watching=False)
    player.reads(None, at=60.0)
    player.happens(WatchStarted())
    assert [*player.waits()][-1] >= 60.0 + 3 * LEASE


DAMAGED = [
    pytest.param(lock(6, '{"holderIdentity":'), id="damaged"),
    pytest.param(held(6, "nobody", lease=1), id="another-name"),
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_longer_lease_of_what_was_overwritten_is_waited_out(damaged: Snapshot) -> None:
    """Somebody overwrites the record of a leader that is cut off and leads on: its lease was promised, and stays."""
    player = follower(held(5, lease=3 * LEASE))
    player.sees(damaged, at=1.0)
    assert [*player.waits()][-1] >= 3 * LEASE


def test_second_edit_shortens_no_lease_either() -> None:
    """A name that nobody has, renewed by hand with its short lease: what the leader was promised stays."""
    player = follower(held(5, lease=3 * LEASE))
    for version in (6, 7, 8):
        player.sees(held(version, "nobody", lease=1, renewed=version), at=float(version))
    assert [*player.waits()][-1] >= 3 * LEASE


def test_whoever_was_cut_off_waits_for_what_was_overwritten() -> None:
    """Renewals were missed, so the leader may have renewed right before somebody wrote over its record."""
    player = follower(held(5), watching=False)
    player.happens(Fetched(held(9, "nobody", lease=1), 60.0), at=60.0)
    player.happens(WatchStarted())
    assert [*player.waits()][-1] >= 60.0 + LEASE


@pytest.mark.parametrize("gone", [None, lock(8, None)], ids=["deleted", "stripped"])
def test_longer_lease_of_what_was_overwritten_and_vanished_is_waited_out(gone: Snapshot | None) -> None:
    """Nor does the next change shorten it."""
    player = follower(held(5, lease=3 * LEASE), watching=False)
    player.happens(Fetched(lock(6, "?"), 1.0), at=1.0)
    player.happens(Fetched(gone, 2.0), at=2.0)
    player.happens(WatchStarted())
    assert [*player.waits()][-1] >= 1.0 + 3 * LEASE


def test_newcomer_that_finds_nothing_creates_at_once() -> None:
    """Whoever never saw the lock held has nothing to wait for."""
    player = Player()
    player.reads(None)
    assert player.does(Write).base is None


def test_deleted_after_release_is_a_vacancy() -> None:
    """A holder that gave up leads no more, so nothing is waited out when the object goes after it."""
    player = follower(held(5))
    player.sees(released(6), at=1.0)
    player.happens(Deleted(7), at=1.01)
    for _ in player.waits():
        pass
    assert player.now < 1.2
    player.happens(Fetched(None, player.now))
    player.does(Write)


def test_unreadable_record_is_held_for_one_lease_from_first_seen() -> None:
    """Somebody may hold the lock under a damaged record; after one lease without a change it is taken over."""
    damaged = lock(5, "{'not': json")
    player = follower(damaged)
    assert player.names == ""
    player.sees(lock(6, "{'not': json"), at=8.0)
    assert [*player.waits()][-1] == pytest.approx(LEASE, abs=0.1)
    player.happens(Fetched(lock(6, "{'not': json"), player.now))
    player.writes(7)
    assert player.leads


def test_unreadable_record_that_changes_is_held_anew() -> None:
    """Somebody who writes, in whatever form, is alive."""
    player = follower(lock(5, "v2:b:1"))
    player.sees(lock(6, "v2:b:2"), at=8.0)
    assert [*player.waits()][-1] >= 8.0 + LEASE


# -- The same name in another pod --------------------------------------------------------------------------------------

ALIKE = [
    pytest.param(held(5, "a", uid="uid-elsewhere"), id="another-pod"),
    pytest.param(held(5, "a"), id="without-claim"),
    pytest.param(lock(5, record("a").encode(), Claim(holder="b", node="n", pod_uid="uid-a")), id="stale-claim"),
    pytest.param(lock(5, record("a").encode(), "not a claim"), id="damaged-claim"),
]


@pytest.mark.parametrize("alike", ALIKE)
def test_same_name_elsewhere_is_waited_out_and_never_named(alike: Snapshot) -> None:
    """A script that looks for its own host name must not take another pod's leadership for its own."""
    player = follower(alike)
    for _ in player.waits():
        assert player.names == ""
    assert player.now >= LEASE
    assert isinstance(player.actions[-1], Read)


def test_my_claim_left_standing_beside_a_stock_record_is_not_mine() -> None:
    """A stock peer of my name replaces the record and leaves my claim: what I did not write is not mine."""
    player = leader()
    player.sees(lock(2, record("a", renewed=1).encode(), MINE), at=1.0)
    assert not player.leads
    assert player.names == ""
    assert [*player.waits()][-1] >= 1.0 + LEASE


def test_same_pod_resumes_at_first_sight() -> None:
    """A container that was restarted goes on with what its pod holds, without waiting; leading from the answer on."""
    player = Player()
    player.reads(held(5, "a", uid="uid-a", transitions=2))
    assert not player.leads
    write = player.does(Write)
    assert write.record.transitions == 2
    player.happens(Written(result(write, 6), player.now))
    assert player.leads
    assert player.state.term is not None
    assert player.state.term.token == 6


def test_resuming_puts_the_present_lease_in_force() -> None:
    """The pod was started again with another ttl: what it goes on with says so to the others."""
    player = Player()
    player.reads(held(5, "a", uid="uid-a", lease=30))
    assert player.does(Write).record.lease_seconds == LEASE


def test_claim_that_another_process_left_is_not_resumed() -> None:
    """A stock peer of my name renewed the record since, and left my claim standing: it lives, and I am not that one."""
    inherited = replace(MINE, renewed=record("a").renew_time).encode()
    player = follower(lock(5, record("a", renewed=7).encode(), inherited))
    assert isinstance(next_action(player.state, player.moment())[1], Wait)
    assert [*player.waits()][-1] >= LEASE


def test_claim_that_checked_says_nothing_of_a_namesake() -> None:
    """A stock peer under the name of a pod that died while it checked leads, and is named."""
    player = Player("b")
    checking = replace(MINE, state=CHECKING, renewed=record("a").renew_time).encode()
    player.reads(lock(5, record("a", renewed=7).encode(), checking))
    assert player.names == "a"


def test_release_by_a_stock_peer_names_no_successor() -> None:
    """What an earlier release said does not come back when somebody who knows nothing of claims releases."""
    player = Player("b")
    earlier = Claim(holder="", node="node-b", pod_uid="uid-b", successor="b", renewed=record("").renew_time)
    player.reads(held(5, "z"))
    player.sees(lock(6, record("", lease=1, renewed=7).encode(), earlier.encode()), at=1.0)
    assert player.state.observed is not None
    assert player.state.observed.claim is None


def test_same_pod_resumes_at_first_sight_only() -> None:
    """Later, my claim beside a record that I did not write is no proof: somebody left the claim standing."""
    player = follower(held(5))
    player.sees(held(6, "a", uid="uid-a"), at=1.0)
    assert [*player.waits()][-1] >= 1.0 + LEASE


def test_two_pods_with_one_name_that_write_the_same_text() -> None:
    """Both bid in one second with one and the same record: the claim says whose it is."""
    one, two = Player("a", pod_uid="uid-1"), Player("a", pod_uid="uid-2")
    bids = []
    for player in (one, two):
        player.reads(None)
        bids.append(player.does(Write))
    assert bids[0].record == bids[1].record
    stored = result(bids[0], 1)
    one.happens(Written(stored, 0.0))
    two.happens(Conflicted())
    for _ in two.waits():
        pass
    two.happens(Fetched(stored, two.now))
    assert one.leads
    assert not two.leads
    assert two.names == ""
    assert isinstance(two.does(Wait), Wait)


def test_same_text_beside_another_claim_is_another_record() -> None:
    """A lock object that was made again by my namesake in the same second has my very text, and is not mine."""
    player = leader()
    mine = player.state.observed
    assert mine is not None
    stranger = Claim(holder="a", node="node-z", pod_uid="uid-z")
    player.sees(lock(9, mine.text, stranger), at=0.5)
    assert not player.leads
    assert player.names == ""
    player.does(Wait, at=LEASE)


# -- Writes that nobody answers ----------------------------------------------------------------------------------------


def test_stops_writing_when_the_answers_are_lost() -> None:
    """A candidate whose writes are applied and never answered stops, so that its lease can run out for the others."""
    player = Player()
    player.reads(None)
    version = 0
    for _ in range(20):
        player.state, action = next_action(player.state, player.moment())
        if isinstance(action, Write):
            version += 1
            applied, last_write = result(action, version), player.now
            player.happens(Failed(write=True), at=player.now + 0.5)
        elif isinstance(action, Read):
            player.happens(Fetched(applied, player.now))
        elif isinstance(action, Wait):
            if action.until > last_write + LEASE:
                break
            player.now = action.until
    assert not player.leads
    assert 1 < version <= 6
    assert player.now < last_write + LEASE


def test_writes_again_after_waiting_when_nobody_else_took_over() -> None:
    """Whoever stopped writing bids again once the lease ran out, and leads when it is answered."""
    player = Player()
    player.reads(None)
    player.happens(WatchStarted())
    for version in range(1, 7):
        applied = result(player.does(Write, player.now), version)
        player.happens(Failed(write=True))
        player.now = player.state.not_before
        player.reads(applied)
        if isinstance(next_action(player.state, player.moment())[1], Wait):
            break
    for _ in player.waits():
        assert not player.leads
    player.reads(applied)
    player.writes(9)
    assert player.leads


def test_refused_writes_do_not_count_as_unheard() -> None:
    """A former leader whose writes were refused goes on as soon as they are not: it was answered all the time."""
    player = leader()
    text = player.state.observed
    assert text is not None
    for at in (2.0, 3.5, 5.0, 6.5, 8.0):
        player.does(Write, at)
        player.happens(Failed(write=True, refused=True))
        player.now = player.state.not_before
        player.reads(text.snapshot)
    assert not player.leads
    player.writes(2)
    assert player.leads
