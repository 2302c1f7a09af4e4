"""The election and a hostile lock object: whatever is shown in whatever order, nobody leads without a write answered.

One candidate, its election and its settling. Everybody else is the fuzzer: it writes any annotations, shows any version
of the lock object at any time, answers writes with the truth, with something else, or not at all, and lets time pass.
What the candidate may do is judged by a small model of its own. In the end the API server is honest again, and then a
candidate that was not told to leave has to hold the lock within half a minute.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sidecar import settling
from sidecar.balance import LockSeen, take_census
from sidecar.election import (
    Balance,
    Calm,
    Candidacy,
    Changed,
    Confirm,
    Conflicted,
    Count,
    Counted,
    Deleted,
    Event,
    Failed,
    Fetched,
    HandOver,
    Leave,
    Leaving,
    Moment,
    Nominate,
    Read,
    State,
    Strike,
    Wait,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
    apply,
    next_action,
)
from sidecar.record import (
    CLAIM_ANNOTATION,
    LEADING,
    LOOK_ANNOTATION,
    RECORD_ANNOTATION,
    Record,
    Snapshot,
    UnreadableRecord,
    parse_claim,
    parse_record,
)
from sidecar.registration import Registration, registration_key
from tests.safety.fuzz.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENS = (
    '{"holderIdentity":"me","leaseDurationSeconds":10,"renewTime":"2023-11-14T22:13:20Z"}',
    '{"holder":"me","node":"n0","pod_uid":"u","renewed":"2023-11-14T22:13:20Z"}',
    "checking",
    "successor",
    RECORD_ANNOTATION,
    CLAIM_ANNOTATION,
)

TTL, DEADLINE, RETRY = 10, 20 / 3, 2.5
_WALL = 1_700_000_000
_SPANS = (0.0, 0.001, 0.1, 0.5, 1.0, 2.5, 4.0, 6.7, 10.0, 30.0, 700.0, 90_000.0)
_STEPS = 200
"""Of one play, at most."""
_HONEST_SECONDS, _HONEST_REQUESTS = 30.0, 60
"""In the end, and how many requests a candidate may send then: far more than it needs, and no busy loop."""

_OTHER = Registration(identity="b", node="n1", pod_uid="v")


def check(data: bytes) -> None:
    """Play; fail on an exception, and on whatever the model does not allow."""
    choices = Choices(data)
    form = choices.number()
    balance = Balance(slot=0.5, rebalance=bool(form & 2)) if form & 1 else None
    play = _Play(choices, balance)
    for _ in range(_STEPS):
        if not choices.left:
            break
        play.step()
    play.end_honestly()


class _Play:
    """The candidate, the lock object, and what the model says of them."""

    def __init__(self, choices: Choices, balance: Balance | None) -> None:
        self.choices = choices
        me = Candidacy(
            identity="me",
            pod_uid="u",
            node="n0",
            lease_seconds=TTL,
            renew_deadline=DEADLINE,
            retry_period=RETRY,
            balance=balance,
        )
        self.state = State(candidacy=me)
        self.settling = settling.Settling(candidacy=me, lock="n/e")
        self.now = 1000.0
        self.version = 10
        self.annotations: dict[str, str] | None = None
        """The lock object as it is; `None` when there is none."""
        self.shown: list[Snapshot] = []
        self.writes: list[Write] = []
        self.may_lead_until = -math.inf
        self.held_until = -math.inf
        self.requests = 0
        self.left = False
        self.first: str | None = None
        """The record that was seen first of all."""

    # -- What the fuzzer does --

    def step(self) -> None:  # noqa: C901 - one case for each thing to do
        """Do the next thing."""
        choices = self.choices
        match choices.number() % 12:
            case 0 | 1 | 2:
                self.act()
            case 3:
                self.settle()
            case 4:
                self.now += choices.pick(_SPANS)
                self.judge()
            case 5:
                self.put()
            case 6:
                self.happen(Changed(self.show()))
            case 7 if self.shown:
                self.happen(Changed(choices.pick(self.shown)))
            case 8:
                self.annotations = None
                self.version += choices.number() % 2
                self.happen(Deleted(self.version))
            case 9:
                events: tuple[Event, ...] = (WatchStarted(), WatchStopped(), WatchStopped(gap=True))
                self.happen(choices.pick(events))
            case 10:
                self.happen(self.advice())
            case 11 if choices.number() % 16 == 0:
                self.happen(Leaving())

    def put(self) -> None:
        """Write anything on the lock object, by hand."""
        choices = self.choices
        self.version = max(1, self.version + choices.pick((1, 1, 1, 1, 0, -1, -5, 1000)))
        annotations = dict(self.annotations or {})
        for _ in range(choices.number() % 3 + 1):
            key, text = self.annotation()
            if text is None:
                annotations.pop(key, None)
            else:
                annotations[key] = text
        self.annotations = annotations

    def annotation(self) -> tuple[str, str | None]:
        """Return an annotation to be written."""
        choices = self.choices
        mine = self.writes[-1] if self.writes else None
        holder = choices.pick(("b", "me", "", "c"))
        stamp = mine.record.renew_time if mine else "2023-11-14T22:13:20Z"
        match choices.number() % 10:
            case 0:
                record = Record(
                    holder=holder,
                    lease_seconds=choices.pick((10, 1, 5)),
                    acquire_time="",
                    renew_time=choices.pick((stamp, "x")),
                    transitions=choices.number(),
                )
                return RECORD_ANNOTATION, record.encode()
            case 1:
                return RECORD_ANNOTATION, choices.text()
            case 2:
                return RECORD_ANNOTATION, None
            case 3 if self.writes:
                return RECORD_ANNOTATION, choices.pick(self.writes[-256:]).record.encode()
            case 4:
                uid, node = choices.pick(("u", "v")), choices.pick(("n0", "n1", ""))
                state, successor = choices.pick((LEADING, "checking")), choices.pick(("", "me", "b"))
                claim = {"holder": holder, "node": node, "pod_uid": uid, "state": state, "successor": successor}
                text = ",".join(f'"{key}":"{value}"' for key, value in (claim | {"renewed": stamp}).items())
                return CLAIM_ANNOTATION, "{" + text + ',"term":7,"moves":' + str(choices.number() % 6) + "}"
            case 5:
                return CLAIM_ANNOTATION, choices.text()
            case 6 if self.writes:
                past = choices.pick(self.writes[-256:]).claim
                return CLAIM_ANNOTATION, past.encode() if past else None
            case 7:
                accepted = choices.pick((0, self.version, self.version - 1, self.version + 1))
                other = Registration(identity="b", node="n1", pod_uid="v", seen=choices.number(), accepted=accepted)
                return registration_key("b"), choices.pick((other.encode(), None))
            case 8:
                return registration_key("me"), choices.pick((None, "{}", choices.text()))
        return LOOK_ANNOTATION, choices.text()

    def show(self) -> Snapshot:
        """Return the lock object as it is, made where there is none."""
        self.annotations = {} if self.annotations is None else self.annotations
        snapshot = _snapshot(self.version, self.annotations)
        self.shown = [*self.shown[-255:], snapshot]
        return snapshot

    def advice(self) -> Event:
        """Return something that the balance may say."""
        choices = self.choices
        keys = frozenset({registration_key(choices.pick(("b", "me", "c")))})
        nominee = choices.pick(("", "b", "me", "?"))
        advice: tuple[Event, ...] = (
            Confirm(),
            Nominate(nominee),
            HandOver(_OTHER),
            Strike(keys),
            Calm(),
            Counted(None),
        )
        return choices.pick(advice)

    # -- What the candidate does --

    def act(self, *, honest: bool = False) -> float:
        """Let the election take its next action, and answer; return when it wants to be asked again."""
        self.state, action = next_action(self.state, self.moment())
        self.judge()
        match action:
            case Wait(until):
                assert until > self.now, "a busy loop"
                return until
            case Read():
                self.requests += 1
                asked_at = self.now
                self.pass_time(honest=honest)
                if honest or self.choices.number() % 4:
                    self.happen(Fetched(None if self.annotations is None else self.show(), asked_at))
                else:
                    self.happen(Failed(retry_after=float(self.choices.number())))
            case Count():
                delay = None if honest else self.choices.pick((None, 0.0, 0.5, 2.0))
                self.happen(Counted(delay))
            case Write():
                self.requests += 1
                self.write(action, honest=honest)
            case Leave():
                assert self.state.observed is None or not self.state.observed.mine
                self.left = True
                return math.inf
        return self.now

    def pass_time(self, *, honest: bool) -> None:
        """Let a request take its time."""
        if not honest:
            self.now += self.choices.pick((0.0, 0.0, 0.0, 0.01, 2.0, 6.0, 7.0))

    def write(self, write: Write, *, honest: bool) -> None:
        """Answer a write with the truth, with something else, or not at all."""
        self.judge_write(write)
        self.writes.append(write)
        asked_at = self.now
        fits = self.fits(write)
        answer = 0 if honest else self.choices.number() % 8
        if fits and answer in (0, 1, 2, 3, 6):
            self.version += 1
            self.annotations = _merged(write)
        self.pass_time(honest=honest)
        if not honest and answer in (1, 2):
            # Somebody writes between the write and its answer, which shows the watch first.
            before = self.annotations, self.version
            self.put()
            self.happen(Changed(self.show()))
            if answer == 1:
                self.annotations, self.version = before
        if not fits and answer != 5:
            self.happen(Conflicted())
        elif answer in (0, 1, 3):
            self.answer(write, self.show(), asked_at)
        elif answer in (2, 4, 5):
            # It is answered as it might have been, whatever was done, or with anything else.
            annotations = _merged(write) if answer == 2 else dict(self.annotations or {})
            self.answer(write, _snapshot(self.version, annotations), asked_at)
        else:
            self.happen(Failed(write=True, refused=answer == 7, retry_after=float(self.choices.number() % 2)))

    def fits(self, write: Write) -> bool:
        """Tell whether the lock object is what the write is based on."""
        if write.base is None or self.annotations is None:
            return write.base is None and self.annotations is None
        return write.base.version == self.version and dict(write.base.annotations) == self.annotations

    def answer(self, write: Write, snapshot: Snapshot, asked_at: float) -> None:
        """Tell the candidate that its write was applied. Only after this, and for so long, may it lead."""
        is_mine = snapshot.text == write.record.encode() and write.record.holder == "me"
        if is_mine and write.claim is not None and write.claim.state == LEADING:
            self.may_lead_until = asked_at + DEADLINE
        self.happen(Written(snapshot, asked_at))

    def settle(self) -> None:
        """Let the settling take its next step."""
        self.settling = settling.observe(self.settling, self.state, self.moment())
        self.settling, step = settling.next_step(self.settling, self.moment())
        match step:
            case settling.Register(registration) if self.annotations is not None:
                if registration is None:
                    self.annotations.pop(registration_key("me"), None)
                else:
                    self.annotations[registration_key("me")] = registration.encode()
                self.version += 1
                if self.choices.number() % 2:
                    self.happen(Changed(self.show()))
            case settling.Advise(advice):
                for event in advice:
                    self.happen(event)
            case settling.Look():
                seen = [LockSeen("n/e", self.version, self.annotations)] if self.annotations is not None else []
                seen += [_elsewhere(number) for number in range(self.choices.number() % 8)]
                census = take_census(seen, {}) if self.choices.number() % 8 else None
                self.settling = settling.observe(self.settling, self.state, self.moment())
                self.settling, verdict = settling.looked(self.settling, census, self.moment())
                for event in verdict.advice:
                    self.happen(event)

    def moment(self) -> Moment:
        """Return what the clocks show, and some luck."""
        return Moment(now=self.now, wall=_WALL + int(self.now), luck=self.choices.number() / 256)

    def happen(self, event: Event) -> None:
        """Tell the candidate, and see what the model says about what it knows then."""
        before = self.state
        self.state = apply(before, event, self.moment())
        self.remember(before, event)
        self.judge()
        if isinstance(event, Failed | Conflicted):
            self.judge_pause()

    # -- What the model says --

    def remember(self, before: State, event: Event) -> None:
        """Take note of news after which nobody leads, and of how long whoever else holds the lock may hold it."""
        known = before.observed.version if before.observed else 0
        match event:
            case Leaving() | Deleted() if isinstance(event, Leaving) or event.version > known > 0:
                self.may_lead_until = -math.inf
            case HandOver() if before.term is not None:
                self.may_lead_until = -math.inf
            case Changed(Snapshot() as snapshot) | Fetched(Snapshot() as snapshot) if (
                snapshot.version > known and not self.is_mine(snapshot)
            ):
                self.may_lead_until = -math.inf
        text = self.state.observed.text if self.state.observed else None
        if before.observed is None:
            self.first = text
        was = before.observed.text if before.observed else None
        if self.state.observed is None or (text == was and before.observed is not None):
            return
        record = parse_record(text) if text is not None else None
        if isinstance(record, UnreadableRecord):
            self.held_until = max(self.held_until, self.now + TTL)
        elif record is not None and not record.holder:
            self.held_until = -math.inf
        elif record is not None:
            # Whoever wrote another name may have done so by hand, while the last one still leads.
            promised = self.held_until if before.observed and record.holder != before.observed.holder else -math.inf
            self.held_until = max(promised, self.now + record.lease_seconds)

    def is_mine(self, snapshot: Snapshot) -> bool:
        """Tell whether this candidate wrote the record."""
        return any(snapshot.text == write.record.encode() and write.record.holder for write in self.writes)

    def resumes(self, snapshot: Snapshot) -> bool:
        """Tell whether this is what a process of this very pod left behind, as its claim says, seen first of all."""
        claim = snapshot.valid_claim
        return snapshot.text == self.first and claim is not None and (claim.holder, claim.pod_uid) == ("me", "u")

    def judge_pause(self) -> None:
        """Fail when a request that failed is followed by another one at once."""
        _, action = next_action(self.state, Moment(now=self.now, wall=_WALL, luck=0.0))
        assert isinstance(action, Wait | Leave), "asks again without a pause"

    def judge(self) -> None:
        """Fail when the candidate leads, or names somebody, without a reason."""
        state, now = self.state, self.now
        leading = state.is_leading(now)
        assert not leading or now < self.may_lead_until, "leads without a write that was answered in time"
        name = state.leader_name(now)
        assert (name == "me") == leading, "says of itself what is not so"
        if name and not leading:
            assert state.observed is not None
            assert name == state.observed.holder
            assert now < state.observed.held_until

    def judge_write(self, write: Write) -> None:
        """Fail when the candidate takes what may be somebody else's."""
        observed = self.state.observed
        assert write.base == (observed.snapshot if observed else None)
        assert write.record.encode() != (write.base.text if write.base else None), "a write that changes nothing"
        assert write.record.holder in ("me", "")
        if write.record.holder == "":
            assert observed is not None
            assert observed.mine
            assert self.state.is_giving_up
        if write.base is None or not (self.is_mine(write.base) or self.resumes(write.base)):
            assert self.now >= self.held_until, "takes over from somebody who may lead still"

    def end_honestly(self) -> None:
        """Let the API server be honest: half a minute later it is held or left, and nobody is busy."""
        if self.annotations is not None and _lease(self.annotations) > TTL:
            self.annotations = {}
        self.version += 1000
        self.choices = Choices(b"")
        self.requests = 0
        start = self.now
        until = start + _HONEST_SECONDS
        for _ in range(100 * _HONEST_REQUESTS):
            again = self.act(honest=True)
            self.now = min(max(again, self.now), until)
            if self.now >= until:
                break
        assert self.requests <= _HONEST_REQUESTS, "a busy loop"
        assert self.now >= until, "a busy loop that requests nothing"
        assert self.state.leaving or self.state.term is not None, f"a dead end: {self.state.note}"
        assert self.state.leaving == self.left, "it never leaves"


