"""The permissions in k8s/rbac: each step is enough for what it says, and nothing can be removed from it.

The files are applied to a real API server as they stand, but for the namespace, and candidates act as the service
account that they make.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, LOOK_ANNOTATION, RECORD_ANNOTATION, Claim, Record
from sidecar.registration import Registration, registration_key, registrations
from tests.testbed.connection import APIError, write_kubeconfig
from tests.testbed.sidecar import Sidecar, Sidecars, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.testbed.apiserver import RealAPIServer

RBAC = Path(__file__).parents[2] / "k8s" / "rbac"
STEPS = ("stock", "recommended", "cluster")
LEASES = "leases"
"""The file that one of the steps takes in addition, where the locks are Leases."""

API_GROUPS = {"leases": "coordination.k8s.io"}
ELECTING = {"get", "create", "update"}
RENEWED = "2026-01-01T00:00:00Z"
"""The verbs on the lock object without which nobody leads."""

COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

Objects = list[dict[str, Any]]


class Permission(NamedTuple):
    """One verb of one resource in one kind of role."""

    kind: str
    resource: str
    verb: str

    def __str__(self) -> str:
        """Return what names it in a report."""
        return f"{self.kind}-{self.verb}-{self.resource}"


def objects_of(step: str) -> Objects:
    """Return what a step's file has in it."""
    return list(yaml.safe_load_all((RBAC / step / "rbac.yaml").read_text(encoding="utf-8")))


def permissions(objects: Objects) -> list[Permission]:
    """Return all that these objects allow; every rule names a resource in its API group, and objects of any name."""
    found = []
    for item in objects:
        for rule in item.get("rules", []):
            assert set(rule) == {"apiGroups", "resources", "verbs"}
            assert rule["apiGroups"] == [API_GROUPS.get(one, "") for one in rule["resources"]]
            found += [Permission(item["kind"], one, verb) for one in rule["resources"] for verb in rule["verbs"]]
    return found


def without(objects: Objects, removed: Permission) -> Objects:
    """Return the objects with one permission less."""
    kept = copy.deepcopy(objects)
    for item in kept:
        for rule in item.get("rules", []):
            if item["kind"] == removed.kind and rule["resources"] == [removed.resource]:
                rule["verbs"].remove(removed.verb)
        if "rules" in item:
            item["rules"] = [rule for rule in item["rules"] if rule["verbs"]]
    assert len(permissions(kept)) == len(permissions(objects)) - 1
    return kept


class Account:
    """Applies a step's objects in namespaces of their own, and removes what has none."""

    def __init__(self, server: RealAPIServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._of_the_cluster: list[str] = []

    def apply(self, objects: Objects, namespace: str) -> Path:
        """Create the objects in the namespace, and return a kubeconfig of their service account once they count."""
        # What belongs to the whole cluster gets a name of its own, so that nothing of another test counts here.
        for item in json.loads(json.dumps(objects).replace('"default"', json.dumps(namespace))):
            collection = COLLECTIONS[item["kind"]]
            if "{namespace}" not in collection:
                item["metadata"]["name"] += f"-{namespace}"
            if item.get("roleRef", {}).get("kind") == "ClusterRole":
                item["roleRef"]["name"] += f"-{namespace}"
            path = f"{collection.format(namespace=namespace)}/{item['metadata']['name']}"
            if "{namespace}" not in collection:
                self._of_the_cluster.append(path)
            query = "fieldManager=test&force=true&fieldValidation=Strict"
            self.server.request("PATCH", f"{path}?{query}", item, content_type="application/apply-patch+yaml")
        token = self.server.issue_token("leader-elector", namespace=namespace)
        kubeconfig = self._folder / f"{namespace}.kubeconfig"
        return write_kubeconfig(
            kubeconfig, url=self.server.url, ca_file=self.server.ca_file, token=token, namespace=namespace
        )

    def may(self, permission: Permission, namespace: str) -> bool:
        """Tell whether the API server honours a permission of the service account of a namespace."""
        scope = {} if permission.kind == "ClusterRole" else {"namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:leader-elector",
                "resourceAttributes": {
                    "group": API_GROUPS.get(permission.resource, ""),
                    "resource": permission.resource,
                    "verb": permission.verb,
                    **scope,
                },
            },
        }
        answer = self.server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def close(self) -> None:
        """Remove what is in no namespace."""
        for path in self._of_the_cluster:
            self.server.request("DELETE", path)


