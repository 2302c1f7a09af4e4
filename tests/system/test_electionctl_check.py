"""`electionctl check`, as an operator runs it: whatever is planted is found, and where all is well it says so."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.lab.reach import PAGE_SIZE
from sidecar.lab.resources import ENDPOINTS, LEASES, PODS
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, Claim, Record, format_time
from sidecar.registration import Registration, registration_key
from tests.testbed.electionctl import Done, electionctl
from tests.testbed.sidecar import Sidecars, leader_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aiohttp import web

    from tests.testbed.apiserver import PolicyRule, RealAPIServer
    from tests.testbed.embedded import EmbeddedForTests

RECOMMENDED = ("get", "create", "update", "watch", "list", "patch")


def rules(verbs: Sequence[str], *resources: str, names: Sequence[str] = ()) -> list[PolicyRule]:
    """Return what allows these verbs on resources of the core API group."""
    narrowed: dict[str, Sequence[str]] = {"resourceNames": list(names)} if names else {}
    return [{"apiGroups": [""], "resources": list(resources), "verbs": list(verbs), **narrowed}]


def field(path: str) -> dict[str, Any]:
    """Return where a variable comes from that the downward API gives."""
    return {"fieldRef": {"fieldPath": path}}


SOUND: dict[str, Any] = {
    "ELECTION_NAME": "example",
    "ELECTION_NAMESPACE": field("metadata.namespace"),
    "POD_NAME": field("metadata.name"),
    "POD_UID": field("metadata.uid"),
    "NODE_NAME": field("spec.nodeName"),
}
"""What k8s/sidecar tells its candidates."""


def pod(name: str, variables: Mapping[str, Any], *, args: Sequence[str] = (), **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - a pod's
    """Return a pod with a sidecar; variables that are `None` are left out."""
    env = [
        {"name": key, "value": value} if isinstance(value, str) else {"name": key, "valueFrom": value}
        for key, value in variables.items()
        if value is not None
    ]
    sidecar = {"name": "leader-elector", "image": "leader-elector:0.1.0", "env": env, "args": list(args)}
    main = {"name": "main", "image": "main"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "store"}},
        "spec": {"nodeName": "n1", "containers": [main], "initContainers": [sidecar], **spec},
    }


class Shop:
    """A namespace of the embedded server, with lock objects and pods of an election `example`."""

    def __init__(self, embedded: EmbeddedForTests) -> None:
        self.embedded = embedded
        self.namespace = embedded.namespace()
        self.now = int(time.time())

    def pod(self, name: str, variables: Mapping[str, Any], **more: Any) -> str:  # noqa: ANN401 - of a pod
        """Run a pod, and return its UID."""
        made = self.embedded.server.store.create(PODS, self.namespace, pod(name, variables, **more))
        return str(made["metadata"]["uid"])

    def held(self, holder: str, *, claimant: str = "", renewed: int = 0, lease_seconds: int = 60) -> None:
        """Let somebody hold the Endpoints; it claims them, unless there is another claimant.

        It renewed so many seconds from now: a negative number is in the past.
        """
        record = Record(
            holder=holder,
            lease_seconds=lease_seconds,
            acquire_time=format_time(self.now - 3600),
            renew_time=format_time(self.now + renewed),
            transitions=0,
        )
        claim = Claim(holder=claimant or holder, node="n1", pod_uid="u", renewed=record.renew_time)
        registration = Registration(identity="store-0", node="n1", pod_uid="u")
        self.write(
            {
                RECORD_ANNOTATION: record.encode(),
                CLAIM_ANNOTATION: claim.encode(),
                registration_key("store-0"): registration.encode(),
            }
        )

    def write(self, annotations: Mapping[str, str]) -> None:
        """Write the Endpoints."""
        metadata = {"name": "example", "annotations": dict(annotations)}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
        self.embedded.server.store.update(ENDPOINTS, self.namespace, "example", body)

    async def check(self, *arguments: str, kubeconfig: Path | None = None) -> Done:
        """Run the command."""
        return await electionctl(
            kubeconfig or self.embedded.admin_kubeconfig, "check", *arguments, "-n", self.namespace
        )

    async def found(self, *arguments: str) -> list[tuple[str, str]]:
        """Return the level and the text of what it finds, beside what is as it should be and permissions."""
        done = await self.check("example", "--json", *arguments)
        told = done.json()
        assert (done.err, done.status) == ("", 1 if told["problems"] else 0)
        return [
            (one["level"], f"{one['area']}: {one['where']}: {one['what']}; {one['remedy']}")
            for one in told["findings"]
            if one["level"] != "ok" and one["area"] != "permissions"
        ]

    async def only(self, level: str, *texts: str) -> None:
        """See that one thing is found, of this level, and that all these texts say it."""
        found = await self.found()
        assert len(found) == 1, found
        assert found[0][0] == level
        for text in texts:
            assert text in found[0][1]


@pytest.fixture
def shop(embedded: EmbeddedForTests) -> Shop:
    """Make the namespace."""
    return Shop(embedded)


# -- Pods and their variables ------------------------------------------------------------------------------------------


async def test_nothing_is_wrong(shop: Shop) -> None:
    """Of a sound election nothing but permissions is told to be anything but ok, and what was looked at is told."""
    shop.pod("store-0", SOUND)
    shop.pod("store-1", SOUND)
    shop.held("store-0")

    done = await shop.check()

    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    told_so = f"candidate store-0 of {shop.namespace}/example: all is set"
    assert f"ok       variables: pod store-0, container leader-elector: {told_so}" in lines
    assert f"ok       lock: {shop.namespace}/example: held by store-0 on n1, 1 candidate registered" in lines
    assert any(
        re.match(r"ok +clock: this machine's and the API server's agree within \d\.\d s", line) for line in lines
    )
    # The embedded server does not say who may do what.
    (warning,) = (line for line in lines if line.startswith("warning"))
    assert "permissions: " in warning
    assert "not checked: POST" in warning
    assert lines[-1] == "no problems, 1 warning"


PLANTED: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ("unexpanded", {"args": ["--id=$(POD_NAM)"]}, "problem", ("does not start: --id='$(POD_NAM)'", "did not expand")),
    ("bad-ttl", {"ELECTION_TTL": "10"}, "problem", ("does not start: $ELECTION_TTL='10'",)),
    ("typing-error", {"ELECTION_TTTL": "10s"}, "warning", ("unknown variable 'ELECTION_TTTL'", "ELECTION_TTL?")),
    ("no-node", {"NODE_NAME": None}, "warning", ("NODE_NAME is not set: nodes do not matter", "spec.nodeName")),
    ("no-uid", {"POD_UID": None}, "warning", ("POD_UID is not set", "metadata.uid")),
    ("wrong-node", {"NODE_NAME": "n7"}, "problem", ("NODE_NAME is 'n7', and the pod is on 'n1'",)),
    ("wrong-uid", {"POD_UID": "fixed"}, "problem", ("POD_UID is 'fixed', and the pod's UID is",)),
    ("no-name", {"POD_NAME": None, "ELECTION_POD_LABEL": "role=leader"}, "problem", ("ELECTION_POD_LABEL needs it",)),
    ("long-lease", {"ELECTION_TTL": "24h"}, "warning", ("a lease of 24h", "after a crash nobody leads for so long")),
    ("late-release", {"ELECTION_RELEASE_DELAY": "30s"}, "warning", ("is killed after 30 s", "terminationGracePeriod")),
    ("secret", {"ELECTION_GROUP": {"secretKeyRef": {"name": "s"}}}, "warning", ("comes from Secret s: not checked",)),
    ("help", {"args": ["--help"]}, "problem", ("is called with --help",)),
]


async def test_pods_that_are_told_something_wrong(shop: Shop) -> None:
    """What is wrong in a pod's variables or arguments is found, and nothing else of it; problems make the status 1."""
    for name, planted, _, _ in PLANTED:
        changed = {key: value for key, value in planted.items() if key != "args"}
        shop.pod(name, {**SOUND, **changed}, args=planted.get("args", ()))
    shop.held("no-uid")

    found = await shop.found()

    for name, _, level, texts in PLANTED:
        ((told, text),) = ((level, text) for level, text in found if f"variables: pod {name}, " in text)
        assert told == level, text
        for part in texts:
            assert part in text