def _snapshot(version: int, annotations: Mapping[str, str]) -> Snapshot:
    text = annotations.get(RECORD_ANNOTATION)
    return Snapshot(
        version=version,
        text=text,
        record=None if text is None else parse_record(text),
        claim=parse_claim(annotations.get(CLAIM_ANNOTATION)),
        body={"metadata": {"resourceVersion": str(version), "annotations": dict(annotations)}},
    )


def _merged(write: Write) -> dict[str, str]:
    claim = write.claim.encode() if write.claim else None
    base = write.base.annotations if write.base else {}
    merged = {**base, **write.others, RECORD_ANNOTATION: write.record.encode(), CLAIM_ANNOTATION: claim}
    return {key: text for key, text in merged.items() if text is not None}


def _elsewhere(number: int) -> LockSeen:
    """Return another election, led on this candidate's node, so that there is something to move."""
    record = Record(holder="x", lease_seconds=TTL, acquire_time="", renew_time="t", transitions=0)
    claim = '{"holder":"x","node":"n0","pod_uid":"w","renewed":"t"}'
    return LockSeen(f"n/x{number}", number + 1, {RECORD_ANNOTATION: record.encode(), CLAIM_ANNOTATION: claim})


def _lease(annotations: Mapping[str, str]) -> int:
    text = annotations.get(RECORD_ANNOTATION)
    record = parse_record(text) if text is not None else None
    return record.lease_seconds if isinstance(record, Record) and record.holder else 0
