"""What the balance adds to the election, and what it never may: to lead before it was confirmed, or to end nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.balance import MOVE_LIMIT
from sidecar.election import (
    CHECK_SECONDS,
    SUCCESSOR_SECONDS,
    Balance,
    Calm,
    Confirm,
    Conflicted,
    Count,
    Counted,
    Event,
    Failed,
    Fetched,
    HandOver,
    Leave,
    Leaving,
    Nominate,
    Read,
    Strike,
    Wait,
    WatchStarted,
    Write,
    Written,
    next_action,
)
from sidecar.record import CHECKING, CLAIM_ANNOTATION, LEADING, Claim, Snapshot
from sidecar.registration import Registration, registration_key, registrations
from tests.unit.player import (
    DEADLINE,
    LEASE,
    RETRY,
    Player,
    belonging,
    checker,
    follower,
    handed,
    held,
    leader,
    lock,
    record,
    released,
    result,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = Balance()
B = Registration(identity="b", node="node-b", pod_uid="uid-b")


def claim_in(write: Write) -> Claim:
    """Return the claim that is written."""
    assert write.claim is not None
    return write.claim


def confirmed(player: Player, version: int = 2, at: float = 0.5) -> Player:
    """Have a candidate that checks confirm; return it as the leader that it is then."""
    player.happens(Confirm(), at)
    player.writes(version)
    assert player.leads
    return player


def seen(player: Player) -> Snapshot:
    """Return the lock object as the candidate last saw it."""
    assert player.state.observed is not None
    assert player.state.observed.snapshot is not None
    return player.state.observed.snapshot


# -- Nobody leads before the confirmation ------------------------------------------------------------------------------


def test_to_acquire_is_to_check() -> None:
    """Whoever takes the lock says that it checks, and is no leader: neither in its own answer nor in anybody's."""
    player = checker()
    claim = Claim(holder="a", node="node-a", pod_uid="uid-a", state=CHECKING)
    assert seen(player).claim == belonging(claim, seen(player).text)
    assert not player.leads
    assert player.names == ""
    assert player.state.note == "checking whether this is the right node"


@pytest.mark.parametrize("at", [0.1, 1.0, LEASE - 0.1])
def test_followers_name_nobody_who_checks(at: float) -> None:
    """A follower answers nobody's name while the holder checks, and the holder's once it sees that it leads."""
    player = follower(held(1, "b", uid="uid-b", state=CHECKING))
    player.now = at
    assert player.names == ""
    player.sees(held(2, "b", uid="uid-b", renewed=1))
    assert player.names == "b"


def test_holder_that_checks_is_waited_for_like_a_leader() -> None:
    """The lock of a holder that checks is held: nobody takes over before its lease ran out."""
    player = follower(held(1, "b", uid="uid-b", state=CHECKING), balance=FULL)
    assert player.does(Wait, at=LEASE - 0.1).until == LEASE


def test_to_confirm_is_to_write_that_it_leads() -> None:
    """The order to confirm makes no leader, and neither does the write that is sent: its answer does."""
    player = checker()
    player.happens(Confirm(), at=0.5)
    assert not player.leads
    write = player.does(Write)
    assert (claim_in(write).state, write.why) == (LEADING, "confirm")
    assert not player.leads
    player.happens(Written(result(write, 2), player.now), at=0.6)
    assert player.leads
    assert player.names == "a"
    assert player.state.note == "leading"


def test_term_begins_with_the_confirmation() -> None:
    """Fencing token and beginning are those of the write that made it the leader; the claim's term follows."""
    player = checker()
    assert player.state.term is not None
    assert player.state.term.token == 1
    player = confirmed(player, version=7, at=3.0)
    assert player.state.term is not None
    assert player.state.term.token == 7
    assert player.state.term.since == player.moment().wall
    assert claim_in(player.does(Write, at=3.0 + RETRY)).term == 7


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("event", [Failed(write=True), Failed(write=True, refused=True), Conflicted()])
def test_confirmation_whose_answer_is_lost_makes_no_leader(event: Failed | Conflicted, *, applied: bool) -> None:
    """Applied or not: whoever heard of no success does not lead, until a later write that says so succeeded."""
    player = checker()
    before = seen(player)
    player.happens(Confirm(), at=0.5)
    write = player.does(Write)
    player.happens(event, at=1.0)
    player.now = player.does(Wait).until
    player.reads(result(write, 2) if applied else before)
    assert not player.leads
    again = player.does(Write)
    assert claim_in(again).state == LEADING
    assert not player.leads
    player.happens(Written(result(again, 3), player.now))
    assert player.leads
    assert player.state.term is not None
    assert player.state.term.token == 3


