"""Settling: when a candidate registers, looks, nominates, accepts and nudges, and that it never gets lost in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.balance import MOVE_LIMIT, Census, Election
from sidecar.election import Balance, Calm, Confirm, HandOver, Moment, Nominate, Observed, State, Strike, Term
from sidecar.record import CHECKING, CLAIM_ANNOTATION, LEADING, LOOK_ANNOTATION, RECORD_ANNOTATION, Claim
from sidecar.registration import REGISTRATION_LIMIT, Registration, registration_key, registrations
from sidecar.settling import (
    ACCEPTANCE_SECONDS,
    BLIND_SECONDS,
    CALM_SECONDS,
    LARGE_GROUP,
    MISSED_STAMPS,
    NUDGE_SECONDS,
    NUDGES,
    PAUSE,
    REGISTER_BACKOFF,
    SAFETY_SECONDS,
    SECOND_LOOK,
    STAMP_SECONDS,
    STAMPS_A_SECOND,
    Advise,
    Look,
    Pause,
    Register,
    Settling,
    Verdict,
    looked,
    next_step,
    observe,
    stamp_seconds,
)
from tests.unit.player import EPOCH, belonging, candidacy, lock, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.settling import Step

LOCK = "apps/mine"
S = TypeVar("S", Pause, Register, Look, Advise)


def registered(identity: str, node: str, **changes: int) -> Registration:
    """Return a candidate's registration."""
    return Registration(identity=identity, node=node, pod_uid=f"uid-{identity}", **changes)


def under_keys(*there: Registration) -> dict[str, str | None]:
    """Return these registrations as they stand on the lock object."""
    return {registration_key(each.identity): each.encode() for each in there}


@dataclass
class LockObject:
    """The lock object, and what happens to it."""

    version: int = 1
    annotations: dict[str, str] = field(default_factory=lambda: {RECORD_ANNOTATION: record("z").encode()})

    def change(self, changes: Mapping[str, str | None]) -> None:
        """Set these annotations, and take off those that are `None`."""
        self.version += 1
        merged = {**self.annotations, **changes}
        self.annotations = {key: value for key, value in merged.items() if value is not None}


class Settler:
    """One candidate's settling, moved by hand: the clock, the luck, and what the election knows are the test's."""

    def __init__(
        self, identity: str = "a", *, node: str = "n1", pod_uid: str = "", at: LockObject | None = None
    ) -> None:
        me = replace(candidacy(identity, pod_uid=pod_uid, balance=Balance()), node=node)
        self.settling = Settling(candidacy=me, lock=LOCK)
        self.at = LockObject() if at is None else at
        self.there = True
        self.term: Term | None = None
        self.watching = True
        self.leaving = False
        self.now = 0.0
        self.luck = 0.5

    # -- What the election knows --

    def moment(self) -> Moment:
        """Return what the outside world reads now."""
        return Moment(now=self.now, wall=EPOCH + int(self.now), luck=self.luck)

    def state(self) -> State:
        """Return the election's state: as much of it as settling asks for."""
        others = dict(self.at.annotations)
        snapshot = lock(
            self.at.version, others.pop(RECORD_ANNOTATION, None), others.pop(CLAIM_ANNOTATION, None), others
        )
        observed = Observed(
            snapshot=snapshot if self.there else None,
            version=self.at.version,
            seen_at=self.now,
            mine=self.term is not None,
            held_until=math.inf,
            bid_at=math.inf,
        )
        me = self.settling.candidacy
        return State(candidacy=me, observed=observed, term=self.term, watching=self.watching, leaving=self.leaving)

    def claims(self, *, state: str = LEADING, successor: str = "") -> None:
        """Write this candidate's record and claim, which begins, confirms or renews its term, or nominates."""
        me = self.settling.candidacy
        claim = Claim(holder=me.identity, node=me.node, pod_uid=me.pod_uid, state=state, successor=successor)
        text = record(me.identity).encode()
        self.at.change({RECORD_ANNOTATION: text, CLAIM_ANNOTATION: belonging(claim, text).encode()})
        before = self.term
        nominated_in = self.at.version
        if before is not None and before.written.successor == successor:
            nominated_in = before.nominated_in
        self.term = Term(
            token=self.at.version,
            since=EPOCH,
            renewed_at=self.now,
            valid_until=math.inf,
            confirmed=state == LEADING,
            confirm_at=math.inf,
            successor=successor,
            nominated_in=nominated_in if successor else 0,
            written=claim,
        )

    def loses(self) -> None:
        """End this candidate's term: somebody else holds the lock."""
        self.term = None
        self.at.change({RECORD_ANNOTATION: record("z").encode(), CLAIM_ANNOTATION: None})

    def shows(self, *there: Registration) -> None:
        """Have these registrations stand on the lock object."""
        self.at.change(under_keys(*there))

    def strikes(self, *identities: str) -> None:
        """Have these candidates' registrations taken off the lock object."""
        self.at.change({registration_key(identity): None for identity in identities})

    def nudged(self, counter: str) -> None:
        """Have somebody nudge."""
        self.at.change({LOOK_ANNOTATION: counter})

    # -- What it does --

    def step(self, at: float | None = None) -> Step:
        """Return what it does next."""
        if at is not None:
            self.now = at
        self.settling = observe(self.settling, self.state(), self.moment())
        self.settling, step = next_step(self.settling, self.moment())
        return step

    def does(self, kind: type[S], at: float | None = None) -> S:
        """Return what it does next, which must be of this kind."""
        step = self.step(at)
        assert isinstance(step, kind), f"expected {kind.__name__}, not {step}"
        return step

    def rests(self, at: float | None = None) -> float:
        """Return until when it does nothing."""
        until = self.does(Pause, at).until
        assert until > self.now, "a pause that is over already is a busy loop"
        return until

    def registers(self, at: float | None = None) -> Registration | None:
        """Have it register, or withdraw, and the write be applied; return what it wrote."""
        written = self.does(Register, at).registration
        key = registration_key(self.settling.candidacy.identity)
        self.at.change({key: written.encode() if written else None})
        return written

    def decides(self, census: Census | None) -> Verdict:
        """Return what it decides on the census that it asked for."""
        settling = observe(self.settling, self.state(), self.moment())
        self.settling, verdict = looked(settling, census, self.moment())
        return verdict

    def next_look(self) -> float:
        """Let it rest until it looks, whatever it writes in between, and return when that is."""
        while True:
            match self.step():
                case Pause(until):
                    assert until > self.now
                    self.now = until
                case Look():
                    return self.now
                case Register(registration):
                    key = registration_key(self.settling.candidacy.identity)
                    self.at.change({key: registration.encode() if registration else None})
                case Advise():
                    pass