async def test_a_namespace_of_many_pods(shop: Shop) -> None:
    """Pods come in pages, and the last one is read as well."""
    for number in range(PAGE_SIZE + 1):
        shop.pod(f"store-{number:03}", {**SOUND, "POD_UID": None} if number == PAGE_SIZE else SOUND)
    shop.held("store-000")
    await shop.only("warning", f"pod store-{PAGE_SIZE:03}, ", "POD_UID is not set")


async def test_a_pod_without_its_name(shop: Shop) -> None:
    """Without POD_NAME the identity is the host name: worth a warning where that is another one, the node's say."""
    shop.pod("store-0", {**SOUND, "POD_NAME": None})
    shop.held("store-0")
    assert await shop.found() == []
    shop.pod("store-1", {**SOUND, "POD_NAME": None}, hostNetwork=True)
    await shop.only("warning", "pod store-1, ", "its identity is its host name, 'n1'", "metadata.name")


async def test_another_namespace(shop: Shop) -> None:
    """A pod whose election is in another namespace than itself is told of, since that is mostly not meant."""
    shop.pod("store-0", {**SOUND, "ELECTION_NAMESPACE": None})
    done = await shop.check("--pod", "store-0")
    assert done.status == 0
    assert f"its election is in namespace default, and the pod in {shop.namespace}" in done.out