def test_watch_that_shows_the_confirmation_makes_no_leader() -> None:
    """What the watch shows is somebody's state a while ago; only the answer says from when on it counts."""
    player = checker()
    player.happens(Confirm(), at=0.5)
    write = player.does(Write)
    player.sees(result(write, 2))
    assert not player.leads
    player.happens(Written(result(write, 2), player.now), at=0.7)
    assert player.leads


@pytest.mark.parametrize("stopped", [DEADLINE, LEASE, 600.0])
def test_confirmation_answered_after_the_deadline_makes_no_leader(stopped: float) -> None:
    """A process that stood still between the confirmation and its answer does not lead by that answer."""
    player = checker()
    player.happens(Confirm(), at=0.5)
    write = player.does(Write)
    player.now += stopped
    assert not player.leads
    player.happens(Written(result(write, 2), 0.5))
    assert not player.leads
    assert player.names == ""


@pytest.mark.parametrize("stopped", [DEADLINE, LEASE, 600.0])
def test_check_that_outlives_its_lease_makes_no_leader(stopped: float) -> None:
    """A holder whose validity ended while it checked starts over; an order to confirm that comes then is void."""
    player = checker()
    player.now = stopped
    player.happens(Confirm())
    assert not player.leads
    assert player.state.term is None
    assert player.state.note == "gave up the lock before leading: the lease was not renewed before the renew deadline"
    again = player.does(Write)
    assert claim_in(again).state == CHECKING
    player.happens(Written(result(again, 2), player.now))
    assert not player.leads


def test_check_is_renewed_as_a_leadership_is() -> None:
    """Until the verdict comes the lock is kept, still checking, once a retry period."""
    player = checker()
    assert player.does(Wait).until == RETRY
    write = player.does(Write, at=RETRY)
    assert claim_in(write).state == CHECKING
    player.happens(Written(result(write, 2), player.now))
    assert not player.leads


@pytest.mark.parametrize("news", [held(2, "b"), held(2, "b", uid="uid-b"), released(2), lock(2, None), lock(2, "?")])
def test_lock_that_is_lost_while_checking(news: Snapshot) -> None:
    """A holder that checks gives up at once when the lock is not its own any more; a verdict changes nothing then."""
    player = checker()
    player.luck = 0.5
    player.sees(news, at=0.5)
    player.happens(Confirm())
    assert player.state.term is None
    player.does(Wait)
    assert not player.leads


def test_restart_while_checking_goes_on_checking() -> None:
    """The same pod's next process finds that it checked: it does not lead before its own confirmation."""
    player = Player("a", balance=FULL)
    player.reads(held(5, "a", uid="uid-a", state=CHECKING))
    assert not player.leads
    write = player.does(Write)
    assert claim_in(write).state == CHECKING
    player.happens(Written(result(write, 6), player.now))
    assert not player.leads
    confirmed(player, version=7)


def test_restart_while_leading_leads_after_a_write() -> None:
    """The same pod's next process finds that it led: it leads once its own write that says so succeeded."""
    player = Player("a", balance=FULL)
    player.reads(held(5, "a", uid="uid-a"))
    assert not player.leads
    write = player.does(Write)
    assert claim_in(write).state == LEADING
    assert not player.leads
    player.happens(Written(result(write, 6), player.now))
    assert player.leads


@pytest.mark.parametrize("balance", [None, Balance(rebalance=False)])
def test_restart_without_hand_over_does_not_go_on_checking(balance: Balance | None) -> None:
    """A process that hands nothing over has nothing to check, also where the one before it had: it leads."""
    player = Player("a", balance=balance)
    player.reads(held(5, "a", uid="uid-a", state=CHECKING))
    player.writes(6)
    assert player.leads


def test_same_name_elsewhere_that_checks_is_not_mine() -> None:
    """A claim that says that my name checks in another pod is not resumed, and not named."""
    player = Player("a", balance=FULL)
    player.reads(held(5, "a", uid="uid-elsewhere", state=CHECKING))
    player.does(Wait)
    assert player.names == ""


def test_without_balance_to_acquire_is_to_lead() -> None:
    """As in the stock image: one write, no census, no check."""
    player = leader()
    assert not any(isinstance(action, Count) for action in player.actions)


def test_without_hand_over_to_acquire_is_to_lead() -> None:
    """Where leaders may not move there is nothing to check: one write after the census."""
    player = Player("a", balance=Balance(rebalance=False))
    player.luck = 0.0
    player.reads(None)
    player.counts()
    player.writes(1)
    assert player.leads


