"""Two lock objects as one: what they say together in every case, and what is sent to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

import pytest

from sidecar.election import Candidacy, Changed, Deleted, Moment, State, apply
from sidecar.kube import ApiError, ConflictError, ForbiddenError, KubeClient, NoAnswerError, NotFoundError
from sidecar.lab.network import LabClient, Network
from sidecar.lab.resources import LEASES
from sidecar.lab.virtualtime import run
from sidecar.locks import PAIR_ANNOTATION, EndpointsLock, LeaseLock
from sidecar.pairlock import HOPELESS_LEASES, SECOND_ATTEMPTS, PairLock, Side, Verdict, together, verdict
from sidecar.record import (
    CLAIM_ANNOTATION,
    LOOK_ANNOTATION,
    STEP_DOWN_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    UnreadableRecord,
    step_down_request,
)
from tests.unit.arena import ELECTION, TIMEOUT, TTL, Arena

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# -- What the two say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What one object says at one moment: who, renewed when, from which pod; `pair` that it was written to both."""

    holder: str
    second: int = 0
    pod: str | None = "u"
    pair: bool = False
    lease: int = 10
    successor: str = ""

    @property
    def record(self) -> Record:
        """The record."""
        time = f"2024-05-01T10:00:{self.second:02}Z"
        lease = self.lease if self.holder else 1
        return Record(holder=self.holder, lease_seconds=lease, acquire_time=time, renew_time=time, transitions=1)

    @property
    def claim(self) -> Claim | None:
        """The claim beside it."""
        if self.pod is None or not (self.holder or self.successor):
            return None
        return Claim(
            holder=self.holder,
            node="n",
            pod_uid=self.pod,
            renewed=self.record.renew_time,
            successor=self.successor,
        )

    def snapshot(self, version: int) -> Snapshot:
        """Return the object."""
        text = self.record.encode()
        annotations = {PAIR_ANNOTATION: text} if self.pair else {}
        return Snapshot(
            version=version,
            text=text,
            record=self.record,
            claim=self.claim,
            body={"metadata": {"annotations": annotations}},
        )


class Gone:
    """There is no object."""


class Empty:
    """There is an object, and no record in it."""


class Damaged:
    """There is a record that cannot be read."""


Sight = Said | type[Gone] | type[Empty] | type[Damaged]

A1, A2 = Said("a", 1, pair=True), Said("a", 2, pair=True)
"""Two writes of one candidate of the pair."""
ALONE = Said("x", 5, pod="v")
"""A candidate of one of the two objects."""
GIVEN_UP, GIVEN_UP_LATER = Said("", 7), Said("", 9)
FREED = Said("", 7, pair=True)
"""Given up by whoever held both."""
MOVED = Said("", 7, pair=True, successor="b")


def seen(*sights: tuple[int, Sight]) -> Side:
    """Return one of the two objects after it was seen so, at these versions."""
    side = Side()
    for version, sight in sights:
        if isinstance(sight, Said):
            snapshot: Snapshot | None = sight.snapshot(version)
        elif sight is Gone:
            snapshot = None
        else:
            damaged = sight is Damaged
            snapshot = Snapshot(
                version=version,
                text="?" if damaged else None,
                record=UnreadableRecord("damaged") if damaged else None,
                claim=None,
                body={"metadata": {}},
            )
        side = side.saw(snapshot, version)
    return side


def alone(said: Said) -> Verdict:
    """Return the verdict that it is this one that counts."""
    return Verdict(said.record.encode(), said.record, said.claim)


NOTHING = Verdict(None, None, None)
DAMAGED = Verdict("?", UnreadableRecord("damaged"), None)