def follower(*others: Registration) -> Settler:
    """Return a candidate that is registered beside these; somebody else holds the lock."""
    settler = Settler()
    settler.shows(*others)
    settler.registers()
    settler.rests()
    return settler


def holder(*others: Registration, state: str = LEADING) -> Settler:
    """Return a candidate that has just taken the lock, and is registered there as these are."""
    settler = follower(*others)
    settler.claims(state=state)
    return settler


B, C = registered("b", "n2"), registered("c", "n2")
NOBODY = Census(())
"""A census that moves nothing."""


def census(*others: Election, target: str = "n2") -> Census:
    """Return a census by which the settler's election, on n1, should be led on `target`; `others` are there as well."""
    mine = Election(name=LOCK, node="n1", term=9, nodes=frozenset({"n1", target}), movable=True)
    return Census((mine, Election(name="apps/immovable", node="n1"), *others))


MOVE = census()


def settled(*others: Registration) -> Settler:
    """Return a leader whose election has settled."""
    settler = holder(*others)
    settler.next_look()
    while Calm() not in settler.decides(NOBODY).advice:
        settler.next_look()
    return settler


def nominating(*others: Registration) -> Settler:
    """Return a leader that nominated `b`, on n2, a moment ago."""
    settler = holder(B, *others)
    settler.next_look()
    assert settler.decides(MOVE).advice == (Nominate("b"),)
    settler.claims(successor="b")
    settler.rests()
    return settler


def accepting(settler: Settler, **changes: int) -> Registration:
    """Have `b` accept the nomination; return its registration."""
    accepted = replace(registered("b", "n2", **changes), accepted=settler.at.version)
    settler.shows(accepted)
    return accepted


# -- Registering -------------------------------------------------------------------------------------------------------


def test_registers_at_once() -> None:
    """As soon as there is a lock object, a candidate says on it that it is there, whoever holds the lock."""
    settler = Settler()
    settler.there = False
    assert settler.rests() == math.inf
    settler.there = True
    assert settler.registers(3.0) == registered("a", "n1")
    assert settler.rests() >= 3.0 + STAMP_SECONDS


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
def test_stamps_its_registration_now_and_then(luck: float) -> None:
    """After a period, and at most a fifth more, the counter is raised; what was accepted stays."""
    settler = Settler()
    settler.luck = luck
    settler.registers()
    settler.shows(registered("a", "n1", seen=3, accepted=4))
    stamp_at = settler.rests()
    assert STAMP_SECONDS <= stamp_at <= 1.2 * STAMP_SECONDS
    assert settler.registers(stamp_at) == registered("a", "n1", seen=4, accepted=4)
    assert settler.rests() >= stamp_at + STAMP_SECONDS


@pytest.mark.parametrize(
    ("candidates", "seconds"), [(1, 300), (6, 300), (7, 350), (50, 2500), (REGISTRATION_LIMIT, 25_000)]
)
def test_stamps_of_one_election_are_bounded(candidates: int, seconds: float) -> None:
    """The more candidates an election has, the less often each of them stamps."""
    assert stamp_seconds(candidates) == pytest.approx(seconds)
    assert candidates / stamp_seconds(candidates) <= STAMPS_A_SECOND
    settler = Settler()
    settler.luck = 0.0
    settler.shows(*(registered(f"c-{number:03}", "n2") for number in range(candidates - 1)))
    settler.registers()
    assert settler.rests() == pytest.approx(seconds)


def test_tries_again_to_register() -> None:
    """Attempts that come to nothing are made at growing intervals, up to the longest."""
    settler = Settler()
    settler.luck = 0.999
    attempts: list[float] = []
    while len(attempts) < 13:
        settler.does(Register)
        attempts.append(settler.now)
        settler.now = settler.rests()
    pauses = [after - before for before, after in pairwise(attempts)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300], rel=0.01)


def test_registers_again_when_struck_out() -> None:
    """A candidate that lives, and is not registered any more, registers again: soon, and then less and less soon."""
    settler = follower()
    pauses = []
    for _ in range(12):
        struck_at = settler.now
        settler.strikes("a")
        settler.now = settler.rests()
        pauses.append(settler.now - struck_at)
        assert settler.registers() == registered("a", "n1")
        settler.rests()
    first, longest = REGISTER_BACKOFF
    assert first / 2 <= pauses[0] <= first
    assert pauses == sorted(pauses)
    assert longest / 2 <= pauses[-1] <= longest


def test_who_stayed_for_long_registers_again_at_once() -> None:
    """What was struck out long ago does not count once the registration stayed for a whole period."""
    settler = follower()
    for _ in range(5):
        settler.strikes("a")
        settler.registers(settler.rests())
        settler.rests()
    settler.registers(settler.rests())
    settler.rests()
    settler.strikes("a")
    assert settler.registers(settler.now + 60) == registered("a", "n1")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Registration(identity="a", node="n1", pod_uid="another"), id="another-pod"),
        pytest.param(Registration(identity="a", node="n9", pod_uid="uid-a"), id="another-node"),
    ],
)
def test_what_stands_under_its_name_is_not_always_its_own(other: Registration) -> None:
    """A registration of another pod, or from another node, under the same name is put right."""
    settler = Settler()
    settler.shows(other)
    assert settler.registers() == registered("a", "n1")


