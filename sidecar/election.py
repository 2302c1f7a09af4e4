"""The election, as a pure function: what a candidate knows, and what it does next.

One round of the loop, as in the stock image and in client-go:

    get or create the lock object
      -> compare its record with the observed record; when it changed, observe it anew
      -> I hold it:                                             renew
      -> another holds it, and its lease since MY observation ran out:  take over
      -> else:                                                  wait

Where leaders are spread over nodes (`Balance`), three things are added, none of which decides who may lead. A bid for a
vacant lock is preceded by a census, after which it may be held back. Whoever then takes the lock only holds it at
first, *checking*; it leads once a further write, the confirmation, succeeded. And a holder may hand over: it nominates
a successor, stops leading, and releases the lock in that one's favour.

`next_action` is that round. `apply` folds what happened (an answer, a watch event, a failure) into the
`State`. Neither does I/O, reads a clock or draws a random number: the `Moment` brings both. So the
same code runs in the sidecar, in virtual time and under an explorer of interleavings.

What makes it safe:

* Two clocks are never compared. A follower counts the record's own lease from the instant at which *it* saw the
  record change. A leader counts its validity from *before* it sent the renewal that succeeded, and only up to the
  renew deadline, which is shorter than the lease. Whoever may take over does so later than the leader gave up, as
  long as no clock runs (lease / renew deadline) times as fast as another: 1.5 times, with the defaults.
* Validity is judged when somebody asks (`State.is_leading`), never by a timer: a process that was stopped for a
  minute does not name itself in its first answer.
* Every write is a compare-and-swap on the version that the decision was made on.
* Nobody leads before the write succeeded that says so: the one that takes the lock, or the confirmation.
* A record is mine only when I wrote its very text, or, at first sight after a start, when the claim that was written
  with it names my pod. The same name in another pod is somebody else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.record import (
    CHECKING,
    LEADING,
    STEP_DOWN_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    UnreadableRecord,
    format_time,
    parse_time,
    step_down_request,
)
from sidecar.registration import Registration, registration_key, registrations

if TYPE_CHECKING:
    from collections.abc import Mapping

BID_JITTER = 0.1
"""Seconds over which the bids for one vacancy are spread, so that most candidates see the winner before they bid."""

FIRST_BIDDERS = 2
"""How many candidates of each node bid first for a vacancy: a bid costs a census, and on one node all find the same."""

SUCCESSOR_SECONDS = 1.0
"""How long a vacancy is its named successor's alone."""

CHECK_SECONDS = 5.0
"""How long a holder may check whether its node is the right one, before it leads all the same."""

RELEASED_LEASE_SECONDS = 1
"""The lease in the record of a lock that was given up, as client-go's `release` writes it."""

_SENT_LIMIT = 16
"""Writes whose outcome may be unknown at one time. Between two answers a leader fails after far fewer."""

_UNHEARD_LIMIT = 4
"""Writes in a row whose answers were lost, after which a candidate that does not lead stops writing: others, who are
answered, may lead, and do so once its lease ran out."""

_OUT_LEASES = 2
"""Leases for which a candidate that stepped down leaves the lock to others."""

_LATE_SLOTS = 8
"""How much shorter bids are held back for a vacancy whose named successor did not come."""

_LONGEST_BACKOFF = 10.0
"""Seconds, however long the retry period."""


# -- What is handed in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How a candidate takes part in spreading leaders over nodes.

    `slot` is the seconds by which a bid is held back for each leader that its node has more than the least loaded. With
    `rebalance`, a leadership that is badly placed is handed over.
    """

    slot: float = 0.5
    rebalance: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidacy:
    """Who stands for election, and under which timing (seconds; `lease_seconds` as it goes over the wire).

    `balance` `None` is the stock behaviour: nodes do not matter, and to take the lock is to lead.
    """

    identity: str
    pod_uid: str
    node: str
    lease_seconds: int
    renew_deadline: float
    retry_period: float
    weight: int = 1
    balance: Balance | None = None
    releases_on_exit: bool = True
    """Whether what is held is released when the process ends; if not, the others wait for the lease to run out."""
    release_delay: float = 0.0
    """How long the lock is kept after the order to end, in seconds, led by nobody, until it is released."""

    @property
    def registers(self) -> bool:
        """Tell whether this candidate says where it runs, so that leadership can be handed over to it."""
        return self.balance is not None and self.balance.rebalance


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One reading of the outside world.

    `now` is in seconds on a clock that never goes back and runs on while the machine sleeps; `wall` is seconds
    since the epoch, for people to read in the record and for nothing else; `luck` is drawn from [0, 1).
    """

    now: float
    wall: int
    luck: float


# -- Events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetched:
    """A read, asked at `asked_at`, was answered; `None` says that there is no lock object."""

    snapshot: Snapshot | None
    asked_at: float