def test_without_census_to_acquire_is_to_lead() -> None:
    """Where no census is to be had there is nothing to check by: the one write makes a leader."""
    player = Player("a", balance=FULL)
    player.luck = 0.0
    player.reads(None)
    player.counts(None)
    player.writes(1)
    assert player.leads


# -- Checking never lasts ----------------------------------------------------------------------------------------------


def leads_within(player: Player, seconds: float) -> float:
    """Let every request be answered at once, and return when the candidate leads, which must be by then."""
    version = 100
    until = player.now + seconds
    while not player.leads:
        list(player.waits())
        assert player.now <= until, "it still does not lead"
        action = player.actions[-1]
        assert isinstance(action, Write | Read)
        version += 1
        if isinstance(action, Write):
            player.happens(Written(result(action, version), player.now))
        else:
            player.happens(Fetched(seen(player), player.now))
    return player.now


@pytest.mark.parametrize("advice", [(), (Nominate("b"),), (Calm(),), (Strike(frozenset({"x"})),)])
def test_without_a_verdict_it_leads_all_the_same(advice: tuple[Nominate | Calm | Strike, ...]) -> None:
    """Whatever the balance does and does not say, a holder leads at the latest when the time to check is over."""
    player = checker()
    for event in advice:
        player.happens(event)
    assert leads_within(player, CHECK_SECONDS) == CHECK_SECONDS


def test_nomination_that_comes_to_nothing_does_not_delay_the_confirmation() -> None:
    """Nominations one after the other, none of which is accepted, hold nobody up for longer than a check may last."""
    player = checker()
    version = 1
    for second in range(4):
        player.happens(Nominate(f"n{second}"), at=float(second))
        version += 1
        player.writes(version)
    assert leads_within(player, CHECK_SECONDS - 3) == CHECK_SECONDS
    assert player.state.term is not None
    assert player.state.term.successor == "n3"


def test_verdict_right_after_the_lapse_of_a_resumed_check() -> None:
    """Whoever starts over because its lease lapsed has a whole check before it, and no more than that."""
    player = checker()
    player.now = DEADLINE
    assert leads_within(player, CHECK_SECONDS) == DEADLINE + CHECK_SECONDS


EVENTS: dict[str, Callable[[], Event]] = {
    "confirm": Confirm,
    "nominate": lambda: Nominate("b"),
    "failed": lambda: Failed(write=True),
    "refused": lambda: Failed(write=True, refused=True),
    "busy": lambda: Failed(write=True, refused=True, retry_after=1.0),
    "conflict": Conflicted,
}


@given(
    events=st.lists(
        st.tuples(st.sampled_from(sorted(EVENTS)), st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.sampled_from([0.0, 0.9])),
        max_size=30,
    )
)
@settings(deadline=None)
def test_no_busy_loop_while_unconfirmed(events: list[tuple[str, float, float]]) -> None:
    """Whatever fails, and whatever is advised: what follows a failure is a wait, and waits lie in the future."""
    player = checker()
    for name, later, luck in events:
        player.luck = luck
        player.now += later
        event = EVENTS[name]()
        player.happens(event)
        player.state, action = next_action(player.state, player.moment())
        if isinstance(event, Failed | Conflicted):
            assert isinstance(action, Wait)
        if isinstance(action, Wait):
            assert action.until > player.now
        elif isinstance(action, Read):
            player.happens(Fetched(seen(player), player.now))


def test_confirmations_that_fail_are_spread() -> None:
    """A confirmation that is refused again and again is repeated a few times a second at the most."""
    player = checker()
    player.luck = 0.5
    player.happens(Confirm(), at=0.1)
    sent = 0
    while player.now < DEADLINE:
        list(player.waits())
        action = player.actions[-1]
        if isinstance(action, Read):
            player.happens(Fetched(seen(player), player.now))
        elif isinstance(action, Write):
            sent += 1
            player.happens(Failed(write=True, refused=True))
    assert 3 < sent < 4 * DEADLINE


# -- Bids that are held back -------------------------------------------------------------------------------------------


def vacant(*, luck: float = 0.0) -> Player:
    """Return a follower that sees at second 1 that the lock was released, and is due to count."""
    player = follower(held(1), balance=FULL, luck=luck)
    player.sees(released(2), at=1.0)
    return player


def test_bid_is_held_back_by_what_was_counted() -> None:
    """The census comes first; then the bid waits as long as it says, and is sent after another look."""
    player = vacant()
    player.counts(1.5)
    assert player.does(Wait).until == 2.5
    player.reads(released(2), at=2.5)
    assert claim_in(player.does(Write)).state == CHECKING


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.99])
def test_bids_are_spread_over_half_a_slot(luck: float) -> None:
    """Candidates on equal nodes do not count and bid at once: the spread is at most half a slot."""
    player = vacant(luck=luck)
    if luck:
        assert player.does(Wait).until == pytest.approx(1.0 + luck * FULL.slot / 2)
        player.now += luck * FULL.slot / 2
    player.does(Count)


