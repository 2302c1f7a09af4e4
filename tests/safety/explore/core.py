"""The real decision core, asked each question once.

Most of the moves of a world touch one candidate, which has been in the same state before, in worlds that differ
elsewhere. So what `sidecar.election` and `sidecar.settling` answered is kept, by identity of what they were asked with:
whoever asks keeps to the objects that were handed out here. The functions are looked up with every question, so a
defect that is planted in these modules is explored like the real thing.

What can be judged about a single step is judged here as well, once.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sidecar import election, settling
from sidecar.balance import delay
from sidecar.election import Advice, Counted, Leave, Moment, State, Wait, Write, Written
from sidecar.record import CHECKING, CLAIM_ANNOTATION, LEADING, RECORD_ANNOTATION
from sidecar.registration import registration_key, registrations
from sidecar.settling import Advise, Look, Pause, Register, Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.balance import Census
    from sidecar.election import Action, Event
    from sidecar.record import Snapshot
    from tests.safety.explore.scenarios import Scenario

EPOCH = 1_700_000_000
"""What the wall clock shows when a scenario begins."""

KEPT = 300_000
"""Answers of one kind that are kept; then all are forgotten."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

ROUNDS = 10
"""Of a settler without a pause: more would be a busy loop."""


K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A")


class BreachError(Exception):
    """What must hold does not."""


class Belief(NamedTuple):
    """What one candidate says when it is asked."""

    leads: bool
    name: str
    breach: str