@dataclass(frozen=True, slots=True)
class Changed:
    """The watch showed the lock object."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Deleted:
    """The watch showed that the lock object was deleted, at this version."""

    version: int


@dataclass(frozen=True, slots=True)
class Written:
    """A write, asked at `asked_at`, was applied."""

    snapshot: Snapshot
    asked_at: float


@dataclass(frozen=True, slots=True)
class Conflicted:
    """A write was not applied: the lock object is not what it was, is there already, or is gone."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed. A write that was `refused` was not applied; of any other nobody knows."""

    write: bool = False
    refused: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """From here on changes are shown without asking."""


@dataclass(frozen=True, slots=True)
class WatchStopped:
    """Changes have to be asked for. `gap` says that some may have been missed."""

    gap: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """The process was told to end: give up what is held, then go."""


@dataclass(frozen=True, slots=True)
class Abstain:
    """Do not stand for election, for the reason `why`, before the instant `until`.

    What is held is given up. A lock that has been vacant for `patience` seconds is bid for all the same: somebody has
    to. An earlier order with the same reason is replaced.
    """

    why: str
    until: float = math.inf
    patience: float = math.inf


@dataclass(frozen=True, slots=True)
class Stand:
    """The reason `why` not to stand for election is gone."""

    why: str


@dataclass(frozen=True, slots=True)
class Counted:
    """A census was taken for the bid, which is to be held back for `delay` seconds; `None`: there is no census."""

    delay: float | None


@dataclass(frozen=True, slots=True)
class Confirm:
    """The lock that is held is in the right place: lead, and nominate nobody."""


@dataclass(frozen=True, slots=True)
class Nominate:
    """This candidate is to be the next leader, if it accepts; `""` says that nobody is."""

    successor: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Stop leading, and release the lock in favour of `successor`, which has accepted."""

    successor: Registration


@dataclass(frozen=True, slots=True)
class Strike:
    """Take these annotations, of candidates that are gone, off the lock object with the next write."""

    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Calm:
    """The group has settled: hand-overs are counted anew."""


Advice = Counted | Confirm | Nominate | HandOver | Strike | Calm
"""What comes from the balance."""

News = Fetched | Changed | Deleted | Written | Conflicted | Failed | WatchStarted | WatchStopped
"""What comes from the API server."""

Order = Leaving | Abstain | Stand
"""What comes from whoever runs the process."""

Event = News | Order | Advice


# -- Actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before the instant `until`, unless something happens."""

    until: float
    why: str


@dataclass(frozen=True, slots=True)
class Read:
    """Get the lock object, fresh."""

    why: str


@dataclass(frozen=True, slots=True)
class Write:
    """Put `record` and `claim` in place of what `base` showed; `None` says create the lock object."""

    base: Snapshot | None
    record: Record
    claim: Claim | None
    others: Mapping[str, str | None]
    """Other annotations that are set, or with `None` removed, by the same write."""
    why: str


