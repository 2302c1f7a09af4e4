"""Create, read, update, delete: what a compare-and-swap on an Endpoints object may rely on."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.client import Api, endpoints

STALE = "the object has been modified; please apply your changes to the latest version and try again"


async def test_create_answers_the_stored_object(api: Api) -> None:
    """A created object comes back with what the server adds: namespace, uid, version, time in whole seconds."""
    answer = await api.post(api.endpoints(), endpoints("x", annotations={"a": "1"}, labels={"b": "2"}))
    assert answer.status == 201
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("Endpoints", "v1")
    metadata = answer.body["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("x", api.namespace)
    assert (metadata["annotations"], metadata["labels"]) == ({"a": "1"}, {"b": "2"})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", metadata["uid"])
    assert answer.version > 0
    assert "generation" not in metadata
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["creationTimestamp"])
    created = datetime.fromisoformat(metadata["creationTimestamp"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    assert (await api.get(api.endpoints("x"))).body == answer.body


async def test_every_endpoints_answer_carries_the_deprecation_warning(api: Api) -> None:
    """v1 Endpoints is deprecated, and the server says so in each answer, failures included; Leases are not."""
    warning = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    for path in (api.endpoints(), api.endpoints("none")):
        assert (await api.get(path)).headers["Warning"] == warning
    assert "Warning" not in (await api.get(api.leases())).headers


async def test_create_without_kind_is_taken_for_the_resource_of_the_path(api: Api) -> None:
    """The path already says what it is; kind and apiVersion may be left out."""
    answer = await api.post(api.endpoints(), {"metadata": {"name": "x"}})
    assert answer.status == 201
    assert answer.body["kind"] == "Endpoints"


async def test_create_drops_what_is_unknown_or_empty(api: Api) -> None:
    """Unknown fields and empty maps are not stored; a null annotation is an empty one."""
    body = {"metadata": {"name": "x", "labels": {}, "annotations": {"a": None}, "foo": "x"}, "bar": 1}
    created = (await api.post(api.endpoints(), body)).body
    assert "bar" not in created
    assert "foo" not in created["metadata"]
    assert "labels" not in created["metadata"]
    assert created["metadata"]["annotations"] == {"a": ""}


async def test_create_makes_a_name_from_generate_name(api: Api) -> None:
    """Without a name, generateName and five characters make one."""
    answer = await api.post(api.endpoints(), {"metadata": {"generateName": "gen-"}})
    assert answer.status == 201
    assert re.fullmatch(r"gen-[a-z0-9]{5}", answer.body["metadata"]["name"])


async def test_create_of_what_exists_is_already_exists(api: Api) -> None:
    """A second create of the same name is told apart from other conflicts by its reason."""
    await api.created("x")
    answer = await api.post(api.endpoints(), endpoints("x"))
    assert answer.refusal() == (409, "AlreadyExists", 'endpoints "x" already exists')
    assert answer.body["details"] == {"name": "x", "kind": "endpoints"}


async def test_create_race_has_one_winner(api: Api) -> None:
    """Of several creates at one moment one succeeds, and all others are told that it exists."""
    answers = await asyncio.gather(*(api.post(api.endpoints(), endpoints("x")) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert {answer.body["reason"] for answer in answers if answer.status == 409} == {"AlreadyExists"}


async def test_create_refuses_a_resource_version(api: Api) -> None:
    """What is created has no version yet; the server answers 500, without a reason."""
    answer = await api.post(api.endpoints(), endpoints("x", resourceVersion="12"))
    assert answer.refusal() == (500, "", "resourceVersion should not be set on objects to be created")


async def test_create_in_another_namespace_than_the_path_names(api: Api) -> None:
    """Body and path must agree on the namespace."""
    answer = await api.post(api.endpoints(), endpoints("x", namespace="kube-system"))
    message = "the namespace of the provided object does not match the namespace sent on the request"
    assert answer.refusal() == (400, "BadRequest", message)


async def test_write_into_a_missing_namespace(api: Api) -> None:
    """Create and update name the missing namespace; everything else only misses the object; a list is empty."""
    there = f"/api/v1/namespaces/{api.namespace}-not/endpoints"
    no_namespace = (404, "NotFound", f'namespaces "{api.namespace}-not" not found')
    no_object = (404, "NotFound", 'endpoints "x" not found')
    created = await api.post(there, endpoints("x"))
    assert created.refusal() == no_namespace
    assert created.body["details"] == {"name": f"{api.namespace}-not", "kind": "namespaces"}
    assert (await api.put(f"{there}/x", endpoints("x"))).refusal() == no_namespace
    assert (await api.get(f"{there}/x")).refusal() == no_object
    assert (await api.patch(f"{there}/x", {})).refusal() == no_object
    assert (await api.delete(f"{there}/x")).refusal() == no_object
    listed = await api.get(there)
    assert (listed.status, listed.body["items"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the object provided is unrecognized (must be of type Endpoints): couldn't get version/kind; "),
        (b"", "the object provided is unrecognized (must be of type Endpoints): couldn't get version/kind; "),
        (b"[]", "the object provided is unrecognized (must be of type Endpoints): couldn't get version/kind; "),
        (b'{"kind":"Nothing","apiVersion":"v1"}', 'Nothing in version "v1" cannot be handled as a Endpoints: no kind '),
        (b'{"kind":"Endpoints","apiVersion":"v2"}', 'Endpoints in version "v2" cannot be handled as a Endpoints: no '),
        (
            b'{"metadata":{"name":"x","annotations":{"a":4}}}',
            (
                'Endpoints in version "v1" cannot be handled as a Endpoints: json: cannot unmarshal number into '
                "Go struct "
                "field ObjectMeta.metadata.annotations of type string"
            ),
        ),
        (
            b'{"metadata":{"name":"x","labels":["a"]}}',
            (
                'Endpoints in version "v1" cannot be handled as a Endpoints: json: cannot unmarshal array into '
                "Go struct "
                "field ObjectMeta.metadata.labels of type map[string]string"
            ),
        ),
    ],
)
async def test_create_of_what_is_no_endpoints_object(api: Api, body: bytes, message: str) -> None:
    """What cannot be decoded is a bad request, and the message says why."""
    status, reason, told = (await api.post(api.endpoints(), body)).refusal()
    assert (status, reason) == (400, "BadRequest")
    assert told.startswith(message)


async def test_create_from_something_else_than_json(api: Api) -> None:
    """A body of an unknown media type is refused."""
    status, reason, message = (await api.post(api.endpoints(), b"{}", content_type="text/plain")).refusal()
    assert (status, reason) == (415, "UnsupportedMediaType")
    assert message.startswith("the body of the request was in an unknown format - accepted media types include: ")


async def test_get_of_what_is_missing(api: Api) -> None:
    """A missing object is 404 with its name."""
    answer = await api.get(api.endpoints("x"))
    assert answer.refusal() == (404, "NotFound", 'endpoints "x" not found')
    assert answer.body["details"] == {"name": "x", "kind": "endpoints"}


async def test_update_replaces_the_object(api: Api) -> None:
    """An update from the current version stores exactly what was sent; uid and creation time stay."""
    before = await api.created("x", annotations={"a": "1"}, labels={"l": "1"})
    body = endpoints("x", annotations={"b": "2"}, resourceVersion=before["metadata"]["resourceVersion"])
    subsets = [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    answer = await api.put(api.endpoints("x"), {**body, "subsets": subsets})
    assert answer.status == 200
    assert answer.version > int(before["metadata"]["resourceVersion"])
    assert answer.body["metadata"]["annotations"] == {"b": "2"}
    assert "labels" not in answer.body["metadata"]
    assert answer.body["subsets"] == subsets
    for kept in ("uid", "creationTimestamp"):
        assert answer.body["metadata"][kept] == before["metadata"][kept]


async def test_update_keeps_what_a_client_may_not_set(api: Api) -> None:
    """A creation time of the client's own is ignored, not refused."""
    before = await api.created("x")
    answer = await api.put(api.endpoints("x"), endpoints("x", creationTimestamp="2020-01-01T00:00:00Z"))
    assert answer.status == 200
    assert answer.body["metadata"]["creationTimestamp"] == before["metadata"]["creationTimestamp"]