def test_two_pods_of_one_name_make_no_storm() -> None:
    """Two who register under one name overwrite each other less and less often, and neither ever gives up."""
    at = LockObject()
    pods = [Settler(pod_uid=uid, at=at) for uid in ("one", "two")]
    writes: list[tuple[float, int]] = []
    now = 0.0
    while now < 3600:
        wakes = []
        for number, pod in enumerate(pods):
            pod.luck = 0.1 + 0.6 * number
            match pod.step(now):
                case Pause(until):
                    wakes.append(until)
                case _:
                    pod.now = now
                    at.change(under_keys(replace(registered("a", "n1"), pod_uid=pod.settling.candidacy.pod_uid)))
                    writes.append((now, number))
                    wakes.append(now + 0.001)
        now = min(wakes)
    assert len(writes) < 60
    assert len([when for when, _ in writes if when < 60]) < 20
    assert {number for when, number in writes if when > 3000} == {0, 1}


def test_registers_at_once_on_a_new_lock_object() -> None:
    """A lock object that was deleted and made again is registered on like the first one."""
    settler = follower()
    settler.there = False
    assert settler.rests(10.0) == math.inf
    settler.strikes("a")
    settler.there = True
    assert settler.registers(11.0) == registered("a", "n1")


def test_nobody_registers_who_would_not_be_read() -> None:
    """Where as many are registered as anybody reads, one more does not add to them, until there is room."""
    crowd = [registered(f"b-{number:03}", "n2") for number in range(REGISTRATION_LIMIT)]
    settler = Settler()
    settler.at.change(under_keys(*crowd))
    assert settler.rests(1.0) == math.inf
    settler.strikes("b-007")
    assert settler.registers(2.0) == registered("a", "n1")


def test_who_leaves_does_not_register() -> None:
    """A candidate that was told to end does nothing any more."""
    settler = Settler()
    settler.leaving = True
    assert settler.rests() == math.inf


# -- Blind -------------------------------------------------------------------------------------------------------------


def test_withdraws_when_blind() -> None:
    """Who is not shown changes could not accept in time, and withdraws its registration, once, after a while."""
    settler = follower()
    settler.watching = False
    assert settler.rests(100.0) == 100.0 + BLIND_SECONDS
    assert settler.registers(100.0 + BLIND_SECONDS) is None
    assert settler.rests() == math.inf
    assert settler.rests(5000.0) == math.inf


def test_a_watch_that_has_begun_is_given_time_to_show_something() -> None:
    """Nothing but a renewal may show that it works, so nobody counts as blind within two retry periods."""
    settler = follower()
    settler.settling = replace(settler.settling, candidacy=replace(settler.settling.candidacy, retry_period=20.0))
    settler.watching = False
    assert settler.rests(100.0) == 140.0


def test_tries_again_to_withdraw() -> None:
    """A withdrawal that came to nothing, as where the API server is down, is tried again after as long, no sooner."""
    settler = follower()
    settler.watching = False
    settler.rests(100.0)
    for attempt in range(1, 5):
        assert settler.does(Register, 100.0 + attempt * BLIND_SECONDS).registration is None
        assert settler.rests() == 100.0 + (attempt + 1) * BLIND_SECONDS


def test_registers_at_first_without_a_watch() -> None:
    """A watch takes a moment to show something; until it is given up, the candidate is registered."""
    settler = Settler()
    settler.watching = False
    assert settler.registers() == registered("a", "n1")
    assert settler.rests() == BLIND_SECONDS


@pytest.mark.parametrize("withdrawn", [True, False])
def test_comes_back_when_watching(withdrawn: bool) -> None:  # noqa: FBT001 - a table's column
    """As soon as changes are shown again it registers, whether its withdrawal was applied or not."""
    settler = follower()
    settler.watching = False
    settler.rests()
    settler.does(Register, 60.0)
    if withdrawn:
        settler.strikes("a")
    settler.rests(61.0)
    settler.watching = True
    assert settler.registers(70.0) == registered("a", "n1", seen=0 if withdrawn else 1)


def test_a_short_blindness_changes_nothing() -> None:
    """A watch that is renewed in time costs no write."""
    settler = follower()
    stamp_at = settler.rests()
    settler.watching = False
    settler.rests(100.0)
    settler.watching = True
    assert settler.rests(100.0 + BLIND_SECONDS - 0.1) == stamp_at
    settler.watching = False
    assert settler.rests(200.0) == 200.0 + BLIND_SECONDS, "each blindness is counted from its own beginning"


def test_a_blind_holder_stays_registered() -> None:
    """A holder learns what changes from its own renewals."""
    settler = settled(B)
    settler.watching = False
    settler.rests()
    settler.now += BLIND_SECONDS
    settler.rests()
    assert settler.settling.registered is not None


# -- Accepting ---------------------------------------------------------------------------------------------------------


def nominate(settler: Settler, successor: str = "a", *, holder_name: str = "z", renewed: int = 0) -> int:
    """Have the holder nominate, or renew while the nomination stands; return the version in which it did."""
    text = record("z", renewed=renewed).encode()
    claim = Claim(holder=holder_name, node="n9", pod_uid="uid-z", successor=successor)
    settler.at.change({RECORD_ANNOTATION: text, CLAIM_ANNOTATION: belonging(claim, text).encode()})
    return settler.at.version


def test_accepts_at_once() -> None:
    """Who sees itself nominated says so with the version that it saw, and no more than once when that was applied."""
    settler = follower()
    settler.shows(registered("a", "n1", seen=5))
    version = nominate(settler)
    assert settler.registers(50.0) == registered("a", "n1", seen=5, accepted=version)
    assert settler.rests() >= 50.0 + STAMP_SECONDS
    nominate(settler, renewed=1)
    assert settler.rests(52.0) >= 52.0 + STAMP_SECONDS - 2.0, "a renewal is no other nomination"


