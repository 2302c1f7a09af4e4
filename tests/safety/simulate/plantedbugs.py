"""Bugs that were thought of and are not there: each is planted for a while, and the simulation has to find it.

Not among them: a 5xx on a write that is taken to say that it was not applied. It costs a leadership, and never makes a
second one, because the next write is a compare-and-swap all the same. And a pair that overwrites a Lease which somebody
took between its two halves: that takes a few milliseconds to meet, and a unit test has to hold it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from sidecar import candidate, election, locks, pairlock
from sidecar.election import Deleted, State, Written
from sidecar.record import RECORD_ANNOTATION, Record, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from sidecar.candidate import Candidate
    from sidecar.election import Event, Moment, Write
    from sidecar.locks import EndpointsLock
    from sidecar.pairlock import PairLock
    from sidecar.record import Claim

    Planted = AbstractContextManager[object]


def _judged_by_a_timer() -> Planted:
    """Leadership ends when the loop notices, not when the deadline passes."""
    return mock.patch.object(State, "is_leading", lambda state, _now: state.term is not None and state.term.confirmed)


def _validity_from_the_answer() -> Planted:
    """A leader counts its validity from when the answer came, not from before the renewal was sent."""
    write = candidate.Candidate._write

    async def written(self: Candidate, asked: Write) -> Event:
        event = await write(self, asked)
        return replace(event, asked_at=self._clock.now()) if isinstance(event, Written) else event

    return mock.patch.object(candidate.Candidate, "_write", written)


def _own_ttl() -> Planted:
    """A follower waits its own ttl, whatever lease the record names."""
    vacancy = election._vacancy

    def wrong(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
        held_until, bid_at = vacancy(state, snapshot, moment, asked_at)
        if snapshot is not None and snapshot.holder:
            own = moment.now + state.candidacy.lease_seconds
            return own, own + (bid_at - held_until)
        return held_until, bid_at

    return mock.patch.object(election, "_vacancy", wrong)


def _half_the_lease() -> Planted:
    """A follower waits half of the lease that the record names."""
    vacancy = election._vacancy

    def wrong(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
        held_until, bid_at = vacancy(state, snapshot, moment, asked_at)
        if snapshot is not None and isinstance(snapshot.record, Record) and snapshot.holder:
            half = moment.now + snapshot.record.lease_seconds / 2
            return half, half + (bid_at - held_until)
        return held_until, bid_at

    return mock.patch.object(election, "_vacancy", wrong)


def _blind_release() -> Planted:
    """A release overwrites whatever is there, without reading it first, or naming a version."""
    merged = locks.EndpointsLock._merged

    def unconditional(
        self: EndpointsLock, body: Mapping[str, Any], annotations: Mapping[str, str | None]
    ) -> dict[str, Any]:
        changed = merged(self, body, annotations)
        record = annotations.get(RECORD_ANNOTATION)
        if record is not None and '"holderIdentity":""' in record:
            changed["metadata"].pop("resourceVersion", None)
        return changed

    ordered = election._ordered

    def unread(state: State, order: Any, moment: Moment) -> State:  # noqa: ANN401 - as the real one's union
        after = ordered(state, order, moment)
        return replace(after, must_read=False) if isinstance(order, election.Leaving) else after

    stack = ExitStack()
    stack.enter_context(mock.patch.object(locks.EndpointsLock, "_merged", unconditional))
    stack.enter_context(mock.patch.object(election, "_ordered", unread))
    return stack


def _same_name() -> Planted:
    """A record in my name is mine, whichever pod wrote it."""

    def is_mine(state: State, snapshot: Snapshot | None) -> bool:
        return snapshot is not None and snapshot.holder == state.candidacy.identity

    return mock.patch.object(election, "_is_mine", is_mine)


def _error_as_success() -> Planted:
    """A 5xx on a write is taken for its success: it mostly is, and so one goes on."""
    write = candidate.Candidate._write

    async def written(self: Candidate, asked: Write) -> Event:
        asked_at = self._clock.now()
        event = await write(self, asked)
        if not isinstance(event, election.Failed) or event.refused or asked.base is None:
            return event
        text = asked.record.encode()
        snapshot = replace(
            asked.base, version=asked.base.version + 1, text=text, record=asked.record, claim=asked.claim
        )
        return Written(snapshot, asked_at)

    return mock.patch.object(candidate.Candidate, "_write", written)


def _deletion_is_vacancy() -> Planted:
    """A deleted lock object is free at once, also for who saw it held."""
    vacancy = election._vacancy

    def wrong(state: State, snapshot: Snapshot | None, moment: Moment, asked_at: float | None) -> tuple[float, float]:
        if snapshot is None:
            return moment.now, moment.now
        return vacancy(state, snapshot, moment, asked_at)

    return mock.patch.object(election, "_vacancy", wrong)


def _deaf_to_deletion() -> Planted:
    """A leader goes on although it learns that the lock object was deleted."""
    told = election._told

    def deaf(state: State, event: Any, moment: Moment) -> State:  # noqa: ANN401 - as the real one's union
        after = told(state, event, moment)
        return replace(after, term=state.term) if isinstance(event, Deleted) else after

    return mock.patch.object(election, "_told", deaf)


def _checking_leads() -> Planted:
    """Whoever checks whether its node is the right one leads already."""
    return mock.patch.object(
        State, "is_leading", lambda state, now: state.term is not None and now < state.term.valid_until
    )


def _stale_token() -> Planted:
    """The fencing token is the version that the bid was based on."""
    written = election._written

    def wrong(state: State, snapshot: Snapshot, asked_at: float, moment: Moment) -> State:
        after = written(state, snapshot, asked_at, moment)
        if after.term is not None and state.term is None:
            return replace(after, term=replace(after.term, token=after.term.token - 1))
        return after

    return mock.patch.object(election, "_written", wrong)


def _unconditional_take_over() -> Planted:
    """A write names no version, and so overwrites what others have written since."""
    merged = locks.EndpointsLock._merged

    def unconditional(
        self: EndpointsLock, body: Mapping[str, Any], annotations: Mapping[str, str | None]
    ) -> dict[str, Any]:
        changed = merged(self, body, annotations)
        changed["metadata"].pop("resourceVersion", None)
        return changed

    return mock.patch.object(locks.EndpointsLock, "_merged", unconditional)


def _claim_of_anybody() -> Planted:
    """A claim counts beside any record of its holder's name, also where somebody else wrote the record."""

    def valid(self: Snapshot) -> Claim | None:
        readable = isinstance(self.record, Record)
        return self.claim if readable and self.claim is not None and self.claim.holder == self.holder else None

    return mock.patch.object(Snapshot, "valid_claim", property(valid))


