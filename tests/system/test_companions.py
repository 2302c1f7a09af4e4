"""What runs beside a candidate, with real processes on a real API server: Events, the label, health, cordoned nodes."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from sidecar.podlabel import leads_key
from tests.system.test_rbac import Account, objects_of, permissions
from tests.testbed.connection import APIError
from tests.testbed.sidecar import Sidecar, Sidecars, leader_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.testbed.apiserver import PolicyRule, RealAPIServer

ELECTION = "example"
LABEL = "example.com/role=leader"
KEY, VALUE = LABEL.split("=")

ELECTING: list[PolicyRule] = [
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update", "watch"]}
]
LABELLING: list[PolicyRule] = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}]
TELLING: list[PolicyRule] = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]


class Ground:
    """A namespace of the real API server, with pods that nobody runs, and candidates that say they are in them."""

    def __init__(self, server: RealAPIServer, sidecars: Sidecars) -> None:
        self.server = server
        self.namespace = server.namespace()
        self._sidecars = sidecars
        self._outside: list[str] = []
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pods"}}
        server.request("POST", self.path("serviceaccounts"), account)

    def path(self, resource: str, name: str = "") -> str:
        """Return the path of a core resource in the namespace, or of one object of it."""
        return f"/api/v1/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def kubeconfig(self, *rules: PolicyRule) -> Any:  # noqa: ANN401 - a path
        """Return the kubeconfig of a user who may do this."""
        return self.server.kubeconfig_for("candidate", rules, namespace=self.namespace)

    def pod(self, name: str, *, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> str:
        """Create a pod, and return its UID."""
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
            "spec": {
                "serviceAccountName": "pods",
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": "none"}],
            },
        }
        return str(self.server.request("POST", self.path("pods"), body)["metadata"]["uid"])

    def labels(self, name: str) -> dict[str, str]:
        """Return a pod's labels."""
        labels: dict[str, str] = self.server.request("GET", self.path("pods", name))["metadata"].get("labels", {})
        return labels

    def node(self) -> str:
        """Create a Node object that is removed after the test, and return its name."""
        name = f"node-{secrets.token_hex(4)}"
        self.server.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        self._outside.append(f"/api/v1/nodes/{name}")
        return name

    def cordon(self, node: str, *, cordoned: bool) -> None:
        """Do what `kubectl cordon` and `kubectl uncordon` do."""
        patch = {"spec": {"unschedulable": cordoned or None}}
        self.server.request("PATCH", f"/api/v1/nodes/{node}", patch, content_type="application/merge-patch+json")

    def let_watch_nodes(self) -> None:
        """Allow the candidates' user to watch nodes, and nothing more."""
        name, group = f"nodes-{self.namespace}", "rbac.authorization.k8s.io"
        rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["watch"]}
        subject = {"kind": "ServiceAccount", "name": "candidate", "namespace": self.namespace}
        for plural, kind, content in (
            ("clusterroles", "ClusterRole", {"rules": [rule]}),
            (
                "clusterrolebindings",
                "ClusterRoleBinding",
                {"subjects": [subject], "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}},
            ),
        ):
            body = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": name}, **content}
            self.server.request("POST", f"/apis/{group}/v1/{plural}", body)
            self._outside.append(f"/apis/{group}/v1/{plural}/{name}")

    def may_watch(self, node: str) -> bool:
        """Tell whether the API server honours that by now."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:candidate",
                "resourceAttributes": {"resource": "nodes", "verb": "watch", "name": node},
            },
        }
        answer = self.server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def start(self, identity: str, kubeconfig: Any, *, ttl: str = "3s", **env: str) -> Sidecar:  # noqa: ANN401 - a path
        """Start a candidate."""
        return self._sidecars.start(
            election=ELECTION,
            identity=identity,
            namespace=self.namespace,
            ttl=ttl,
            kubeconfig=kubeconfig,
            flags=["--log-level=debug"],
            env=env,
        )

    def labelling(self, identity: str, kubeconfig: Any, uid: str, **env: str) -> Sidecar:  # noqa: ANN401 - a path
        """Start a candidate that says it is in the pod of its name, and labels it when it leads."""
        pod = {"POD_NAME": identity, "POD_NAMESPACE": self.namespace, "POD_UID": uid}
        return self.start(identity, kubeconfig, ELECTION_POD_LABEL=LABEL, **pod, **env)

    def events(self) -> list[dict[str, Any]]:
        """Return the Events of the namespace, in the order in which they were written."""
        found = self.server.request("GET", self.path("events"))["items"]
        ours = [event for event in found if event["reason"] == "LeaderElection"]
        return sorted(ours, key=lambda event: int(event["metadata"]["resourceVersion"]))

    def close(self) -> None:
        """Remove what is in no namespace."""
        for path in self._outside:
            with suppress(APIError):
                self.server.request("DELETE", path)


@pytest.fixture
def ground(real_api_server: RealAPIServer, sidecars: Sidecars) -> Iterator[Ground]:
    """Prepare a namespace."""
    made = Ground(real_api_server, sidecars)
    yield made
    made.close()


@dataclass
class Labelled:
    """Who has the label, and had it, in the order in which the API server stored it."""

    now: set[str] = field(default_factory=set)
    history: list[frozenset[str]] = field(default_factory=list)

    def take_in(self, kind: str, name: str) -> None:
        """Take in an event of a watch on the label."""
        if kind == "DELETED":
            self.now.discard(name)
        else:
            self.now.add(name)
        self.history.append(frozenset(self.now))

    async def on(self, leader: Sidecar) -> None:
        """Wait until this candidate's pod has it, and no other."""
        await until(lambda: self.now == {leader.identity}, f"{leader.identity} is labelled")


@asynccontextmanager
async def watching_the_label(ground: Ground) -> AsyncIterator[Labelled]:
    """Watch the pods with the label for as long as the block takes."""
    seen = Labelled()
    server = ground.server
    headers = {"Authorization": f"Bearer {server.admin_token}"} if server.admin_token else {}
    query = {"watch": "true", "labelSelector": LABEL, "resourceVersion": "0", "timeoutSeconds": "300"}

    async def read(response: aiohttp.ClientResponse) -> None:
        while line := await response.content.readline():
            event = json.loads(line)
            seen.take_in(event["type"], event["object"]["metadata"]["name"])

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.get(
            server.url + ground.path("pods"), params=query, headers=headers, ssl=server.ssl_context
        ) as response,
    ):
        assert response.status == 200
        reading = asyncio.create_task(read(response))
        try:
            yield seen
        finally:
            reading.cancel()
    # TLS connections take a moment after the session.
    await asyncio.sleep(0.1)


