"""The key of a world: equal keys, equal futures. It is what makes endless time and growing versions a finite graph.

What a world can do next depends on absolute values less than it seems to:

* *Instants* are only ever compared with the present, with each other, or after a constant was added to the instant at
  which something was asked. So each is written down by how far it lies ahead, in steps of its process's clock. Of what
  has passed, only the order among those that are compared is kept (when the record was last read, when its lease ran
  out, when to bid), and how long ago a write was asked that is still under way, up to the renew deadline.
* *Versions* are compared, and the next one is greater than all there are: their ranks say the same. 0 is always 0.
* *Renew and acquire times* come from the wall clock, and decide nothing except whether two records, or a record and a
  claim, are the same text. A time that has passed can never be written anew, so of those only the rank is kept; the
  present second, and what runs ahead of it, counts from the present.
* *leaderTransitions* are carried on, plus one at times, and start from 0 or 1: ranks again, with distances of up to 3
  kept, because records that are written in one second can differ in them alone.
* Counters of failures matter up to where their effect is capped.

What decides nothing is left out: notes, when a term began in calendar time, when to poll while a watch runs, a claim
that was sent when its answer is no longer waited for, and the contents of a write that can no longer be applied. Fields
that this file does not know go in as they are: that costs states, and hides none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from sidecar import election
from sidecar.election import Conflicted, Count, Counted, Deleted, Failed, Fetched, Read, State, Write, Written
from sidecar.record import (
    CLAIM_ANNOTATION,
    RECORD_ANNOTATION,
    STEP_DOWN_ANNOTATION,
    Record,
    parse_claim,
    parse_record,
    step_down_request,
)
from sidecar.registration import REGISTRATION_PREFIX, registrations
from sidecar.settling import BLIND_SECONDS, NUDGE_SECONDS, Look, Register, Settling
from tests.safety.explore.core import EPOCH, KEPT
from tests.safety.explore.objects import changes_of
from tests.safety.explore.stock import Attempt, Stock
from tests.safety.explore.world import Surveyed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.election import Observed, Term
    from sidecar.record import Snapshot
    from sidecar.settling import Holding
    from tests.safety.explore.rules import Rules
    from tests.safety.explore.world import Process, Request, World

Ahead = Callable[[float, float], float]
"""In how many steps an instant comes, and now."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_VERSIONS = {"version", "nominated_in", "accepted"}
"""Fields that hold a resourceVersion."""

_FAILURES = 8
"""Failures after which a back-off grows no longer."""

_UNHEARD = 4
"""Unheard writes after which nothing is written."""

LONGEST_PATIENCE = 4.0
"""Seconds: more than any scenario's orders have, so that what lies further back is all the same to them."""

_APART = 4
"""Distance of two `leaderTransitions` beyond which it does not matter."""


class Shape(NamedTuple):
    """A part of a world with what is renamed taken out of it, in the order in which it stood."""

    fixed: bytes
    versions: tuple[int, ...] = ()
    terms: tuple[int, ...] = ()
    renewed: tuple[int, ...] = ()
    acquired: tuple[int, ...] = ()
    transitions: tuple[int, ...] = ()