AGREED: dict[str, tuple[Side, Side, Verdict]] = {
    "both absent": (seen(), seen(), NOTHING),
    "both empty": (seen((3, Empty)), seen((4, Empty)), NOTHING),
    "one empty": (seen((3, Empty)), seen(), NOTHING),
    "written to both": (seen((3, A1)), seen((4, A1)), alone(A1)),
    "given up on both": (seen((3, A1), (5, FREED)), seen((4, A1), (6, FREED)), alone(FREED)),
    "handed over on both": (seen((3, A1), (5, MOVED)), seen((4, A1), (6, MOVED)), alone(MOVED)),
    "endpoints held, no lease": (seen((3, ALONE)), seen(), alone(ALONE)),
    "endpoints held, lease empty": (seen((3, ALONE)), seen((2, Empty)), alone(ALONE)),
    "endpoints held, lease given up": (seen((3, ALONE)), seen((2, GIVEN_UP)), alone(ALONE)),
    "endpoints held alone, lease given up later": (seen((3, ALONE)), seen((4, GIVEN_UP)), alone(ALONE)),
    "lease held, no endpoints": (seen(), seen((3, ALONE)), alone(ALONE)),
    "lease held, endpoints given up": (seen((2, FREED)), seen((3, ALONE)), alone(ALONE)),
    "given up twice, endpoints last": (seen((5, MOVED)), seen((4, GIVEN_UP_LATER)), alone(MOVED)),
    "given up twice, lease last": (seen((4, GIVEN_UP)), seen((5, GIVEN_UP_LATER)), alone(GIVEN_UP_LATER)),
    "given up, and never held": (seen((9, Empty)), seen((5, GIVEN_UP)), alone(GIVEN_UP)),
    "half of a bid": (seen((3, A1)), seen(), alone(A1)),
    "half of a bid after a release": (seen((9, A1)), seen((6, GIVEN_UP)), alone(A1)),
    "half of a renewal": (seen((3, A1), (5, A2)), seen((4, A1)), alone(A1)),
    "the other half heard of first": (seen((3, A1)), seen((4, A1), (6, A2)), alone(A1)),
    "half of a release": (seen((3, A1), (5, FREED)), seen((4, A1)), alone(A1)),
    "the other half of a release heard of first": (seen((3, A1)), seen((4, A1), (6, FREED)), alone(A1)),
    "half of a resumption, of what this pod held by the lease": (
        seen((3, Empty), (9, A2)),
        seen((4, Said("a", 1))),
        alone(Said("a", 1)),
    ),
    "damaged, and nothing": (seen((3, Damaged)), seen(), DAMAGED),
    "nothing, and damaged": (seen(), seen((3, Damaged)), DAMAGED),
    "vanished, and held since": (seen((3, A1), (5, Gone), (7, A2)), seen((4, A1), (8, A2)), alone(A2)),
    "given up, then deleted": (seen((3, GIVEN_UP), (5, Gone)), seen(), NOTHING),
    "given up, then emptied": (seen((3, GIVEN_UP), (5, Empty)), seen((4, ALONE)), alone(ALONE)),
}  # fmt: skip


@pytest.mark.parametrize("case", AGREED.values(), ids=AGREED.keys())
def test_what_the_two_say_together(case: tuple[Side, Side, Verdict]) -> None:
    """Where one record of the two decides, it is that one, with its own text, so that the same one begins no lease."""
    endpoints, lease, expected = case
    assert verdict(endpoints, lease) == expected