def said_once(sidecar: Sidecar, text: str, levels: tuple[str, ...]) -> None:
    """Check that a log has one line with this text, apart from debugging, and at one of these levels."""
    told = [line for line in sidecar.logged(text) if line["level"] != "debug"]
    assert [line["level"] in levels for line in told] == [True], told


# -- The label ---------------------------------------------------------------------------------------------------------


async def test_the_label_goes_with_leadership(ground: Ground) -> None:
    """On SIGTERM the label leaves the old leader's pod before the lock is released; then the new leader's pod has it.

    On SIGKILL the successor takes it off the old leader's pod, and then labels its own. At no instant do two have it.
    """
    kubeconfig = ground.kubeconfig(*ELECTING, *LABELLING)
    names = ["example-0", "example-1", "example-2"]
    uids = {name: ground.pod(name) for name in names}
    async with watching_the_label(ground) as seen:
        candidates = [ground.labelling(name, kubeconfig, uid) for name, uid in uids.items()]
        for end in (Sidecar.terminate, Sidecar.kill):
            leader = await leader_of(candidates)
            await seen.on(leader)
            await end(leader)
            candidates.remove(leader)
        last = await leader_of(candidates)
        await seen.on(last)
        await last.terminate()
        await until(lambda: not seen.now, "nobody's pod is labelled")
    assert max(map(len, seen.history)) == 1
    assert len(seen.history) == 6, "three times on, three times off"
    for name in names:
        assert ground.server.request("GET", ground.path("pods", name))["metadata"].get("annotations", {}) == {}


async def test_labels_of_others_are_left_alone(ground: Ground) -> None:
    """A label that somebody else put on a pod stays; one that this election left on a pod goes, also at a start."""
    kubeconfig = ground.kubeconfig(*ELECTING, *LABELLING)
    label, election = {KEY: VALUE}, f"{ground.namespace}/{ELECTION}"
    ground.pod("by-hand", labels=label)
    ground.pod("elsewhere", labels=label, annotations={leads_key("other"): f"{ground.namespace}/other"})
    leader = ground.labelling("leader", kubeconfig, ground.pod("leader"))
    await leader.leading()
    await until(lambda: ground.labels("leader") == label, "the leader's pod is labelled")

    left = {leads_key(ELECTION): election}
    uid = ground.pod("restarted", labels=label, annotations=left)
    again = ground.labelling("restarted", kubeconfig, uid)
    await until(lambda: ground.labels("restarted") == {}, "a pod that does not lead is without it")

    await again.terminate()
    for name in ("by-hand", "elsewhere", "leader"):
        assert ground.labels(name) == label