def test_tries_again_to_accept() -> None:
    """An acceptance that came to nothing is tried again while there is time, with the version first seen."""
    settler = follower()
    version = nominate(settler)
    settler.does(Register, 50.0)
    again = settler.rests()
    assert 50.0 + ACCEPTANCE_SECONDS / 4 <= again <= 50.0 + ACCEPTANCE_SECONDS / 2
    nominate(settler, renewed=1)
    assert settler.does(Register, again).registration == registered("a", "n1", accepted=version)


def test_each_nomination_is_accepted_anew() -> None:
    """A nomination after one that was withdrawn is another one."""
    settler = follower()
    nominate(settler)
    settler.registers()
    nominate(settler, "")
    settler.rests(51.0)
    version = nominate(settler)
    assert settler.registers(52.0) == registered("a", "n1", accepted=version)


def test_a_nomination_on_a_new_lock_object_is_another_one() -> None:
    """A nomination that stood when the lock object was deleted is over."""
    settler = follower()
    nominate(settler)
    settler.registers()
    settler.there = False
    settler.rests(10.0)
    settler.there = True
    settler.shows(registered("a", "n1"))
    version = nominate(settler)
    assert settler.registers() == registered("a", "n1", accepted=version)


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (Claim(holder="z", node="n9", pod_uid="u", successor="b"), "another's nomination"),
        (Claim(holder="z", node="n9", pod_uid="u"), "no nomination"),
        (Claim(holder="y", node="n9", pod_uid="u", successor="a"), "of somebody who does not hold the lock"),
        (Claim(holder="", node="n1", pod_uid="uid-a", successor="a"), "of a release that is over"),
    ],
)
def test_what_is_no_nomination(claim: Claim, why: str) -> None:
    """Only the present holder nominates."""
    settler = follower()
    claim = belonging(claim, settler.at.annotations[RECORD_ANNOTATION])
    settler.at.change({CLAIM_ANNOTATION: claim.encode()})
    assert settler.rests(50.0) >= STAMP_SECONDS, why


def test_nobody_accepts_who_could_not_come() -> None:
    """Who is blind, or not registered, or nominates itself, does not accept."""
    blind = follower()
    blind.watching = False
    nominate(blind)
    assert blind.rests(50.0) == 50.0 + BLIND_SECONDS
    stranger = Settler()
    version = nominate(stranger)
    assert stranger.does(Register).registration == registered("a", "n1"), "it registers first"
    stranger.shows(registered("a", "n1"))
    assert stranger.does(Register).registration == registered("a", "n1", accepted=version)
    itself = settled()
    itself.claims(successor="a")
    itself.rests()


# -- When a holder looks -----------------------------------------------------------------------------------------------


def test_looks_before_it_leads() -> None:
    """Whoever has taken the lock and checks, looks at once; who leads already, after a pause."""
    checking = holder(state=CHECKING)
    checking.does(Look)
    assert checking.decides(NOBODY) == Verdict((Confirm(),))
    leading = holder()
    assert PAUSE[0] <= leading.rests() - leading.now <= PAUSE[1]


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
def test_looks_thrice_until_it_is_calm(luck: float) -> None:
    """It looks again after a while, and once the group was quiet long enough; then hardly ever."""
    settler = holder(B, state=CHECKING)
    settler.luck = luck
    began = settler.next_look()
    assert Calm() not in settler.decides(NOBODY).advice
    assert 0.75 * SECOND_LOOK <= settler.next_look() - began <= 1.25 * SECOND_LOOK
    assert Calm() not in settler.decides(NOBODY).advice
    settler.next_look()
    assert settler.now - began == pytest.approx(CALM_SECONDS)
    calm = settler.now
    assert Calm() in settler.decides(NOBODY).advice
    assert SAFETY_SECONDS <= settler.next_look() - calm <= 1.2 * SAFETY_SECONDS
    assert settler.decides(NOBODY).advice == (Calm(), Confirm())


def test_what_is_found_soon_puts_the_second_look_off() -> None:
    """Looks between the first and the second one do not replace that one: it is for what all of them missed."""
    settler = holder(B, state=CHECKING)
    settler.does(Look)
    settler.decides(NOBODY)
    settler.shows(registered("d", "n3"))
    last = settler.next_look()
    assert last < SECOND_LOOK / 2
    settler.decides(NOBODY)
    assert 0.75 * SECOND_LOOK <= settler.next_look() - last <= 1.25 * SECOND_LOOK
    settler.decides(NOBODY)
    assert settler.next_look() >= CALM_SECONDS


def test_looks_again_once_its_moves_are_forgotten() -> None:
    """An election that had used up its moves is looked at again as soon as it is calm and may move again."""
    settler = holder(B)
    assert settler.term is not None
    settler.term = replace(settler.term, moves=MOVE_LIMIT)
    settler.next_look()
    while Calm() not in settler.decides(NOBODY).advice:
        settler.next_look()
    settler.term = replace(settler.term, moves=0)
    assert settler.next_look() - CALM_SECONDS <= SECOND_LOOK
    settler.decides(NOBODY)
    assert settler.next_look() - CALM_SECONDS >= SAFETY_SECONDS


def test_large_groups_look_less_often() -> None:
    """Beyond so many elections all intervals grow with their number, so that a whole group asks no more a second."""
    many = Census(tuple(Election(name=f"e{number}", node="n1") for number in range(3 * LARGE_GROUP)))
    settler = holder(state=CHECKING)
    settler.luck = 0.0
    settler.next_look()
    settler.decides(many)
    before = settler.now
    assert settler.next_look() - before == pytest.approx(3 * 0.75 * SECOND_LOOK)
    calm = settled()
    calm.luck = 0.0
    calm.nudged("1")
    before = calm.next_look()
    calm.decides(many)
    assert calm.next_look() - before == pytest.approx(3 * SAFETY_SECONDS)