class _Scribe:
    """Writes one part down."""

    __slots__ = ("acquired", "fixed", "renewed", "terms", "transitions", "versions")

    def __init__(self) -> None:
        self.fixed: list[object] = []
        self.versions: list[int] = []
        self.terms: list[int] = []
        self.renewed: list[int] = []
        self.acquired: list[int] = []
        self.transitions: list[int] = []

    def add(self, *values: object) -> None:
        """Add what stays as it is."""
        self.fixed.extend(values)

    def version(self, version: int) -> None:
        """Add a version."""
        self.versions.append(version)

    def text(self, text: str | None) -> None:
        """Add a record, whose times and transitions are renamed."""
        record = parse_record(text) if text is not None else None
        if isinstance(record, Record):
            self.parts(record)
        else:
            self.add(text)

    def parts(self, thing: object) -> None:
        """Add the fields of a record, a claim, a registration or `None`, by what they mean."""
        if not is_dataclass(thing):
            self.add(thing)
            return
        for part in fields(thing):
            value = getattr(thing, part.name)
            if part.name == "term":
                self.terms.append(value)
            elif part.name in _VERSIONS:
                self.versions.append(value)
            elif part.name == "transitions":
                self.transitions.append(value)
            elif isinstance(value, str) and _TIME.fullmatch(value):
                self.add("time")
                (self.acquired if part.name == "acquire_time" else self.renewed).append(_seconds(value))
            else:
                self.add(value)

    def annotations(self, annotations: Mapping[str, str]) -> None:
        """Add everything that stands on a lock object."""
        self.text(annotations.get(RECORD_ANNOTATION))
        claim = annotations.get(CLAIM_ANNOTATION)
        self.parts(parse_claim(claim))
        known = registrations(annotations)
        for key, registration in known.items():
            self.add(key)
            self.parts(registration)
        # A request for another term is one like any other.
        record, asked = parse_record(annotations.get(RECORD_ANNOTATION) or ""), annotations.get(STEP_DOWN_ANNOTATION)
        self.add(asked is not None, isinstance(record, Record) and asked == step_down_request(record))
        others = (RECORD_ANNOTATION, CLAIM_ANNOTATION, STEP_DOWN_ANNOTATION)
        self.add(
            {
                key: text
                for key, text in sorted(annotations.items())
                if key not in others and not (key.startswith(REGISTRATION_PREFIX) and key in known)
            }
        )

    def shape(self) -> Shape:
        """Return what was written."""
        fixed = blake2b(repr(self.fixed).encode(), digest_size=12).digest()
        return Shape(
            fixed,
            tuple(self.versions),
            tuple(self.terms),
            tuple(self.renewed),
            tuple(self.acquired),
            tuple(self.transitions),
        )


_NOTHING = Shape(b"-")