async def test_update_of_nothing_keeps_the_version(api: Api) -> None:
    """Writing what is already there succeeds and changes nothing, not even the version."""
    before = await api.created("x", annotations={"a": "1"})
    for body in (before, endpoints("x", annotations={"a": "1"})):
        answer = await api.put(api.endpoints("x"), body)
        assert answer.status == 200
        assert answer.version == int(before["metadata"]["resourceVersion"])


@pytest.mark.parametrize("version", [None, "", "0"])
async def test_update_without_a_version_overwrites(api: Api, version: str | None) -> None:
    """Endpoints can be updated unconditionally: no version, an empty one and 0 all mean that."""
    await api.created("x", annotations={"a": "1"})
    metadata = {} if version is None else {"resourceVersion": version}
    answer = await api.put(api.endpoints("x"), endpoints("x", annotations={"a": "2"}, **metadata))
    assert answer.status == 200
    assert answer.body["metadata"]["annotations"] == {"a": "2"}


@pytest.mark.parametrize("annotations", [{"a": "2"}, {"a": "1"}, {"not valid": "1"}])
async def test_update_from_an_old_version_is_a_conflict(api: Api, annotations: dict[str, str]) -> None:
    """An old version loses, even where nothing would change or the object is invalid: the version is judged first."""
    first = await api.created("x", annotations={"a": "0"})
    await api.put(api.endpoints("x"), endpoints("x", annotations={"a": "1"}))
    body = endpoints("x", annotations=annotations, resourceVersion=first["metadata"]["resourceVersion"])
    answer = await api.put(api.endpoints("x"), body)
    assert answer.refusal() == (409, "Conflict", f'Operation cannot be fulfilled on endpoints "x": {STALE}')
    assert answer.body["details"] == {"name": "x", "kind": "endpoints"}