@dataclass(frozen=True, slots=True)
class Count:
    """Take a census of the group, from which follows for how long to hold the bid back."""

    why: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing is held any more; the process may end."""

    why: str


Action = Wait | Read | Write | Count | Leave


# -- State -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the lock object was when last seen, and what follows from when it was seen to change."""

    snapshot: Snapshot | None
    version: int
    """The resourceVersion that this was learned at; of an absent object, that of its deletion or of its last state."""
    seen_at: float
    """When this snapshot was learned."""
    mine: bool
    """The record is in force and I wrote it."""
    held_until: float
    """Before this instant nobody may take over. A record that vanishes is held still: that is no release."""
    bid_at: float
    """When to bid, once it is vacant."""
    counted: bool = False
    """Whether a census was asked for before this bid."""
    checks: bool = False
    """Whether there was a census, so that whoever takes this vacancy may check whether its node is the right one."""

    @property
    def text(self) -> str | None:
        """The record's annotation, `None` when there is no record or no object."""
        return self.snapshot.text if self.snapshot else None

    @property
    def holder(self) -> str:
        """The name in the record, `""` when there is none."""
        return self.snapshot.holder if self.snapshot else ""

    @property
    def claim(self) -> Claim | None:
        """The claim that was written with the record; one that was left behind does not count."""
        return self.snapshot.valid_claim if self.snapshot else None

    @property
    def missed(self) -> str:
        """Whoever let this become vacant, and counts as gone until it says otherwise; `""` when nobody does.

        That is the holder whose lease ran out, or the successor that did not come.
        """
        return self.holder or (self.claim.successor if self.claim else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """This candidate's hold on the lock: uninterrupted leadership, once it is `confirmed`."""

    token: int
    """Fencing token: the version of the write that began the leadership. It grows with every term of the election."""
    since: int
    """When that was, in seconds since the epoch."""
    renewed_at: float
    """When the last successful renewal was sent."""
    valid_until: float
    confirmed: bool
    confirm_at: float
    """When to confirm, if that was not done before."""
    successor: str = ""
    """The identity of who is nominated."""
    nominated_in: int = 0
    """The version of the write that nominated."""
    moves: int = 0
    """How often the election was handed over since it was last calm."""
    written: Claim
    """The claim as it was last written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that one candidate knows. `note` says in a sentence why it leads or does not."""

    candidacy: Candidacy
    observed: Observed | None = None
    moves: int = 0
    """How often the election was handed over since it was last calm, by the last claim that was seen."""
    term: Term | None = None
    sent: tuple[str, ...] = ()
    """The records that I wrote since anybody else did: the one that was confirmed, and those of unknown outcome."""
    sent_claim: Claim | None = None
    """The claim that the last of them was sent with."""
    last_renew_time: int = 0
    """The renew time of the last record sent, in seconds since the epoch."""
    must_read: bool = True
    read_at: float = -math.inf
    """When the last answered read was asked."""
    watching: bool = False
    poll_at: float = math.inf
    failures: int = 0
    unheard: int = 0
    """Writes since the last one that was answered, of which nobody knows whether they were applied."""
    not_before: float = -math.inf
    """No request before this instant: the back-off."""
    leaving: bool = False
    release_at: float = -math.inf
    """When somebody who leaves releases what is held."""
    handing_to: Registration | None = None
    """In whose favour the lock is being released."""
    yielding: bool = False
    """Whatever is held is being released, and this candidate stays."""
    abstentions: tuple[Abstain, ...] = ()
    """Why this candidate does not stand for election; those whose time is over count no more."""
    struck: frozenset[str] = frozenset()
    """Annotations that the next write takes off."""
    note: str = "starting"

    @property
    def may_hold(self) -> bool:
        """Tell whether the lock may be mine: it was when it was last observed, or a write may have been applied."""
        return bool(self.sent) or (self.observed is not None and self.observed.mine)

    @property
    def is_giving_up(self) -> bool:
        """Tell whether whatever is held is to be released; no answer to a write begins a term any more."""
        return self.leaving or self.yielding or self.handing_to is not None

    def abstains(self, now: float) -> str:
        """Return why this candidate does not stand for election at this instant, `""` when it does."""
        return next((order.why for order in self.abstentions if now < order.until), "")

    def refuses(self, now: float) -> bool:
        """Tell whether it would not even take a lock that nobody else wants, nor keep one that it finds its own."""
        return any(now < order.until and order.patience == math.inf for order in self.abstentions)

    def is_leading(self, now: float) -> bool:
        """Tell whether this candidate is the leader at this instant. Ask anew for every answer."""
        return self.term is not None and self.term.confirmed and now < self.term.valid_until

    def leader_name(self, now: float) -> str:
        """Return the current leader's identity, or `""` when nobody's lease is known to be valid.

        A holder that has this candidate's name and is not this candidate is not named: a script beside it that
        looks for its own host name would take itself for the leader.
        """
        if self.is_leading(now):
            return self.candidacy.identity
        observed = self.observed
        if observed is None or observed.mine or now >= observed.held_until:
            return ""
        if observed.claim is not None and observed.claim.state == CHECKING:
            return ""
        return observed.holder if observed.holder != self.candidacy.identity else ""


# -- What to do next ---------------------------------------------------------------------------------------------------


def next_action(state: State, moment: Moment) -> tuple[State, Action]:
    """Return what to do now; to be asked again whenever something happened or the wait is over.

    The state that comes back remembers a write before it is sent, so that its text is known for this candidate's own
    whatever becomes of the answer.
    """
    state = lapse(state, moment.now)
    now = moment.now
    if state.leaving and not state.may_hold:
        return state, Leave("nothing is held")
    if now < state.not_before:
        return state, Wait(_first(state.not_before, state), "backing off after a failure")
    if state.leaving:
        return _leave(state, moment)
    observed = state.observed
    if state.is_giving_up:
        if state.must_read or (observed is not None and observed.mine):
            return _give_up(state, moment)
        state = replace(state, handing_to=None, yielding=False)  # done, or somebody else has it
    if observed is None or state.must_read:
        return state, Read("find out what the lock is" if observed is None else "find out what became of the lock")
    if observed.mine and (state.term is not None or (state.unheard < _UNHEARD_LIMIT and not state.refuses(now))):
        return _renew(state, observed, moment)
    if now < observed.held_until:
        return _follow(state, observed, now)
    return _bid(state, observed, moment)


def _renew(state: State, observed: Observed, moment: Moment) -> tuple[State, Action]:
    """Keep the lock that I hold."""
    old = observed.snapshot.record if observed.snapshot else None
    if not isinstance(old, Record):
        raise TypeError("only a readable record can be mine")
    record = replace(old, lease_seconds=state.candidacy.lease_seconds)
    term = state.term
    if term is None:
        # What was being checked goes on being checked: nobody may be told that it leads by a write whose answer was
        # lost, or by a process before this one.
        checks = state.candidacy.registers and observed.claim is not None and observed.claim.state == CHECKING
        claim = _claim(state, checks=checks, moves=state.moves)
        return _write(state, moment, record, claim, "resume: the lock is held in my name by this very pod")
    confirmed = term.confirmed or moment.now >= term.confirm_at
    claim = _claim(state, checks=not confirmed, successor=term.successor, term=term.token, moves=term.moves)
    written = term.written
    changed = (claim.state, claim.successor, claim.moves) != (written.state, written.successor, written.moves)
    due = moment.now if changed else term.renewed_at + state.candidacy.retry_period
    if not confirmed:
        due = min(due, term.confirm_at)
    if moment.now < due:
        return state, Wait(_first(due, state), "leading" if term.confirmed else "checking")
    return _write(state, moment, record, claim, _why_renew(term, claim))


def _why_renew(term: Term, claim: Claim) -> str:
    if claim.state != term.written.state:
        return "confirm"
    if claim.successor != term.written.successor:
        return "nominate" if claim.successor else "withdraw the nomination"
    return "renew"


def _follow(state: State, observed: Observed, now: float) -> tuple[State, Action]:
    """Wait while somebody else holds the lock, or may hold it still."""
    why = "the lock is damaged or gone, and whoever held it may still lead"
    if observed.holder:
        why = f"{observed.holder} holds the lock"
    return state, _look_on(state, now, observed.held_until, why)


def _look_on(state: State, now: float, until: float, why: str) -> Action:
    """Wait until then, and poll meanwhile where no watch shows what changes."""
    if state.watching:
        return Wait(until, why)
    if now >= state.poll_at:
        return Read("poll: changes are not shown by a watch")
    return Wait(min(until, state.poll_at), why)


def _bid(state: State, observed: Observed, moment: Moment) -> tuple[State, Action]:
    """Take a lock that is vacant, or whose lease ran out."""
    if moment.now < observed.bid_at:
        return state, Wait(observed.bid_at, "the lock is vacant; bidding shortly")
    stands_at = _stands_at(state, observed)
    if moment.now < stands_at:
        why = f"does not stand for election: {state.abstains(moment.now)}"
        return state, _look_on(state, moment.now, stands_at, why)
    me = state.candidacy
    counts = me.balance is not None and not observed.counted and not _is_successor(state, observed.snapshot)
    # Whoever bids because nobody else wanted the lock has waited for long enough.
    counts = counts and not state.abstains(moment.now)
    # A bid that was held back may come too late, so it is not sent before another look.
    fresh_since = observed.held_until if me.balance is None else observed.bid_at
    fresh_since = max(fresh_since, stands_at)
    if state.read_at < fresh_since and not (counts and state.watching):
        return state, Read("look once more before taking over")
    if counts:
        return state, Count("see how many leaders each node has before bidding")
    old = observed.snapshot.record if observed.snapshot else None
    # As client-go counts: none yet for a lock that is created, one for an object that had no record.
    transitions = old.transitions + 1 if isinstance(old, Record) else int(observed.snapshot is not None)
    record = Record(
        holder=me.identity,
        lease_seconds=me.lease_seconds,
        acquire_time=format_time(moment.wall),
        renew_time="",
        transitions=transitions,
    )
    gone = "" if _is_successor(state, observed.snapshot) else observed.missed
    # After a leader that went without a word there was none for long enough: lead first, and look then.
    checks = observed.checks and me.registers and not observed.missed
    claim = _claim(state, checks=checks, moves=state.moves)
    if gone:
        state = replace(state, struck=state.struck | {registration_key(gone)})
    return _write(state, moment, record, claim, "take over" if old else "take the vacant lock")


def _stands_at(state: State, observed: Observed) -> float:
    """Return from when on this candidate stands, or stood, for a vacancy that nobody else wanted."""
    ends = (min(order.until, observed.bid_at + order.patience) for order in state.abstentions)
    return max(ends, default=-math.inf)


def _leave(state: State, moment: Moment) -> tuple[State, Action]:
    """Release what is held, at its time. Until then nobody leads: the lock is renewed, and says so."""
    if not state.candidacy.releases_on_exit:
        return state, Leave("what is held is not released; its lease runs out")
    observed = state.observed
    if moment.now >= state.release_at or state.must_read or observed is None or not observed.mine:
        return _give_up(state, moment)
    old = observed.snapshot.record if observed.snapshot else None
    if not isinstance(old, Record):
        raise TypeError("only a readable record can be mine")
    due = observed.held_until - old.lease_seconds + state.candidacy.retry_period
    if moment.now < due:
        return state, Wait(min(due, state.release_at), "leaving; the lock is kept until the main container has ended")
    claim = _claim(state, checks=True, moves=state.moves)
    return _write(state, moment, replace(old, lease_seconds=state.candidacy.lease_seconds), claim, "keep the lock")


def _give_up(state: State, moment: Moment) -> tuple[State, Action]:
    """Release what was just read to be mine: the process ends, it stands no more, or a successor has accepted."""
    observed = state.observed
    if state.must_read:
        return state, Read("see whether the lock is still mine before releasing it")
    if observed is None or not observed.mine or observed.snapshot is None:
        return state, Leave("nothing is held")
    old = observed.snapshot.record
    released = Record(
        holder="",
        lease_seconds=RELEASED_LEASE_SECONDS,
        acquire_time=format_time(moment.wall),
        renew_time="",
        transitions=old.transitions if isinstance(old, Record) else 0,
    )
    successor = state.handing_to
    if successor is None or state.leaving or state.yielding:
        return _write(state, moment, released, None, "release")
    claim = Claim(
        holder="",
        node=successor.node,
        pod_uid=successor.pod_uid,
        weight=state.candidacy.weight,
        successor=successor.identity,
        moves=state.moves + 1,
    )
    return _write(state, moment, released, claim, f"hand over to {successor.identity}")


def _claim(state: State, *, checks: bool, successor: str = "", term: int = 0, moves: int = 0) -> Claim:
    me = state.candidacy
    return Claim(
        holder=me.identity,
        node=me.node,
        pod_uid=me.pod_uid,
        weight=me.weight,
        state=CHECKING if checks else LEADING,
        successor=successor,
        term=term,
        moves=moves,
    )


def _write(state: State, moment: Moment, record: Record, claim: Claim | None, why: str) -> tuple[State, Action]:
    """Stamp the record and remember it as sent.

    Followers count the lease from a change that they can see, so no record may ever come again: renew times only grow,
    also within a second, when the wall clock is set back, and when this pod's container was started again. They are for
    people, and decide nothing but whether two records are the same. Somebody else's is no measure: it may be the last
    that can be written, and renewals would change nothing any more.
    """
    base = state.observed.snapshot if state.observed else None
    last = state.last_renew_time
    if state.observed is not None and state.observed.mine and base is not None and isinstance(base.record, Record):
        last = max(last, parse_time(base.record.renew_time))
    stamp = max(moment.wall, last + 1)
    stamped = replace(record, renew_time=format_time(stamp))
    sent = (*state.sent, stamped.encode())[-_SENT_LIMIT:]
    if claim is not None:
        claim = replace(claim, renewed=stamped.renew_time)
    state = replace(state, sent=sent, sent_claim=claim, last_renew_time=stamp)
    return state, Write(base, stamped, claim, _others(state), why)


def _others(state: State) -> Mapping[str, str | None]:
    """Return what else a write does: it strikes out who has gone, and keeps this candidate's own registration right.

    So the candidate that makes the lock object is registered from its first version on, and one that leaves is not.
    """
    me = state.candidacy
    others: dict[str, str | None] = dict.fromkeys(sorted(state.struck))
    base = state.observed.snapshot if state.observed else None
    if base is not None and STEP_DOWN_ANNOTATION in base.annotations:
        # It was heeded, or asked of somebody before me.
        others[STEP_DOWN_ANNOTATION] = None
    if me.registers:
        key = registration_key(me.identity)
        known = registrations(base.annotations).get(key) if base is not None else None
        if state.leaving or state.yielding:
            others[key] = None
        elif known is None or (known.pod_uid, known.node) != (me.pod_uid, me.node):
            others[key] = Registration(identity=me.identity, node=me.node, pod_uid=me.pod_uid).encode()
        else:
            others.pop(key, None)
    return others


def _first(instant: float, state: State) -> float:
    """Wait no longer than the term is valid, so that its end is noticed, told and logged when it comes."""
    return min(instant, state.term.valid_until) if state.term is not None else instant


# -- What happened -----------------------------------------------------------------------------------------------------


def apply(state: State, event: Event, moment: Moment) -> State:
    """Return what is known after `event`."""
    state = lapse(state, moment.now)
    if isinstance(event, Advice):
        return _advised(state, event, moment)
    if isinstance(event, Order):
        return _ordered(state, event, moment)
    state = _told(state, event, moment)
    if state.term is not None and _is_asked_to_step_down(state):
        return _ordered(state, step_down(state.candidacy, moment.now, "was asked to step down"), moment)
    return state


def step_down(me: Candidacy, now: float, why: str) -> Abstain:
    """Return the order to give up what is held, and to leave it to others for long enough that one of them takes it.

    A candidate of the stock image waits for its whole ttl after a release before it bids.
    """
    return Abstain(why, until=now + _OUT_LEASES * me.lease_seconds)


def _is_asked_to_step_down(state: State) -> bool:
    """Tell whether somebody wrote on the lock object that this very term is to end."""
    snapshot = state.observed.snapshot if state.observed else None
    if snapshot is None or not isinstance(snapshot.record, Record):
        return False
    return snapshot.annotations.get(STEP_DOWN_ANNOTATION) == step_down_request(snapshot.record)


def _ordered(state: State, order: Order, moment: Moment) -> State:
    """Do as told. Leadership is revoked here and now; what is read and written comes after."""
    match order:
        case Leaving():
            release_at = moment.now + state.candidacy.release_delay
            state = replace(_revoke(state, "leaving"), leaving=True, release_at=release_at)
            return replace(state, must_read=state.may_hold, not_before=moment.now)
        case Abstain(why):
            kept = tuple(other for other in state.abstentions if other.why != why and moment.now < other.until)
            state = replace(_revoke(state, why), abstentions=(*kept, order))
            if not state.may_hold:
                return state
            return replace(state, yielding=True, must_read=True, not_before=moment.now)
        case Stand(why):
            kept = tuple(other for other in state.abstentions if other.why != why)
            # What was last read may be long past by now.
            return replace(state, abstentions=kept, must_read=state.must_read or kept != state.abstentions)


def _told(state: State, event: News, moment: Moment) -> State:
    match event:
        case Fetched(snapshot, asked_at):
            return _fetched(state, snapshot, asked_at, moment)
        case Changed(snapshot):
            return _observe(state, snapshot, moment) if _is_news(state.observed, snapshot) else state
        case Deleted(version):
            known = state.observed
            if known is None or version < known.version or (version == known.version and known.snapshot is None):
                return state
            return _observe(state, None, moment, version=version)
        case Written(snapshot, asked_at):
            return _written(state, snapshot, asked_at, moment)
        case Conflicted():
            return _failed(state, moment)
        case Failed(write, refused, retry_after):
            state = replace(state, unheard=state.unheard + (write and not refused))
            return _failed(state, moment, refused=refused, retry_after=retry_after)
        case WatchStarted():
            return replace(state, watching=True)
        case WatchStopped(gap):
            # A watch that was renewed shows something within a retry period, so that nobody has to ask.
            poll_at = moment.now + state.candidacy.retry_period * (1 + moment.luck / 2)
            return replace(state, watching=False, poll_at=poll_at, must_read=state.must_read or gap)


def _advised(state: State, advice: Advice, moment: Moment) -> State:
    """Take in what the balance says. Of somebody who holds nothing it can want nothing but that a bid is held back."""
    if isinstance(advice, Counted):
        return _counted(state, advice.delay, moment)
    term = state.term
    if term is None:
        return state
    match advice:
        case Confirm():
            return replace(state, term=replace(term, confirm_at=min(term.confirm_at, moment.now), successor=""))
        case Nominate(successor):
            return replace(state, term=replace(term, successor=successor))
        case HandOver(successor):
            # Revoked here and now; what is read and written comes after.
            state = _revoke(state, f"handing over to {successor.identity} on {successor.node}")
            return replace(state, handing_to=successor, must_read=True, not_before=moment.now)
        case Strike(keys):
            return replace(state, struck=state.struck | keys)
        case Calm():
            return replace(state, term=replace(term, moves=0))


def _counted(state: State, delay: float | None, moment: Moment) -> State:
    observed = state.observed
    if observed is None or moment.now < observed.bid_at:
        # The census took long, and this is another vacancy, or none, by now.
        return state
    bid_at = observed.bid_at
    if delay:
        if observed.claim is not None and not observed.holder:
            # The successor did not come, and everybody has waited for it already.
            delay /= _LATE_SLOTS
        bid_at = moment.now + delay
    return replace(state, observed=replace(observed, counted=True, checks=delay is not None, bid_at=bid_at))


def lapse(state: State, now: float) -> State:
    """End a term whose renew deadline has passed."""
    if state.term is None or now < state.term.valid_until:
        return state
    return _revoke(state, "the lease was not renewed before the renew deadline")


def _revoke(state: State, why: str) -> State:
    if state.term is None:
        return state
    before = "stopped leading" if state.term.confirmed else "gave up the lock before leading"
    return replace(state, term=None, note=f"{before}: {why}")


def _fetched(state: State, snapshot: Snapshot | None, asked_at: float, moment: Moment) -> State:
    poll_at = moment.now + state.candidacy.retry_period * (0.9 + moment.luck / 5)
    state = replace(state, must_read=False, read_at=asked_at, poll_at=poll_at)
    known = state.observed
    overtaken = known is not None and known.seen_at > asked_at
    if known is None or not overtaken or (snapshot is not None and _is_news(known, snapshot)):
        # A read is consistent: it shows nothing older than the instant at which it was asked. So what it says holds
        # even where its version is smaller than the last, as after etcd was restored from a backup.
        state = _observe(state, snapshot, moment, asked_at=asked_at)
    observed = state.observed
    if observed is not None and not observed.mine and moment.now < observed.held_until:
        # There is nothing to write, so what failed before is over.
        state = replace(state, failures=0)
    return state


def _written(state: State, snapshot: Snapshot, asked_at: float, moment: Moment) -> State:
    if not state.sent or snapshot.text != state.sent[-1]:
        # Something between us and the API server answered with another state than the one that was written, or the
        # lock has been seen in other hands since.
        return _failed(state, moment)
    state = replace(state, failures=0, unheard=0, must_read=False)
    if _is_news(state.observed, snapshot):
        state = _observe(state, snapshot, moment)
    observed = state.observed
    if state.is_giving_up or observed is None or not observed.mine:
        # The answer came after worse news: a later change, or the order to give the lock up.
        return replace(state, must_read=state.is_giving_up and observed is not None and observed.mine)
    struck = state.struck.intersection(snapshot.annotations)
    state = replace(state, sent=state.sent[-1:], struck=struck)
    valid_until = asked_at + state.candidacy.renew_deadline
    if moment.now >= valid_until:
        return _revoke(state, "the answer to the renewal came after the renew deadline")
    claim = state.sent_claim
    if claim is None:
        raise TypeError("only a claimed record can be mine")
    term = state.term
    # What I wrote decides, whatever the lock object says by now.
    confirmed = claim.state == LEADING
    if term is None:
        term = Term(
            token=snapshot.version,
            since=moment.wall,
            renewed_at=asked_at,
            valid_until=valid_until,
            confirmed=confirmed,
            confirm_at=moment.now + CHECK_SECONDS,
            moves=claim.moves,
            written=claim,
        )
        return replace(state, term=term, note="leading" if confirmed else "checking whether this is the right node")
    begins = confirmed and not term.confirmed
    if begins:
        term = replace(term, confirmed=True, token=snapshot.version, since=moment.wall)
    nominated_in = term.nominated_in if claim.successor == term.written.successor else snapshot.version
    term = replace(term, renewed_at=asked_at, valid_until=valid_until, written=claim, nominated_in=nominated_in)
    return replace(state, term=term, note="leading" if begins else state.note)


def _failed(state: State, moment: Moment, *, refused: bool = False, retry_after: float = 0.0) -> State:
    """Back off, then find out what the lock is before anything else is concluded."""
    ceiling = min(state.candidacy.retry_period / 2, _LONGEST_BACKOFF)
    delay = ceiling if refused else min(ceiling, ceiling / 16 * 2 ** min(state.failures, 8))
    delay *= 0.5 + moment.luck / 2
    # Spread as well, or everybody who was told the same comes back at the same instant.
    delay = max(delay, min(retry_after, state.candidacy.retry_period) * (1 + moment.luck / 4))
    return replace(state, failures=state.failures + 1, not_before=moment.now + delay, must_read=True)


def _is_news(known: Observed | None, snapshot: Snapshot) -> bool:
    """Tell whether this is later than what is known.

    Of a lock that is two objects, something later may have the same version: that is the greater one of the two, and
    the other one may be heard of late.
    """
    if known is None or snapshot.version != known.version:
        return known is None or snapshot.version > known.version
    return known.snapshot is not None and snapshot.parts != known.snapshot.parts


def _observe(
    state: State, snapshot: Snapshot | None, moment: Moment, *, asked_at: float | None = None, version: int = 0
) -> State:
    """Compare with the observed record and its claim; only where they changed a lease starts anew.

    `asked_at` is when a read that shows this was asked, `None` when nobody asked. `version` is a deletion's.
    """
    before = state.observed
    text = snapshot.text if snapshot else None
    version = max(version, snapshot.version if snapshot else before.version if before else 0)
    claim = snapshot.valid_claim if snapshot else None
    if before is not None and (text, claim) == (before.text, before.claim):
        return replace(state, observed=replace(before, snapshot=snapshot, version=version, seen_at=moment.now))
    held_until, bid_at = _vacancy(state, snapshot, moment, asked_at)
    observed = Observed(
        snapshot=snapshot,
        version=version,
        seen_at=moment.now,
        mine=_is_mine(state, snapshot),
        held_until=held_until,
        bid_at=bid_at,
    )
    state = replace(state, observed=observed, moves=claim.moves if claim is not None else state.moves)
    if observed.mine:
        return state
    if snapshot is not None and (snapshot.holder or isinstance(snapshot.record, UnreadableRecord)):
        # Somebody else's. What I wrote before is no longer in force, also if it should come back from a backup; and a
        # write of mine that is still under way is based on an older version.
        state = replace(state, sent=(), struck=frozenset())
    note = _note(before, observed, state.candidacy)
    return _revoke(state, note) if state.term is not None else replace(state, note=note)


def _is_mine(state: State, snapshot: Snapshot | None) -> bool:
    """Tell whether I wrote this record.

    A name is not enough, and a claim alone is not either, even one that belongs to the record: an earlier process of
    this pod may have written it. After a restart of its container a pod goes on with what that one held; there, at
    first sight, the claim has to do.
    """
    me = state.candidacy
    if snapshot is None or snapshot.holder != me.identity:
        return False
    claim = snapshot.valid_claim
    if claim is None or claim.pod_uid != me.pod_uid:
        return False
    return snapshot.text in state.sent or state.observed is None


def _vacancy(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
    """Return until when nobody may take over, and when to bid."""
    wait = _bid_wait(state.candidacy, snapshot, moment.luck)
    since = moment.now if asked_at is None else asked_at
    record = snapshot.record if snapshot else None
    claim = snapshot.valid_claim if snapshot else None
    if claim is not None and not claim.holder:
        if _is_successor(state, snapshot):
            return since, since
        return since, moment.now + SUCCESSOR_SECONDS + wait
    if state.observed is None and (record is None or (isinstance(record, Record) and not record.holder)):
        # Nobody to wait for; but where there is a census, the first one to have taken it spares the others theirs.
        return since, since + (wait if state.candidacy.balance is not None else 0.0)
    if record is None or isinstance(record, UnreadableRecord):
        # Deleted, stripped or damaged: no holder said that it is over.
        held_until = _held_still(state, moment, shown=snapshot is None and asked_at is None)
        return held_until, max(moment.now, held_until) + wait
    if not record.holder:
        return since, moment.now + wait
    lease, before = record.lease_seconds, state.observed
    if before is None:
        return moment.now + lease, moment.now + lease + wait
    if record.holder != before.holder:
        # A candidate that took over has waited for the lease before. A hand that wrote a name into the record has not.
        lease = max(lease, _last_lease(before))
    held_until = max(moment.now + lease, before.held_until)
    return held_until, held_until + wait


def _held_still(state: State, moment: Moment, *, shown: bool) -> float:
    """Return until when a lock is held whose record is gone or damaged; `shown` says that a watch showed its deletion.

    A watch shows everything that came before. Whoever reads may have been cut off, and have missed renewals: then the
    last one may be as young as the answer, and the record that was seen last is only the best guess of its lease.
    """
    observed, lease = state.observed, state.candidacy.lease_seconds
    if observed is None:
        return moment.now + lease
    if shown:
        return observed.held_until
    return max(moment.now + max(lease, _last_lease(observed)), observed.held_until)


def _last_lease(observed: Observed) -> int:
    record = observed.snapshot.record if observed.snapshot else None
    return record.lease_seconds if isinstance(record, Record) else 0


def _bid_wait(me: Candidacy, snapshot: Snapshot | None, luck: float) -> float:
    """Return the seconds before the bid for a vacancy: drawn, so that most see a winner first; more for late ones."""
    if me.balance is None:
        return BID_JITTER * luck
    known = registrations(snapshot.annotations) if snapshot else {}
    gone = registration_key(snapshot.holder) if snapshot else ""
    here = {key for key, registration in known.items() if registration.node == me.node} - {gone}
    is_late = sum(key < registration_key(me.identity) for key in here) >= FIRST_BIDDERS
    return me.balance.slot / 2 * (luck + is_late)


def _is_successor(state: State, snapshot: Snapshot | None) -> bool:
    """Tell whether the lock was released in favour of this very candidate."""
    claim = snapshot.valid_claim if snapshot else None
    me = state.candidacy
    return claim is not None and not claim.holder and (claim.successor, claim.pod_uid) == (me.identity, me.pod_uid)


def _note(before: Observed | None, observed: Observed, me: Candidacy) -> str:
    if observed.snapshot is None:
        return "there is no lock object" if before is None else "the lock object was deleted"
    record = observed.snapshot.record
    if record is None:
        return "the lock object has no record"
    if isinstance(record, UnreadableRecord):
        return f"the record cannot be read ({record.reason})"
    if not record.holder:
        claim = observed.claim
        return f"the lock was released in favour of {claim.successor}" if claim else "the lock was released"
    if record.holder == me.identity:
        return "somebody else holds the lock under my name"
    if observed.claim is not None and observed.claim.state == CHECKING:
        return f"{record.holder} holds the lock, and checks whether its node is the right one"
    return f"{record.holder} holds the lock"