class Keys:
    """Makes the keys of one scenario's worlds."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._scenario = rules.scenario
        self._snapshots: dict[int, tuple[Snapshot, Shape]] = {}
        self._states: dict[tuple[int, int, object], tuple[State | Stock, Shape]] = {}
        self._settlings: dict[tuple[int, int], tuple[Settling, Shape]] = {}
        self._failures = [
            () if number in self._scenario.stock else self._failing(number)
            for number in range(len(self._scenario.identities))
        ]
        self._writes: dict[int, tuple[Write | Attempt, Shape]] = {}

    def _failing(self, number: int) -> tuple[int, ...]:
        """Return for each number of failures the least one that has the same effects from there on.

        A back-off ends with a step of time, however short it was.
        """
        state = self._rules.fresh(number, "").state
        if not isinstance(state, State):
            return ()
        ahead = self._ahead(number)
        effects = []
        for failures in range(_FAILURES + 1):
            failed = replace(state, failures=failures)
            told = [
                election.apply(failed, event, self._rules.core.moment(number, 0, luck))
                for event in (Conflicted(), Failed(refused=True))
                for luck in self._scenario.lucks
            ]
            effects.append(tuple(ahead(each.not_before, 0.0) for each in told))
        return tuple(
            next(least for least in range(count + 1) if set(effects[least:]) == {*effects[count:]} == {effects[count]})
            if len(set(effects[count:])) == 1
            else count
            for count in range(_FAILURES + 1)
        )

    def key(self, world: World, *, spent: bool = True) -> bytes:
        """Return the key; without `spent`, of a future in which there are no more faults."""
        shapes = [self._snapshot(world.stored)]
        for number, process in enumerate(world.processes):
            self._process(shapes, world, number, process)
        shapes.extend(self._write(write) for write in world.late)
        version_list: list[int] = []
        term_list: list[int] = []
        renewed_list: list[int] = []
        acquired_list: list[int] = []
        transition_list: list[int] = []
        fixed = []
        for shape in shapes:
            fixed.append(shape.fixed)
            version_list += shape.versions
            term_list += shape.terms
            renewed_list += shape.renewed
            acquired_list += shape.acquired
            transition_list += shape.transitions
        wall = EPOCH + int(world.tick * self._scenario.step)
        # In steps of less than a second, how much of the wall clock's second is over; and how much time there is left.
        passed = (
            world.tick * self._scenario.step % 1,
            world.tick if spent and math.isfinite(self._rules.last_tick) else None,
        )
        digest = blake2b(digest_size=16)
        digest.update(b"|".join(fixed))
        if self._scenario.group:
            # A census compares how young terms are.
            version_list += term_list
        else:
            digest.update(_named(term_list))
        digest.update(_ranked(version_list))
        digest.update(_timed(renewed_list, wall))
        digest.update(_timed(acquired_list, wall))
        digest.update(_spread(tuple(transition_list)))
        digest.update(repr((world.budget if spent else self._continues(world), passed, world.group)).encode())
        return digest.digest()

    def _continues(self, world: World) -> object:
        # Whether somebody who was swapped out may come back is the one thing that the past decides.
        return world.budget[-1] if self._scenario.faults.get("swapped") else None

    # -- Processes --

    def _process(self, shapes: list[Shape], world: World, number: int, process: Process) -> None:
        if process.gone:
            shapes.append(_GONE)
            return
        shapes.append(self._state(world, number, process))
        request = process.request
        if request is not None:
            shapes.append(self._request(world, number, request))
        if process.side is not None:
            shapes.append(self._side(process.side))
        if process.settling is not None:
            shapes.append(self._settling(world, number, process.settling))
        shapes.extend(
            _deleted(entry.version) if isinstance(entry, Deleted) else self._snapshot(entry.snapshot)
            for entry in process.behind
        )
        shapes.append(_END if not process.gap else Shape(b"gap", (process.gap,)))

    def _state(self, world: World, number: int, process: Process) -> Shape:
        state, request = process.state, process.request
        reads = request is not None and isinstance(request.action, Read)
        writes = request is not None and isinstance(request.action, Write)
        asked_at = request.asked_at if reads and request is not None else None
        key = (id(state), world.tick, (asked_at, reads, writes, number))
        known = self._states.get(key)
        if known is None:
            scribe = _Scribe()
            if isinstance(state, Stock):
                self._stock(scribe, state, world, number)
            else:
                self._candidate(scribe, state, world, number, asked_at, writes=writes)
            known = state, scribe.shape()
            if len(self._states) > KEPT:
                self._states.clear()
            self._states[key] = known
        return known[1]

    def _stock(self, scribe: _Scribe, state: Stock, world: World, number: int) -> None:
        now = self._rules.now(world, number)
        lease, wait = self._scenario.timings[number].lease, self._ahead(number)
        scribe.add("stock", state.identity, state.writes, wait(state.next_at, now), wait(state.valid_until, now))
        scribe.add(wait(state.seen_at + lease, now))
        scribe.text(state.text)
        if state.base is not None:
            scribe.version(state.base.version)
            scribe.annotations(state.base.annotations)

    def _ahead(self, number: int) -> Ahead:
        step = self._scenario.step * self._scenario.rates[number]

        def ahead(instant: float, now: float) -> float:
            """Return in how many steps of a clock an instant has come; 0 when it has."""
            if instant <= now:
                return 0
            steps = (instant - now) / step
            return steps if steps == math.inf else math.ceil(round(steps, 6))

        return ahead

    def _candidate(
        self, scribe: _Scribe, state: State, world: World, number: int, asked_at: float | None, *, writes: bool
    ) -> None:
        now = self._rules.now(world, number)
        wait = self._ahead(number)
        wall = EPOCH + int(world.tick * self._scenario.step)
        observed = state.observed
        scribe.add(state.candidacy.identity, state.candidacy.pod_uid, state.must_read, state.watching, state.leaving)
        for asked in (state.read_at, asked_at):
            scribe.add(None if asked is None else (asked < now, _compared(asked, observed)))
        scribe.add(None if state.watching else wait(state.poll_at, now), wait(state.not_before, now))
        scribe.add(
            self._failures[number][min(state.failures, _FAILURES)],
            min(state.unheard, _UNHEARD),
            max(state.last_renew_time - wall, -1),
        )
        scribe.add(sorted(state.struck), state.moves, len(state.sent))
        self._observed(scribe, observed, now, wait)
        scribe.add("handing")
        scribe.parts(state.handing_to)
        scribe.add(state.yielding, wait(state.release_at, now) if state.leaving else None)
        for order in state.abstentions:
            if now < order.until:
                scribe.add(order.why, wait(order.until, now), order.patience)
        if self._scenario.orders:
            # How long the lock has been vacant counts, also for an order that is yet to come; and before a bid,
            # something has to have been read since an abstention ended.
            instants = [state.read_at, -math.inf if asked_at is None else asked_at]
            if observed is not None:
                stands_at = election._stands_at(state, observed)
                scribe.add(wait(stands_at, now), *(asked >= stands_at for asked in instants))
                instants.append(observed.bid_at)
            scribe.add("standing", *(round(max(instant - now, -LONGEST_PATIENCE), 6) for instant in instants))
        for text in state.sent:
            scribe.text(text)
        if writes:
            scribe.parts(state.sent_claim)
        self._term(scribe, state.term, now, state.candidacy.retry_period, wait)
        for part in fields(state):
            if part.name not in _KNOWN_OF_STATE:
                scribe.add(part.name, getattr(state, part.name))

    def _observed(self, scribe: _Scribe, observed: Observed | None, now: float, wait: Ahead) -> None:
        if observed is None:
            scribe.add("nothing")
            return
        self._add(scribe, observed.snapshot)
        scribe.version(observed.version)
        scribe.add(observed.mine, round(max(observed.held_until - now, 0), 6))
        if not observed.mine:
            scribe.add(wait(observed.bid_at, now), observed.counted, observed.checks)
        for part in fields(observed):
            if part.name not in _KNOWN_OF_OBSERVED:
                scribe.add(part.name, getattr(observed, part.name))

    def _term(self, scribe: _Scribe, term: Term | None, now: float, retry: float, wait: Ahead) -> None:
        if term is None:
            scribe.add("no term")
            return
        scribe.add("term", wait(term.valid_until, now), term.confirmed)
        if now >= term.valid_until:
            return
        scribe.terms.append(term.token)
        scribe.version(term.nominated_in)
        scribe.add(wait(term.renewed_at + retry, now), term.successor, term.moves)
        scribe.add(None if term.confirmed else wait(term.confirm_at, now))
        scribe.parts(term.written)
        for part in fields(term):
            if part.name not in _KNOWN_OF_TERM:
                scribe.add(part.name, getattr(term, part.name))

    def _settling(self, world: World, number: int, settling: Settling) -> Shape:
        key = (id(settling), world.tick)
        known = self._settlings.get(key)
        if known is None:
            known = settling, self._settling_shape(world, number, settling)
            if len(self._settlings) > KEPT:
                self._settlings.clear()
            self._settlings[key] = known
        return known[1]

    def _settling_shape(self, world: World, number: int, settling: Settling) -> Shape:
        now = self._rules.now(world, number)
        rate = self._scenario.rates[number]
        end = self._rules.last_tick * self._scenario.step * rate
        ahead = self._ahead(number)

        def wait(instant: float, now: float) -> float:
            # What comes after the scenario's end does not come.
            return math.inf if instant > end else ahead(instant, now)

        scribe = _Scribe()
        scribe.parts(settling.registered)
        scribe.add(wait(settling.register_at, now), min(settling.attempts, 11), wait(settling.accept_at, now))
        scribe.version(settling.nominated_in)
        scribe.add(settling.abstains)
        scribe.add(settling.there, settling.crowded, settling.watching, wait(settling.withdraw_at, now))
        blind = max(BLIND_SECONDS, 2 * self._scenario.timings[number].retry)
        scribe.add(None if settling.watching else wait(settling.blind_since + blind, now))
        scribe.add(settling.blind_since > -math.inf)
        for part in fields(settling):
            if part.name not in _KNOWN_OF_SETTLING:
                scribe.add(part.name, getattr(settling, part.name))
        if settling.holding is not None:
            self._holding(scribe, settling.holding, now, wait)
        return scribe.shape()

    def _holding(self, scribe: _Scribe, holding: Holding, now: float, wait: Ahead) -> None:
        scribe.add("holding", wait(holding.look_at, now), wait(holding.calm_at, now))
        scribe.add(holding.second_at if math.isinf(holding.second_at) else wait(holding.second_at, now))
        scribe.add(holding.nudges, wait(holding.nudged_at, now), wait(holding.nudged_at + NUDGE_SECONDS, now))
        scribe.add(holding.moves, holding.refusals, sorted(holding.nodes), sorted(holding.members))
        nominee = holding.nominee
        if nominee is not None:
            scribe.add("nominee", nominee.key, wait(nominee.until, now), nominee.written, nominee.accepted)
            scribe.parts(nominee.registration)
        for key, (registration, until) in sorted(holding.stamps.items(), key=lambda item: item[0]):
            scribe.add(key, wait(until, now))
            scribe.parts(registration)
        for part in fields(holding):
            if part.name not in _KNOWN_OF_HOLDING:
                scribe.add(part.name, getattr(holding, part.name))

    # -- Requests --

    def _request(self, world: World, number: int, request: Request) -> Shape:
        action, answer = request.action, request.answer
        if isinstance(action, Count):
            return _counting(answer)
        if isinstance(action, Read) or (isinstance(action, Attempt) and action.changes is None):
            if request.asked_at is None:
                return _UNSENT
            return _UNREAD if answer is None else self._answered(b"read", answer)
        deadline = self._scenario.timings[number].deadline
        now = self._rules.now(world, number)
        asked_at = request.asked_at
        left = -1 if asked_at is None else self._ahead(number)(asked_at + deadline, now)
        if answer is not None:
            old = isinstance(answer, Written) and answer.snapshot.version <= world.token
            return self._answered(b"written %d %d" % (left, old), answer)
        if not isinstance(action, Write | Attempt):
            raise TypeError(f"{action} is the settler's")
        stored, base = world.stored, action.base
        fits = (stored.version if stored is not None else None) == (base.version if base is not None else None)
        if not fits and (base is not None or not self._scenario.faults.get("deleted")):
            return Shape(b"stale %d" % left)
        shape = self._write(action)
        return shape._replace(fixed=b"write %d %d" % (left, fits) + shape.fixed)

    def _answered(self, what: bytes, answer: object) -> Shape:
        if isinstance(answer, Fetched | Written):
            shape = self._snapshot(answer.snapshot)
            return shape._replace(fixed=what + shape.fixed)
        if isinstance(answer, Conflicted):
            return Shape(what + b" conflict")
        return Shape(what + repr(answer).encode())

    def _write(self, write: Write | Attempt) -> Shape:
        known = self._writes.get(id(write))
        if known is None:
            changes = changes_of(write) if isinstance(write, Write) else dict(write.changes or ())
            scribe = _Scribe()
            scribe.add(write.base is None)
            scribe.text(changes.pop(RECORD_ANNOTATION))
            if isinstance(write, Write):
                del changes[CLAIM_ANNOTATION]
                scribe.parts(write.claim)
            scribe.add(sorted(changes.items()))
            known = write, scribe.shape()
            if len(self._writes) > KEPT:
                self._writes.clear()
            self._writes[id(write)] = known
        return known[1]

    def _side(self, side: Request) -> Shape:
        scribe = _Scribe()
        action, answer = side.action, side.answer
        if isinstance(action, Register):
            scribe.add("register", answer is None)
            scribe.parts(action.registration)
            if answer is not None and not isinstance(answer, Conflicted | Surveyed):
                self._add(scribe, answer.snapshot)  # type: ignore[union-attr] # a patch is answered by what it made
        elif isinstance(action, Look):
            scribe.add("look", answer is None)
            if isinstance(answer, Surveyed) and answer.census is not None:
                for each in answer.census.elections:
                    self._election(scribe, each)
        return scribe.shape()

    @staticmethod
    def _election(scribe: _Scribe, seen: object) -> None:
        for part in fields(seen):  # type: ignore[arg-type] # an Election
            value = getattr(seen, part.name)
            if part.name == "term":
                scribe.terms.append(value)
            else:
                scribe.add(sorted(value) if isinstance(value, frozenset) else value)

    # -- The lock object --

    def _snapshot(self, snapshot: Snapshot | None) -> Shape:
        if snapshot is None:
            return _NOTHING
        known = self._snapshots.get(id(snapshot))
        if known is None:
            scribe = _Scribe()
            scribe.version(snapshot.version)
            scribe.annotations(snapshot.annotations)
            known = snapshot, scribe.shape()
            if len(self._snapshots) > KEPT:
                self._snapshots.clear()
            self._snapshots[id(snapshot)] = known
        return known[1]

    def _add(self, scribe: _Scribe, snapshot: Snapshot | None) -> None:
        shape = self._snapshot(snapshot)
        scribe.add(shape.fixed)
        scribe.versions += shape.versions
        scribe.terms += shape.terms
        scribe.renewed += shape.renewed
        scribe.acquired += shape.acquired
        scribe.transitions += shape.transitions


def _compared(asked: float, observed: Observed | None) -> object:
    """Return what follows from when a read was asked, and what was observed since."""
    if observed is None:
        return ()
    bid = observed.mine or asked < observed.bid_at
    return asked < observed.held_until, bid, observed.seen_at > asked


_GONE = Shape(b"gone")
_END = Shape(b".")
_UNSENT = Shape(b"unsent")
_UNREAD = Shape(b"unread")

_KNOWN_OF_STATE = {
    "candidacy", "observed", "moves", "term", "sent", "sent_claim", "last_renew_time", "must_read", "read_at",
    "watching", "poll_at", "failures", "unheard", "not_before", "leaving", "handing_to", "struck", "note",
    "yielding", "release_at", "abstentions",
}  # fmt: skip
_KNOWN_OF_OBSERVED = {"snapshot", "version", "seen_at", "mine", "held_until", "bid_at", "counted", "checks"}
_KNOWN_OF_TERM = {
    "token", "since", "renewed_at", "valid_until", "confirmed", "confirm_at", "successor", "nominated_in", "moves",
    "written",
}  # fmt: skip
_KNOWN_OF_SETTLING = {
    "candidacy", "lock", "registered", "register_at", "attempts", "nominated_in", "accept_at", "holding", "there",
    "crowded", "watching", "blind_since", "withdraw_at", "why", "abstains",
}  # fmt: skip
_KNOWN_OF_HOLDING = {
    "look_at", "second_at", "calm_at", "nodes", "members", "nudges", "nudged_at", "nominee", "moves", "refusals",
    "stamps",
}  # fmt: skip


@lru_cache(maxsize=1 << 16)
def _deleted(version: int) -> Shape:
    return Shape(b"deleted", (version,))


@lru_cache(maxsize=1 << 10)
def _counting(answer: object) -> Shape:
    return Shape(b"count" + (repr(answer).encode() if isinstance(answer, Counted) else b""))


@lru_cache(maxsize=1 << 16)
def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _ranked(values: list[int]) -> bytes:
    """Return the rank of each, 0 being the least of all."""
    ranks = {value: rank for rank, value in enumerate(sorted({0, *values}))}
    return bytes([ranks[value] for value in values]) + b"/"


def _named(terms: list[int]) -> bytes:
    """Return which are the same, 0 being 0."""
    first = {0: 0}
    return bytes([first.setdefault(term, len(first)) for term in terms]) + b"/"


def _timed(times: list[int], wall: int) -> bytes:
    """Return for the present second and later how far each is ahead, for the past which of them are the same."""
    first: dict[int, int] = {}
    return bytes([100 + min(t - wall, 100) if t >= wall else first.setdefault(t, len(first)) for t in times]) + b"/"


@lru_cache(maxsize=1 << 18)
def _spread(values: tuple[int, ...]) -> bytes:
    """Return the order of the values and their distances, as far as these matter."""
    places, place, last = {0: 0}, 0, 0
    for value in sorted({*values}):
        place += min(value - last, _APART)
        places[value], last = place, value
    return bytes([places[value] for value in values]) + b"/"