async def test_candidates_that_do_not_fit_together(shop: Shop) -> None:
    """An identity that two have is a problem, and lock objects that do not know of each other; the rest are warnings.

    Each names the pods.
    """
    shop.pod("store-0", {**SOUND, "POD_NAME": "same"}, args=["--id=same"])
    shop.pod("store-1", SOUND, args=["--id=same"])
    shop.pod("store-2", {**SOUND, "ELECTION_LOCK": "leases", "ELECTION_TTL": "20s", "ELECTION_GROUP": "other"})
    shop.held("same")

    found = await shop.found()

    together = [(level, text) for level, text in found if f"variables: {shop.namespace}/example: " in text]
    assert [level for level, _ in together] == ["problem", "problem", "warning", "warning"]
    texts = " ".join(text for _, text in together)
    assert "2 candidates are called 'same': store-0, store-1; each needs an identity of its own" in texts
    assert "so that two may lead: endpoints (store-0, store-1), leases (store-2)" in texts
    assert "leases (--ttl, ELECTION_TTL) differ: 10s (store-0, store-1), 20s (store-2)" in texts
    assert "groups (ELECTION_GROUP) differ: default (store-0, store-1), other (store-2)" in texts


async def test_named_pods(shop: Shop) -> None:
    """`--pod` checks those and no others; one that is not there is said to be missing."""
    shop.pod("store-0", SOUND)
    shop.pod("store-1", {**SOUND, "POD_UID": None})
    shop.pod("store-2", {**SOUND, "NODE_NAME": None})
    shop.held("store-0")

    done = await shop.check("--pod", "store-0", "--pod=store-1")
    assert "POD_UID is not set" in done.out
    assert "NODE_NAME" not in done.out
    done = await shop.check("--pod", "store-9")
    assert (done.status, done.out) == (1, "")
    assert "there is no pod store-9" in done.err


async def test_pods_that_may_not_be_read(shop: Shop) -> None:
    """Who may not list pods is told of those that are registered; who may not read any, that they are not checked."""
    shop.pod("store-0", {**SOUND, "POD_UID": None})
    shop.pod("store-1", {**SOUND, "NODE_NAME": None})
    shop.held("store-0")

    def may(*more: PolicyRule) -> Path:
        granted = [*rules(("get", "list"), "endpoints"), *more]
        return shop.embedded.kubeconfig_for("operator", granted, namespace=shop.namespace)

    done = await shop.check("example", kubeconfig=may(*rules(["get"], "pods")))
    assert done.status == 0
    assert "not allowed to list pods: only registered candidates are checked" in done.out
    assert "POD_UID is not set" in done.out
    assert "NODE_NAME" not in done.out
    assert "not allowed to get leases: those lock objects are not checked" in done.out
    done = await shop.check("example", kubeconfig=may())
    assert done.status == 0
    assert "variables: not checked: not allowed to list or get pods" in done.out


# -- Lock objects and clocks -------------------------------------------------------------------------------------------


