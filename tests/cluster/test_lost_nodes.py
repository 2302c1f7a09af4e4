"""Nodes that are cut off from the network. Their pods run on, and nobody can tell that from outside."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cluster.manifests import SIDECAR, Application
from tests.cluster.stage import LEASE
from tests.cluster.terms import instant
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.cluster.opening import Ground
    from tests.cluster.stage import Stage
    from tests.testbed.cluster import Cluster


@pytest.fixture(autouse=True)
def _nodes_are_ours(ground: Ground) -> None:
    if ground.cluster.given:
        pytest.skip("the nodes of a given cluster are not cut off")


@asynccontextmanager
async def cut(cluster: Cluster, node: str) -> AsyncIterator[float]:
    """Cut a node off while the block runs; nothing is scheduled to it meanwhile. Yields an instant before the cut."""
    await asyncio.to_thread(cluster.kubectl, "cordon", node)
    try:
        began = time.monotonic()
        await asyncio.to_thread(cluster.cut, node)
        try:
            yield began
        finally:
            await asyncio.to_thread(cluster.heal, node)
    finally:
        await asyncio.to_thread(cluster.kubectl, "uncordon", node)


def since_1970(at: float) -> float:
    """Return an instant of `time.monotonic` as one of the clock that the nodes, which are of this machine, have too."""
    return at + time.time() - time.monotonic()


async def test_a_node_is_cut_off_and_returns(stage: Stage, figure: Callable[[str, float], None]) -> None:
    """Its leader stops by itself, another leads when the lease is over; when it is back, it follows that one.

    The lease counts from the last renewal, by the record's own time. Of a renewal that is not the first write of its
    second that would be ahead; of any other it is not, so a candidate that waits for the lease can only seem to have
    waited longer.
    """
    application = Application(name="store", parallel=True)
    await stage.apply(application)
    old = await stage.led(application)
    await stage.seen.renewed(application.election)
    async with cut(stage.cluster, old.node) as since:
        await until(lambda: old.last_name() == "", f"{old.label} names nobody", seconds=2 * LEASE)
        new = await stage.seen.led(application.election, since=since)
        first, second = stage.seen.terms(application.election)
        assert not first.released
        assert since_1970(second.began) - first.renew_time >= LEASE
        figure("from the last renewal to the next leader, the node cut off", second.began - first.renewed)
        assert old.last_name() == ""
    assert (await stage.led(application)).uid == new.pod_uid
    assert len(stage.seen.terms(application.election)) == 2


async def test_a_pod_is_deleted_by_force_and_made_again(stage: Stage, figure: Callable[[str, float], None]) -> None:
    """Its successor, of the same name on another node, waits out the lease, for the old one may still lead.

    It waits from when it first sees the lock, which is not before its sidecar was started. The old one, on a node that
    is cut off, stops by itself, and when its node is back, it ends without having touched the lock.
    """
    application = Application(name="store", replicas=1)
    await stage.apply(application)
    old = await stage.led(application)
    await stage.seen.renewed(application.election)
    async with cut(stage.cluster, old.node) as since:
        await stage.kubectl("delete", "pod", old.name, "--force", "--grace-period=0")
        await until(lambda: old.deleted and stage.seen.living(), "the pod is made again")
        new = stage.seen.pod(old.name)
        await until(lambda: new.last_name() is not None, f"{new.label} answers", seconds=60)
        started = instant(new.container(SIDECAR)["state"]["running"]["startedAt"])
        term = await stage.seen.led(application.election, since=since)
        assert term.pod_uid == new.uid
        assert new.node != old.node
        first, second = stage.seen.terms(application.election)
        assert since_1970(second.began) - first.renew_time >= LEASE
        assert since_1970(second.began) - started >= LEASE
        figure("from the last renewal to the successor of the same name", second.began - first.renewed)
        assert old.last_name() == ""
    await until(lambda: old.last_name() is None, f"{old.label} ends", seconds=90)
    assert await stage.led(application) is new
    assert len(stage.seen.terms(application.election)) == 2
