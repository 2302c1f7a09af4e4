"""Two lock objects as one lock: the Endpoints and the Lease of an election, while a fleet goes from one to the other.

A candidate of the pair leads only while it holds both. So the Endpoints keep it and candidates that know nothing but
them apart, and the Lease those that know nothing but that; the two kinds never meet in one step of a rolling update.

A write goes to the Endpoints first and to the Lease second, each a compare-and-swap. Between the two there is a *half*,
which makes nobody a leader. What the two objects say together is decided by `verdict`:

* the same record on both: that one;
* one that says nothing, or was given up, and another that is held: the other one;
* both of one pod, the newer one written to be on both: a half. It counts only once it is whole, so the older one;
* else nobody's in particular: whoever wants to take over waits until neither object has changed for the longer lease.

The version of both is the greater of their resourceVersions, which etcd counts over all that it keeps. It is what makes
the fencing token grow from candidates of the Endpoints over the pair to those of the Lease; a cluster that keeps Leases
in an etcd of their own has no such order.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, ConflictError, ForbiddenError, NoAnswerError, NotFoundError, Permission
from sidecar.locks import PAIR_ANNOTATION, Bookmark, EndpointsLock, LeaseLock
from sidecar.record import (
    LOOK_ANNOTATION,
    STEP_DOWN_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    UnreadableRecord,
    go_json,
    parse_time,
    step_down_request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from sidecar.kube import KubeClient
    from sidecar.locks import LockEvent

SECOND_ATTEMPTS = 4
"""How often the second half of a write is sent, each time from a fresh version, when only annotations changed."""

HALVES = 3
"""How many halves in a row are taken up again at once, where the second one failed: others may have more luck."""

HOPELESS_LEASES = 4
"""Leases after the first of many halves, until another one is tried."""

_BODIES = ("endpoints", "lease")
"""Where the two objects stand in the body of a snapshot of both."""


# -- What the two say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two objects, as far as it was seen."""

    snapshot: Snapshot | None = None
    version: int = 0
    """The resourceVersion that this was learned at; of an absent object, that of its deletion or of its last state."""
    changed: int = 0
    """The version at which its record was first seen."""
    lost: str | None = None
    """The text of a record that was held when it vanished, alone or with its object: that is no release."""
    lease: int = 0
    """The seconds of the last record that was held, 0 once it was given up."""

    @property
    def text(self) -> str | None:
        """The record's text, `None` when there is no record or no object."""
        return self.snapshot.text if self.snapshot else None

    @property
    def record(self) -> Record | UnreadableRecord | None:
        """The record, if there is one."""
        return self.snapshot.record if self.snapshot else None

    @property
    def claim(self) -> Claim | None:
        """The claim that was written with the record."""
        return self.snapshot.valid_claim if self.snapshot else None

    @property
    def held(self) -> Record | None:
        """The record, when it can be read and names a holder."""
        return self.record if isinstance(self.record, Record) and self.record.holder else None

    @property
    def is_open(self) -> bool:
        """Tell whether nobody holds it by what it says: there is no record and never was one, or it was given up."""
        return self.lost is None and self.held is None and not isinstance(self.record, UnreadableRecord)

    @property
    def is_paired(self) -> bool:
        """Tell whether the record was written to be on both: its writer does not lead by this one alone."""
        snapshot = self.snapshot
        return (
            snapshot is not None
            and snapshot.text is not None
            and snapshot.annotations.get(PAIR_ANNOTATION) == snapshot.text
        )

    def saw(self, snapshot: Snapshot | None, version: int) -> Side:
        """Return what is known once the object was seen like this at that version."""
        after = replace(self, snapshot=snapshot, version=version)
        if after.text == self.text:
            return after
        after = replace(after, changed=version)
        if after.record is None:
            return replace(after, lost=self.lost if self.is_open else self.text)
        if (held := after.held) is not None:
            return replace(after, lost=None, lease=held.lease_seconds)
        return replace(after, lost=None, lease=0 if isinstance(after.record, Record) else self.lease)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the two records are together: as `Snapshot` has it."""

    text: str | None
    record: Record | UnreadableRecord | None
    claim: Claim | None


def verdict(endpoints: Side, lease: Side) -> Verdict:
    """Return what the records of the two objects are together."""
    sides = (endpoints, lease)
    if endpoints.lost is None and lease.lost is None:
        if endpoints.text == lease.text:
            return Verdict(
                endpoints.text, endpoints.record, endpoints.claim if endpoints.claim == lease.claim else None
            )
        if endpoints.is_open and lease.is_open:
            return _alone(max(sides, key=lambda side: (side.text is not None, side.changed)))
        for this, other in (sides, sides[::-1]):
            if other.is_open and not _was_taken_away(this, other):
                return _alone(this)
        if (older := _older_half(endpoints, lease)) is not None:
            return _alone(older)
    return _nobodys(endpoints, lease)


def _alone(side: Side) -> Verdict:
    return Verdict(side.text, side.record, side.claim)


def _was_taken_away(held: Side, released: Side) -> bool:
    """Tell whether somebody gave one of the two up for a holder of both, who did not do that itself."""
    was_released = released.text is not None and not released.is_paired
    return held.is_paired and was_released and released.changed > held.changed


def _older_half(endpoints: Side, lease: Side) -> Side | None:
    """Return the older one of two records that one pod wrote, the newer of them as a half of a write to both."""
    mine, other = endpoints.claim, lease.claim
    if endpoints.held is None or lease.held is None or mine is None or other is None:
        return None
    if (mine.holder, mine.pod_uid) != (other.holder, other.pod_uid):
        return None
    # Both are by the clock of one pod, whose renew times only grow.
    first, second = parse_time(endpoints.held.renew_time), parse_time(lease.held.renew_time)
    newer, older = (endpoints, lease) if first > second else (lease, endpoints)
    return older if newer.is_paired and first != second else None


def _nobodys(endpoints: Side, lease: Side) -> Verdict:
    """Return what changes with either of the two, and is held for the longer of their leases by nobody for sure.

    Named is whose record was written last: beside one that stands still, that is the one that is renewed.
    """
    sides = (endpoints, lease)
    text = go_json({"endpoints": [endpoints.text, endpoints.lost], "lease": [lease.text, lease.lost]})
    held = [(side.changed, record) for side in sides if (record := side.held) is not None]
    if not held:
        unreadable = (side.record for side in sides if isinstance(side.record, UnreadableRecord))
        return Verdict(text, next(unreadable, None), None)
    _, named = max(held, key=lambda each: each[0])
    record = replace(
        named,
        lease_seconds=max(side.lease for side in sides),
        transitions=max(record.transitions for _, record in held),
    )
    return Verdict(text, record, None)


def together(endpoints: Side, lease: Side, said: Verdict) -> Snapshot | None:
    """Return the two objects as one that says this; `None` when there is neither."""
    if endpoints.snapshot is None and lease.snapshot is None:
        return None
    found = [side.snapshot for side in (endpoints, lease)]
    return Snapshot(
        version=max(endpoints.version, lease.version),
        parts=(endpoints.version, lease.version),
        text=said.text,
        record=said.record,
        claim=said.claim,
        body={
            "metadata": {"annotations": _annotations([each.annotations for each in found if each is not None], said)},
            **{name: each.body if each is not None else None for name, each in zip(_BODIES, found, strict=True)},
        },
    )


def _annotations(found: Sequence[Mapping[str, str]], said: Verdict) -> dict[str, str]:
    merged = {key: value for annotations in found for key, value in annotations.items()}
    if looks := [annotations[LOOK_ANNOTATION] for annotations in found if LOOK_ANNOTATION in annotations]:
        # A nudge goes to one of the two, and has to show whatever the other one's counter is.
        merged[LOOK_ANNOTATION] = "/".join(looks)
    if isinstance(said.record, Record):
        request = step_down_request(said.record)
        if any(annotations.get(STEP_DOWN_ANNOTATION) == request for annotations in found):
            merged[STEP_DOWN_ANNOTATION] = request
    return merged


# -- The lock ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """One of the two objects: where it is, what was seen of it, and how far its watch has got."""

    lock: EndpointsLock | LeaseLock
    side: Side = field(default_factory=Side)
    sights: int = 0
    """How often something later was seen: a read that was asked before may be overtaken by it."""
    position: int = 0
    """The version up to which nothing was missed; 0 where there is none to watch from but the present."""
    shown: int = 0
    """The version up to which the present watch has shown everything."""


@dataclass(frozen=True, slots=True)
class _Half:
    """A write of which only the first half may have been applied."""

    text: str
    before: Side
    """The Endpoints before it."""
    beside: str | None
    """The text of the Lease's record then."""
    halves: int = 1
    """How many there were in a row."""