async def test_no_lock_object(shop: Shop) -> None:
    """An election that has none, though its pods are there, is told of; so is a namespace without any."""
    done = await shop.check()
    assert done.status == 0
    assert "no elections in this namespace" in done.out
    assert "no pod here has a candidate" in done.out
    shop.pod("store-0", SOUND)
    await shop.only("warning", f"lock: {shop.namespace}/example: there is no lock object")


async def test_an_unreadable_record(shop: Shop) -> None:
    """A record that cannot be read is a problem."""
    shop.write({RECORD_ANNOTATION: "{"})
    (_, lock) = await shop.found()
    assert lock[0] == "problem"
    assert "the record cannot be read: not JSON" in lock[1]


async def test_a_holder_that_is_gone(shop: Shop) -> None:
    """A holder that does not renew, and that nobody takes over from, is a problem; it is waited for to be sure."""
    shop.pod("store-0", SOUND)
    shop.held("store-0", renewed=-600, lease_seconds=2)
    await shop.only("problem", "store-0 has not renewed its lease of 2 s for 3 s, nor for 60", "nobody takes over")


async def test_a_foreign_holder(shop: Shop) -> None:
    """A holder without a claim of its own, and with the name of no candidate's pod, is told of in two warnings."""
    shop.pod("store-0", SOUND)
    shop.held("stranger", claimant="store-0")
    found = await shop.found()
    assert [level for level, _ in found] == ["warning", "warning"]
    assert "stranger holds it and makes no claim, and beside its record stands a claim of store-0" in found[0][1]
    assert "no candidate's pod in namespace" in found[1][1]


async def test_a_lease_of_a_day(shop: Shop) -> None:
    """A record with a lease that nobody can have meant is told of, whoever wrote it."""
    shop.pod("store-0", SOUND)
    shop.held("store-0", lease_seconds=86400)
    await shop.only("warning", "for a lease of 24h0m0s: if it crashes, nobody leads for so long")


async def test_two_kinds_of_lock_objects(shop: Shop) -> None:
    """Endpoints and a Lease with two holders are told of: a problem when both are renewed."""
    shop.pod("store-0", SOUND)
    shop.pod("store-1", SOUND)
    shop.held("store-0")

    store = shop.embedded.server.store
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "example"}}
    renewed = format_time(shop.now).replace("Z", ".000000Z")
    spec = {"holderIdentity": "store-1", "leaseDurationSeconds": 60, "acquireTime": renewed, "renewTime": renewed}
    store.create(LEASES, shop.namespace, {**lease, "spec": spec})

    found = await shop.found()
    (problem,) = (text for level, text in found if level == "problem")
    assert "two candidates may lead: store-0 by its endpoints, store-1 by its leases" in problem


async def test_a_clock_that_is_off(shop: Shop) -> None:
    """A leader whose clock is ahead, and this machine's where it is not the API server's, are told of."""
    shop.pod("store-0", SOUND)
    shop.held("store-0", renewed=120, lease_seconds=2)
    await shop.only("warning", "clock: ", "the clock of node n1 is 1", "s ahead of the API server's")

    shop.held("store-0", renewed=600, lease_seconds=2)

    async def late(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(shop.now + 600))

    shop.embedded.server.before_answer = late
    await shop.only("warning", "clock: ", "the clock of this machine is ", "s behind the API server's")


# -- Permissions, on a real API server ---------------------------------------------------------------------------------


async def told(kubeconfig: Path, *arguments: str) -> list[tuple[str, str]]:
    """Return the level and the text of what is found on permissions."""
    done = await electionctl(kubeconfig, "check", "--json", *arguments)
    assert done.err == ""
    return [
        (one["level"], f"{one['where']} {one['what']}; {one['remedy']}")
        for one in done.json()["findings"]
        if one["area"] == "permissions"
    ]


