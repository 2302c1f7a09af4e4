"""The example store in pods: whatever becomes of its leader, what it acknowledged is there, and it takes writes again.

All tests have one store, each with keys of its own, and a load of writes and reads around what happens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import yaml

from tests.cluster import manifests, stores
from tests.cluster.manifests import APPLICATION, SIDECAR
from tests.cluster.stage import LEASE, staged
from tests.cluster.stores import CONTAINER, Store
from tests.store.history import History, Kind, Outcome, check
from tests.store.load import Load, Target, ask, client_session, record_end, role_of
from tests.testbed.cluster import ClusterError, LocalCluster
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import aiohttp

    from tests.cluster.observer import Pod
    from tests.cluster.opening import Ground
    from tests.cluster.stage import Stage
    from tests.cluster.stores import Entrances

# They have one store, and so one loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LOG_KEPT = 100
"""Entries: whoever missed twice as many is sent a snapshot."""

STORE = Store(variables={"LOG_KEPT": str(LOG_KEPT)})

GIVE_UP_SECONDS = 5.0
"""After which a client asks elsewhere: what it sent to a node that is cut off is not answered."""

AGAIN_SECONDS = 60.0
"""Within which the store takes writes again, however busy the machine is."""

TOLD = (
    ("get", "pods", "--output=wide"),
    ("logs", f"--selector={APPLICATION}={STORE.name}", f"--container={CONTAINER}", "--prefix", "--tail=40"),
    ("logs", f"--selector={APPLICATION}={STORE.name}", f"--container={SIDECAR}", "--prefix", "--tail=20"),
)
"""What is told of the store when something failed."""

ASK = """\
import sys, urllib.error, urllib.request
method, url = sys.argv[1:]
request = urllib.request.Request(url, data=b"never stored" if method == "PUT" else None, method=method)
try:
    answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
except urllib.error.HTTPError as refused:
    answer = refused
print(answer.status, answer.headers["Retry-After"], answer.read().decode())
"""
"""Prints the status, the header `Retry-After` and the body of an answer."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The store in a namespace of its own, and how it is reached."""

    stage: Stage
    entrances: Entrances
    session: aiohttp.ClientSession

    def pods(self) -> list[Pod]:
        """Return the replicas."""
        return self.stage.seen.living(STORE.name)

    def replica(self, pod: Pod) -> Target:
        """Return where one replica is reached."""
        return Target(self.entrances.replica(pod))

    async def led(self) -> Pod:
        """Wait until all replicas are ready, and follow one that takes writes; return that one."""
        found: list[Pod] = []

        async def is_led() -> bool:
            pods = self.pods()
            if len(pods) != STORE.replicas or not all(pod.is_ready() for pod in pods):
                return False
            roles = [await role_of(self.session, self.replica(pod)) or {} for pod in pods]
            found[:] = [pod for pod, role in zip(pods, roles, strict=True) if role.get("role") == "leader"]
            return [pod.name for pod in found] == list({role.get("leader") for role in roles})

        await until(is_led, "all replicas are ready and follow one leader", seconds=90, every=0.1)
        return found[0]

    @asynccontextmanager
    async def loaded(self, name: str, targets: Sequence[Target] = ()) -> AsyncIterator[Load]:
        """Write and read keys of that name while the block runs, and until all replicas follow a leader again.

        It is done at `targets`, or through all nodes. Then nothing may be wrong with what the clients were told, and
        all replicas have to hold the same.
        """
        history = History()
        everywhere = [Target(url) for url in self.entrances.everywhere]
        keys = [f"{name}-{number}" for number in range(5)]
        try:
            async with Load(history, targets or everywhere, keys=keys, seconds=GIVE_UP_SECONDS) as load:
                await load.acknowledged()
                yield load
                await load.acknowledged(seconds=AGAIN_SECONDS)
                await self.led()
            await record_end(history, {pod.name: self.replica(pod) for pod in self.pods()})
            assert check(history) == [], history.summary()
        except BaseException:
            for command in TOLD:
                with suppress(ClusterError):
                    sys.stderr.write(await self.stage.kubectl(*command))
            raise


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployed(ground: Ground) -> AsyncIterator[Deployed]:
    """Serve the store of all tests; no two of its sidecars may name themselves at once."""
    async with staged(ground) as stage, client_session() as session:
        documents = await asyncio.to_thread(stores.documents, ground, [STORE], namespace=stage.namespace)
        await asyncio.to_thread(manifests.apply, ground.cluster, documents)
        async with stores.entrances(ground.cluster, stage.namespace, STORE) as entrances:
            yield Deployed(stage=stage, entrances=entrances, session=session)


@pytest.fixture
def cluster(ground: Ground) -> LocalCluster:
    """Serve the cluster of this machine, for what is done to nodes and processes."""
    if not isinstance(ground.cluster, LocalCluster):
        pytest.skip("nothing is done to the nodes of a given cluster")
    return ground.cluster


def longest_gap(load: Load) -> float:
    """Return the most seconds in which no write was acknowledged."""
    return max(
        later - earlier for earlier, later in pairwise(sorted(one.returned for one in load.history.acknowledged()))
    )


async def test_peers_are_the_replicas() -> None:
    """`PEERS` in the manifests names so many replicas as there are, as the tests' own stores do."""
    (stateful_set,) = (
        document
        for document in yaml.safe_load_all((stores.STORE / "store.yaml").read_text())
        if document["kind"] == "StatefulSet"
    )
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    (peers,) = (variable["value"] for variable in container["env"] if variable["name"] == "PEERS")
    assert peers == Store(replicas=stateful_set["spec"]["replicas"]).peers


