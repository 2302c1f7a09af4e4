"""Leases as locks, alone and together with Endpoints, and groups of both kinds: what the API server makes of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.election import Changed, Deleted
from sidecar.group import EndpointsGroup, LeaseGroup, MixedGroup
from sidecar.kube import ConflictError, NotFoundError
from sidecar.locks import Bookmark, EndpointsLock, LeaseLock
from sidecar.pairlock import PairLock
from sidecar.record import GROUP_LABEL, LOOK_ANNOTATION, Record, UnreadableRecord
from tests.contract.client import DEADLINE, eventually
from tests.contract.test_sidecar_client import CLAIM, KEY, LOG, RECORD, REGISTRATION, client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.kube import KubeClient
    from sidecar.locks import Lock, LockEvent
    from tests.contract.client import Api

RELEASED = replace(RECORD, holder="", lease_seconds=1, renew_time="2024-05-01T10:00:09Z")
LATER = replace(RECORD, renew_time="2024-05-01T10:00:03Z")
LATER_CLAIM = replace(CLAIM, renewed=LATER.renew_time)
STOCK_LEASES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]},
]


def lease_lock(opened: KubeClient, api: Api, election: str = "x") -> LeaseLock:
    """Return a lock in the namespace; its group is the namespace's, which no other test has."""
    return LeaseLock(opened, namespace=api.namespace, election=election, group=api.namespace)


def endpoints_lock(opened: KubeClient, api: Api, election: str = "x") -> EndpointsLock:
    """Return a lock of the other kind."""
    return EndpointsLock(opened, namespace=api.namespace, election=election, group=api.namespace)


def pair_lock(opened: KubeClient, api: Api, election: str = "x") -> PairLock:
    """Return a lock of both."""
    return PairLock(opened, namespace=api.namespace, election=election, group=api.namespace, timeout=10)


async def stored(api: Api, name: str = "x") -> dict[str, Any]:
    """Return the Lease as it is stored."""
    body: dict[str, Any] = (await api.get(api.leases(name))).body
    return body


# -- The Lease ---------------------------------------------------------------------------------------------------------


async def test_a_lease_as_client_go_writes_it(api: Api) -> None:
    """The spec is client-go's; what was written reads back as the very record, and its text as it was sent."""
    async with client(api) as opened:
        lock = lease_lock(opened, api)
        assert await lock.fetch() is None
        written = await lock.write(None, RECORD, CLAIM, {KEY: REGISTRATION})
        assert await lock.fetch() == written
    assert (written.record, written.text, written.valid_claim) == (RECORD, RECORD.encode(), CLAIM)
    body = await stored(api)
    assert body["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 10,
        "acquireTime": "2024-05-01T10:00:00.000000Z",
        "renewTime": "2024-05-01T10:00:00.000000Z",
        "leaseTransitions": 0,
    }
    assert body["metadata"]["labels"] == {GROUP_LABEL: api.namespace}
    assert body["metadata"]["annotations"][KEY] == REGISTRATION