@pytest.mark.parametrize(
    ("others", "is_late"),
    [
        ((), False),
        (("Z", "b"), False),
        (("Y", "Z"), True),
        (("X", "Y", "Z", "b"), True),
    ],
)
@pytest.mark.parametrize("node", ["node-a", "node-b"])
def test_first_candidates_of_a_node_bid_first(node: str, others: tuple[str, ...], *, is_late: bool) -> None:
    """Whoever has two others before it on its own node leaves them half a slot: all would find the same."""
    player = Player("a", balance=FULL)
    registered = [Registration(identity=one, node=node, pod_uid="u") for one in ("W", *others)]
    player.reads(
        lock(1, record("W").encode(), others={registration_key(one.identity): one.encode() for one in registered})
    )
    player.happens(WatchStarted())
    waits = player.luck + (is_late and node == player.state.candidacy.node)
    assert player.does(Wait, at=float(LEASE)).until == pytest.approx(LEASE + waits * FULL.slot / 2)


def test_bid_that_was_held_back_sees_the_winner() -> None:
    """Somebody else took the lock meanwhile: there is no bid, and the new holder's lease is waited for."""
    player = vacant()
    player.counts(2.0)
    player.sees(held(3, "c", uid="uid-c", state=CHECKING), at=1.5)
    assert player.does(Wait, at=3.0).until == 1.5 + LEASE


def test_each_vacancy_is_counted_anew() -> None:
    """Leaders have moved by the next vacancy."""
    player = vacant()
    player.counts(2.0)
    player.sees(held(3, "c", uid="uid-c"), at=1.5)
    player.sees(released(4), at=2.0)
    player.does(Count)


def test_count_that_comes_too_late_is_for_no_other_vacancy() -> None:
    """A census that took long says nothing about the lock's next holder, and nothing about the vacancy after it."""
    player = vacant()
    player.does(Count)
    player.sees(held(3, "c", uid="uid-c"), at=1.5)
    player.happens(Counted(2.0), at=1.6)
    assert player.does(Wait).until == 1.5 + LEASE
    player.does(Count, at=1.5 + LEASE)


@pytest.mark.parametrize("delay", [None, 0.0, 0.5, 2.0])
def test_count_that_comes_too_late_does_not_cut_into_the_successors_second(delay: float | None) -> None:
    """The lock was taken and handed over while the census was under way: the successor still comes first."""
    player = vacant()
    player.does(Count)
    player.sees(held(3, "c", uid="uid-c"), at=1.2)
    player.sees(handed(4, "b"), at=1.4)
    player.happens(Counted(delay), at=1.5)
    assert player.does(Wait).until >= 1.4 + SUCCESSOR_SECONDS


def test_newcomer_counts_before_it_bids() -> None:
    """At first sight of a lock that nobody holds a census is taken as well."""
    player = Player("a", balance=FULL)
    player.luck = 0.0
    player.reads(released(3))
    player.does(Count)


def test_bidder_strikes_out_whoever_let_the_lease_run_out() -> None:
    """The holder that is gone is no candidate any more, so that nothing is handed over to it."""
    gone = {registration_key("b"): B.encode()}
    claim = Claim(holder="b", node="node-b", pod_uid="uid-b")
    player = follower(lock(1, record("b").encode(), claim, gone), balance=FULL, luck=0.0)
    player.counts(0.0, at=LEASE)
    player.reads(seen(player), at=LEASE)
    write = player.does(Write)
    assert claim_in(write).state == LEADING, "there was no leader for long enough"
    assert write.others[registration_key("b")] is None
    assert set(registrations(result(write, 2).annotations)) == {registration_key("a")}


# -- Handing over ------------------------------------------------------------------------------------------------------


def handing() -> Player:
    """Return a leader that was just told to hand over to b, at second 1, at version 2 of the lock object."""
    player = confirmed(checker())
    player.happens(Nominate("b"), at=1.0)
    player.writes(3)
    player.happens(HandOver(B), at=1.5)
    return player


def test_nomination_is_written_and_leads_on() -> None:
    """Whoever nominates still leads and renews; the nominee's name stands in the claim, and can be taken back."""
    player = confirmed(checker())
    player.happens(Nominate("b"), at=1.0)
    write = player.does(Write)
    assert (claim_in(write).successor, claim_in(write).state, write.why) == ("b", LEADING, "nominate")
    player.happens(Written(result(write, 3), player.now))
    assert player.leads
    assert player.state.term is not None
    assert player.state.term.nominated_in == 3
    player.happens(Nominate(""), at=2.0)
    assert claim_in(player.does(Write)).successor == ""