def _half_of_a_pair(which: int) -> Callable[[], Planted]:
    """Make a candidate of the pair lead by one of the two objects, and let the other one be."""

    def planted() -> Planted:
        async def write(
            self: PairLock,
            base: Snapshot | None,
            record: Record,
            claim: Claim | None,
            others: Mapping[str, str | None],
        ) -> Snapshot:
            place = self._places[which]
            marked = {**others, locks.PAIR_ANNOTATION: record.encode()}
            return await place.lock.write(self._based_on(base)[which], record, claim, marked)

        return mock.patch.object(pairlock.PairLock, "write", write)

    return planted


PLANTED: Final[Mapping[str, Callable[[], Any]]] = {
    "leadership judged by a timer": _judged_by_a_timer,
    "validity from the answer": _validity_from_the_answer,
    "own ttl instead of the record's lease": _own_ttl,
    "half of the lease": _half_the_lease,
    "blind release": _blind_release,
    "same name in another pod is me": _same_name,
    "5xx taken as applied": _error_as_success,
    "deletion is a vacancy": _deletion_is_vacancy,
    "deaf to deletion": _deaf_to_deletion,
    "checking leads": _checking_leads,
    "stale fencing token": _stale_token,
    "unconditional writes": _unconditional_take_over,
    "claim of anybody": _claim_of_anybody,
    "the pair without its Lease": _half_of_a_pair(0),
    "the pair without its Endpoints": _half_of_a_pair(1),
}