async def test_what_an_account_may_do(real_api_server: RealAPIServer) -> None:
    """Of a service account it is told what it may do, what that is not enough for, and which Role allows it.

    The administrator asks for it, and it may ask for itself; it may not ask for others.
    """
    namespace = real_api_server.namespace()
    account = real_api_server.kubeconfig_for(
        "candidate", rules(("get", "update", "watch"), "endpoints"), namespace=namespace
    )
    who = f"system:serviceaccount:{namespace}:candidate"

    found = await told(real_api_server.admin_kubeconfig, "example", "-n", namespace, "--service-account", "candidate")
    assert found[0] == ("ok", f"{who} may get, update, watch endpoints; ")
    level, text = found[1]
    assert level == "problem"
    assert text.startswith(f"{who} may not create endpoints in namespace {namespace}: it cannot take part")
    assert text.endswith("; a Role with create on endpoints allows it: k8s/rbac/stock")
    warnings = [text for level, text in found if level == "warning"]
    assert [re.findall(r"may not (\w+) endpoints", text) for text in warnings] == [["list"], ["patch"]]
    assert any("may not create events" in text and "(optional)" in text for level, text in found if level == "ok")

    assert await told(account, "example") == found
    ((level, text),) = await told(account, "example", "--as", "somebody")
    assert level == "warning"
    assert "somebody not checked: " in text
    assert "subjectaccessreviews" in text


async def test_roles_that_name_the_lock_object(real_api_server: RealAPIServer) -> None:
    """A Role may name the lock object: it is asked for by that name, and is not enough for another one."""
    namespace = real_api_server.namespace()
    named = rules(("get", "update", "watch", "patch"), "endpoints", names=["example"])
    real_api_server.kubeconfig_for("candidate", [*named, *rules(("create", "list"), "endpoints")], namespace=namespace)

    async def refused(election: str) -> list[str]:
        found = await told(real_api_server.admin_kubeconfig, election, "-n", namespace, "--service-account=candidate")
        return [text for level, text in found if level != "ok"]

    assert await refused("example") == []
    assert len(await refused("other")) == 4


async def test_the_accounts_of_candidates(real_api_server: RealAPIServer) -> None:
    """Without being told whose, it asks for the accounts of the candidates' pods, for what these candidates want."""
    namespace = real_api_server.namespace()
    real_api_server.kubeconfig_for("store", rules(RECOMMENDED, "endpoints"), namespace=namespace)
    body = pod("store-0", {**SOUND, "ELECTION_LOCK": "endpointsleases", "ELECTION_POD_LABEL": "role=leader"})
    body["spec"] |= {"serviceAccountName": "store", "nodeName": None}
    real_api_server.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)

    found = await told(real_api_server.admin_kubeconfig, "-n", namespace)

    assert {text.partition(" may")[0] for _, text in found} == {f"system:serviceaccount:{namespace}:store"}
    problems = [
        text.partition(" may not ")[2].partition(" in namespace")[0] for level, text in found if level == "problem"
    ]
    assert problems == ["get leases", "create leases", "update leases", "patch pods", "list pods"]
    assert any("apiGroup coordination.k8s.io" in text for _, text in found)
    # With the same credentials as they have it asks for itself.
    seen = [*rules(RECOMMENDED, "endpoints"), *rules(["list"], "pods")]
    itself = await told(real_api_server.kubeconfig_for("store", seen, namespace=namespace))
    problems = [
        text.partition(" may not ")[2].partition(" in namespace")[0] for level, text in itself if level == "problem"
    ]
    assert problems == ["get leases", "create leases", "update leases", "patch pods"]


async def test_a_sound_election(sidecars: Sidecars, real_api_server: RealAPIServer) -> None:
    """With real candidates that have what is recommended, run with their own credentials: no problem is found."""
    namespace = real_api_server.namespace()
    granted = [*rules(RECOMMENDED, "endpoints"), *rules(["get"], "pods")]
    kubeconfig = real_api_server.kubeconfig_for("store", granted, namespace=namespace)
    candidates = [
        sidecars.start(
            election="example",
            identity=identity,
            namespace=namespace,
            ttl="4s",
            kubeconfig=kubeconfig,
            env={"NODE_NAME": f"node-of-{identity}", "POD_UID": identity},
        )
        for identity in ("a", "b")
    ]
    leader = await leader_of(candidates)

    done = await electionctl(kubeconfig, "check", "example")

    assert (done.status, done.err) == (0, "")
    assert f"held by {leader.identity} on node-of-{leader.identity}" in done.out
    who = f"system:serviceaccount:{namespace}:store"
    assert f"{who}: may get, create, update, watch, list, patch endpoints" in done.out
    assert "no problems" in done.out