async def test_a_lease_that_is_given_up(api: Api) -> None:
    """A release is what client-go writes, is accepted, and reads back as the very release."""
    async with client(api) as opened:
        lock = lease_lock(opened, api)
        written = await lock.write(await lock.write(None, RECORD, CLAIM, {}), RELEASED, None, {})
        assert (written.record, written.text, written.holder, written.claim) == (RELEASED, RELEASED.encode(), "", None)
    spec = (await stored(api))["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("", 1)


async def test_what_client_go_gave_up_is_given_up(api: Api) -> None:
    """client-go keeps fractions of a second, and leaves claims where they are: neither makes its release a holder's."""
    async with client(api) as opened:
        lock = lease_lock(opened, api)
        await lock.write(None, RECORD, CLAIM, {})
        released = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": "2024-05-01T10:00:05.123456Z"}
        await api.patch(api.leases("x"), {"spec": {**released, "acquireTime": "2024-05-01T10:00:05.123456Z"}})
        snapshot = await lock.fetch()
    assert snapshot is not None
    assert isinstance(snapshot.record, Record)
    assert (snapshot.record.holder, snapshot.record.renew_time) == ("", "2024-05-01T10:00:05.123456Z")
    assert snapshot.valid_claim is None


async def test_a_lease_that_nobody_has_held(api: Api) -> None:
    """A Lease without a spec has no record; one with a holder and no duration has one that cannot be read."""
    async with client(api) as opened:
        lock = lease_lock(opened, api)
        await api.post(api.leases(), {"metadata": {"name": "x"}})
        empty = await lock.fetch()
        assert empty is not None
        assert (empty.text, empty.record) == (None, None)
        await api.patch(api.leases("x"), {"spec": {"holderIdentity": "b"}})
        damaged = await lock.fetch()
        assert damaged is not None
        assert isinstance(damaged.record, UnreadableRecord)
        assert (await lock.write(damaged, RECORD, CLAIM, {})).record == RECORD


@pytest.mark.parametrize("rules", [None, STOCK_LEASES], ids=["patch", "swap"])
async def test_a_lease_is_swapped_and_annotated(api: Api, rules: list[dict[str, Any]] | None) -> None:
    """A compare-and-swap on a Lease is one, also where it was made again; annotations come and go beside the record."""
    async with client(api, rules) as opened:
        lock = lease_lock(opened, api)
        annotate = lock.swap if rules else lock.annotate
        with pytest.raises(NotFoundError):
            await annotate({KEY: REGISTRATION})
        made = await lock.write(None, RECORD, CLAIM, {})
        with pytest.raises(ConflictError):
            await lock.write(None, RECORD, CLAIM, {})
        annotated = await annotate({KEY: REGISTRATION})
        assert (annotated.record, annotated.claim, annotated.annotations[KEY]) == (RECORD, CLAIM, REGISTRATION)
        with pytest.raises(ConflictError):
            await lock.write(made, RECORD, CLAIM, {})
        await api.delete(api.leases("x"))
        with pytest.raises((ConflictError, NotFoundError)):
            await lock.write(annotated, RECORD, CLAIM, {})
        await api.delete(api.leases("x"))
        await lock.write(None, RECORD, CLAIM, {})
        with pytest.raises(ConflictError):
            await lock.write(annotated, RECORD, CLAIM, {})


# -- Both --------------------------------------------------------------------------------------------------------------


async def next_change(events: AsyncIterator[LockEvent]) -> LockEvent:
    """Return the next event that is no bookmark."""
    async with asyncio.timeout(DEADLINE):
        while isinstance(event := await anext(events), Bookmark):
            pass
    return event


@pytest.mark.parametrize("rules", [None, STOCK_LEASES], ids=["all", "stock"])
async def test_both_are_one_lock(api: Api, rules: list[dict[str, Any]] | None) -> None:
    """Made, renewed, annotated and given up on both; what is read back is what was written, and versions grow."""
    async with client(api, rules) as opened:
        pair = pair_lock(opened, api)
        assert await pair.fetch() is None
        made = await pair.write(None, RECORD, CLAIM, {})
        first = await pair.fetch()
        assert first is not None
        assert (first.text, first.valid_claim) == (made.text, made.valid_claim) == (RECORD.encode(), CLAIM)
        annotated = await (pair.swap if rules else pair.annotate)({KEY: REGISTRATION})
        assert annotated.annotations[KEY] == REGISTRATION
        renewed = await pair.write(annotated, LATER, LATER_CLAIM, {KEY: None})
        assert made.version < first.version < annotated.version < renewed.version
        for lock in (endpoints_lock(opened, api), lease_lock(opened, api)):
            snapshot = await lock.fetch()
            assert snapshot is not None
            assert (snapshot.text, snapshot.valid_claim) == (LATER.encode(), LATER_CLAIM)
            assert KEY not in snapshot.annotations
        with pytest.raises(ConflictError):
            await pair.write(first, LATER, LATER_CLAIM, {})
        released = await pair.write(await pair.fetch(), RELEASED, None, {})
        assert (released.text, released.claim) == (RELEASED.encode(), None)


async def test_both_are_watched(api: Api) -> None:
    """Changes and deletions of either are shown as the lock's, also of one that did not exist when the watch began."""
    async with client(api) as opened:
        pair, endpoints = pair_lock(opened, api), endpoints_lock(opened, api)
        made = await endpoints.write(None, RECORD, CLAIM, {})
        snapshot = await pair.fetch()
        assert snapshot is not None
        assert (snapshot.text, snapshot.version) == (made.text, made.version)
        async with pair.watch(snapshot.version, 60) as events:
            written = await pair.write(snapshot, LATER, LATER_CLAIM, {})
            shown = [await next_change(events) for _ in range(2)]
            assert isinstance(shown[1], Changed)
            assert shown[1].snapshot.version > written.version
            assert (shown[1].snapshot.text, shown[1].snapshot.valid_claim) == (LATER.encode(), LATER_CLAIM)
            await api.delete(api.leases("x"))
            gone = await next_change(events)
            assert isinstance(gone, Changed)
            assert gone.snapshot.valid_claim is None
            assert gone.snapshot.holder == "a"
            await api.delete(api.endpoints("x"))
            assert isinstance(await next_change(events), Deleted)


async def test_one_of_both_that_stands_still_is_watched_from_where_the_other_one_is(api: Api) -> None:
    """A read says of both what they are at the greater version; a watch of either may begin there."""
    async with client(api) as opened:
        pair, lease = pair_lock(opened, api), lease_lock(opened, api)
        await pair.write(None, RECORD, CLAIM, {})
        for _ in range(3):
            await lease.annotate({"turn": f"{_}"})
            await pair.fetch()
        assert pair._places[0].position > pair._places[0].side.version
        snapshot = await pair.fetch()
        assert snapshot is not None
        async with pair.watch(snapshot.version, 60) as events:
            await endpoints_lock(opened, api).annotate({"there": "1"})
            shown = await next_change(events)
            assert isinstance(shown, Changed)
            assert shown.snapshot.annotations["there"] == "1"


# -- Groups of both kinds ----------------------------------------------------------------------------------------------


def group(opened: KubeClient, api: Api, *, cluster: bool = False) -> MixedGroup:
    """Return the group of the namespace's locks."""
    endpoints, leases = (
        kind(opened, namespace=api.namespace, group=api.namespace, cluster=cluster, log=LOG)
        for kind in (EndpointsGroup, LeaseGroup)
    )
    return MixedGroup(endpoints, leases, log=LOG)


@pytest.mark.parametrize("cluster", [False, True], ids=["namespace", "cluster"])
@pytest.mark.parametrize("cached", [False, True], ids=["consistent", "cached"])
async def test_elections_of_both_kinds_are_seen(api: Api, *, cluster: bool, cached: bool) -> None:
    """Elections on Endpoints, on Leases and on both are seen once each, with record and claim; nudges reach them."""
    async with client(api) as opened:
        locks: list[Lock] = [
            endpoints_lock(opened, api, "e"),
            lease_lock(opened, api, "l"),
            pair_lock(opened, api, "p"),
        ]
        for lock in locks:
            await lock.write(None, RECORD, CLAIM, {KEY: REGISTRATION})
        mixed = group(opened, api, cluster=cluster)

        async def seen() -> list[tuple[str, str | None, bool]]:
            found = await mixed.locks(cached=cached)
            return sorted((lock.name, lock.holder, lock.claim == CLAIM) for lock in found)

        await eventually(seen, [(f"{api.namespace}/{name}", "a", True) for name in "elp"])
        for name in "elp":
            await mixed.nudge(f"{api.namespace}/{name}", "4")
    nudged = [
        name
        for name in "elp"
        for path in (api.endpoints(name), api.leases(name))
        if (await api.get(path)).body["metadata"].get("annotations", {}).get(LOOK_ANNOTATION) == "5"
    ]
    # A cache that lags behind may show of the two only the one that was written first.
    assert nudged == ["e", "l", "p"]