def test_nomination_whose_answer_was_lost_is_written_again() -> None:
    """Which version nominates is known from an answer only."""
    player = confirmed(checker())
    player.happens(Nominate("b"), at=1.0)
    write = player.does(Write)
    player.happens(Failed(write=True), at=1.1)
    player.now = player.does(Wait).until
    player.reads(result(write, 3))
    player.writes(4)
    assert player.state.term is not None
    assert player.state.term.nominated_in == 4


def test_hands_over_after_it_stopped_leading() -> None:
    """Revoked in the instant of the decision, before anything is sent; then read, then released for the successor."""
    player = handing()
    assert not player.leads
    assert player.names == ""
    assert player.state.note == "stopped leading: handing over to b on node-b"
    player.reads(seen(player))
    write = player.does(Write)
    assert write.base == seen(player)
    assert (write.record.holder, write.record.lease_seconds) == ("", 1)
    claim = Claim(holder="", node="node-b", pod_uid="uid-b", successor="b", moves=1)
    assert write.claim == belonging(claim, write.record.encode())
    player.happens(Written(result(write, 4), player.now))
    assert not player.leads
    assert player.names == ""


def test_hand_over_before_it_ever_led() -> None:
    """A holder that checks hands over in the same way."""
    player = checker()
    player.happens(HandOver(B), at=0.5)
    assert player.state.note == "gave up the lock before leading: handing over to b on node-b"
    player.reads(seen(player))
    assert player.does(Write).record.holder == ""


def test_whoever_handed_over_waits_like_everybody_else() -> None:
    """After the release the lock is the successor's for a second, also for who released it."""
    player = handing()
    player.luck = 0.99
    player.reads(seen(player))
    player.writes(4)
    assert SUCCESSOR_SECONDS <= player.does(Wait).until - player.now < SUCCESSOR_SECONDS + FULL.slot / 2
    assert player.state.handing_to is None


TAKEN = [
    pytest.param(None, id="gone"),
    pytest.param(held(4), id="taken-over"),
    pytest.param(held(4, "b", uid="uid-b", state=CHECKING), id="taken-over-by-the-nominee"),
    pytest.param(released(4), id="released"),
    pytest.param(handed(4, "c"), id="handed-to-another"),
    pytest.param(lock(4, None), id="stripped"),
    pytest.param(lock(4, "?"), id="damaged"),
    pytest.param(held(4, "a", uid="uid-elsewhere", renewed=1), id="my-name-in-another-pod"),
    pytest.param(held(4, "a", renewed=1), id="my-name-without-claim"),
    pytest.param(held(4, "a", uid="uid-a", renewed=1), id="my-claim-beside-a-record-that-i-never-wrote"),
]


@pytest.mark.parametrize("found", TAKEN)
def test_hands_over_only_what_is_still_its_own(found: Snapshot | None) -> None:
    """If the read shows anything but the very record of that term, nothing is written, and it follows again."""
    player = handing()
    player.reads(found)
    assert not isinstance(next_action(player.state, player.moment())[1], Write | Leave)
    assert not player.leads


@pytest.mark.parametrize("found", TAKEN)
def test_conflict_on_the_hand_over_is_read_again(found: Snapshot | None) -> None:
    """Somebody else changed the object: it is read, and what is not its own any more is left alone."""
    player = handing()
    player.reads(seen(player))
    player.does(Write)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    player.reads(found)
    assert not isinstance(next_action(player.state, player.moment())[1], Write | Leave)


def test_conflict_that_changed_nothing_of_its_own_is_no_end_of_the_hand_over() -> None:
    """A registration was written meanwhile: the release is repeated, in the place of what was read."""
    player = handing()
    before = seen(player)
    player.reads(before)
    player.does(Write)
    player.happens(Conflicted())
    player.now = player.does(Wait).until
    claim = before.annotations[CLAIM_ANNOTATION]
    touched = lock(4, before.text, claim, {registration_key("c"): "{}"})
    player.reads(touched)
    write = player.does(Write)
    assert write.base is touched
    assert write.record.holder == ""


def test_hand_over_without_a_term_is_void() -> None:
    """Who does not hold the lock has nothing to hand over, whatever it is told."""
    player = follower(held(5), balance=FULL)
    player.happens(HandOver(B), at=1.0)
    assert player.does(Wait).until == LEASE
    assert player.state.handing_to is None