def test_looks_soon_when_its_nodes_change() -> None:
    """When there are candidates on another node, or none on one any more, it looks after a pause; then as at first."""
    settler = settled(B)
    settler.shows(registered("d", "n3"))
    appeared = settler.now
    looked_at = settler.next_look()
    assert PAUSE[0] <= looked_at - appeared <= PAUSE[1]
    assert settler.decides(NOBODY).advice == (Confirm(),), "it is not calm any more"
    assert settler.next_look() - looked_at <= 1.25 * SECOND_LOOK
    settler.decides(NOBODY)
    settler.strikes("d")
    gone = settler.now
    assert settler.next_look() - gone <= PAUSE[1]


def test_one_more_candidate_on_a_node_changes_nothing_at_once() -> None:
    """Where the election could be led on all the same nodes before, there is no look, but it is not calm either."""
    settler = settled(B)
    due = settler.rests()
    settler.shows(C)
    assert settler.rests() == due
    settler.nudged("1")
    settler.next_look()
    assert Calm() not in settler.decides(NOBODY).advice


def test_a_restamp_is_no_change() -> None:
    """A counter that was raised says that a candidate lives, and asks for nothing."""
    settler = settled(B)
    due = settler.rests()
    settler.shows(replace(B, seen=7))
    assert settler.rests() == due


def test_without_a_census_it_leads() -> None:
    """Where nothing can be known of the group, whoever holds the lock leads, and stays."""
    settler = holder(B, state=CHECKING)
    settler.next_look()
    assert settler.decides(None) == Verdict((Confirm(),))
    assert settler.settling.why == "stayed: there was no census"
    assert settler.rests() > settler.now


def test_a_look_without_a_census_is_made_up_for() -> None:
    """After an outage lists fail for a while: whoever took over then and leads looks soon, not when all is settled."""
    settler = holder(B)
    looked_at = settler.next_look()
    for _ in range(3):
        assert settler.decides(None).advice == (Confirm(),)
        before, looked_at = looked_at, settler.next_look()
        assert looked_at - before <= 1.25 * SECOND_LOOK
    assert Nominate("b") in settler.decides(MOVE).advice


@pytest.mark.parametrize("event", ["nudge", "node"])
def test_what_happens_during_a_look_causes_another(event: str) -> None:
    """The census may have been taken before it, so that a settled leader would not know for ten minutes."""
    settler = settled(B)
    settler.next_look()
    if event == "nudge":
        settler.nudged("1")
    else:
        settler.shows(registered("d", "n3"))
    settler.now += 0.2
    settler.decides(NOBODY)
    before = settler.now
    assert settler.next_look() - before <= PAUSE[1]


def test_a_look_that_comes_too_late_decides_nothing() -> None:
    """Who lost the lock while the census was taken has nothing to decide."""
    settler = holder(B, state=CHECKING)
    settler.next_look()
    settler.loses()
    assert settler.decides(MOVE) == Verdict()


# -- Nudges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counter", ["1", "0", "garbage", "", "-1", "9" * 5000])
def test_a_nudge_is_a_look(counter: str) -> None:
    """Whatever the counter changed to, a settled leader looks at once."""
    settler = settled(B)
    settler.nudged("17")
    settler.next_look()
    settler.decides(NOBODY)
    settler.now += 60.0
    settler.rests()
    settler.nudged(counter)
    settler.does(Look)


def test_a_counter_that_was_there_before_is_no_nudge() -> None:
    """Who has just taken the lock was not nudged by what others asked of the leader before."""
    settler = follower()
    settler.nudged("17")
    settler.claims()
    assert settler.rests() > settler.now


def test_nudges_are_honoured_once_a_second() -> None:
    """A crowd of nudges, of any size, causes a look a second, and those that come later are heard as well."""
    settler = settled(B)
    began, looks = settler.now, []
    for number in range(200):
        settler.now = began + number / 100
        settler.nudged(str(number))
        while not isinstance(settler.step(), Pause):
            looks.append(settler.now)
            settler.decides(NOBODY)
    assert looks == pytest.approx([began, began + NUDGE_SECONDS], abs=0.02)
    looks.append(settler.next_look())
    assert looks[-1] == pytest.approx(began + 2 * NUDGE_SECONDS, abs=0.02), "the last one was heard"
    settler.decides(NOBODY)
    settler.now += 2 * NUDGE_SECONDS
    settler.nudged("again")
    settler.does(Look)


def movers(count: int, *, moves: bool = False) -> tuple[Election, ...]:
    """Return elections that are all led on n3 and could be led on a node of their own as well; all but one should."""
    return tuple(
        Election(
            name=f"apps/other-{number}", node="n3", nodes=frozenset({"n3", f"m{number}"}), movable=True, moves=moves
        )
        for number in range(count)
    )


@pytest.mark.parametrize(("others", "nudges"), [(0, 0), (2, 1), (3, 2), (4, 3), (5, 3), (100, 3)])
def test_a_look_nudges_a_few(others: int, nudges: int) -> None:
    """The leaders of other elections that should move are nudged, a few at most."""
    settler = holder(B, state=CHECKING)
    settler.next_look()
    nudged = settler.decides(Census(movers(others))).nudges
    assert len(nudged) == len(set(nudged)) == nudges <= NUDGES


def test_whom_a_look_does_not_nudge() -> None:
    """Nobody nudges itself, nor somebody who is about to move or to decide."""
    settler = holder(B, state=CHECKING)
    settler.next_look()
    verdict = settler.decides(census(*movers(20, moves=True)))
    assert verdict == Verdict((Nominate("b"),))


def test_not_everybody_nudges_the_same() -> None:
    """Between them, those who look reach everybody who should move."""
    reached = set()
    for luck in range(20):
        settler = holder(B, state=CHECKING)
        settler.next_look()
        settler.luck = luck / 20
        reached |= set(settler.decides(Census(movers(20))).nudges)
    assert len(reached) == 19


