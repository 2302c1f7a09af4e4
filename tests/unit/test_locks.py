"""The lock on an Endpoints object: what is written, what is left alone, what is made of what comes back."""

from __future__ import annotations

import copy
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes_asyncio.client import Configuration

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, ConflictError, GoneError, KubeClient, NotFoundError
from sidecar.locks import Bookmark, EndpointsLock
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, Claim, Record, UnreadableRecord
from tests.unit.wire import Wire, answered, event, http, streamed, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COLLECTION = "/api/v1/namespaces/apps/endpoints"
PATH = f"{COLLECTION}/example"
RECORD = Record(
    holder="a",
    lease_seconds=10,
    acquire_time="2024-05-01T10:00:00Z",
    renew_time="2024-05-01T10:00:02Z",
    transitions=1,
)
CLAIM = Claim(holder="a", node="n", pod_uid="u")
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Endpoints",
    "metadata": {
        "name": "example",
        "namespace": "apps",
        "uid": "0b5",
        "resourceVersion": "41",
        "creationTimestamp": "2024-01-01T00:00:00Z",
        "labels": {"app": "example", "leader-elector/group": "g"},
        "annotations": {
            "endpoints.kubernetes.io/last-change-trigger-time": "2024-01-01T00:00:00Z",
            "leader-elector/candidate.b": "{}",
            RECORD_ANNOTATION: Record(
                holder="b", lease_seconds=10, acquire_time="", renew_time="", transitions=0
            ).encode(),
        },
        "managedFields": [{"manager": "kube-controller-manager", "fieldsV1": {"f:subsets": {}}}],
        "ownerReferences": [],
        "unknownField": {"kept": [1, None, True]},
    },
    "subsets": [{"addresses": [{"ip": "10.0.0.1", "nodeName": "n1"}], "ports": [{"port": 80, "protocol": "TCP"}]}],
    "unknownPart": 1.5,
}
"""The Endpoints of a Service, which somebody uses as lock object as well."""


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust nobody by default: loading the machine's authorities takes longer than any of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@asynccontextmanager
async def lock_on(*answers: bytes) -> AsyncIterator[tuple[EndpointsLock, Wire]]:
    """Return a lock, and the server that gives it these answers."""
    async with wire(*answers) as server:

        async def load() -> Configuration:
            configuration = Configuration()
            configuration.host = server.url
            return configuration

        kube = KubeClient(load, timeout=5, user_agent="t")
        try:
            yield EndpointsLock(kube, namespace="apps", election="example"), server
        finally:
            await kube.close()


def changed(**metadata: object) -> dict[str, Any]:
    """Return the Service's Endpoints with other metadata."""
    body = copy.deepcopy(SERVICE)
    body["metadata"].update(metadata)
    return body


# -- Writing -----------------------------------------------------------------------------------------------------------


async def test_everything_else_in_the_object_stays() -> None:
    """An update sends back what was read, unknown fields included, with two annotations set."""
    async with lock_on(answered(SERVICE)) as (lock, server):
        base = await lock.fetch()
        assert base is not None
        await lock.write(base, RECORD, CLAIM)
    sent = json.loads(server.asked[1].body)
    expected = copy.deepcopy(SERVICE)
    expected["metadata"]["annotations"] |= {RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode()}
    assert sent == expected
    assert (server.asked[1].method, server.asked[1].target) == ("PUT", PATH)


async def test_what_was_read_is_not_changed() -> None:
    """A write leaves the snapshot that it is based on as it was."""
    async with lock_on(answered(SERVICE)) as (lock, _):
        base = await lock.fetch()
        assert base is not None
        before = copy.deepcopy(dict(base.body))
        await lock.write(base, RECORD, CLAIM)
        assert base.body == before


async def test_compare_and_swap_names_version_and_uid() -> None:
    """The update carries resourceVersion and uid.

    An Endpoints object that was deleted is made anew by an update, whatever its version, unless the uid says which one
    was meant.
    """
    async with lock_on(answered(SERVICE)) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, CLAIM)
    metadata = json.loads(server.asked[1].body)["metadata"]
    assert (metadata["resourceVersion"], metadata["uid"]) == ("41", "0b5")


@pytest.mark.parametrize("annotations", [None, {}, {"other": "x"}])
async def test_annotations_are_made_where_there_are_none(annotations: dict[str, str] | None) -> None:
    """An object without annotations, or with null, gets ours."""
    async with lock_on(answered(changed(annotations=annotations))) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, CLAIM)
    sent = json.loads(server.asked[1].body)["metadata"]["annotations"]
    assert sent == {**(annotations or {}), RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode()}


async def test_release_takes_the_claim_away() -> None:
    """A write without a claim removes the annotation, and no other."""
    annotations = {RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode(), "other": "x"}
    async with lock_on(answered(changed(annotations=annotations))) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, None)
    sent = json.loads(server.asked[1].body)["metadata"]["annotations"]
    assert sent == {RECORD_ANNOTATION: RECORD.encode(), "other": "x"}


async def test_create_makes_the_least_object() -> None:
    """A lock object that is created has a name, a namespace and the two annotations."""
    async with lock_on(answered(SERVICE, 201)) as (lock, server):
        await lock.write(None, RECORD, CLAIM)
    assert (server.asked[0].method, server.asked[0].target) == ("POST", COLLECTION)
    assert json.loads(server.asked[0].body) == {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "example",
            "namespace": "apps",
            "annotations": {RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode()},
        },
    }