@pytest.mark.parametrize(
    ("endpoints", "lease", "holder"),
    [
        pytest.param(seen((3, A1), (9, ALONE)), seen((4, A1)), "x", id="endpoints taken by a candidate of theirs"),
        pytest.param(seen((3, A1)), seen((4, A1), (9, ALONE)), "x", id="lease taken by a candidate of its own"),
        pytest.param(seen((3, ALONE)), seen((9, replace(ALONE, holder="y"))), "y", id="held by two, the lease last"),
        pytest.param(seen((9, ALONE)), seen((3, replace(ALONE, holder="y"))), "x", id="held by two, endpoints last"),
        pytest.param(seen((3, A1), (9, replace(A2, holder="b"))), seen((4, A1)), "b", id="half of a take-over"),
        pytest.param(seen((9, replace(A2, pod="v"))), seen((4, A1)), "a", id="the same name in another pod"),
        pytest.param(seen((9, replace(A2, pod=None))), seen((4, A1)), "a", id="the same name without a claim"),
        pytest.param(seen((9, Said("a", 2))), seen((4, A1)), "a", id="the same pod, by the endpoints alone now"),
        pytest.param(seen((4, A1)), seen((9, Said("a", 2))), "a", id="the same pod, by the lease alone now"),
        pytest.param(seen((4, A1)), seen((9, replace(A1, lease=7))), "a", id="changed within the second"),
        pytest.param(seen((3, A1)), seen((4, A1), (9, GIVEN_UP)), "a", id="the lease given up for its holder"),
        pytest.param(seen((3, A1), (9, GIVEN_UP)), seen((4, A1)), "a", id="the endpoints given up for their holder"),
        pytest.param(seen((3, A1)), seen((4, A1), (9, Gone)), "a", id="the lease deleted"),
        pytest.param(seen((3, A1), (9, Gone)), seen((4, A1)), "a", id="the endpoints deleted"),
        pytest.param(seen((3, A1), (9, Empty)), seen((4, A1)), "a", id="the endpoints emptied"),
        pytest.param(seen((3, A1)), seen((4, A1), (9, Empty), (10, Gone)), "a", id="the lease emptied and deleted"),
        pytest.param(seen((3, A1), (9, Damaged)), seen((4, A1)), "a", id="the endpoints damaged"),
        pytest.param(seen((3, ALONE)), seen((4, Damaged)), "x", id="the lease damaged"),
        pytest.param(seen((3, ALONE), (9, Gone), (10, Empty)), seen(), "", id="deleted and made again, and nothing"),
        pytest.param(seen((3, ALONE), (9, Empty)), seen((4, GIVEN_UP)), "", id="emptied, and given up"),
        pytest.param(seen((3, A1), (9, Empty)), seen((4, A1), (8, Damaged)), "", id="emptied, and damaged"),
        pytest.param(seen((3, Damaged)), seen((4, Damaged), (5, Empty)), "", id="damaged, and emptied"),
    ],
)
def test_nobodys(endpoints: Side, lease: Side, holder: str) -> None:
    """What the two do not agree on is nobody's: no claim, a text of its own that changes with either of them.

    Named is whose record was written last, and so the one that is renewed where the other one stands still.
    """
    said = verdict(endpoints, lease)
    assert said.claim is None
    assert said.text not in (endpoints.text, lease.text)
    assert (said.record.holder if isinstance(said.record, Record) else "") == holder
    later = replace(ALONE, second=50)
    texts = {
        said.text,
        verdict(endpoints.saw(later.snapshot(100), 100), lease).text,
        verdict(endpoints, lease.saw(replace(later, holder="z").snapshot(100), 100)).text,
    }
    assert len(texts) == 3


@pytest.mark.parametrize("first", [4, 10, 15])
@pytest.mark.parametrize("second", [4, 10, 15])
def test_what_is_nobodys_is_held_for_the_longer_lease(first: int, second: int) -> None:
    """The longer lease counts, also one that was promised by what vanished or was damaged since."""
    endpoints = seen((3, Said("a", 1, lease=first)))
    lease = seen((4, Said("b", 1, pod="v", lease=second)))
    for either in (lease, lease.saw(None, 9), seen((4, Said("b", 1, pod="v", lease=second)), (8, Damaged))):
        record = verdict(endpoints, either).record
        assert isinstance(record, Record)
        assert record.lease_seconds == max(first, second)
    given_up = lease.saw(GIVEN_UP.snapshot(8), 8).saw(None, 9)
    record = verdict(endpoints, given_up).record
    assert isinstance(record, Record)
    assert record.lease_seconds == first


def test_one_claim_for_both() -> None:
    """A record that stands on both is its writer's only with the claim that was written with it on both."""
    other = replace(A1, pod=None)
    assert verdict(seen((3, A1)), seen((4, other))).claim is None
    assert verdict(seen((3, other)), seen((4, A1))).claim is None


def test_annotations_of_both() -> None:
    """What stands on one of them stands on both; the Lease's is the later one; a nudge and a request always show."""

    def annotated(said: Said, annotations: Mapping[str, str]) -> Side:
        snapshot = said.snapshot(3)
        return Side().saw(replace(snapshot, body={"metadata": {"annotations": annotations}}), 3)

    request = step_down_request(A1.record)
    endpoints = annotated(A1, {"one": "e", "both": "e", LOOK_ANNOTATION: "3", STEP_DOWN_ANNOTATION: request})
    lease = annotated(A1, {"other": "l", "both": "l", LOOK_ANNOTATION: "1", STEP_DOWN_ANNOTATION: "of old"})
    shown = together(endpoints, lease, verdict(endpoints, lease))
    assert shown is not None
    assert shown.annotations == {
        "one": "e",
        "other": "l",
        "both": "l",
        LOOK_ANNOTATION: "3/1",
        STEP_DOWN_ANNOTATION: request,
    }
    assert shown.version == 3
    assert together(Side(), Side(), NOTHING) is None


# -- What is sent ------------------------------------------------------------------------------------------------------


