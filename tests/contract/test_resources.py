"""What differs between resources: Leases, Pods, Events, Namespaces, Nodes."""

import secrets

import pytest

from tests.contract.client import METADATA_LIST, Api, Json

LEASE = {
    "holderIdentity": "a",
    "leaseDurationSeconds": 10,
    "acquireTime": "2026-01-01T00:00:00.000000Z",
    "renewTime": "2026-01-01T00:00:00.123456Z",
    "leaseTransitions": 0,
}


def _pod(name: str, **spec: object) -> Json:
    containers = [{"name": "c", "image": "i"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


async def test_a_lease_is_created_and_updated_from_its_version(api: Api) -> None:
    """A Lease stores its spec as written, and a compare-and-swap on it works as on Endpoints."""
    created = await api.post(api.leases(), {"metadata": {"name": "x"}, "spec": LEASE})
    assert created.status == 201
    assert (created.body["kind"], created.body["apiVersion"]) == ("Lease", "coordination.k8s.io/v1")
    assert created.body["spec"] == LEASE
    body = {**created.body, "spec": {**LEASE, "holderIdentity": "b", "leaseTransitions": 1}}
    updated = await api.put(api.leases("x"), body)
    assert (updated.status, updated.body["spec"]) == (200, body["spec"])
    stale = await api.put(api.leases("x"), {**body, "spec": LEASE})
    assert stale.refusal()[:2] == (409, "Conflict")
    assert stale.refusal()[2].startswith('Operation cannot be fulfilled on leases.coordination.k8s.io "x": the object ')
    assert stale.body["details"] == {"name": "x", "group": "coordination.k8s.io", "kind": "leases"}


async def test_a_lease_cannot_be_updated_without_a_version(api: Api) -> None:
    """Unlike Endpoints, a Lease is never overwritten blindly; a missing one is created."""
    created = await api.put(api.leases("x"), {"metadata": {"name": "x"}, "spec": LEASE})
    assert created.status == 201
    answer = await api.put(api.leases("x"), {"metadata": {"name": "x"}, "spec": {}})
    message = (
        'leases.coordination.k8s.io "x" is invalid: metadata.resourceVersion: '
        "Invalid value: 0: must be specified for an update"
    )
    assert answer.refusal() == (422, "Invalid", message)
    assert answer.body["details"]["kind"] == "leases"


@pytest.mark.parametrize(
    ("field", "value", "refusal"),
    [
        (
            "leaseDurationSeconds",
            0,
            (
                422,
                "Invalid",
                (
                    'Lease.coordination.k8s.io "x" is invalid: spec.leaseDurationSeconds: '
                    "Invalid value: 0: must be greater than 0"
                ),
            ),
        ),
        (
            "leaseTransitions",
            -1,
            (
                422,
                "Invalid",
                (
                    'Lease.coordination.k8s.io "x" is invalid: spec.leaseTransitions: '
                    "Invalid value: -1: must be greater than or equal to 0"
                ),
            ),
        ),
        (
            "leaseDurationSeconds",
            "10",
            (
                400,
                "BadRequest",
                (
                    'Lease in version "v1" cannot be handled as a Lease: json: cannot unmarshal string into Go '
                    "struct field "
                    "LeaseSpec.spec.leaseDurationSeconds of type int32"
                ),
            ),
        ),
    ],
)
async def test_a_lease_that_is_wrong(api: Api, field: str, value: object, refusal: tuple[int, str, str]) -> None:
    """Durations are positive whole seconds, transitions a count."""
    answer = await api.post(api.leases(), {"metadata": {"name": "x"}, "spec": {**LEASE, field: value}})
    assert answer.refusal() == refusal


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00Z", "yesterday", "2026-01-01T00:00:00.1234567Z"])
async def test_a_lease_has_times_in_microseconds(api: Api, time: str) -> None:
    """Times of a Lease have exactly six digits after the point."""
    answer = await api.post(api.leases(), {"metadata": {"name": "x"}, "spec": {**LEASE, "renewTime": time}})
    status, reason, message = answer.refusal()
    assert (status, reason) == (400, "BadRequest")
    known = 'Lease in version "v1" cannot be handled as a Lease: parsing time '
    assert message.startswith(f'{known}"{time}" as "2006-01-02T15:04:05.000000Z07:00"')


async def test_what_a_lease_does_not_keep(api: Api) -> None:
    """Empty fields, unknown ones and those of coordinated leader election are dropped; an empty holder is kept."""
    sent = {**LEASE, "holderIdentity": "", "acquireTime": None, "strategy": "OldestEmulationVersion", "newer": 1}
    created = await api.post(api.leases(), {"metadata": {"name": "x"}, "spec": sent})
    assert created.status == 201
    kept = {name: value for name, value in LEASE.items() if name != "acquireTime"} | {"holderIdentity": ""}
    assert created.body["spec"] == kept
    updated = await api.put(api.leases("x"), {**created.body, "spec": {**sent, "preferredHolder": "b"}})
    assert updated.body["spec"] == kept
    patched = await api.patch(api.leases("x"), {"spec": None})
    assert patched.body["spec"] == {}


async def test_a_lease_is_watched_listed_and_deleted(api: Api) -> None:
    """Everything that works on Endpoints works on Leases."""
    created = (await api.post(api.leases(), {"metadata": {"name": "x", "labels": {"g": "1"}}, "spec": LEASE})).body
    assert (await api.get(api.leases(), {"labelSelector": "g=1"})).body["kind"] == "LeaseList"
    partial = await api.get(api.leases(), accept=METADATA_LIST)
    assert [set(item) for item in partial.body["items"]] == [{"kind", "apiVersion", "metadata"}]
    async with api.watch(api.leases(), {"fieldSelector": "metadata.name=x"}) as events:
        assert await events.next() == {"type": "ADDED", "object": created}
        patched = await api.patch(api.leases("x"), {"spec": {"holderIdentity": ""}})
        assert await events.next() == {"type": "MODIFIED", "object": patched.body}
        deleted = await api.delete(api.leases("x"))
        details = {"name": "x", "group": "coordination.k8s.io", "kind": "leases", "uid": created["metadata"]["uid"]}
        assert deleted.body["details"] == details
        assert (await events.next())["type"] == "DELETED"
    assert (await api.get(api.leases("x"))).refusal()[2] == 'leases.coordination.k8s.io "x" not found'


async def test_pods_are_found_by_node(api: Api) -> None:
    """A pod tells its node, and pods can be selected by it."""
    for name, node in (("a", "n1"), ("b", "n2")):
        created = await api.post(api.path("pods"), _pod(name, nodeName=node))
        assert created.status == 201
        assert (created.body["spec"]["nodeName"], created.body["status"]["phase"]) == (node, "Pending")
        assert created.body["metadata"]["generation"] == 1
    assert (await api.get(api.path("pods"), {"fieldSelector": "spec.nodeName=n2"})).names == ["b"]
    assert (await api.get(api.path("pods"), {"fieldSelector": "status.phase=Pending"})).names == ["a", "b"]
    unknown = await api.get(api.path("pods"), {"fieldSelector": "spec.foo=x"})
    assert unknown.refusal()[:2] == (400, "BadRequest")
    assert "field label not supported: spec.foo" in unknown.body["message"]


async def test_a_pod_on_a_node_is_marked_before_it_goes(api: Api) -> None:
    """Deletion gives a bound pod its grace period; deletion with none removes it."""
    await api.post(api.path("pods"), _pod("x", nodeName="n1"))
    marked = await api.delete(api.path("pods", "x"))
    assert (marked.status, marked.body["kind"]) == (200, "Pod")
    assert marked.body["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (await api.get(api.path("pods", "x"))).body["metadata"]["deletionTimestamp"]
    await api.delete(api.path("pods", "x"), query={"gracePeriodSeconds": "0"})
    assert (await api.get(api.path("pods", "x"))).status == 404


async def test_a_pod_without_a_node_goes_at_once(api: Api) -> None:
    """Nobody runs it, so nobody needs time to stop it."""
    await api.post(api.path("pods"), _pod("x"))
    assert (await api.delete(api.path("pods", "x"))).status == 200
    assert (await api.get(api.path("pods", "x"))).status == 404


async def test_a_missing_pod_is_not_created_by_an_update(api: Api) -> None:
    """PUT creates Endpoints and Leases, not pods."""
    assert (await api.put(api.path("pods", "x"), _pod("x"))).refusal() == (404, "NotFound", 'pods "x" not found')


async def test_events_are_written_beside_what_they_tell_about(api: Api) -> None:
    """An Event must be in the namespace of the object that it is about."""
    about = {"kind": "Pod", "namespace": api.namespace, "name": "p"}
    event = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "LeaderElection", "type": "Normal"}
    created = await api.post(api.path("events"), event)
    assert (created.status, created.body["involvedObject"]) == (201, about)
    listed = await api.get(api.path("events"), {"fieldSelector": "involvedObject.name=p,reason=LeaderElection"})
    assert listed.names == ["e"]
    stray = {**event, "metadata": {"name": "e2"}, "involvedObject": {**about, "namespace": "other"}}
    message = 'Event "e2" is invalid: involvedObject.namespace: Invalid value: "other": does not match event.namespace'
    assert (await api.post(api.path("events"), stray)).refusal() == (422, "Invalid", message)


async def test_namespaces(api: Api) -> None:
    """A namespace can be made once, is read by name, and `default` is always there."""
    name = f"test-{secrets.token_hex(4)}"
    path = "/api/v1/namespaces"
    created = await api.post(path, {"metadata": {"name": name}})
    assert (created.status, created.body["kind"]) == (201, "Namespace")
    assert created.body["metadata"]["labels"] == {"kubernetes.io/metadata.name": name}
    assert created.body["status"] == {"phase": "Active"}
    again = await api.post(path, {"metadata": {"name": name}})
    assert again.refusal() == (409, "AlreadyExists", f'namespaces "{name}" already exists')
    assert (await api.get(f"{path}/{name}")).body == created.body
    assert (await api.get(f"{path}/default")).status == 200
    assert {"default", name} <= set((await api.get(path)).names)
    missing = await api.get(f"{path}/{name}-not")
    assert missing.refusal() == (404, "NotFound", f'namespaces "{name}-not" not found')
    deleted = await api.delete(f"{path}/{name}")
    assert (deleted.status, deleted.body["kind"]) == (200, "Namespace")
    refused = await api.post(f"{path}/{name}/endpoints", {"metadata": {"name": "x"}})
    assert refused.status in {403, 404}, "terminating where a namespace controller has yet to act, gone where not"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a.b", "must not contain dots"),
        (
            "A",
            (
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
                "start and "
                "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
                "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ),
        ),
    ],
)
async def test_names_of_namespaces(api: Api, name: str, why: str) -> None:
    """A namespace has the name of a DNS label."""
    answer = await api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    message = f'Namespace "{name}" is invalid: metadata.name: Invalid value: "{name}": {why}'
    assert answer.refusal() == (422, "Invalid", message)


async def test_a_label_is_put_on_one_very_pod(api: Api) -> None:
    """A patch that names the UID or the version of another state of a pod changes nothing, and says which it was."""
    created = (await api.post(api.path("pods"), _pod("x"))).body["metadata"]
    label = {"labels": {"role": "leader"}}
    other = await api.patch(api.path("pods", "x"), {"metadata": {**label, "uid": "no"}})
    assert other.refusal()[:2] == (422, "Invalid")
    patched = await api.patch(api.path("pods", "x"), {"metadata": {**label, "uid": created["uid"]}})
    assert (patched.status, patched.body["metadata"]["labels"]) == (200, {"role": "leader"})
    stale = {"labels": {"role": None}, "uid": created["uid"], "resourceVersion": created["resourceVersion"]}
    assert (await api.patch(api.path("pods", "x"), {"metadata": stale})).refusal()[:2] == (409, "Conflict")
    assert (await api.get(api.path("pods"), {"labelSelector": "role=leader"})).names == ["x"]


async def test_one_node_is_watched_from_the_present_on(api: Api) -> None:
    """A watch from version 0 on one node shows it as it is, then every change; cordoning is one of `spec`."""
    name = f"node-{secrets.token_hex(4)}"
    path = f"/api/v1/nodes/{name}"
    assert (await api.post("/api/v1/nodes", {"metadata": {"name": name}})).status == 201
    try:
        query = {"fieldSelector": f"metadata.name={name}", "resourceVersion": "0", "timeoutSeconds": "30"}
        async with api.watch("/api/v1/nodes", query) as events:
            first = await events.next()
            assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", name)
            assert "unschedulable" not in first["object"].get("spec", {})
            await api.patch(path, {"spec": {"unschedulable": True}})
            second = await events.next()
            while "unschedulable" not in second["object"]["spec"]:  # a cluster's controllers taint a node that is new
                second = await events.next()
            assert (second["type"], second["object"]["spec"]["unschedulable"]) == ("MODIFIED", True)
    finally:
        await api.delete(path)
