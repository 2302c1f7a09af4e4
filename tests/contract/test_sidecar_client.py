"""What the sidecar asks of an API server beside the lock itself, through its own client: annotations, groups, pods."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from sidecar import kube, kubeconfig
from sidecar.balance import LockSeen
from sidecar.group import EndpointsGroup
from sidecar.kube import ConflictError, ForbiddenError, KubeClient, NotFoundError
from sidecar.locks import EndpointsLock
from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, LOOK_ANNOTATION, RECORD_ANNOTATION, Claim, Record, Snapshot
from sidecar.registration import Registration, registration_key
from tests.contract.client import Api, endpoints, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from structlog.typing import FilteringBoundLogger

STOCK = {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}
LIST = {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["list"]}
RECORD = Record(
    holder="a",
    lease_seconds=10,
    acquire_time="2024-05-01T10:00:00Z",
    renew_time="2024-05-01T10:00:00Z",
    transitions=0,
)
CLAIM = Claim(holder="a", node="n1", pod_uid="u", renewed=RECORD.renew_time)
KEY = registration_key("b")
REGISTRATION = Registration(identity="b", node="n2", pod_uid="v").encode()
LOG: FilteringBoundLogger = structlog.wrap_logger(
    structlog.testing.CapturingLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)


@asynccontextmanager
async def client(api: Api, rules: Sequence[dict[str, Any]] | None = None) -> AsyncIterator[KubeClient]:
    """Return the sidecar's client of the administrator, or of a user who may do these things in the namespace."""
    path = api.server.admin_kubeconfig
    if rules is not None:
        path = await asyncio.to_thread(api.server.kubeconfig_for, "peer", rules, namespace=api.namespace)
    load = kubeconfig.choose(kubeconfig=str(path), use_cluster_credentials=False, environ={}, home=Path("/nowhere"))
    opened = KubeClient(load, timeout=10, user_agent="test")
    try:
        yield opened
    finally:
        await opened.close()


def lock(opened: KubeClient, api: Api, election: str = "x", group: str = "") -> EndpointsLock:
    """Return a lock in the namespace; its group is the namespace's, which no other test has."""
    return EndpointsLock(opened, namespace=api.namespace, election=election, group=group or api.namespace)


def group_of(opened: KubeClient, api: Api, *, cluster: bool = False) -> EndpointsGroup:
    """Return the group of the locks in the namespace."""
    return EndpointsGroup(opened, namespace=api.namespace, group=api.namespace, cluster=cluster, log=LOG)