# -- Handing over ------------------------------------------------------------------------------------------------------


def test_hand_over() -> None:
    """Nomination, acceptance, another look, hand-over; each step says why."""
    settler = holder(C, B, registered("d", "n3"), state=CHECKING)
    settler.next_look()
    assert settler.decides(MOVE).advice == (Nominate("b"),), "of two on the node, the first by name"
    assert settler.settling.why == "nominated b: n1 carries 2, n2 carries 0"
    settler.claims(state=CHECKING, successor="b")
    assert settler.rests() == settler.now + ACCEPTANCE_SECONDS
    accepted = accepting(settler)
    settler.does(Look)
    assert settler.decides(MOVE).advice == (HandOver(accepted_by(accepted)),)
    assert settler.settling.why == "handed over to b: n1 carries 2, n2 carries 0"


def accepted_by(registration: Registration) -> Registration:
    """Return whom a leader hands over to, as it nominated it."""
    return replace(registration, accepted=0, seen=0)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param((), id="nobody"),
        pytest.param((registered("d", "n3"),), id="nobody-on-that-node"),
        pytest.param((registered("d", "n1"),), id="only-beside-itself"),
    ],
)
def test_nobody_to_hand_over_to(there: Iterable[Registration]) -> None:
    """Where nobody is registered on the node that would be better, the leader stays."""
    settler = holder(*there, state=CHECKING)
    settler.next_look()
    assert settler.decides(MOVE) == Verdict((Confirm(),))
    assert settler.settling.why == "stayed: nobody is there to hand over to, though n1 carries 2, n2 carries 0"


def test_a_blind_leader_nominates_nobody() -> None:
    """It could not see that its nominee accepts."""
    settler = holder(B, state=CHECKING)
    settler.watching = False
    settler.next_look()
    assert settler.decides(MOVE) == Verdict((Confirm(),))


@pytest.mark.parametrize(
    ("accepted", "counts"),
    [
        pytest.param(0, True, id="this-very-nomination"),
        pytest.param(1, True, id="seen-a-little-later"),
        pytest.param(-1, False, id="an-older-nomination"),
        pytest.param(2, False, id="the-version-that-it-makes-itself"),
        pytest.param(1000, False, id="what-nobody-can-have-seen"),
    ],
)
def test_what_counts_as_acceptance(accepted: int, counts: bool) -> None:  # noqa: FBT001 - a table's column
    """A nominee has accepted when it saw this nomination, and saw it in a version that there was."""
    settler = nominating(C)
    nominated_in = settler.at.version
    settler.claims(successor="b")
    settler.shows(replace(B, accepted=nominated_in + accepted))
    assert settler.at.version == nominated_in + 2
    assert isinstance(settler.step(), Look if counts else Pause)


def test_another_pod_s_acceptance_does_not_count() -> None:
    """Who accepts under the nominee's name and is another pod was not nominated."""
    settler = nominating()
    settler.shows(Registration(identity="b", node="n2", pod_uid="another", accepted=settler.at.version))
    settler.rests()


def test_an_acceptance_after_another_nomination_does_not_count() -> None:
    """Who accepted what was withdrawn has not accepted what came after it."""
    settler = nominating(C)
    first = settler.at.version
    settler.does(Advise, settler.now + ACCEPTANCE_SECONDS)
    settler.claims()
    settler.next_look()
    settler.decides(MOVE)
    settler.claims(successor="b")
    settler.rests()
    settler.shows(replace(B, accepted=first))
    settler.rests()


def test_a_nominee_that_does_not_accept_is_given_up() -> None:
    """After a second without an answer the nominee counts as dead: the leader stays, strikes it out, and looks."""
    settler = nominating(C)
    due = settler.now + ACCEPTANCE_SECONDS
    assert settler.rests(due - 0.01) == due
    strike = Strike(frozenset({registration_key("b")}))
    assert settler.does(Advise, due).advice == (Confirm(), strike)
    assert settler.settling.why == "stayed: b on n2 did not accept within 1 s"
    settler.claims()
    settler.strikes("b")
    assert settler.next_look() - due <= PAUSE[1]
    assert settler.decides(MOVE).advice == (Nominate("c"),)


def test_an_acceptance_that_comes_too_late_does_not_count() -> None:
    """Whoever was given up is not handed over to."""
    settler = nominating()
    settler.does(Advise, settler.now + ACCEPTANCE_SECONDS)
    accepting(settler)
    settler.next_look()
    assert settler.decides(NOBODY).advice == (Confirm(),)


def test_a_blind_leader_strikes_nobody_out() -> None:
    """Who is not shown changes cannot say that its nominee did not answer."""
    settler = nominating()
    settler.watching = False
    assert settler.does(Advise, settler.now + ACCEPTANCE_SECONDS).advice == (Confirm(),)


def test_a_nomination_that_was_never_written_strikes_nobody_out() -> None:
    """Nobody can answer what does not stand on the lock object; such a nomination is given up as well."""
    settler = holder(B)
    settler.next_look()
    settler.decides(MOVE)
    assert settler.rests() == settler.now + 2 * ACCEPTANCE_SECONDS
    assert settler.does(Advise, settler.now + 2 * ACCEPTANCE_SECONDS).advice == (Confirm(),)


def test_refusals_are_bounded() -> None:
    """After so many nominees that did not answer nobody is nominated any more, until the election has settled."""
    settler = holder(B)
    nominations = 0
    while Calm() not in (advice := decided(settler)):
        if Nominate("b") in advice:
            nominations += 1
            settler.claims(successor="b")
            settler.rests()
            settler.does(Advise, settler.now + ACCEPTANCE_SECONDS)
            settler.claims()
    assert nominations == MOVE_LIMIT
    settler.nudged("1")
    assert Nominate("b") in decided(settler)