@pytest.mark.parametrize("lapse", [DEADLINE + 0.5, LEASE, 600.0])
def test_hand_over_that_comes_after_the_lapse_is_void(lapse: float) -> None:
    """A verdict that came while the process stood still meets no term, so it releases nothing."""
    player = confirmed(checker())
    player.happens(HandOver(B), at=lapse + 0.5)
    assert player.state.handing_to is None
    assert player.does(Write).record.holder == "a"


@pytest.mark.parametrize("applied", [True, False])
def test_release_of_unknown_outcome_is_settled_by_reading(*, applied: bool) -> None:
    """The answer to the release was lost: a read shows whether there is anything left to release."""
    player = handing()
    before = seen(player)
    player.reads(before)
    write = player.does(Write)
    player.happens(Failed(write=True), at=2.0)
    player.now = player.does(Wait).until
    player.reads(result(write, 4) if applied else before)
    if applied:
        assert player.does(Wait).until >= player.now + SUCCESSOR_SECONDS
    else:
        assert player.does(Write).record.holder == ""
    assert not player.leads


@pytest.mark.parametrize("leads", [True, False])
def test_write_under_way_begins_no_term_once_it_hands_over(*, leads: bool) -> None:
    """A renewal, or the confirmation, that is answered after the decision makes no leader; its record is released."""
    player = confirmed(checker()) if leads else checker()
    if not leads:
        player.happens(Confirm(), at=0.5)
    write = player.does(Write, at=0.5 + leads * RETRY)
    player.happens(HandOver(B), at=player.now + 0.1)
    player.happens(Written(result(write, 9), player.now - 0.1), at=player.now + 0.1)
    assert not player.leads
    assert player.state.term is None
    player.reads(result(write, 9))
    assert player.does(Write).record.holder == ""


def test_hand_over_while_nothing_is_answered_ends_in_a_lapse() -> None:
    """With an API server that hangs it asks and asks, leads no more, and never claims what it gave up."""
    player = handing()
    while player.now < 3 * LEASE:
        list(player.waits())
        assert isinstance(player.actions[-1], Read)
        assert not player.leads
        player.now += 1.0
        player.happens(Failed())
    player.reads(held(9, "c", uid="uid-c"), at=player.does(Wait).until)
    player.does(Wait)
    assert player.names == "c"


def test_news_of_a_successor_ends_the_hand_over() -> None:
    """The watch is faster than the answer: somebody holds the lock already, and nothing more is written."""
    player = handing()
    player.reads(seen(player))
    write = player.does(Write)
    player.sees(result(write, 4), at=1.6)
    player.sees(held(5, "b", uid="uid-b"), at=1.7)
    player.happens(Written(result(write, 4), 1.5), at=1.8)
    player.reads(held(5, "b", uid="uid-b"), at=player.does(Wait).until)
    player.does(Wait)
    assert player.names == "b"
    assert player.state.handing_to is None


# -- Leaving in the middle of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["nominated", "revoked", "read", "released"])
def test_leaving_in_the_middle_of_a_hand_over(stage: str) -> None:
    """SIGTERM at any stage: what is still held is released, what is not is left alone, and the process goes."""
    player = confirmed(checker())
    player.happens(Nominate("b"), at=1.0)
    player.writes(3)
    mine = seen(player)
    if stage != "nominated":
        player.happens(HandOver(B), at=1.5)
    if stage in ("read", "released"):
        player.reads(mine)
    if stage == "released":
        player.writes(4)
    player.happens(Leaving(), at=2.0)
    assert not player.leads
    if stage == "released":
        player.reads(seen(player))
    else:
        player.reads(mine)
        write = player.does(Write)
        assert (write.record.holder, write.claim) == ("", None)
        assert write.others[registration_key("a")] is None
        player.happens(Written(result(write, 5), player.now))
    player.does(Leave)


def test_leaving_while_checking_releases() -> None:
    """A holder that checks gives the lock up like a leader."""
    player = checker()
    player.happens(Leaving(), at=0.5)
    player.reads(seen(player))
    assert player.does(Write).record.holder == ""


def test_leaving_while_the_bid_is_held_back() -> None:
    """Whoever only waits to bid holds nothing, and goes without a request."""
    player = vacant()
    player.counts(2.0)
    player.happens(Leaving(), at=1.5)
    player.does(Leave)


def test_advice_that_comes_after_the_order_to_leave_is_void() -> None:
    """Nobody nominates, confirms or hands over on the way out."""
    player = confirmed(checker())
    player.happens(Leaving(), at=1.0)
    for advice in (Confirm(), Nominate("b"), HandOver(B)):
        player.happens(advice)
    player.reads(seen(player))
    assert player.does(Write).claim is None