async def test_every_replica_takes_writes_and_serves_reads(deployed: Deployed) -> None:
    """Through the port of every node and at every replica: a write gets the next number, and is read everywhere."""
    leader = await deployed.led()
    places = [Target(url) for url in deployed.entrances.everywhere] + [deployed.replica(pod) for pod in deployed.pods()]
    history = History()
    for place in places:
        history.record(await ask(deployed.session, place, Kind.PUT, "everywhere", history.unique_value()))
    writes = history.operations
    assert {one.outcome for one in writes} == {Outcome.DONE}, [one.told for one in writes]
    assert len({one.token for one in writes}) == 1
    history.record(await ask(deployed.session, places[-1], Kind.CONSISTENT_GET, "everywhere"))
    assert history.operations[-1].value == writes[-1].value
    await record_end(history, {pod.name: deployed.replica(pod) for pod in deployed.pods()})
    assert check(history) == []

    async def labelled() -> bool:
        told = await deployed.stage.kubectl("get", "pods", "--selector=example.com/role=leader", "--output=name")
        return told.split() == [f"pod/{leader.name}"]

    await until(labelled, f"{leader.name} alone has the leader's label", seconds=30, every=0.2)


async def test_the_leaders_process_is_killed(
    deployed: Deployed, cluster: LocalCluster, figure: Callable[[str, float], None]
) -> None:
    """Its container is started again on the same volume, and whoever leads then takes writes."""
    leader = await deployed.led()
    killed, restarts = (leader.container(CONTAINER)[name] for name in ("containerID", "restartCount"))
    async with deployed.loaded("killed") as load:
        kill = ("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", killed.partition("//")[2])
        await asyncio.to_thread(cluster.inside, leader.node, *kill)
        await until(
            lambda: leader.container(CONTAINER)["restartCount"] > restarts,
            f"{leader.label} is started again",
            seconds=60,
        )
    figure("without an acknowledged write, the leader's process killed", longest_gap(load))


async def test_the_leaders_pod_is_deleted_by_force(deployed: Deployed, figure: Callable[[str, float], None]) -> None:
    """Another one of the same name gets its volume, at once, and whoever leads then takes writes."""
    leader = await deployed.led()
    async with deployed.loaded("deleted") as load:
        await deployed.stage.kubectl("delete", "pod", leader.name, "--force", "--grace-period=0")
        await until(lambda: leader.deleted, f"{leader.label} is deleted", seconds=60)
    figure("without an acknowledged write, the leader's pod deleted by force", longest_gap(load))


async def test_a_rolling_update(deployed: Deployed, figure: Callable[[str, float], None]) -> None:
    """Every replica is replaced, one after the other, while clients go on."""
    await deployed.led()
    before = deployed.pods()
    async with deployed.loaded("updated") as load:
        await deployed.stage.kubectl("rollout", "restart", f"statefulset/{STORE.name}")
        await until(lambda: all(pod.deleted for pod in before), "all pods are replaced", seconds=180)
    figure("without an acknowledged write, a rolling update", longest_gap(load))


async def test_the_leaders_node_is_cut_off_and_returns(
    deployed: Deployed, cluster: LocalCluster, figure: Callable[[str, float], None]
) -> None:
    """The others go on under a new leader; the old one, alone, acknowledges nothing, and comes back by a snapshot.

    Alone it serves what it has; a write is refused, certainly and with `Retry-After`, once it knows that it leads no
    more.
    """
    old = await deployed.led()
    there = f"{deployed.entrances.replica(old)}/kv"
    before = await ask(deployed.session, deployed.replica(old), Kind.PUT, "before", "seen before")
    assert before.outcome is Outcome.DONE, before.told

    async def alone(method: str, key: str) -> list[str]:
        """Ask the old leader on its own node; return status, `Retry-After` and body."""
        asked = (sys.executable, "-I", "-c", ASK, method, f"{there}/{key}")
        return (await asyncio.to_thread(cluster.inside, old.node, *asked)).split(maxsplit=2)

    async def is_refused() -> bool:
        told = await alone("PUT", "alone")
        assert told[0] in {"503", "504"}, told
        return told[0] == "503" and told[1] == "1" and "error" in json.loads(told[2])

    # Those that are sent to the old one by a Service, as some are for the better part of a minute, only wait.
    others = [deployed.replica(pod) for pod in deployed.pods() if pod is not old]
    async with deployed.loaded("cut", others) as load:
        since = time.monotonic()
        await asyncio.to_thread(cluster.cut, old.node)
        try:
            await until(is_refused, f"{old.label} refuses writes", seconds=3 * LEASE, every=0.2)
            await deployed.stage.seen.led(STORE.election, since=since)
            await load.acknowledged(writes=2 * LOG_KEPT + 50, seconds=2 * AGAIN_SECONDS)
            assert await alone("GET", "before") == ["200", "None", "seen before\n"]
        finally:
            await asyncio.to_thread(cluster.heal, old.node)
        healed = time.monotonic()
        assert await deployed.led() is not old
        figure("from the return of the old leader's node until it is in step", time.monotonic() - healed)
    figure("without an acknowledged write, the leader's node cut off", longest_gap(load))
    said = await deployed.stage.kubectl("logs", old.name, f"--container={CONTAINER}")
    assert "copied from" in said
    absent = await ask(deployed.session, deployed.replica(old), Kind.CONSISTENT_GET, "alone")
    assert (absent.outcome, absent.value) == (Outcome.DONE, None)