def decided(settler: Settler) -> tuple[object, ...]:
    """Let it rest until it looks, and return what it decides where it should move."""
    settler.next_look()
    return settler.decides(MOVE).advice


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Census(MOVE.elections[:1]), "n1 carries 1 of 1, and a move would better nothing"),
        (None, "there was no census"),
        (census(target="n4"), "nobody is there to hand over to, though n1 carries 2, n4 carries 0"),
    ],
)
def test_a_plan_that_changed_meanwhile(seen: Census | None, why: str) -> None:
    """Where the second look no longer finds the nominee's node better, the nomination is withdrawn."""
    settler = nominating()
    accepting(settler)
    settler.does(Look)
    assert settler.decides(seen) == Verdict((Confirm(),))
    assert settler.settling.why == f"stayed: {why}"
    settler.claims()
    assert settler.rests() > settler.now


def test_a_plan_that_keeps_changing_ends() -> None:
    """Where each second look finds another node better there are as many nominations as refusals, and no more."""
    settler = holder(B, registered("d", "n3"), state=CHECKING)
    nominees: list[str] = []
    settler.does(Look)
    while (advice := settler.decides(census(target=f"n{2 + len(nominees) % 2}")).advice) != (Confirm(),):
        (nomination,) = advice
        assert isinstance(nomination, Nominate)
        nominees.append(nomination.successor)
        settler.claims(state=CHECKING, successor=nomination.successor)
        settler.rests()
        settler.shows(replace({"b": B, "d": registered("d", "n3")}[nomination.successor], accepted=settler.at.version))
        settler.does(Look)
    assert nominees == ["b", "d", "b", "d", "b"]
    assert len(nominees) == MOVE_LIMIT + 1


@pytest.mark.parametrize("pod_uid", [None, "another"], ids=["gone", "another-pod"])
def test_nobody_hands_over_to_somebody_who_left_after_accepting(pod_uid: str | None) -> None:
    """A nominee that withdrew before the second look, or came back as another pod, is not handed over to."""
    settler = nominating(C)
    accepting(settler)
    settler.does(Look)
    settler.strikes("b")
    if pod_uid:
        settler.shows(replace(B, node="n3", pod_uid=pod_uid))
    assert settler.decides(MOVE).advice == (Nominate("c"),)


def test_a_term_that_ended_leaves_nothing_behind() -> None:
    """A nomination ends with the term: who takes the lock again begins anew."""
    settler = nominating()
    settler.loses()
    settler.rests()
    settler.claims(state=CHECKING)
    settler.does(Look)
    assert settler.decides(NOBODY).advice == (Confirm(),)


def test_a_term_that_ended_during_a_look_leaves_nothing_behind() -> None:
    """Who lost the lock and took it again while a census was taken has nominated nobody, whoever accepted before."""
    settler = nominating()
    accepting(settler)
    settler.does(Look)
    settler.loses()
    settler.strikes("b")
    settler.claims()
    assert settler.decides(MOVE).advice == (Confirm(),)


def test_a_nomination_that_cannot_be_written_lets_renewals_through() -> None:
    """It held up a renewal, so the next one is not made before a plain renewal had its time."""
    settler = holder(B)
    settler.next_look()
    settler.decides(MOVE)
    gave_up = settler.rests()
    settler.does(Advise, gave_up)
    assert settler.next_look() - gave_up >= SECOND_LOOK


# -- Striking out ------------------------------------------------------------------------------------------------------


def test_strikes_out_who_has_gone() -> None:
    """A candidate that did not stamp for three periods is struck out; one that did, and the leader itself, are not."""
    settler = settled(B, C)
    began, struck = 0.0, list[frozenset[str]]()
    while settler.now < began + 1.5 * MISSED_STAMPS * STAMP_SECONDS:
        match settler.step():
            case Pause(until):
                settler.now = min(until, settler.now + STAMP_SECONDS / 2)
                settler.shows(replace(C, seen=int(settler.now)))
            case Look():
                settler.decides(NOBODY)
            case Register(registration):
                assert registration is not None
                settler.shows(registration)
            case Advise(advice):
                assert MISSED_STAMPS * STAMP_SECONDS <= settler.now <= (MISSED_STAMPS + 1) * STAMP_SECONDS
                struck += [event.keys for event in advice if isinstance(event, Strike)]
    assert struck == [frozenset({registration_key("b")})]


def test_nobody_is_struck_out_because_others_left() -> None:
    """A candidate stamps as rarely as it had to when it last did; the leader waits as long, however many are left."""
    others = [registered(f"c{number:02}", "n2") for number in range(60)]
    settler = holder(B, *others)
    settler.next_look()
    settler.decides(NOBODY)
    settler.strikes(*(other.identity for other in others))
    due = settler.now + 2 * stamp_seconds(62)
    assert due > MISSED_STAMPS * stamp_seconds(2)
    while settler.now < due:
        match settler.step():
            case Pause(until):
                settler.now = min(until, due)
            case Look():
                settler.decides(NOBODY)
            case Register(registration):
                assert registration is not None
                settler.shows(registration)
            case Advise(advice):
                assert not [event for event in advice if isinstance(event, Strike)]


def test_who_was_to_be_struck_out_is_not_struck_out_at_once_again() -> None:
    """While the strike is not written yet there is no further one."""
    settler = settled(B)
    settler.now = 2 * MISSED_STAMPS * STAMP_SECONDS
    while not isinstance(settler.step(), Advise):
        settler.luck = 0.5
        settler.decides(NOBODY)
        settler.shows(registered("a", "n1", seen=int(settler.now)))
    assert settler.rests() >= settler.now + SAFETY_SECONDS / 2


# -- Time --------------------------------------------------------------------------------------------------------------