class PairLock:
    """The Endpoints and the Lease of one election. `timeout` is how long one request may take, and one whole write.

    Where the Lease cannot be written, the Endpoints are left alone, because whoever knows nothing but these would wait
    for a candidate that cannot lead: for ten minutes after it was not allowed, and for `HOPELESS_LEASES` in all once it
    has failed for a lease. `clock` returns seconds.
    """

    resource = "endpoints and leases"

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        election: str,
        group: str = "",
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = EndpointsLock(kube, namespace=namespace, election=election, group=group)
        self._lease = LeaseLock(kube, namespace=namespace, election=election, group=group)
        self._timeout = timeout
        self._places = (_Place(self._endpoints), _Place(self._lease))
        self._half: _Half | None = None
        self._clock = clock
        self._alone = 0
        """First halves in a row without a second one."""
        self._alone_since = 0.0
        self._second = Permission(clock)
        self._refusal = ""
        self._watching: _BothWatches | None = None

    @property
    def name(self) -> str:
        """See `Lock.name`."""
        return self._endpoints.name

    async def fetch(self) -> Snapshot | None:
        """See `Lock.fetch`. The two are read at the same time."""
        asked = [place.sights for place in self._places]
        # Whatever was written up to here is in both answers.
        known_to = max(place.side.version for place in self._places)
        answers = await asyncio.gather(*(place.lock.fetch() for place in self._places), return_exceptions=True)
        read: list[Snapshot | None] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            read.append(answer)
        if any(
            answer is not None and answer.version < place.side.version
            for place, answer in zip(self._places, read, strict=True)
        ):
            known_to = 0  # overtaken, or etcd was restored from a backup
        for place, answer, sights in zip(self._places, read, asked, strict=True):
            self._read(place, answer, known_to=known_to, overtaken=place.sights != sights)
        return self._both()

    def _read(self, place: _Place, answer: Snapshot | None, *, known_to: int, overtaken: bool) -> None:
        if overtaken:
            # It may be older than what was seen since; see `election._fetched`.
            if answer is not None:
                self._learn(place, answer)
            return
        version = answer.version if answer is not None else place.side.version
        place.position = max(version, known_to, place.position if version >= place.side.version else 0)
        place.side = place.side.saw(answer, version)
        self._expect(place, version)

    def _learn(self, place: _Place, snapshot: Snapshot) -> None:
        """Take in what a request was answered with."""
        if snapshot.version > place.side.version:
            place.side = place.side.saw(snapshot, snapshot.version)
            place.position = max(place.position, snapshot.version)
            place.sights += 1
        self._expect(place, snapshot.version)

    def _both(self) -> Snapshot | None:
        """Return what is known of the two.

        A first half of a write of mine that would be nobody's stands for what it replaced until somebody else writes:
        nothing has changed yet, and I may go on from there.
        """
        endpoints, lease = (place.side for place in self._places)
        said, half = verdict(endpoints, lease), self._half
        if half is not None and said.claim is None and (endpoints.text, lease.text) == (half.text, half.beside):
            said = verdict(half.before, lease)
        return together(endpoints, lease, said)

    # -- Writing --

    async def write(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> Snapshot:
        """See `Lock.write`. The result's version is that of the Endpoints, which were written first.

        So the token of a term is smaller than whatever is written after it to either of the two, and a nomination is
        older than any acceptance of it.
        """
        if self._second.denied:
            raise ForbiddenError(f"{self._refusal}; so the Endpoints are left alone as well", status=403)
        if record.holder and self._is_hopeless(record.lease_seconds):
            # RFC 4918: failed dependency. Nothing was sent.
            raise ApiError("the Lease could not be written; so the Endpoints are left alone for a while", status=424)
        ends = asyncio.get_running_loop().time() + self._timeout
        first, second = self._based_on(base)
        self._half = half = self._begun(record.encode(), second.text if second is not None else None)
        others = {**others, PAIR_ANNOTATION: half.text}
        endpoints, _ = self._places
        try:
            written = await self._endpoints.write(first, record, claim, others)
            self._note_half()
            self._learn(endpoints, written)
            async with asyncio.timeout(ends - asyncio.get_running_loop().time()):
                await self._write_lease(second, record, claim, others)
        except TimeoutError as error:
            raise NoAnswerError("the second half of a write, to the Lease: no answer in time") from error
        finally:
            if half.halves >= HALVES:
                self._half = None
        self._half = None
        self._alone = 0
        both = self._both()
        if both is None:
            raise ApiError("both lock objects were deleted as they were written")
        return replace(both, version=written.version)

    def _note_half(self) -> None:
        """Count a first half as one that stays alone, until the second one is there as well."""
        if not self._alone:
            self._alone_since = self._clock()
        self._alone += 1

    def _is_hopeless(self, lease: int) -> bool:
        """Tell whether only first halves could be written for a whole lease, also after several attempts.

        Each of them starts the wait of those anew who know nothing but Endpoints, and one of whom could lead: they are
        given the time for it, a candidate of the stock image its ttl besides.
        """
        seconds = self._clock() - self._alone_since
        if self._alone < HALVES or seconds < lease:
            return False
        if seconds < HOPELESS_LEASES * lease:
            return True
        self._alone = 0
        return False

    def _based_on(self, base: Snapshot | None) -> tuple[Snapshot | None, Snapshot | None]:
        bodies = [base.body[name] if base is not None else None for name in _BODIES]
        first, second = (
            place.lock.snapshot(body) if body is not None else None
            for place, body in zip(self._places, bodies, strict=True)
        )
        return first, second

    def _begun(self, text: str, beside: str | None) -> _Half:
        """Return the half that a write begins with; one that goes on from another replaces what that one would have."""
        endpoints, lease = (place.side for place in self._places)
        half = self._half
        if half is not None and (endpoints.text, lease.text) == (half.text, half.beside):
            return _Half(text, half.before, beside, half.halves + 1)
        return _Half(text, endpoints, beside)

    async def _write_lease(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> None:
        lease = self._places[1]
        for attempt in range(1, SECOND_ATTEMPTS + 1):
            try:
                self._learn(lease, await self._lease.write(base, record, claim, others))
            except ForbiddenError as error:
                self._second.deny()
                self._refusal = str(error)
                raise
            except ConflictError:
                fresh = await self._lease.fetch()
                if fresh is not None:
                    self._learn(lease, fresh)
                if attempt == SECOND_ATTEMPTS or fresh is None or base is None or not _says_the_same(fresh, base):
                    raise
                base = fresh
            else:
                self._second.allow()
                return

    async def annotate(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.annotate`. Whichever of the two exists is annotated."""
        return self._annotated(
            await asyncio.gather(*(place.lock.annotate(annotations) for place in self._places), return_exceptions=True)
        )

    async def swap(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.swap`. Whichever of the two exists is annotated."""
        return self._annotated(
            await asyncio.gather(*(place.lock.swap(annotations) for place in self._places), return_exceptions=True)
        )

    def _annotated(self, answers: Sequence[Snapshot | BaseException]) -> Snapshot:
        failed: list[BaseException] = []
        for place, answer in zip(self._places, answers, strict=True):
            if isinstance(answer, BaseException):
                failed.append(answer)
            else:
                self._learn(place, answer)
        told = [error for error in failed if not isinstance(error, NotFoundError)]
        if told or len(failed) == len(answers):
            raise (told or failed)[0]
        both = self._both()
        if both is None:
            raise ApiError("both lock objects were deleted as they were annotated")
        return both

    # -- Watching --

    @asynccontextmanager
    async def watch(self, version: int, seconds: int) -> AsyncIterator[AsyncIterator[LockEvent]]:  # noqa: ARG002 - see below
        """See `Lock.watch`. Each of the two is watched from where it was seen last: `version` is the later one's.

        What a request showed of one of them, its watch has to show within one time-out; see `Candidate._expect`. Raises
        `TimeoutError` where it does not.
        """
        endpoints, lease = self._places
        async with (
            endpoints.lock.watch(endpoints.position, seconds) as first,
            lease.lock.watch(lease.position, seconds) as second,
        ):
            for place in self._places:
                place.shown = place.position
            watching = self._watching = _BothWatches((first, second), self._took)
            try:
                yield watching
            finally:
                self._watching = None
                await watching.close()

    def _took(self, number: int, event: LockEvent) -> LockEvent:
        """Take in an event of one of the two, and return what it means for both."""
        place = self._places[number]
        match event:
            case Changed(snapshot):
                version = snapshot.version
                self._show(place, snapshot, version)
            case Deleted(version):
                self._show(place, None, version)
            case Bookmark(version):
                pass
        place.position = max(place.position, version)
        place.shown = max(place.shown, version)
        if isinstance(event, Bookmark):
            return event
        both = self._both()
        return Changed(both) if both is not None else Deleted(max(each.side.version for each in self._places))

    @staticmethod
    def _show(place: _Place, snapshot: Snapshot | None, version: int) -> None:
        if version > place.side.version:
            place.side = place.side.saw(snapshot, version)
            place.sights += 1

    def _expect(self, place: _Place, version: int) -> None:
        watching = self._watching
        if watching is None or version <= place.shown:
            return

        def check() -> None:
            if place.shown < version:
                watching.fall_silent()

        asyncio.get_running_loop().call_later(self._timeout, check)


def _says_the_same(one: Snapshot, other: Snapshot) -> bool:
    """Tell whether an object is the one that it was but for labels and annotations that decide nothing."""
    uids = [each.body["metadata"].get("uid") for each in (one, other)]
    return one.text is not None and uids[0] == uids[1] and (one.text, one.claim) == (other.text, other.claim)


class _BothWatches:
    """The events of two watches, as they come, translated by `took`; they end as soon as one of them does."""

    def __init__(
        self, streams: Sequence[AsyncIterator[LockEvent]], took: Callable[[int, LockEvent], LockEvent]
    ) -> None:
        self._streams = streams
        self._took = took
        self._silent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next: dict[int, asyncio.Task[LockEvent | None]] = {}

    def fall_silent(self) -> None:
        """End the watch: one of the two shows nothing any more."""
        if not self._silent.done():
            self._silent.set_result(None)

    def __aiter__(self) -> AsyncIterator[LockEvent]:
        return self

    async def __anext__(self) -> LockEvent:
        for number, stream in enumerate(self._streams):
            if number not in self._next:
                self._next[number] = asyncio.create_task(_next_of(stream))
        waited: list[asyncio.Future[Any]] = [*self._next.values(), self._silent]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for number, task in self._next.items():
            if task.done():
                del self._next[number]
                event = task.result()
                if event is None:
                    raise StopAsyncIteration
                return self._took(number, event)
        raise TimeoutError

    async def close(self) -> None:
        """Ask for no more events."""
        self._silent.cancel()
        for task in self._next.values():
            task.cancel()
        if self._next:
            await asyncio.wait(self._next.values())


async def _next_of(stream: AsyncIterator[LockEvent]) -> LockEvent | None:
    return await anext(stream, None)