async def test_another_pod_of_the_same_name_is_not_labelled(ground: Ground) -> None:
    """A leader whose pod was deleted and made again under its name does not label that one, and says so once."""
    ground.pod("example-0")
    leader = ground.labelling("example-0", ground.kubeconfig(*ELECTING, *LABELLING), "the-uid-of-the-pod-before")
    await leader.logging("cannot be labelled")
    assert await leader.names_itself()
    assert ground.labels("example-0") == {}


# -- Events ------------------------------------------------------------------------------------------------------------


async def test_events_tell_who_leads(ground: Ground) -> None:
    """Each beginning and each end of a leadership is an Event about the pod, also the end on SIGTERM."""
    kubeconfig = ground.kubeconfig(*ELECTING, *TELLING)
    uids = {name: ground.pod(name) for name in ("example-0", "example-1")}
    candidates = [
        ground.start(name, kubeconfig, POD_NAME=name, POD_NAMESPACE=ground.namespace, POD_UID=uid)
        for name, uid in uids.items()
    ]
    leader = await leader_of(candidates)
    (follower,) = (one for one in candidates if one is not leader)
    await until(lambda: len(ground.events()) == 1, "the leader is told")
    await leader.terminate()
    await until(lambda: len(ground.events()) == 3, "its end and its successor are told")

    found = ground.events()
    assert {event["message"] for event in found[1:]} == {
        f"{leader.identity} stopped leading",
        f"{follower.identity} became leader",
    }
    (first, *_) = found
    assert first["message"] == f"{leader.identity} became leader"
    assert first["type"] == "Normal"
    assert first["source"] == {"component": "leader-elector"}
    assert first["reportingComponent"] == "leader-elector"
    assert first["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": ground.namespace,
        "name": leader.identity,
        "uid": uids[leader.identity],
    }


@pytest.mark.parametrize(
    ("kind", "group", "plural"), [("Endpoints", "", "endpoints"), ("Lease", "coordination.k8s.io", "leases")]
)
async def test_events_are_about_the_lock_object_where_the_pod_is_unknown(
    ground: Ground, kind: str, group: str, plural: str
) -> None:
    """Without POD_NAME and POD_UID an Event names the lock object, with the UID that `kubectl describe` asks for."""
    electing: PolicyRule = {"apiGroups": [group], "resources": [plural], "verbs": ["get", "create", "update", "watch"]}
    leader = ground.start("a", ground.kubeconfig(electing, *TELLING), ELECTION_LOCK=plural)
    await leader.leading()
    await until(ground.events, "it is told")
    version = f"{group}/v1" if group else "v1"
    root = f"/apis/{version}" if group else f"/api/{version}"
    lock = ground.server.request("GET", f"{root}/namespaces/{ground.namespace}/{plural}/{ELECTION}")
    (event,) = ground.events()
    assert event["involvedObject"] == {
        "apiVersion": version,
        "kind": kind,
        "namespace": ground.namespace,
        "name": ELECTION,
        "uid": lock["metadata"]["uid"],
    }


# -- Health ------------------------------------------------------------------------------------------------------------