def test_a_settled_leader_hardly_does_anything() -> None:
    """In a quiet group a leader looks once in ten minutes at most, and stamps its registration as rarely as anybody."""
    settler = settled(B, C)
    began, looks, writes = settler.now, 0, 0
    while settler.now < began + 7200:
        match settler.step():
            case Pause(until):
                assert until > settler.now
                settler.now = min(until, settler.now + 100)
                # The others live.
                settler.shows(replace(B, seen=int(settler.now) // 300), replace(C, seen=int(settler.now) // 300))
            case Look():
                looks += 1
                assert settler.decides(NOBODY) == Verdict((Calm(), Confirm()))
            case Register(registration):
                writes += 1
                assert registration is not None
                settler.shows(registration)
            case Advise(advice):
                pytest.fail(f"nothing is to be done, but {advice}")
    assert 7200 / (1.2 * SAFETY_SECONDS) - 1 <= looks <= 7200 / SAFETY_SECONDS
    assert writes <= 7200 / STAMP_SECONDS


IDENTITIES = st.sampled_from("abcd")
WHERE = st.sampled_from(["n1", "n2", "n3"])


def anybody(at: LockObject) -> st.SearchStrategy[Registration]:
    """Return registrations of anybody, in any pod on any node, that accept anything near the present version."""
    return st.builds(
        Registration,
        identity=IDENTITIES,
        node=WHERE,
        pod_uid=IDENTITIES.map("uid-{}".format),
        seen=st.integers(0, 3),
        accepted=st.integers(max(0, at.version - 3), at.version + 2),
    )


ANY_CENSUS = st.none() | st.lists(
    st.builds(
        Election,
        name=st.sampled_from([LOCK, *(f"apps/{number}" for number in range(6))]),
        node=st.sampled_from(["n1", "n1", "n2", "n3"]),
        nodes=st.sets(WHERE, min_size=2).map(frozenset),
        movable=st.booleans(),
        moves=st.booleans(),
    ),
    max_size=7,
    unique_by=lambda election: election.name,
).map(lambda elections: Census(tuple(elections)))

TIMES = st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0, 3.0, 10.0, 40.0, 400.0, 2000.0])
STATES = st.sampled_from([LEADING, CHECKING])


def waits(settler: Settler, data: st.DataObject) -> None:
    """Let some time pass, or all of the time that it rests."""
    step = settler.step()
    if data.draw(st.booleans()) and isinstance(step, Pause) and math.isfinite(step.until):
        settler.now = max(settler.now, step.until)
    else:
        settler.now += data.draw(TIMES)


def is_nominated(settler: Settler, data: st.DataObject) -> None:
    """Have another holder nominate somebody."""
    if settler.term is None:
        nominate(settler, data.draw(IDENTITIES))


def vanishes(settler: Settler, _: st.DataObject) -> None:
    """Have the lock object deleted, or made again."""
    settler.there = not settler.there
    settler.term = None


def goes_blind(settler: Settler, _: st.DataObject) -> None:
    """Have the watch end, or begin."""
    settler.watching = not settler.watching


EVENTS = st.sampled_from(
    [
        waits,
        waits,
        lambda settler, data: settler.shows(data.draw(anybody(settler.at))),
        lambda settler, data: settler.shows(data.draw(anybody(settler.at))),
        lambda settler, data: settler.strikes(data.draw(IDENTITIES)),
        lambda settler, data: settler.nudged(data.draw(st.text(max_size=3))),
        lambda settler, data: settler.claims(state=data.draw(STATES), successor=data.draw(st.just("") | IDENTITIES)),
        lambda settler, _: settler.loses(),
        is_nominated,
        vanishes,
        goes_blind,
    ]
)


def check_verdict(settler: Settler, verdict: Verdict, seen: Census | None) -> None:
    """Fail when a leader does what nobody may."""
    elections = {each.name: each for each in seen.elections} if seen else {}
    there = registrations(settler.at.annotations)
    assert len(verdict.nudges) <= NUDGES
    assert all(name != LOCK and not elections[name].moves for name in verdict.nudges)
    for advice in verdict.advice:
        match advice:
            case Nominate(successor):
                assert successor != "a"
                assert there[registration_key(successor)].node in elections[LOCK].nodes
            case HandOver(successor):
                assert settler.term is not None
                assert settler.term.written.successor == successor.identity
                assert there[registration_key(successor.identity)].pod_uid == successor.pod_uid
                assert successor.node in elections[LOCK].nodes
            case _:
                assert advice in (Calm(), Confirm())


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_it_always_comes_to_rest(data: st.DataObject) -> None:
    """Whatever happens, and whether its writes are applied or not, after a few steps it rests until a later instant."""
    settler = Settler()
    for _ in range(data.draw(st.integers(1, 25))):
        settler.luck = data.draw(st.sampled_from([0.0, 0.3, 0.999]))
        data.draw(EVENTS)(settler, data)
        applied = data.draw(st.booleans())
        for _ in range(8):
            match settler.step():
                case Pause(until):
                    assert until > settler.now, "a pause that is over already is a busy loop"
                    break
                case Register(registration):
                    assert settler.there
                    if applied:
                        key = registration_key("a")
                        settler.at.change({key: registration.encode() if registration else None})
                case Look():
                    assert settler.term is not None
                    settler.now += data.draw(st.sampled_from([0.0, 0.1]))
                    seen = data.draw(ANY_CENSUS)
                    verdict = settler.decides(seen)
                    check_verdict(settler, verdict, seen)
                    if applied and settler.term is not None:
                        obeys(settler, verdict.advice)
                case Advise(advice):
                    assert settler.term is not None
                    if applied:
                        obeys(settler, advice)
        else:
            pytest.fail("it does not come to rest")


def obeys(settler: Settler, advice: Iterable[object]) -> None:
    """Have the election write what it is advised."""
    for each in advice:
        match each:
            case Confirm():
                settler.claims()
            case Nominate(successor):
                settler.claims(successor=successor)
            case HandOver():
                settler.loses()
            case Strike(keys):
                settler.at.change(dict.fromkeys(keys))