async def test_update_from_a_version_of_the_future_is_a_conflict(api: Api) -> None:
    """Only the current version matches."""
    await api.created("x")
    answer = await api.put(api.endpoints("x"), endpoints("x", resourceVersion="999999999", annotations={"a": "2"}))
    assert answer.refusal() == (409, "Conflict", f'Operation cannot be fulfilled on endpoints "x": {STALE}')


async def test_update_race_has_one_winner(api: Api) -> None:
    """Of several updates from one version exactly one is applied: this is the compare-and-swap of the election."""
    before = await api.created("x")
    version = before["metadata"]["resourceVersion"]
    bodies = [endpoints("x", annotations={"holder": str(n)}, resourceVersion=version) for n in range(8)]
    answers = await asyncio.gather(*(api.put(api.endpoints("x"), body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    (winner,) = (answer for answer in answers if answer.status == 200)
    assert (await api.get(api.endpoints("x"))).body == winner.body


async def test_update_with_another_uid_is_a_conflict(api: Api) -> None:
    """An update meant for a predecessor of the same name does not hit its successor."""
    uid = (await api.created("x"))["metadata"]["uid"]
    answer = await api.put(api.endpoints("x"), endpoints("x", uid="stale", annotations={"a": "1"}))
    status, reason, message = answer.refusal()
    assert (status, reason) == (409, "Conflict")
    assert message.startswith('Operation cannot be fulfilled on endpoints "x": StorageError: invalid object, Code: 4, ')
    assert message.endswith(f"Precondition failed: UID in precondition: stale, UID in object meta: {uid}")


@pytest.mark.parametrize("version", [None, "5"])
async def test_update_of_a_missing_object_creates_it(api: Api, version: str | None) -> None:
    """PUT on a missing Endpoints object creates it, and a resourceVersion in it does not prevent that."""
    metadata = {} if version is None else {"resourceVersion": version}
    answer = await api.put(api.endpoints("x"), endpoints("x", **metadata))
    assert answer.status == 201
    assert answer.version > 5


async def test_update_of_a_deleted_object_is_stopped_by_its_uid(api: Api) -> None:
    """With its uid in it, an update does not bring a deleted object back."""
    gone = await api.created("x")
    await api.delete(api.endpoints("x"))
    answer = await api.put(api.endpoints("x"), gone)
    assert answer.refusal()[:2] == (409, "Conflict")
    assert f"UID in precondition: {gone['metadata']['uid']}, UID in object meta: " in answer.body["message"]
    assert (await api.get(api.endpoints("x"))).status == 404


async def test_update_with_another_name_or_namespace_than_the_path(api: Api) -> None:
    """Body and path must agree."""
    await api.created("x")
    renamed = await api.put(api.endpoints("x"), endpoints("y"))
    message = "the name of the object (y) does not match the name on the URL (x)"
    assert renamed.refusal() == (400, "BadRequest", message)
    nameless = await api.put(api.endpoints("x"), {"metadata": {}})
    message = "the name of the object (x based on URL) was undeterminable: name must be provided"
    assert nameless.refusal() == (400, "BadRequest", message)
    moved = await api.put(api.endpoints("x"), endpoints("x", namespace="other"))
    message = "the namespace of the provided object does not match the namespace sent on the request"
    assert moved.refusal() == (400, "BadRequest", message)


async def test_update_with_a_version_that_is_no_number(api: Api) -> None:
    """Versions are opaque to clients, not to the server: it answers 500."""
    await api.created("x")
    answer = await api.put(api.endpoints("x"), endpoints("x", resourceVersion="abc"))
    assert answer.refusal() == (500, "", 'strconv.ParseUint: parsing "abc": invalid syntax')


async def test_versions_grow_over_all_resources(api: Api) -> None:
    """One counter serves every write to anything, so a version is a fencing token across deletion and creation."""
    versions = [int((await api.created("x"))["metadata"]["resourceVersion"])]
    lease = {"metadata": {"name": "x"}, "spec": {}}
    versions.append((await api.post(api.leases(), lease)).version)
    versions.append((await api.put(api.endpoints("x"), endpoints("x", annotations={"a": "1"}))).version)
    await api.delete(api.endpoints("x"))
    versions.append(int((await api.created("x"))["metadata"]["resourceVersion"]))
    assert versions == sorted(set(versions))
    assert versions[3] - versions[2] >= 2, "the deletion took a version of its own"


async def test_delete_answers_a_status_with_the_uid(api: Api) -> None:
    """A deletion says what was deleted; the object is gone, and so is a second deletion's."""
    uid = (await api.created("x"))["metadata"]["uid"]
    answer = await api.delete(api.endpoints("x"))
    assert answer.status == 200
    assert (answer.body["kind"], answer.body["status"]) == ("Status", "Success")
    assert answer.body["details"] == {"name": "x", "kind": "endpoints", "uid": uid}
    assert (await api.get(api.endpoints("x"))).status == 404
    assert (await api.delete(api.endpoints("x"))).refusal() == (404, "NotFound", 'endpoints "x" not found')


async def test_delete_with_preconditions(api: Api) -> None:
    """Uid and resourceVersion guard a deletion; with both right it happens."""
    before = (await api.created("x"))["metadata"]
    uid, version = before["uid"], before["resourceVersion"]
    on = 'Operation cannot be fulfilled on Endpoints "x": '
    stale = await api.delete(api.endpoints("x"), {"preconditions": {"uid": "abc"}})
    message = (
        f"{on}the UID in the precondition (abc) does not match the UID in record ({uid}). "
        "The object might have been deleted and then recreated"
    )
    assert stale.refusal() == (409, "Conflict", message)
    assert stale.body["details"] == {"name": "x", "kind": "Endpoints"}
    old = await api.delete(api.endpoints("x"), {"preconditions": {"resourceVersion": "1"}})
    message = (
        f"{on}the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({version}). "
        "The object might have been modified"
    )
    assert old.refusal() == (409, "Conflict", message)
    right = await api.delete(api.endpoints("x"), {"preconditions": {"uid": uid, "resourceVersion": version}})
    assert right.status == 200


async def test_delete_with_options_that_are_no_json(api: Api) -> None:
    """A body that cannot be read leaves the object alone."""
    await api.created("x")
    status, reason, message = (await api.delete(api.endpoints("x"), b"garbage")).refusal()
    assert (status, reason) == (400, "BadRequest")
    assert message.startswith("couldn't get version/kind; json parse error: ")
    assert (await api.get(api.endpoints("x"))).status == 200


async def test_a_recreated_object_is_another_one(api: Api) -> None:
    """The same name made again has a new uid and a higher version."""
    first = (await api.created("x"))["metadata"]
    await api.delete(api.endpoints("x"))
    second = (await api.created("x"))["metadata"]
    assert second["uid"] != first["uid"]
    assert int(second["resourceVersion"]) > int(first["resourceVersion"])


async def test_get_of_metadata_only(api: Api) -> None:
    """A client that asks for metadata gets that and nothing else."""
    await api.created("x", annotations={"a": "1"})
    whole = (await api.get(api.endpoints("x"))).body["metadata"]
    answer = await api.get(api.endpoints("x"), accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
    kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    assert answer.body == {**kind, "metadata": whole}