@pytest.fixture
def account(real_api_server: RealAPIServer, tmp_path: Path) -> Iterator[Account]:
    """Apply steps, and remove them after the test."""
    made = Account(real_api_server, tmp_path)
    yield made
    made.close()


@dataclass
class Scene:
    """Two candidates of an election, both on node-1, and two elections of the same group that others lead.

    One of these has its leader on node-1 as well and a candidate on node-2, so it should move: a leader of ours nudges
    it. The other one is led by a candidate of the stock image, whose pod is on node-3.
    """

    server: RealAPIServer
    candidates: list[Sidecar]
    namespace: str
    elsewhere: str
    """The namespace of the elections that others lead."""
    lock: str
    """The kind of the candidates' lock objects, and of the one of the election that should move."""

    def denied(self) -> set[tuple[str, str]]:
        """Return what the candidates were refused, by what they logged: verbs and resources, without the optional."""
        logged = "\n".join(candidate.output() for candidate in self.candidates)
        refused = set(re.findall(r"cannot ([a-z]+) resource \\\"([a-z]+)\\\"", logged))
        optional = {(one.verb, one.resource) for one in permissions(objects_of("optional"))}
        # Whether there are elections on Leases in the group, candidates on Endpoints ask once.
        return refused - optional - ({("list", LEASES)} if self.lock != LEASES else set())

    def annotations(self, namespace: str, election: str) -> dict[str, str]:
        """Return the annotations of a lock object, none where there is none."""
        try:
            lock = self.server.request("GET", f"{_collection(self.lock, namespace)}/{election}")
        except APIError as error:
            if error.reason == "NotFound":
                return {}
            raise
        annotations: dict[str, str] = lock["metadata"].get("annotations", {})
        return annotations

    def is_registered(self) -> bool:
        """Tell whether both candidates are registered."""
        found = registrations(self.annotations(self.namespace, "example"))
        return {one.identity for one in found.values()} == {one.identity for one in self.candidates}

    def is_nudged(self) -> bool:
        """Tell whether somebody nudged the leader of the election that should move."""
        return LOOK_ANNOTATION in self.annotations(self.elsewhere, "misplaced")

    async def nodes(self) -> dict[str, int]:
        """Return the last census of the leader, leaders by node; nothing where there is none."""
        for candidate in self.candidates:
            census = (await candidate.status())["balance"]["census"]
            if census and await candidate.names_itself():
                nodes: dict[str, int] = census["nodes"]
                return nodes
        return {}


async def set_scene(account: Account, sidecars: Sidecars, objects: Objects, *, lock: str = "endpoints") -> Scene:
    """Apply the objects, make what others lead, and start two candidates who act as the service account.

    Where the objects allow something in the whole cluster, the others are in another namespace.
    """
    server = account.server
    namespace = server.namespace()
    cluster = any(item["kind"] == "ClusterRole" for item in objects)
    elsewhere = server.namespace() if cluster else namespace
    kubeconfig = account.apply(objects, namespace)
    allowed = permissions(objects)
    await until(lambda: all(account.may(one, namespace) for one in allowed), "all of it is honoured", every=0.05)

    registered = [
        Registration(identity=identity, node=node, pod_uid=identity)
        for identity, node in (("other-0", "node-1"), ("other-1", "node-2"))
    ]
    claim = Claim(holder="other-0", node="node-1", pod_uid="other-0", term=1, renewed=RENEWED)
    misplaced = {registration_key(one.identity): one.encode() for one in registered}
    misplaced[CLAIM_ANNOTATION] = claim.encode()
    _lock(server, lock, "misplaced", namespace=elsewhere, group=namespace, holder="other-0", annotations=misplaced)
    _lock(server, "endpoints", "stock", namespace=elsewhere, group=namespace, holder="stock-0", annotations={})
    _pod(server, "stock-0", namespace=elsewhere, node="node-3")

    variables = {"NODE_NAME": "node-1", "ELECTION_GROUP": namespace, "ELECTION_LOCK": lock}
    if cluster:
        variables["ELECTION_BALANCE_SCOPE"] = "cluster"
    candidates = [
        sidecars.start(
            election="example",
            identity=identity,
            namespace=namespace,
            ttl="2s",
            kubeconfig=kubeconfig,
            flags=["--log-level=debug"],
            env={**variables, "POD_UID": identity},
        )
        for identity in ("example-0", "example-1")
    ]
    return Scene(server, candidates, namespace, elsewhere, lock)