class MainContainer:
    """An HTTP server that says whether it is healthy."""

    def __init__(self) -> None:
        self.status = 503
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""

        async def answer(_request: web.Request) -> web.Response:
            return web.Response(status=self.status, text="x" * 100_000)

        app = web.Application()
        app.router.add_get("/healthz", answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Close the server."""
        if self._runner is not None:
            await self._runner.cleanup()


async def test_leadership_follows_health(ground: Ground) -> None:
    """Nobody leads before a main container is healthy; leadership goes to and fro as they fall ill and recover."""
    kubeconfig = ground.kubeconfig(*ELECTING)
    mains = {name: MainContainer() for name in ("a", "b")}
    candidates = {}
    try:
        for name, main in mains.items():
            await main.start()
            candidates[name] = ground.start(
                name,
                kubeconfig,
                ELECTION_HEALTH_URL=f"http://127.0.0.1:{main.port}/healthz",
                ELECTION_HEALTH_INTERVAL="200ms",
                ELECTION_HEALTH_FAILURES="2",
                # It is not asked: the main container is near.
                HTTP_PROXY="http://127.0.0.1:9",
                http_proxy="http://127.0.0.1:9",
            )
        for candidate in candidates.values():
            await candidate.logging("did not say that it is healthy")
            assert await candidate.leader_name() == ""
        mains["a"].status = 302
        await candidates["b"].naming("a")
        mains["b"].status = 200
        await candidates["b"].logging("the main container is healthy")
        assert await candidates["a"].names_itself()

        mains["a"].status = 500
        await candidates["a"].naming("b")
        mains["a"].status = 200
        await until(lambda: len(candidates["a"].logged("the main container is healthy")) == 2, "a is healthy again")
        assert await candidates["b"].names_itself()
        mains["b"].status = 404
        await candidates["b"].naming("a")

        mains["a"].status = 503
        for candidate in candidates.values():
            await candidate.naming("")
    finally:
        for main in mains.values():
            await main.close()


# -- Cordoned nodes ----------------------------------------------------------------------------------------------------


async def test_a_cordoned_node_gives_its_leadership_away(ground: Ground) -> None:
    """Cordoned, its candidate gives up leadership to one elsewhere; uncordoned, it stands again.

    Where nobody else is there to lead, it leads again after a lease.
    """
    nodes = {name: ground.node() for name in ("a", "b")}
    kubeconfig = ground.kubeconfig(*ELECTING)
    ground.let_watch_nodes()
    await until(lambda: all(map(ground.may_watch, nodes.values())), "nodes may be watched", every=0.05)
    candidates = [
        ground.start(name, kubeconfig, NODE_NAME=node, ELECTION_BALANCE="off") for name, node in nodes.items()
    ]
    leader = await leader_of(candidates)
    (other,) = (one for one in candidates if one is not leader)

    ground.cordon(nodes[leader.identity], cordoned=True)
    await leader.naming(other.identity)
    ground.cordon(nodes[leader.identity], cordoned=False)
    await leader.logging("no longer cordoned")

    ground.cordon(nodes[other.identity], cordoned=True)
    await other.naming(leader.identity)
    await other.kill()
    ground.cordon(nodes[leader.identity], cordoned=True)
    await leader.logging("stopped leading: its node is cordoned")
    await leader.leading()


# -- Without permissions -----------------------------------------------------------------------------------------------


async def test_without_permissions_everything_is_off_and_the_election_works(ground: Ground) -> None:
    """With the stock image's permissions each companion says in one line that it is off, and nothing else changes."""
    stock: PolicyRule = {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}
    kubeconfig = ground.kubeconfig(stock)
    candidates = [
        ground.labelling(name, kubeconfig, ground.pod(name), NODE_NAME="node-1", ELECTION_BALANCE="off")
        for name in ("a", "b")
    ]
    leader = await leader_of(candidates)
    await leader.terminate()
    (follower,) = (one for one in candidates if one is not leader)
    await follower.leading()

    checks: list[tuple[Sidecar, str, tuple[str, ...]]] = []
    for one in candidates:
        checks += [
            (one, "nodes may not be watched", ("info",)),
            (one, "Events may not be written", ("info",)),
            (one, "the leader's pod is not labelled", ("warning",)),
        ]
    for sidecar, text, levels in checks:
        await sidecar.logging(text)
        said_once(sidecar, text, levels)
    assert ground.labels("a") == ground.labels("b") == {}
    assert ground.events() == []


async def test_a_label_without_a_pod_is_no_label(ground: Ground) -> None:
    """Where the pod is unknown a line says what is missing, and the election works."""
    sidecar = ground.start("a", ground.kubeconfig(*ELECTING), ELECTION_POD_LABEL=LABEL)
    await sidecar.leading()
    said_once(sidecar, "POD_NAME", ("warning",))


async def test_the_optional_permissions_are_enough(ground: Ground, tmp_path: Path) -> None:
    """Beside what elects, the file in k8s/rbac/optional is enough for all of it: nothing of that is refused."""
    account = Account(ground.server, tmp_path)
    try:
        kubeconfig = account.apply([*objects_of("recommended"), *objects_of("optional")], ground.namespace)
        allowed = permissions(objects_of("optional"))
        await until(lambda: all(account.may(one, ground.namespace) for one in allowed), "it is honoured", every=0.05)
        node = ground.node()
        leader = ground.labelling("a", kubeconfig, ground.pod("a"), NODE_NAME=node)
        await leader.leading()
        await until(lambda: ground.labels("a") == {KEY: VALUE}, "the leader's pod is labelled")
        await until(ground.events, "the leader is told")
        ground.cordon(node, cordoned=True)
        await leader.logging("stopped leading: its node is cordoned")
        await until(lambda: ground.labels("a") == {}, "the pod is no longer labelled")
        assert [line for line in leader.lines() if line["level"] not in ("debug", "info")] == []
        refused = [str(line) for line in leader.logged("forbidden")]
        assert [line for line in refused if any(f"/{one}" in line for one in ("events", "pods", "nodes"))] == []
    finally:
        account.close()