# -- The successor, and everybody else ---------------------------------------------------------------------------------


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.99])
def test_successor_takes_the_lock_at_once_and_leads(luck: float) -> None:
    """No wait, no census, no check: it was decided that this is the right node."""
    player = follower(held(1, "b", uid="uid-b"), balance=FULL)
    player.luck = luck
    player.sees(handed(2, "a", moves=2), at=1.0)
    action = next_action(player.state, player.moment())[1]
    if isinstance(action, Read):
        player.reads(handed(2, "a", moves=2))
    write = player.does(Write)
    assert player.now == 1.0
    assert (claim_in(write).state, claim_in(write).moves, claim_in(write).successor) == (LEADING, 2, "")
    assert not player.leads
    player.happens(Written(result(write, 3), player.now))
    assert player.leads


@pytest.mark.parametrize(("successor", "uid"), [("b", "uid-b"), ("a", "uid-elsewhere"), ("b", "uid-a"), ("a", "")])
@pytest.mark.parametrize("luck", [0.0, 0.99])
def test_everybody_else_waits_a_second(successor: str, uid: str, luck: float) -> None:
    """The successor is a name and a pod: whoever has only one of them waits, and has the lock a little later."""
    player = follower(held(1, "c", uid="uid-c"), balance=FULL)
    player.luck = luck
    claim = Claim(holder="", node="node-b", pod_uid=uid, successor=successor)
    handed_over = lock(2, record("", lease=1).encode(), claim)
    player.sees(handed_over, at=1.0)
    waited = player.does(Wait).until - 1.0
    assert SUCCESSOR_SECONDS <= waited <= SUCCESSOR_SECONDS + FULL.slot / 2


@pytest.mark.parametrize("slots", [0, 1, 4])
def test_vacancy_that_a_successor_left_is_soon_filled(slots: int) -> None:
    """Everybody has waited for the successor already, so what the census adds is a small part of the usual."""
    player = follower(held(1, "c", uid="uid-c"), balance=FULL)
    player.luck = 0.0
    player.sees(handed(2, "b"), at=1.0)
    player.now = player.does(Wait).until
    player.counts(slots * FULL.slot)
    list(player.waits())
    assert player.now <= 1.0 + SUCCESSOR_SECONDS + 0.3
    assert isinstance(player.actions[-1], Read | Write)


def test_successor_that_did_not_come_is_struck_out() -> None:
    """Whoever takes the lock in the place of its successor takes that one off, or it would be nominated again."""
    there = {registration_key("b"): B.encode()}
    claim = Claim(holder="", node="node-b", pod_uid="uid-b", successor="b")
    left = lock(2, record("", lease=1).encode(), claim, there)
    player = follower(held(1, "c", uid="uid-c"), balance=FULL)
    player.luck = 0.0
    player.sees(left, at=1.0)
    player.counts(0.0, at=1.0 + SUCCESSOR_SECONDS)
    player.reads(left)
    write = player.does(Write)
    assert claim_in(write).state == LEADING, "there was no leader for long enough"
    assert write.others[registration_key("b")] is None


def test_stock_candidates_know_no_successor() -> None:
    """One that is blind to nodes, of ours, leaves the successor its second as well."""
    player = follower(held(1, "c"))
    player.sees(handed(2, "b"), at=1.0)
    assert player.does(Wait).until >= 1.0 + SUCCESSOR_SECONDS


# -- Beside stock peers ------------------------------------------------------------------------------------------------


def beside(version: int, holder: str, claim: Claim, *, renewed: int = 0) -> Snapshot:
    """Return what a stock peer leaves: its own record, and the claim that stood there before."""
    return lock(version, record(holder, renewed=renewed).encode(), claim.encode())


STALE = [
    pytest.param(Claim(holder="b", node="node-b", pod_uid="uid-b"), id="of-a-leader"),
    pytest.param(Claim(holder="b", node="node-b", pod_uid="uid-b", state=CHECKING), id="of-one-that-checked"),
    pytest.param(Claim(holder="a", node="node-a", pod_uid="uid-a"), id="mine"),
    pytest.param(Claim(holder="a", node="node-a", pod_uid="uid-a", state=CHECKING), id="mine-checking"),
    pytest.param(Claim(holder="", node="node-a", pod_uid="uid-a", successor="a"), id="naming-me-successor"),
    pytest.param(Claim(holder="", node="node-b", pod_uid="uid-b", successor="b"), id="naming-a-successor"),
    pytest.param(Claim(holder="b", node="node-b", pod_uid="uid-b", successor="a"), id="nominating-me"),
]