def _collection(lock: str, namespace: str) -> str:
    api = "/apis/coordination.k8s.io/v1" if lock == LEASES else "/api/v1"
    return f"{api}/namespaces/{namespace}/{lock}"


def _lock(
    server: RealAPIServer, lock: str, name: str, *, namespace: str, group: str, holder: str, annotations: dict[str, str]
) -> None:
    """Create a lock object as its holder would have."""
    record = Record(holder=holder, lease_seconds=3600, acquire_time=RENEWED, renew_time=RENEWED, transitions=0)
    metadata = {"name": name, "labels": {GROUP_LABEL: group}, "annotations": annotations}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    if lock == LEASES:
        micro = RENEWED.replace("Z", ".000000Z")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 3600, "acquireTime": micro, "renewTime": micro}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    else:
        metadata["annotations"] = {RECORD_ANNOTATION: record.encode(), **annotations}
    server.request("POST", _collection(lock, namespace), body)


def _pod(server: RealAPIServer, name: str, *, namespace: str, node: str) -> None:
    """Create a pod that was put on a node."""
    # A cluster's own service account comes a moment after its namespace, and pods are refused until then.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    server.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": name,
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none"}],
        },
    }
    server.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)


async def test_the_stock_images_permissions_elect(account: Account, sidecars: Sidecars) -> None:
    """Step 1: one leads, another takes over after SIGTERM and after SIGKILL; the log says what a next step would add.

    Nothing is refused but what step 2 has.
    """
    objects = objects_of("stock")
    assert {one.verb for one in permissions(objects)} == ELECTING
    scene = await set_scene(account, sidecars, objects)
    candidates = scene.candidates
    for end in (Sidecar.terminate, Sidecar.kill):
        leader = await leader_of(candidates)
        await end(leader)
        await next(one for one in candidates if one is not leader).leading()
        leader.start()

    await leader_of(candidates)
    await until(lambda: ("watch", "endpoints") in scene.denied(), "it is said that watch is missing")
    more = {
        (one.resource, one.verb) for one in permissions(objects_of("recommended")) if one not in permissions(objects)
    }
    assert {(resource, verb) for verb, resource in scene.denied()} <= more


@pytest.mark.parametrize("step", ["recommended", "cluster"])
async def test_a_step_is_enough(account: Account, sidecars: Sidecars, step: str) -> None:
    """Steps 2 and 3: candidates register, leaders count, the stock image's as well, and who should move is nudged.

    In the namespace with step 2, in the whole cluster with step 3. They watch, and not a single request is refused.
    """
    scene = await set_scene(account, sidecars, objects_of(step))
    leader = await leader_of(scene.candidates)
    await until(scene.is_registered, "both are registered", every=0.1)
    await until(scene.is_nudged, "the election that should move is nudged", every=0.1)

    async def counted() -> bool:
        return await scene.nodes() == {"node-1": 2, "node-2": 0, "node-3": 1}

    await until(counted, "all leaders count", every=0.1)
    (follower,) = (one for one in scene.candidates if one is not leader)
    await leader.terminate()
    await follower.leading()
    assert scene.denied() == set()
    assert [line for line in follower.lines() if line["level"] not in ("debug", "info")] == []