async def test_result_is_what_the_api_server_stored() -> None:
    """The snapshot that a write returns is the answer's, with its new version."""
    stored = changed(
        resourceVersion="42", annotations={RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode()}
    )
    async with lock_on(answered(SERVICE), answered(stored)) as (lock, _):
        result = await lock.write(await lock.fetch(), RECORD, CLAIM)
    assert result.version == 42
    assert result.record == RECORD
    assert result.text == RECORD.encode()
    assert result.valid_claim == CLAIM


@pytest.mark.parametrize(("status", "kind"), [(409, ConflictError), (404, NotFoundError)])
async def test_object_that_is_not_the_base_any_more(status: int, kind: type[ApiError]) -> None:
    """Somebody else wrote first, or deleted it: the caller is told which."""
    async with lock_on(answered(SERVICE), answered({"message": "no"}, status)) as (lock, _):
        base = await lock.fetch()
        with pytest.raises(kind):
            await lock.write(base, RECORD, CLAIM)


# -- Reading -----------------------------------------------------------------------------------------------------------


async def test_no_object_is_none() -> None:
    """404 is an answer: there is no lock object."""
    async with lock_on(answered({"message": "not found"}, 404)) as (lock, _):
        assert await lock.fetch() is None


@pytest.mark.parametrize(
    ("annotations", "text", "holder"),
    [
        (None, None, ""),
        ({}, None, ""),
        ({RECORD_ANNOTATION: RECORD.encode()}, RECORD.encode(), "a"),
        ({RECORD_ANNOTATION: ""}, "", ""),
    ],
)
async def test_annotations_are_read(annotations: dict[str, str] | None, text: str | None, holder: str) -> None:
    """The record is the annotation's text; an empty text is one that cannot be read, none is none."""
    async with lock_on(answered(changed(annotations=annotations))) as (lock, _):
        snapshot = await lock.fetch()
    assert snapshot is not None
    assert snapshot.text == text
    assert snapshot.holder == holder
    if text == "":
        assert isinstance(snapshot.record, UnreadableRecord)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"metadata": None},
        {"metadata": []},
        {"metadata": {}},
        {"metadata": {"resourceVersion": 7}},
        {"metadata": {"resourceVersion": ""}},
        {"metadata": {"resourceVersion": "x"}},
        {"metadata": {"resourceVersion": "-1"}},
        {"metadata": {"resourceVersion": "1.5"}},
        {"metadata": {"resourceVersion": "\u0663"}},
        {"metadata": {"resourceVersion": "9" * 5000}},
        {"metadata": {"resourceVersion": "7", "annotations": ["x"]}},
        {"metadata": {"resourceVersion": "7", "annotations": "x"}},
        {"metadata": {"resourceVersion": "7", "annotations": {RECORD_ANNOTATION: 7}}},
        {"metadata": {"resourceVersion": "7", "annotations": {"other": None}}},
    ],
    ids=lambda body: json.dumps(body)[:80],
)
async def test_what_is_no_lock_object(body: dict[str, Any]) -> None:
    """An answer that cannot be a lock object is an `ApiError` of unknown outcome, and never another exception."""
    async with lock_on(answered(body)) as (lock, _):
        with pytest.raises(ApiError) as caught:
            await lock.fetch()
        assert caught.value.status is None
        assert len(str(caught.value)) < 1000
        with pytest.raises(ApiError):
            await lock.write(None, RECORD, CLAIM)


# -- Watching ----------------------------------------------------------------------------------------------------------


async def watched(lock: EndpointsLock) -> list[Changed | Deleted | Bookmark]:
    """Return what the watch shows up to its end."""
    async with lock.watch(41, 60) as events:
        return [each async for each in events]


async def test_watch_speaks_of_the_lock() -> None:
    """Events become changes, deletions and bookmarks, each with its version; other kinds are passed over."""
    lines = [
        event("ADDED", SERVICE),
        event("MODIFIED", changed(resourceVersion="42")),
        event("BOOKMARK", {"kind": "Endpoints", "metadata": {"resourceVersion": "50"}}),
        event("SOMETHING", {}),
        event("DELETED", changed(resourceVersion="51")),
    ]
    async with lock_on(streamed(*lines)) as (lock, server):
        first, second, bookmark, deleted = await watched(lock)
    assert isinstance(first, Changed)
    assert (first.snapshot.version, first.snapshot.holder) == (41, "b")
    assert isinstance(second, Changed)
    assert second.snapshot.version == 42
    assert bookmark == Bookmark(50)
    assert deleted == Deleted(51)
    assert server.asked[0].target.startswith(f"{COLLECTION}?watch=true&fieldSelector=metadata.name%3Dexample&")


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
@pytest.mark.parametrize("body", [{}, {"metadata": 7}, {"metadata": {"resourceVersion": None}}])
async def test_watch_with_what_is_no_lock_object(kind: str, body: dict[str, Any]) -> None:
    """An event about something that cannot be the lock object is an `ApiError`."""
    async with lock_on(streamed(event(kind, body))) as (lock, _):
        with pytest.raises(ApiError):
            await watched(lock)


@pytest.mark.parametrize(
    "answer",
    [answered({"code": 410}, 410), streamed(event("ERROR", {"code": 410})), http(410, b"<html>gone</html>")],
    ids=["answer", "event", "html"],
)
async def test_watch_from_a_version_that_is_forgotten(answer: bytes) -> None:
    """410 says so, however it comes."""
    async with lock_on(answer) as (lock, _):
        with pytest.raises(GoneError):
            await watched(lock)