@pytest.mark.parametrize("stale", STALE)
def test_claim_beside_a_stock_peers_record_says_nothing(stale: Claim) -> None:
    """A stock peer leads, whatever an older claim says beside its record: it is named, and waited for."""
    player = follower(beside(1, "stock", stale), balance=FULL)
    assert player.names == "stock"
    assert player.does(Wait).until == LEASE
    player.sees(beside(2, "stock", stale, renewed=2), at=2.0)
    assert player.names == "stock"
    assert player.does(Wait).until == 2.0 + LEASE


@pytest.mark.parametrize("stale", STALE)
def test_lock_that_a_stock_peer_gave_up_is_taken(stale: Claim) -> None:
    """What an older claim says can cost the successor's second at the worst, and never more."""
    player = follower(beside(1, "stock", stale), balance=FULL)
    player.sees(beside(2, "", stale), at=1.0)
    while not isinstance(action := next_action(player.state, player.moment())[1], Count | Write):
        if isinstance(action, Wait):
            player.now = action.until
        else:
            player.reads(beside(2, "", stale))
    assert player.now <= 1.0 + SUCCESSOR_SECONDS + FULL.slot / 2


@pytest.mark.parametrize("stale", STALE)
def test_lock_that_a_stock_peer_takes_is_lost(stale: Claim) -> None:
    """A leader of ours, and a holder that checks, give way to a stock peer's record at once."""
    for player in (confirmed(checker()), checker()):
        player.sees(beside(9, "stock", stale), at=1.0)
        assert not player.leads
        assert player.names == "stock"
        player.happens(HandOver(B))
        assert isinstance(next_action(player.state, player.moment())[1], Wait)


# -- Small matters -----------------------------------------------------------------------------------------------------


def test_moves_are_counted_until_it_is_calm() -> None:
    """The count goes from term to term by the claim, and ends when the group has settled."""
    player = follower(held(1, "c", uid="uid-c"), balance=FULL)
    player.sees(handed(2, "a", moves=MOVE_LIMIT), at=1.0)
    player.reads(handed(2, "a", moves=MOVE_LIMIT))
    player.writes(3)
    assert player.state.term is not None
    assert player.state.term.moves == MOVE_LIMIT
    player.happens(Calm(), at=1.5)
    assert claim_in(player.does(Write)).moves == 0, "others plan with it, so it is told at once"


def test_moves_are_remembered_after_a_leader_that_ended() -> None:
    """A release without a successor has no claim; whoever takes the lock then goes on counting what it saw before."""
    player = follower(held(1, "c", uid="uid-c"), balance=FULL)
    claim = Claim(holder="c", node="node-c", pod_uid="uid-c", moves=3)
    player.sees(lock(2, record("c", renewed=1).encode(), claim), at=1.0)
    player.sees(released(3), at=2.0)
    player.does(Count, at=3.0)
    player.happens(Counted(0.0))
    player.reads(released(3))
    assert claim_in(player.does(Write)).moves == 3


@pytest.mark.parametrize("advice", [Confirm(), Nominate("b"), HandOver(B), Strike(frozenset({"x"})), Calm()])
def test_advice_to_a_follower_is_void(advice: Confirm | Nominate | HandOver | Strike | Calm) -> None:
    """Whoever holds nothing does nothing of what the balance says to holders."""
    player = follower(held(1), balance=FULL)
    before = player.state
    player.happens(advice)
    assert player.state == before


def test_own_registration_is_kept_right_by_every_write() -> None:
    """A holder whose registration was struck out, or names another pod, writes it with its next renewal."""
    player = confirmed(checker())
    key = registration_key("a")
    assert registrations(seen(player).annotations)[key].pod_uid == "uid-a"
    other = Registration(identity="a", node="node-x", pod_uid="uid-x").encode()
    for version, found in ((3, {}), (4, {key: other}), (5, {key: "garbage"})):
        player.sees(lock(version, seen(player).text, seen(player).annotations[CLAIM_ANNOTATION], found))
        write = player.does(Write, at=player.now + RETRY)
        assert registrations(result(write, version).annotations)[key].pod_uid == "uid-a"
        player.happens(Failed(write=True, refused=True))
        player.now = player.does(Wait).until
        player.reads(seen(player))


def test_what_is_struck_out_is_forgotten_once_it_is_gone() -> None:
    """Annotations are taken off by one write, and not by every write after it."""
    key = registration_key("b")
    player = confirmed(checker())
    player.sees(lock(3, seen(player).text, seen(player).annotations[CLAIM_ANNOTATION], {key: B.encode()}), at=1.0)
    player.happens(Strike(frozenset({key})))
    write = player.does(Write, at=1.0 + RETRY)
    assert write.others[key] is None
    player.happens(Written(result(write, 4), player.now))
    assert key not in player.does(Write, at=player.now + RETRY).others
