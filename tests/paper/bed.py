"""What is measured: five stores of five replicas on three nodes that saturate, and where their leaders are.

The leaders are moved by what an operator has: nodes are cordoned and uncordoned, and the candidates do the rest. No pod
is restarted for that.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

from tests.cluster import manifests, stores
from tests.cluster.opening import LABEL, opened
from tests.cluster.stores import Store
from tests.paper.data import CONCENTRATED, NODES, REPLICAS, STORES
from tests.paper.distribution import Stores
from tests.paper.waiting import StateError, until
from tests.testbed.clusters import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.cluster.opening import Ground

NAMES = [f"app-{number}" for number in range(1, STORES + 1)]
NAMESPACE = "paper"
VOLUMES = STORES * REPLICAS
"""Of each node: how many of the replicas the scheduler puts on one is its choice."""

READY_SECONDS = 600.0
"""Within which all replicas have to be ready: they start at once, on what the nodes are allowed."""
PLACED_SECONDS = 120.0
"""Within which the leaders have to be where they are wanted."""
QUIET_SECONDS = 6.0
"""Without a change of leader after which a placement counts as settled: two looks of every leader."""
ROLE_SECONDS = 5.0
"""For a replica to say its role: its node may have no time left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A replica that leads its store, and takes writes."""

    pod: str
    node: str
    address: str
    """The pod's, which this machine reaches."""
    token: int
    """The fencing token: another one is another term, even of the same replica."""

    @property
    def url(self) -> str:
        """Where it takes writes."""
        return f"http://{self.address}:{stores.PORT}"


@dataclass(frozen=True, kw_only=True)
class Bed:
    """A cluster on this machine with the stores deployed. Made by `laid`."""

    cluster: LocalCluster
    deployed: Stores
    ports: Mapping[str, int]
    """The node port of each store."""
    images: Mapping[str, str]

    def leaders(self) -> dict[str, Leader]:
        """Return who leads, by store; of a store that has nobody who takes writes, nothing. Raises ClusterError."""
        pods = self.deployed.pods()
        found: dict[str, Leader] = {}
        for store, name in self.deployed.lead().items():
            pod = pods.get(name)
            address = str((pod or {}).get("status", {}).get("podIP", ""))
            role = _role(address) if address else None
            if pod is not None and role is not None and role.get("role") == "leader":
                node, token = str(pod["spec"]["nodeName"]), int(role["token"])
                found[store] = Leader(pod=name, node=node, address=address, token=token)
        return found

    def entry(self, number: int, store: str) -> str:
        """Return where a store is reached through the node port of one of the nodes, whose kube-proxy passes on."""
        node = self.cluster.nodes[number % NODES]
        return f"http://{self.cluster.address(node)}:{self.ports[store]}"

    def place(self, placement: str, node: str) -> dict[str, Leader]:
        """Bring all leaders to one node, or let them spread over all; return who leads when they have settled.

        Raises StateError and ClusterError.
        """
        others = [one for one in self.cluster.nodes if one != node]
        free = [node] if placement == CONCENTRATED else self.cluster.nodes
        self.cluster.kubectl("uncordon", *free)
        if placement == CONCENTRATED:
            self.cluster.kubectl("cordon", *others)
        return self.settled(lambda counts: is_placed(counts, placement, node), f"leaders are {placement}")

    def settled(self, wanted: Callable[[Mapping[str, int]], bool], what: str) -> dict[str, Leader]:
        """Wait until every store is led, as wanted, and nothing changes; return who leads. Raises StateError."""
        leaders, changed = self.leaders(), time.monotonic()

        def counts() -> dict[str, int]:
            return per_node(leaders, self.cluster.nodes)

        def is_settled() -> bool:
            nonlocal leaders, changed
            if (now := self.leaders()) != leaders:
                leaders, changed = now, time.monotonic()
            return len(leaders) == STORES and wanted(counts()) and time.monotonic() >= changed + QUIET_SECONDS

        until(is_settled, PLACED_SECONDS, lambda: f"{what}; leaders of each node: {counts()}")
        return leaders

    def await_ready(self) -> None:
        """Wait until all replicas are ready. Raises StateError and ClusterError."""
        wanted = STORES * REPLICAS

        def ready() -> int:
            return sum(map(is_ready, self.deployed.pods().values()))

        until(lambda: ready() == wanted, READY_SECONDS, lambda: f"all replicas are ready; {ready()} of {wanted} are")


@contextmanager
def laid(*, node_cpus: float, progress: Callable[[str], None]) -> Iterator[Bed]:
    """Bring a cluster up whose nodes have at most `node_cpus` each, and deploy the stores, for the block.

    Raises StateError, OpeningError and ClusterError.
    """
    progress("bringing the cluster up")
    with opened(cpus=node_cpus, volumes=VOLUMES) as ground:
        cluster = ground.cluster
        if not isinstance(cluster, LocalCluster):
            raise StateError("the evaluation limits nodes, and takes their power: it needs a cluster of this machine")
        if (cluster.node_cpus, len(cluster.nodes)) != (node_cpus, NODES) or cluster.stays:
            raise StateError("a cluster is up already; the evaluation brings up its own: make cluster-down")
        progress("deploying the stores")
        bed = _deployed(ground, cluster)
        bed.await_ready()
        yield bed


def _deployed(ground: Ground, cluster: LocalCluster) -> Bed:
    given = [Store(name=name, replicas=REPLICAS) for name in NAMES]
    namespace = {"metadata": {"name": NAMESPACE, "labels": {LABEL: ground.run}}}
    manifests.apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", **namespace}])
    manifests.apply(cluster, stores.documents(ground, given, namespace=NAMESPACE))
    locks = {store.name: store.election for store in given}
    return Bed(
        cluster=cluster,
        deployed=Stores(cluster=cluster, namespace=NAMESPACE, locks=locks, replicas=REPLICAS),
        ports={store.name: stores.node_port(cluster, NAMESPACE, store) for store in given},
        images={"sidecar": ground.image.name, "store": ground.store_image},
    )


def per_node(leaders: Mapping[str, Leader], nodes: Sequence[str]) -> dict[str, int]:
    """Count leaders by node; nodes without any are there as well."""
    counted = Counter(leader.node for leader in leaders.values())
    return {node: counted[node] for node in nodes}


def is_placed(counts: Mapping[str, int], placement: str, node: str) -> bool:
    """Tell whether leaders are concentrated on this node, or spread as evenly as can be."""
    if placement == CONCENTRATED:
        return counts[node] == sum(counts.values())
    return max(counts.values()) - min(counts.values()) <= 1


def moved(before: Mapping[str, Leader], after: Mapping[str, Leader]) -> list[str]:
    """Return the stores that one and the same replica did not lead all the time in between, or that nobody leads."""
    return [name for name in NAMES if name not in before or before[name] != after.get(name)]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod, as the API server has it, is ready."""
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _role(address: str) -> dict[str, Any] | None:
    """Return what a replica says of its role; None where it says nothing in time."""
    connection = HTTPConnection(address, stores.PORT, timeout=ROLE_SECONDS)
    try:
        connection.request("GET", "/role")
        answer = connection.getresponse()
        told = json.loads(answer.read(4096))
        return told if answer.status == HTTPStatus.OK and isinstance(told, dict) else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