async def test_leases_take_one_file_more(account: Account, sidecars: Sidecars) -> None:
    """With the file for Leases beside step 2, all that step 2 is enough for is so with locks that are Leases."""
    scene = await set_scene(account, sidecars, objects_of("recommended") + objects_of(LEASES), lock=LEASES)
    leader = await leader_of(scene.candidates)
    await until(scene.is_registered, "both are registered", every=0.1)
    await until(scene.is_nudged, "the election that should move is nudged", every=0.1)

    async def counted() -> bool:
        return await scene.nodes() == {"node-1": 2, "node-2": 0, "node-3": 1}

    await until(counted, "all leaders count, those on Endpoints as well", every=0.1)
    (follower,) = (one for one in scene.candidates if one is not leader)
    await leader.terminate()
    await follower.leading()
    assert {resource for _, resource in scene.denied()}.isdisjoint({"leases", "endpoints"})


REMOVED = [(step, permission) for step in (*STEPS, LEASES) for permission in permissions(objects_of(step))]


@pytest.mark.parametrize(("step", "removed"), REMOVED, ids=[f"{step}-{one}" for step, one in REMOVED])
async def test_nothing_can_be_removed(account: Account, sidecars: Sidecars, step: str, removed: Permission) -> None:
    """Without any one permission of a file, that is refused and logged, and what it is for is off.

    Without one that elects nobody leads in the end; without any other the election goes on.
    """
    objects = without(objects_of(step), removed)
    lock = "endpoints"
    if step == LEASES:
        objects, lock = objects_of("recommended") + objects, LEASES
    scene = await set_scene(account, sidecars, objects, lock=lock)
    await until(lambda: (removed.verb, removed.resource) in scene.denied(), f"{removed.verb} is refused", every=0.1)

    if removed.resource == lock and removed.verb in ELECTING:
        for candidate in scene.candidates:
            await candidate.naming("")
        return
    await leader_of(scene.candidates)
    match removed.verb, removed.resource:
        case "get", "pods":
            await until(scene.nodes, "a census is taken", every=0.1)
            assert "node-3" not in await scene.nodes()
        case "list", _:
            assert await scene.nodes() == {}
        case "patch", _:
            await until(lambda: any(one.logged("nudged") for one in scene.candidates), "a nudge is refused", every=0.1)
            assert not scene.is_nudged()


async def test_a_role_that_names_the_lock_object(account: Account, sidecars: Sidecars) -> None:
    """With a Role for the one lock object, as some charts have it, candidates elect, and watch it.

    Beyond it they are refused, so nodes do not matter.
    """
    objects = objects_of("stock")
    (role,) = (item for item in objects if item["kind"] == "Role")
    named = {"apiGroups": [""], "resources": ["endpoints"], "resourceNames": ["example"]}
    role["rules"] = [
        {**named, "verbs": ["get", "update", "watch"]},
        # No rule can name what is yet to be made.
        {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["create"]},
    ]
    namespace = account.server.namespace()
    kubeconfig = account.apply(objects, namespace)
    candidates = [
        sidecars.start(election="example", identity=one, namespace=namespace, ttl="2s", kubeconfig=kubeconfig)
        for one in ("example-0", "example-1")
    ]
    leader = await leader_of(candidates)
    await leader.terminate()
    (follower,) = (one for one in candidates if one is not leader)
    await follower.leading()
    assert not follower.logged("watch")


@pytest.mark.parametrize("missing", ["leases", "endpoints"])
async def test_the_pair_takes_both(account: Account, sidecars: Sidecars, missing: str) -> None:
    """A candidate of the pair that may use one kind of locks only never leads, and says what it may not do.

    Once it may use both, it leads.
    """
    objects = objects_of("recommended") + objects_of(LEASES)
    if missing == LEASES:
        partly = objects_of("recommended")
    else:
        partly = copy.deepcopy(objects)
        for role in (item for item in partly if "rules" in item):
            role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["endpoints"]]
    namespace = account.server.namespace()
    kubeconfig = account.apply(partly, namespace)
    candidate = sidecars.start(
        election="example",
        identity="example-0",
        namespace=namespace,
        ttl="2s",
        kubeconfig=kubeconfig,
        env={"ELECTION_LOCK": "endpointsleases"},
    )
    told = await candidate.logging(f'resource "{missing}"')
    assert told["level"] in ("warning", "error")
    await candidate.naming("")

    account.apply(objects, namespace)
    await candidate.leading()