class Core:
    """The decision core, for the candidates of one scenario. `met` counts what kinds of things happened."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._moments: dict[tuple[int, int, float], Moment] = {}
        self._states: dict[tuple[State, int], State] = {}
        self._settlings: dict[object, Settling] = {}
        self._happened: dict[tuple[int, int, int, float], tuple[object, ...]] = {}
        self._acted: dict[tuple[int, int], tuple[State, State, Action]] = {}
        self._settled: dict[tuple[int, int, int, float], tuple[object, ...]] = {}
        self._looked: dict[tuple[int, int, int, int, float], tuple[object, ...]] = {}
        self._believed: dict[tuple[int, int], tuple[State, Belief]] = {}
        self.met: dict[str, int] = {}

    # -- Clocks --

    def moment(self, number: int, tick: int, luck: float) -> Moment:
        """Return what the candidate of this number reads from the outside world."""
        moment = self._moments.get((number, tick, luck))
        if moment is None:
            seconds = tick * self._scenario.step
            moment = Moment(now=seconds * self._scenario.rates[number], wall=EPOCH + int(seconds), luck=luck)
            self._moments[number, tick, luck] = moment
        return moment

    # -- Steps --

    def happens(self, number: int, state: State, event: Event, tick: int, luck: float) -> State:
        """Let a candidate learn something."""
        key = (id(state), id(event), tick, luck)
        known = self._happened.get(key)
        if known is None:
            after = self._apply(number, state, event, tick, luck)
            known = (after, state, event)
            _room(self._happened)[key] = known
        return known[0]  # type: ignore[return-value] # a tuple that also keeps alive what the key names

    def _apply(self, number: int, state: State, event: Event, tick: int, luck: float) -> State:
        moment = self.moment(number, tick, luck)
        led = state.is_leading(moment.now)
        after = self._same(_asked(election.apply, state, event, moment))
        self._meet(type(event).__name__)
        if after.note != state.note:
            self._meet(f"note: {after.note}")
        if after.is_leading(moment.now) and not led:
            self._judge_start(after, event)
        return after

    def _judge_start(self, state: State, event: Event) -> None:
        me = state.candidacy
        claim = raw_claim(event.snapshot) if isinstance(event, Written) else {}
        if (claim.get("holder"), claim.get("pod_uid"), claim.get("state")) != (me.identity, me.pod_uid, LEADING):
            raise BreachError(
                f"{me.identity} ({me.pod_uid}) leads without the answer to a write of its own that says so"
            )

    def acts(self, number: int, state: State, tick: int) -> tuple[State, Action]:
        """Return what a candidate does now."""
        known = self._acted.get((id(state), tick))
        if known is None:
            moment = self.moment(number, tick, 0.0)
            after, action = _asked(election.next_action, state, moment)
            after = self._same(after)
            self._meet(type(action).__name__)
            if not isinstance(action, Wait):
                self._meet(f"why: {action.why}")
            if isinstance(action, Write):
                self._judge_write(after, action, moment.now)
            if isinstance(action, Leave) and after.is_leading(moment.now):
                raise BreachError(f"{state.candidacy.identity} goes while it leads")
            known = (after, state, action)
            _room(self._acted)[id(state), tick] = known
        return known[0], known[2]

    def _judge_write(self, state: State, write: Write, now: float) -> None:
        me = state.candidacy
        if write.record.holder:
            if write.record.holder != me.identity or write.claim is None or write.claim.pod_uid != me.pod_uid:
                raise BreachError(f"{me.identity} ({me.pod_uid}) writes a record that is not its own")
            return
        if state.is_leading(now):
            raise BreachError(f"{me.identity} ({me.pod_uid}) releases the lock while it still leads")
        if write.base is None or raw_claim(write.base).get("pod_uid") != me.pod_uid:
            raise BreachError(f"{me.identity} ({me.pod_uid}) releases a lock that is not its own")

    def settles(
        self, number: int, state: State, kept: Settling, tick: int, luck: float
    ) -> tuple[State, Settling, Register | Look | None]:
        """Let a settler go round until it pauses, or sends a request, which is returned."""
        key = (id(state), id(kept), tick, luck)
        known = self._settled.get(key)
        if known is None:
            known = (*self._settle(number, state, kept, tick, luck), state, kept)
            _room(self._settled)[key] = known
        return known[0], known[1], known[2]  # type: ignore[return-value] # as in `happens`

    def _settle(
        self, number: int, state: State, kept: Settling, tick: int, luck: float
    ) -> tuple[State, Settling, Register | Look | None]:
        moment = self.moment(number, tick, luck)
        for _ in range(ROUNDS):
            kept, step = _asked(settling.next_step, _asked(settling.observe, kept, state, moment), moment)
            self._meet(type(step).__name__)
            match step:
                case Pause():
                    return state, self._same_settling(kept), None
                case Register() | Look():
                    return state, self._same_settling(kept), step
                case Advise(advice):
                    state = self._advised(number, state, advice, tick, luck)
        raise BreachError(f"the settler of {state.candidacy.identity} does not come to rest: {kept.why}")

    def looks(
        self, number: int, state: State, kept: Settling, *, census: Census | None, tick: int, luck: float
    ) -> tuple[State, Settling]:
        """Let a settler decide on the census that it asked for."""
        key = (id(state), id(kept), id(census), tick, luck)
        known = self._looked.get(key)
        if known is None:
            moment = self.moment(number, tick, luck)
            after, verdict = _asked(settling.looked, _asked(settling.observe, kept, state, moment), census, moment)
            self._meet(f"placing: {after.why.split(':')[0]}")
            told = self._advised(number, state, verdict.advice, tick, luck)
            known = (told, self._same_settling(after), state, kept, census)
            _room(self._looked)[key] = known
        return known[0], known[1]  # type: ignore[return-value] # as in `happens`

    def _advised(self, number: int, state: State, advice: tuple[Advice, ...], tick: int, luck: float) -> State:
        for event in advice:
            state = self._apply(number, state, event, tick, luck)
        return state

    def counts(self, state: State, census: Census | None, lock: str) -> Counted:
        """Return what a census says of the bid, as the settler computes it."""
        me, observed = state.candidacy, state.observed
        if census is None or me.balance is None or observed is None:
            return counted(None)
        known = dict(registrations(observed.snapshot.annotations) if observed.snapshot else {})
        known.pop(registration_key(observed.missed), None)
        rivals = frozenset(registration.node for registration in known.values())
        return counted(delay(census, election=lock, node=me.node, rivals=rivals, slot=me.balance.slot))

    # -- What is said --

    def believes(self, number: int, state: State, tick: int) -> Belief:
        """Return what a candidate answers, and what is wrong with that whoever else there is."""
        known = self._believed.get((id(state), tick))
        if known is None:
            now = self.moment(number, tick, 0.0).now
            leads, name = _asked(state.is_leading, now), _asked(state.leader_name, now)
            known = (state, Belief(leads, name, _breach(state, leads=leads, name=name)))
            _room(self._believed)[id(state), tick] = known
        return known[1]

    # -- One object for what is equal --

    def _same(self, state: State) -> State:
        # Snapshots that are equal may differ in other annotations.
        key = (state, id(state.observed.snapshot) if state.observed is not None else 0)
        if len(self._states) > KEPT:
            self._states.clear()
        return self._states.setdefault(key, state)

    def _same_settling(self, kept: Settling) -> Settling:
        holding = kept.holding
        key = (
            kept.registered,
            kept.register_at,
            kept.attempts,
            kept.nominated_in,
            kept.accept_at,
            (kept.there, kept.crowded, kept.watching, kept.blind_since, kept.withdraw_at, kept.candidacy, kept.why),
            kept.abstains,
            None
            if holding is None
            else tuple(
                tuple(sorted(holding.stamps.items(), key=lambda item: item[0])) if name == "stamps" else value
                for name in holding.__dataclass_fields__
                for value in [getattr(holding, name)]
            ),
        )
        return _room(self._settlings).setdefault(key, kept)

    def _meet(self, what: str) -> None:
        self.met[what] = self.met.get(what, 0) + 1


def _asked(function: Callable[..., A], *arguments: object) -> A:
    """Ask the core. Whatever it raises is a breach: a candidate would end of it."""
    try:
        return function(*arguments)
    except Exception as error:
        raise BreachError(f"the core fails: {error!r}") from error


def _breach(state: State, *, leads: bool, name: str) -> str:
    me = state.candidacy
    who = f"{me.identity} ({me.pod_uid})"
    if leads and state.leaving:
        return f"{who} leads although it was told to leave"
    if leads and state.yielding:
        return f"{who} leads although it is giving the lock up"
    if name == me.identity and not leads:
        return f"{who} names itself although it does not lead"
    if name and not leads:
        snapshot = state.observed.snapshot if state.observed is not None else None
        if snapshot is None or snapshot.holder != name:
            return f"{who} names {name}, which is not the holder that it observed"
        if raw_claim(snapshot).get("state") == CHECKING:
            return f"{who} names {name}, which is only checking"
    return ""


@lru_cache(maxsize=1 << 16)
def _raw_claim(record: str | None, claim: str | None) -> Mapping[str, object]:
    try:
        fields, held = json.loads(claim or "{}"), json.loads(record or "{}")
    except ValueError:
        return {}
    # A claim that another holder left standing, or one that is about an earlier renewal, says nothing.
    times = {value for value in fields.values() if isinstance(value, str) and _TIME.fullmatch(value)}
    return fields if fields.get("holder") == held.get("holderIdentity") and times <= {held["renewTime"]} else {}


def raw_claim(snapshot: Snapshot | None) -> Mapping[str, object]:
    """Return the claim as it stands on the lock object, read without the code under test."""
    if snapshot is None:
        return {}
    return _raw_claim(snapshot.annotations.get(RECORD_ANNOTATION), snapshot.annotations.get(CLAIM_ANNOTATION))


@lru_cache(maxsize=1 << 10)
def counted(seconds: float | None) -> Counted:
    """Return one object for each delay."""
    return Counted(seconds)


def _room(kept: dict[K, V]) -> dict[K, V]:
    if len(kept) > KEPT:
        kept.clear()
    return kept