class Client(KubeClient):
    """A client that does what the laboratory's does, tells what was asked, and lets a test come in between."""

    def __init__(self, arena: Arena) -> None:
        # Its name on the way is nobody's.
        self._asked = LabClient(
            arena.store, Network(), random=arena.random, timeout=TIMEOUT, sender="", sent=arena.requests.append
        )
        self.asked: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def _do(self, verb: str, path: str, *rest: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = path.partition("/namespaces/default/")[2].partition("/")[0]
        self.asked.append(f"{verb} {kind}")
        if self.before is not None:
            await self.before(self.asked[-1])
        answer: Mapping[str, Any] = await getattr(self._asked, verb)(path, *rest)
        return answer

    async def get(self, path: str) -> Mapping[str, Any]:
        """See `KubeClient.get`."""
        return await self._do("get", path)

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.create`."""
        return await self._do("create", path, body)

    async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.update`."""
        return await self._do("update", path, body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.patch`."""
        return await self._do("patch", path, body)


@dataclass
class Bed:
    """A pair on a store, and a lock of each kind beside it."""

    arena: Arena
    client: Client
    pair: PairLock
    endpoints: EndpointsLock
    lease: LeaseLock


def on_a_store(scene: Callable[[Bed], Awaitable[None]]) -> None:
    """Run `scene` in virtual time."""

    async def main() -> None:
        arena = Arena()
        client = Client(arena)
        loop = asyncio.get_running_loop()
        pair = PairLock(client, namespace="default", election=ELECTION, timeout=TIMEOUT, clock=loop.time)
        endpoints = EndpointsLock(client, namespace="default", election=ELECTION)
        lease = LeaseLock(client, namespace="default", election=ELECTION)
        await scene(Bed(arena, client, pair, endpoints, lease))

    run(main())


def test_both_are_written_the_endpoints_first() -> None:
    """The same record and claim go to both; the version is the Endpoints', and later ones of either are greater."""

    async def scene(bed: Bed) -> None:
        assert await bed.pair.fetch() is None
        bed.client.asked.clear()
        made = await bed.pair.write(None, A1.record, A1.claim, {"leader-elector/candidate.a": "{}"})
        assert bed.client.asked == ["create endpoints", "create leases"]
        written = await bed.pair.write(
            await bed.pair.fetch(), A2.record, A2.claim, {"leader-elector/candidate.a": None}
        )
        assert bed.client.asked[2:] == ["get endpoints", "get leases", "update endpoints", "update leases"]
        first, second = await bed.endpoints.fetch(), await bed.lease.fetch()
        assert first is not None
        assert second is not None
        assert (first.text, first.claim) == (second.text, second.claim) == (A2.record.encode(), A2.claim)
        assert dict(first.annotations) == {
            "control-plane.alpha.kubernetes.io/leader": A2.record.encode(),
            CLAIM_ANNOTATION: first.annotations[CLAIM_ANNOTATION],
            PAIR_ANNOTATION: A2.record.encode(),
        }
        assert made.version < written.version == first.version < second.version
        assert (written.text, written.valid_claim) == (A2.record.encode(), A2.claim)

    on_a_store(scene)


@pytest.mark.parametrize("kind", ["endpoints", "lease"])
def test_a_lock_of_one_object_does_not_say_that_it_is_on_both(kind: str) -> None:
    """Whoever knows only one of the two takes the mark off with its first write."""

    async def scene(bed: Bed) -> None:
        await bed.pair.write(None, A1.record, A1.claim, {})
        lock: EndpointsLock | LeaseLock = getattr(bed, kind)
        written = await lock.write(await lock.fetch(), A2.record, A2.claim, {})
        assert PAIR_ANNOTATION not in written.annotations

    on_a_store(scene)


def test_nothing_more_is_written_where_the_first_half_lost() -> None:
    """Somebody else wrote the Endpoints: the Lease is left alone."""

    async def scene(bed: Bed) -> None:
        await bed.pair.write(None, A1.record, A1.claim, {})
        base = await bed.pair.fetch()
        await bed.endpoints.write(await bed.endpoints.fetch(), ALONE.record, ALONE.claim, {})
        bed.client.asked.clear()
        with pytest.raises(ConflictError):
            await bed.pair.write(base, A2.record, A2.claim, {})
        assert bed.client.asked == ["update endpoints"]

    on_a_store(scene)


@pytest.mark.parametrize("times", range(1, SECOND_ATTEMPTS + 1))
def test_second_half_goes_on_where_only_annotations_changed(times: int) -> None:
    """A Lease that was annotated meanwhile is read again and written; not for ever."""

    async def scene(bed: Bed) -> None:
        await bed.pair.write(None, A1.record, A1.claim, {})
        base = await bed.pair.fetch()
        left = times

        async def annotate(asked: str) -> None:
            nonlocal left
            if asked == "update leases" and left:
                left -= 1
                bed.client.before = None
                await bed.lease.annotate({"other": str(left)})
                bed.client.before = annotate

        bed.client.before = annotate
        if times < SECOND_ATTEMPTS:
            assert (await bed.pair.write(base, A2.record, A2.claim, {})).valid_claim == A2.claim
            snapshot = await bed.lease.fetch()
            assert snapshot is not None
            assert snapshot.annotations["other"] == "0"
            return
        with pytest.raises(ConflictError):
            await bed.pair.write(base, A2.record, A2.claim, {})

    on_a_store(scene)


@pytest.mark.parametrize("how", ["taken", "claim", "made again", "deleted"])
def test_second_half_stops_where_the_lease_is_another(how: str) -> None:
    """A Lease that somebody else holds by now, or that is not the one that it was, is left as it is."""

    async def scene(bed: Bed) -> None:
        await bed.pair.write(None, A1.record, A1.claim, {})
        base = await bed.pair.fetch()
        left = None

        async def interfere(asked: str) -> None:
            nonlocal left
            if asked != "update leases" or left is not None:
                return
            bed.client.before = None
            left = await bed.lease.fetch()
            assert left is not None
            if how == "taken":
                left = await bed.lease.write(left, ALONE.record, ALONE.claim, {})
            elif how == "claim":
                left = await bed.lease.annotate({CLAIM_ANNOTATION: None})
            else:
                bed.arena.store.delete(LEASES, "default", ELECTION)
                left = await bed.lease.write(None, A1.record, A1.claim, {}) if how == "made again" else None

        bed.client.before = interfere
        with pytest.raises(ConflictError):
            await bed.pair.write(base, A2.record, A2.claim, {})
        bed.client.before = None
        now = await bed.lease.fetch()
        assert (now.version if now else 0) == (left.version if left else 0)

    on_a_store(scene)


def test_second_half_that_is_not_allowed_keeps_the_first_one_back() -> None:
    """After a 403 for the Lease the Endpoints are not written for ten minutes; then both are tried again."""

    async def scene(bed: Bed) -> None:
        async def refuse(asked: str) -> None:
            if asked == "create leases":
                raise ForbiddenError("leases: 403: no", status=403)

        bed.client.before = refuse
        with pytest.raises(ForbiddenError):
            await bed.pair.write(None, A1.record, A1.claim, {})
        base = await bed.pair.fetch()
        bed.client.asked.clear()
        with pytest.raises(ForbiddenError, match="leases: 403: no"):
            await bed.pair.write(base, A2.record, A2.claim, {})
        assert bed.client.asked == []
        bed.client.before = None
        await asyncio.sleep(600)
        assert (await bed.pair.write(base, A2.record, A2.claim, {})).valid_claim == A2.claim

    on_a_store(scene)


def test_halves_that_stay_alone_end_after_a_lease() -> None:
    """Whoever knows nothing but the Endpoints would wait for ever: they are left alone, and tried again much later."""

    async def scene(bed: Bed) -> None:
        async def refuse(asked: str) -> None:
            if "leases" in asked and not asked.startswith("get"):
                raise ApiError("leases: 422: no", status=422)

        bed.client.before = refuse
        lease = A1.record.lease_seconds

        async def written() -> bool:
            """Try to write, and tell whether the Endpoints were."""
            bed.client.asked.clear()
            with pytest.raises(ApiError):
                await bed.pair.write(base, A2.record, A2.claim, {})
            return bool(bed.client.asked)

        base = None
        assert await written()
        base = await bed.pair.fetch()
        await asyncio.sleep(lease)
        assert await written(), "it has not been tried often"
        base = await bed.pair.fetch()
        assert await written()
        base = await bed.pair.fetch()
        assert not await written()
        released = await bed.pair.fetch()
        with pytest.raises(ApiError, match="422"):
            await bed.pair.write(released, replace(A2.record, holder=""), None, {})
        base = await bed.pair.fetch()
        await asyncio.sleep(HOPELESS_LEASES * lease)
        assert await written()

    on_a_store(scene)


@pytest.mark.parametrize("status", [422, 500])
def test_one_that_cannot_write_the_lease_leaves_the_election_to_others(status: int) -> None:
    """A candidate on Endpoints leads instead, within a few leases, and goes on leading."""

    async def main() -> None:
        arena = Arena()
        pair = arena.start("a", lock="endpointsleases")
        await arena.leader()
        other = arena.start("b")

        async def refused(*_: object) -> NoReturn:
            raise ApiError("no", status=status)

        with mock.patch.object(LeaseLock, "write", refused):
            await arena.until(other.candidate.is_leading, within=4 * TTL)
            for _ in range(10):
                await asyncio.sleep(TTL)
                assert arena.leaders() == [other]
        assert not pair.ended

    run(main())


def test_a_whole_write_takes_no_longer_than_one_request_may() -> None:
    """A second half that is not answered in what is left of the time is given up; nobody knows what became of it."""

    async def scene(bed: Bed) -> None:
        async def slow(asked: str) -> None:
            await asyncio.sleep(TIMEOUT * (0.6 if "endpoints" in asked else 10))

        bed.client.before = slow
        began = asyncio.get_running_loop().time()
        with pytest.raises(NoAnswerError) as caught:
            await bed.pair.write(None, A1.record, A1.claim, {})
        assert not caught.value.refused
        assert asyncio.get_running_loop().time() - began < TIMEOUT + 0.1

    on_a_store(scene)


@pytest.mark.parametrize("how", ["annotate", "swap"])
@pytest.mark.parametrize("kinds", [("endpoints",), ("lease",), ("endpoints", "lease"), ()], ids="-".join)
def test_whichever_of_the_two_exists_is_annotated(how: str, kinds: tuple[str, ...]) -> None:
    """Annotations go to both; where there is only one, to that; none is made for them."""

    async def scene(bed: Bed) -> None:
        for kind in kinds:
            await getattr(bed, kind).write(None, A1.record, A1.claim, {})
        annotate = getattr(bed.pair, how)
        if not kinds:
            with pytest.raises(NotFoundError):
                await annotate({"leader-elector/candidate.b": "{}"})
            return
        shown = await annotate({"leader-elector/candidate.b": "{}"})
        assert shown.annotations["leader-elector/candidate.b"] == "{}"
        for kind in ("endpoints", "lease"):
            snapshot = await getattr(bed, kind).fetch()
            assert (snapshot is not None) == (kind in kinds)
            assert snapshot is None or snapshot.annotations["leader-elector/candidate.b"] == "{}"

    on_a_store(scene)


@pytest.mark.parametrize("refused", ["endpoints", "leases"])
@pytest.mark.parametrize("verb", ["get", "patch"])
def test_one_of_the_two_that_may_not_be_read_or_annotated(verb: str, refused: str) -> None:
    """Where one of the two fails, both do."""

    async def scene(bed: Bed) -> None:
        await bed.pair.write(None, A1.record, A1.claim, {})

        async def refuse(asked: str) -> None:
            if asked == f"{verb} {refused}":
                raise ForbiddenError("no", status=403)

        bed.client.before = refuse
        with pytest.raises(ApiError):
            await (bed.pair.fetch() if verb == "get" else bed.pair.annotate({"x": "1"}))

    on_a_store(scene)


# -- What the election makes of it -------------------------------------------------------------------------------------


def test_what_is_heard_of_late_is_news_at_the_same_version() -> None:
    """The version of two objects is the greater one's; a change of the other that comes later counts all the same."""
    me = Candidacy(identity="q", pod_uid="q", node="n", lease_seconds=10, renew_deadline=6.6, retry_period=2.5)
    state = State(candidacy=me)
    endpoints, lease = seen((3, ALONE)), seen((12, GIVEN_UP))
    for now, version, second in ((1.0, 3, 5), (2.0, 11, 6), (3.0, 11, 7)):
        endpoints = endpoints.saw(replace(ALONE, second=second).snapshot(version), version)
        shown = together(endpoints, lease, verdict(endpoints, lease))
        assert shown is not None
        assert shown.version == 12
        state = apply(state, Changed(shown), Moment(now=now, wall=0, luck=0.0))
    assert state.observed is not None
    assert state.observed.text == replace(ALONE, second=6).record.encode()
    assert state.observed.held_until == 12.0
    state = apply(state, Deleted(12), Moment(now=4.0, wall=0, luck=0.0))
    assert state.observed is not None
    assert state.observed.snapshot is None
    assert apply(state, Deleted(12), Moment(now=5.0, wall=0, luck=0.0)) == state