def seen_as(snapshot: Snapshot) -> LockSeen:
    """Return what a list shows of a lock object."""
    metadata = snapshot.body["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    return LockSeen(name=name, version=snapshot.version, annotations=metadata.get("annotations", {}))


async def reader(api: Api, name: str = "x") -> dict[str, Any]:
    """Return the metadata of an object as it is stored."""
    metadata: dict[str, Any] = (await api.get(api.endpoints(name))).body["metadata"]
    return metadata


# -- The lock ----------------------------------------------------------------------------------------------------------


async def test_a_written_lock_has_its_group(api: Api) -> None:
    """A lock object is made with the label of its group, and keeps labels that others add."""
    async with client(api) as opened:
        one = lock(opened, api)
        created = await one.write(None, RECORD, CLAIM, {})
        assert (await reader(api))["labels"] == {GROUP_LABEL: api.namespace}
        await api.patch(api.endpoints("x"), {"metadata": {"labels": {"app": "example", GROUP_LABEL: None}}})
        with pytest.raises(ConflictError):
            await one.write(created, RECORD, CLAIM, {})
        await one.write(await one.fetch(), RECORD, CLAIM, {})
    assert (await reader(api))["labels"] == {"app": "example", GROUP_LABEL: api.namespace}


async def test_annotations_are_dropped_with_a_write(api: Api) -> None:
    """The same write that renews strikes out a registration."""
    async with client(api) as opened:
        one = lock(opened, api)
        await one.write(None, RECORD, CLAIM, {})
        annotated = await one.annotate({KEY: REGISTRATION, "other": "x"})
        written = await one.write(annotated, RECORD, CLAIM, {KEY: None, "none": None})
    expected = {RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode(), "other": "x"}
    assert written.body["metadata"]["annotations"] == expected
    assert (await reader(api))["annotations"] == expected


@pytest.mark.parametrize("rules", [None, [STOCK]], ids=["patch", "swap"])
async def test_annotations_are_set_and_removed(api: Api, rules: list[dict[str, Any]] | None) -> None:
    """A registration comes and goes, with the permissions of the stock image too; nothing else changes."""
    async with client(api, rules) as opened:
        one = lock(opened, api)
        before = await one.write(None, RECORD, CLAIM, {})
        await api.patch(api.endpoints("x"), {"metadata": {"labels": None}})
        annotate = one.swap if rules else one.annotate
        registered = await annotate({KEY: REGISTRATION})
        assert registered.version > before.version
        assert registered.body["metadata"]["annotations"][KEY] == REGISTRATION
        assert registered.body["metadata"]["labels"] == {GROUP_LABEL: api.namespace}
        assert (registered.record, registered.claim) == (RECORD, CLAIM)
        withdrawn = await annotate({KEY: None, "none": None})
        assert withdrawn.version > registered.version
        assert withdrawn.body["metadata"]["annotations"] == before.body["metadata"]["annotations"]


@pytest.mark.parametrize("rules", [None, [STOCK]], ids=["patch", "swap"])
async def test_no_lock_object_to_annotate(api: Api, rules: list[dict[str, Any]] | None) -> None:
    """Annotating makes no lock object: that would be a vacancy for whoever saw none."""
    async with client(api, rules) as opened:
        one = lock(opened, api)
        with pytest.raises(NotFoundError):
            await (one.swap if rules else one.annotate)({KEY: REGISTRATION})
    assert (await api.get(api.endpoints("x"))).status == 404


async def test_patches_never_conflict_with_each_other(api: Api) -> None:
    """Many candidates register at one moment, and all of them are there."""
    async with client(api) as opened:
        one = lock(opened, api)
        await one.write(None, RECORD, CLAIM, {})
        keys = [registration_key(f"web-{number}") for number in range(8)]
        await asyncio.gather(*(one.annotate({key: REGISTRATION}) for key in keys))
    assert set((await reader(api))["annotations"]) == {RECORD_ANNOTATION, CLAIM_ANNOTATION, *keys}


# -- The group ---------------------------------------------------------------------------------------------------------


async def test_a_group_sees_its_locks_and_no_others(api: Api) -> None:
    """A list shows, of the group's objects in the namespace, name, version and annotations."""
    async with client(api) as opened:
        first = await lock(opened, api, "b").write(None, RECORD, CLAIM, {})
        second = await lock(opened, api, "a.c").write(None, RECORD, None, {})
        await lock(opened, api, "another", "group-of-others").write(None, RECORD, CLAIM, {})
        await api.created("unlabelled")
        group = group_of(opened, api)
        assert await group.locks(cached=False) == [seen_as(second), seen_as(first)]

        async def cached() -> list[LockSeen]:
            return await group.locks(cached=True)

        await eventually(cached, [seen_as(second), seen_as(first)])


async def test_a_consistent_list_shows_every_write_before_it(api: Api) -> None:
    """What was written before a consistent list was asked for is in it."""
    async with client(api) as opened:
        one, group = lock(opened, api), group_of(opened, api)
        snapshot = await one.write(None, RECORD, CLAIM, {})
        for count in range(10):
            snapshot = await one.annotate({KEY: str(count)})
            assert await group.locks(cached=False) == [seen_as(snapshot)]


async def test_a_group_of_nobody_is_empty(api: Api) -> None:
    """An empty list is a list, from the cache and from what is stored."""
    async with client(api) as opened:
        assert await group_of(opened, api).locks(cached=False) == []
        assert await group_of(opened, api).locks(cached=True) == []


async def test_a_consistent_list_comes_in_pages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group larger than a page is listed whole; metadata is all that there is of an object."""
    monkeypatch.setattr(kube, "PAGE_SIZE", 2)
    names = [f"e-{number}" for number in range(5)]
    for name in names:
        body = endpoints(name, labels={GROUP_LABEL: api.namespace})
        await api.post(api.endpoints(), {**body, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
    async with client(api) as opened:
        label = f"{GROUP_LABEL}={api.namespace}"
        items = await opened.list_metadata(api.endpoints(), label=label, cached=False)
        locks = await group_of(opened, api).locks(cached=False)
    assert [item["metadata"]["name"] for item in items] == names
    assert not any("subsets" in item for item in items)
    assert [one.name for one in locks] == [f"{api.namespace}/{name}" for name in names]


async def test_a_list_may_be_forbidden(api: Api) -> None:
    """The permissions of the stock image do not include it."""
    async with client(api, [STOCK]) as opened:
        with pytest.raises(ForbiddenError):
            await group_of(opened, api).locks(cached=True)


async def test_a_group_may_reach_over_the_cluster(api: Api) -> None:
    """With the permission, the group's locks of every namespace are seen; without, those of the election's own."""
    other = api.server.namespace()
    async with client(api) as opened:
        here = await lock(opened, api).write(None, RECORD, CLAIM, {})
        elsewhere = EndpointsLock(opened, namespace=other, election="y", group=api.namespace)
        there = await elsewhere.write(None, RECORD, CLAIM, {})
        locks = await group_of(opened, api, cluster=True).locks(cached=False)
        assert sorted(locks, key=lambda one: one.version) == [seen_as(here), seen_as(there)]
    async with client(api, [LIST]) as opened:
        assert await group_of(opened, api, cluster=True).locks(cached=False) == [seen_as(here)]


async def test_a_nudge_raises_the_counter(api: Api) -> None:
    """Each nudge after a fresh look raises the counter; two from the same look raise it once; nothing else changes."""
    async with client(api) as opened:
        one, group = lock(opened, api), group_of(opened, api)
        await one.write(None, RECORD, CLAIM, {})
        (first,) = await group.locks(cached=False)
        await asyncio.gather(group.nudge(first.name, ""), group.nudge(first.name, ""))
        (second,) = await group.locks(cached=False)
        assert second.annotations == {**first.annotations, LOOK_ANNOTATION: "1"}
        await group.nudge(second.name, second.annotations[LOOK_ANNOTATION])
        (third,) = await group.locks(cached=False)
        assert third.annotations[LOOK_ANNOTATION] == "2"


async def test_a_nudge_of_a_lock_that_is_gone(api: Api) -> None:
    """A nudge makes no lock object."""
    async with client(api) as opened:
        with pytest.raises(NotFoundError):
            await group_of(opened, api).nudge(f"{api.namespace}/x", "")
    assert (await api.get(api.endpoints("x"))).status == 404


async def test_the_node_of_a_pod(api: Api) -> None:
    """A pod's node is read where there is such a pod, it is bound, and pods may be read."""
    for name, bound in (("bound", {"nodeName": "n1"}), ("pending", {})):
        spec = {**bound, "containers": [{"name": "c", "image": "i"}]}
        made = await api.post(api.path("pods"), {"kind": "Pod", "metadata": {"name": name}, "spec": spec})
        assert made.status == 201, made.text
    async with client(api) as opened:
        group = group_of(opened, api)
        nodes = [await group.node_of(api.namespace, name) for name in ("bound", "pending", "none")]
        assert nodes == ["n1", "", ""]
    async with client(api, [STOCK]) as opened:
        assert await group_of(opened, api).node_of(api.namespace, "bound") == ""
