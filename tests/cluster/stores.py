"""The example store as the tests apply it: k8s/store itself, with other names, sizes and images.

given = [Store("a"), Store("b", replicas=5, balance=False)]
manifests.apply(ground.cluster, stores.documents(ground, given, namespace=namespace))
port = stores.node_port(ground.cluster, namespace, given[0])
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.cluster import manifests
from tests.cluster.manifests import K8S, SIDECAR, Document
from tests.cluster.reach import proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from tests.cluster.observer import Pod
    from tests.cluster.opening import Ground
    from tests.testbed.cluster import Cluster

STORE = K8S / "store"
CONTAINER = "store"
"""What the manifests call the main container, whatever the store is called."""
PORT = 8080
"""Where a pod of a store serves clients."""
REPLICATION_PORT = 8081

NAME = re.compile(r"^store(?=-|$)")
"""Where a string of the manifests has the store's name: all of it, or its beginning."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One StatefulSet of k8s/store, and what belongs to it."""

    name: str = "store"
    replicas: int = 3
    balance: bool = True
    """Whether its leader cares where other leaders are; without, `ELECTION_BALANCE=off`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """More variables of the main container, as `LOG_KEPT`."""
    sidecar_variables: Mapping[str, str] = field(default_factory=dict)
    """More variables of the sidecar, as `ELECTION_TTL`."""

    @property
    def election(self) -> str:
        """The name of its election, and of the lock object."""
        return f"{self.name}-leader"

    @property
    def pods(self) -> list[str]:
        """The names of its replicas."""
        return [f"{self.name}-{number}" for number in range(self.replicas)]

    @property
    def service(self) -> str:
        """The Service of all replicas, port 80."""
        return self.name

    @property
    def leader_service(self) -> str:
        """The Service of the leader alone, port 80."""
        return f"{self.name}-write"

    @property
    def outside_service(self) -> str:
        """The Service with the node port, of all replicas."""
        return f"{self.name}-outside"

    @property
    def peers(self) -> str:
        """What `PEERS` says."""
        return ",".join(f"{pod}={pod}.{self.name}-peers:{REPLICATION_PORT}" for pod in self.pods)


def documents(ground: Ground, given: Sequence[Store], *, namespace: str) -> list[Document]:
    """Render stores for a namespace, which has to exist. Raises ClusterError.

    What is in no namespace goes when that one goes.
    """
    rendered = manifests.kustomized(ground.cluster, namespace=namespace, resources=[STORE])
    owner = json.loads(ground.cluster.kubectl("get", "namespace", namespace, "--output=json"))["metadata"]["uid"]
    found: list[Document] = []
    for document in rendered:
        if document["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
            found.append(document)
        elif document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            found.append(_owned(document, namespace, owner))
        else:
            found += [_renamed(document, store.name) for store in given]
    by_name = {store.name: store for store in given}
    for document in found:
        if document["kind"] == "StatefulSet":
            _fill(document, by_name[document["metadata"]["name"]], ground)
    return found


def node_port(cluster: Cluster, namespace: str, store: Store) -> int:
    """Return the port of every node at which a store is reached. Raises ClusterError."""
    told = cluster.kubectl("--namespace", namespace, "get", "service", store.outside_service, "--output=json")
    return int(json.loads(told)["spec"]["ports"][0]["nodePort"])


@dataclass(frozen=True, kw_only=True)
class Entrances:
    """Where a store is reached from where the tests run, as URLs to which `/kv/KEY` is added. Made by `entrances`."""

    everywhere: list[str]
    """Each leads to any replica."""
    _replica: Callable[[Pod], str]

    def replica(self, pod: Pod) -> str:
        """Return where one replica is reached. It is another place after the pod was made again."""
        return self._replica(pod)


@asynccontextmanager
async def entrances(cluster: Cluster, namespace: str, store: Store) -> AsyncIterator[Entrances]:
    """Yield the entrances of a store that was applied: node ports and pods' addresses, which this machine reaches.

    Of a given cluster, of which nobody knows that, its API server and `kubectl proxy`. Raises ClusterError.
    """
    if not cluster.given:
        port = await asyncio.to_thread(node_port, cluster, namespace, store)
        nodes = json.loads(await asyncio.to_thread(cluster.kubectl, "get", "nodes", "--output=json"))["items"]
        addresses = [
            one["address"] for node in nodes for one in node["status"]["addresses"] if one["type"] == "InternalIP"
        ]
        yield Entrances(
            everywhere=[f"http://{address}:{port}" for address in addresses],
            _replica=lambda pod: f"http://{pod.address}:{PORT}",
        )
        return
    async with proxied(cluster) as proxy:
        api = f"http://127.0.0.1:{proxy}/api/v1/namespaces/{namespace}"
        yield Entrances(
            everywhere=[f"{api}/services/{store.outside_service}:http/proxy"],
            _replica=lambda pod: f"{api}/pods/{pod.name}:{PORT}/proxy",
        )


def _owned(document: Document, namespace: str, owner: str) -> Document:
    name = f"{SIDECAR}-optional-{namespace}"
    metadata = {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": owner}
    document["metadata"] |= {"name": name, "ownerReferences": [metadata]}
    if "roleRef" in document:
        document["roleRef"]["name"] = name
    return document


def _renamed(document: Document, name: str) -> Document:
    def renamed(value: object) -> object:
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        return NAME.sub(name, value) if isinstance(value, str) else value

    return {key: renamed(value) for key, value in document.items()}


def _fill(stateful_set: Document, store: Store, ground: Ground) -> None:
    spec = stateful_set["spec"]
    spec["replicas"] = store.replicas
    for container in _containers(spec["template"]["spec"]):
        container["imagePullPolicy"] = ground.image.pull_policy
        if container["name"] == SIDECAR:
            container["image"] = ground.image.name
            policy = {} if store.balance else {"ELECTION_BALANCE": "off"}
            _set(container, policy | dict(store.sidecar_variables))
        else:
            container["name"], container["image"] = CONTAINER, ground.store_image
            _set(container, {"PEERS": store.peers, **store.variables})


def _set(container: Document, variables: Mapping[str, str]) -> None:
    kept = [variable for variable in container["env"] if variable["name"] not in variables]
    container["env"] = [*kept, *({"name": name, "value": value} for name, value in variables.items())]


def _containers(pod: Document) -> Iterator[Document]:
    yield from pod["initContainers"]
    yield from pod["containers"]
