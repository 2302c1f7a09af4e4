"""The lock on an Endpoints object: what is written, what is left alone, what is made of what comes back."""

from __future__ import annotations

import copy
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes_asyncio.client import Configuration

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, KubeClient, NotFoundError
from sidecar.locks import Bookmark, EndpointsLock
from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, RECORD_ANNOTATION, Claim, Record, UnreadableRecord
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
CLAIM = Claim(holder="a", node="n", pod_uid="u", renewed=RECORD.renew_time)
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
async def lock_on(*answers: bytes, group: str = "") -> AsyncIterator[tuple[EndpointsLock, Wire]]:
    """Return a lock, and the server that gives it these answers."""
    async with wire(*answers) as server:

        async def load() -> Configuration:
            configuration = Configuration()
            configuration.host = server.url
            return configuration

        kube = KubeClient(load, timeout=5, user_agent="t")
        try:
            yield EndpointsLock(kube, namespace="apps", election="example", group=group), server
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
        await lock.write(base, RECORD, CLAIM, {})
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
        await lock.write(base, RECORD, CLAIM, {})
        assert base.body == before


async def test_compare_and_swap_names_version_and_uid() -> None:
    """The update carries resourceVersion and uid.

    An Endpoints object that was deleted is made anew by an update, whatever its version, unless the uid says which one
    was meant.
    """
    async with lock_on(answered(SERVICE)) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, CLAIM, {})
    metadata = json.loads(server.asked[1].body)["metadata"]
    assert (metadata["resourceVersion"], metadata["uid"]) == ("41", "0b5")


@pytest.mark.parametrize("annotations", [None, {}, {"other": "x"}])
async def test_annotations_are_made_where_there_are_none(annotations: dict[str, str] | None) -> None:
    """An object without annotations, or with null, gets ours."""
    async with lock_on(answered(changed(annotations=annotations))) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, CLAIM, {})
    sent = json.loads(server.asked[1].body)["metadata"]["annotations"]
    assert sent == {**(annotations or {}), RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode()}


async def test_release_takes_the_claim_away() -> None:
    """A write without a claim removes the annotation, and no other."""
    annotations = {RECORD_ANNOTATION: RECORD.encode(), CLAIM_ANNOTATION: CLAIM.encode(), "other": "x"}
    async with lock_on(answered(changed(annotations=annotations))) as (lock, server):
        base = await lock.fetch()
        await lock.write(base, RECORD, None, {})
    sent = json.loads(server.asked[1].body)["metadata"]["annotations"]
    assert sent == {RECORD_ANNOTATION: RECORD.encode(), "other": "x"}


async def test_create_makes_the_least_object() -> None:
    """A lock object that is created has a name, a namespace and the two annotations."""
    async with lock_on(answered(SERVICE, 201)) as (lock, server):
        await lock.write(None, RECORD, CLAIM, {})
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
        result = await lock.write(await lock.fetch(), RECORD, CLAIM, {})
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
            await lock.write(base, RECORD, CLAIM, {})


@pytest.mark.parametrize("labels", [None, {}, {"app": "example"}, {"app": "example", GROUP_LABEL: "other"}])
async def test_every_write_carries_the_group(labels: dict[str, str] | None) -> None:
    """An update and a create label the lock object with the group; other labels stay, another group's name does not."""
    async with lock_on(answered(changed(labels=labels)), group="g") as (lock, server):
        await lock.write(await lock.fetch(), RECORD, CLAIM, {})
        await lock.write(None, RECORD, CLAIM, {})
    updated, created = (json.loads(asked.body)["metadata"]["labels"] for asked in server.asked[1:])
    assert updated == {**(labels or {}), GROUP_LABEL: "g"}
    assert created == {GROUP_LABEL: "g"}


async def test_without_a_group_labels_stay_as_they_are() -> None:
    """A lock without a group leaves the label that is there, its own of former times included."""
    async with lock_on(answered(SERVICE)) as (lock, server):
        await lock.write(await lock.fetch(), RECORD, CLAIM, {})
    assert json.loads(server.asked[1].body)["metadata"]["labels"] == SERVICE["metadata"]["labels"]


async def test_other_annotations_go_with_the_same_write() -> None:
    """Others are set and removed with the record's write; the record itself never goes."""
    annotations = {"leader-elector/candidate.b": "{}", "leader-elector/candidate.c": "{}", "other": "x"}
    others = {"leader-elector/candidate.b": None, "leader-elector/candidate.d": "new", RECORD_ANNOTATION: None}
    async with lock_on(answered(changed(annotations=annotations))) as (lock, server):
        await lock.write(await lock.fetch(), RECORD, CLAIM, others)
    assert json.loads(server.asked[1].body)["metadata"]["annotations"] == {
        "leader-elector/candidate.c": "{}",
        "leader-elector/candidate.d": "new",
        "other": "x",
        RECORD_ANNOTATION: RECORD.encode(),
        CLAIM_ANNOTATION: CLAIM.encode(),
    }
    assert len(server.asked) == 2


# -- Annotating --------------------------------------------------------------------------------------------------------


WANTED = {"leader-elector/candidate.a": "1", "leader-elector/candidate.b": None}
FORBIDDEN = answered({"message": "cannot patch"}, 403)


@pytest.mark.parametrize(("group", "labels"), [("g", {"labels": {GROUP_LABEL: "g"}}), ("", {})])
async def test_annotations_are_patched(group: str, labels: dict[str, Any]) -> None:
    """One request without a read before it: a patch of these annotations and the group's label, and nothing else."""
    async with lock_on(answered(changed(resourceVersion="42")), group=group) as (lock, server):
        snapshot = await lock.annotate(WANTED)
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("PATCH", PATH)
    assert json.loads(asked.body) == {"metadata": {"annotations": WANTED, **labels}}
    assert (snapshot.version, snapshot.holder) == (42, "b")


async def test_annotations_are_swapped_in() -> None:
    """The object is read, and written back with the annotations changed, if it is still that version."""
    answers = [answered(SERVICE), answered(changed(resourceVersion="42"))]
    async with lock_on(*answers, group="g") as (lock, server):
        snapshot = await lock.swap(WANTED)
    assert snapshot.version == 42
    expected = copy.deepcopy(SERVICE)
    expected["metadata"]["labels"][GROUP_LABEL] = "g"
    expected["metadata"]["annotations"]["leader-elector/candidate.a"] = "1"
    del expected["metadata"]["annotations"]["leader-elector/candidate.b"]
    assert json.loads(server.asked[1].body) == expected
    assert [asked.method for asked in server.asked] == ["GET", "PUT"]
    assert {asked.target for asked in server.asked} == {PATH}


@pytest.mark.parametrize(
    ("how", "answers", "kind"),
    [
        ("annotate", [answered({"message": "none"}, 404)], NotFoundError),
        ("annotate", [FORBIDDEN], ForbiddenError),
        ("annotate", [answered({"message": "busy"}, 429)], ApiError),
        ("annotate", [answered({})], ApiError),
        ("swap", [answered({"message": "none"}, 404)], NotFoundError),
        ("swap", [answered(SERVICE), answered({"message": "none"}, 404)], NotFoundError),
        ("swap", [answered(SERVICE), answered({"message": "changed"}, 409)], ConflictError),
        ("swap", [FORBIDDEN], ForbiddenError),
        ("swap", [answered(SERVICE), FORBIDDEN], ForbiddenError),
        ("swap", [answered({})], ApiError),
    ],
)
async def test_annotations_that_cannot_be_set(how: str, answers: list[bytes], kind: type[ApiError]) -> None:
    """No lock object, no permission, a swap that somebody else won: the caller is told which; nothing is retried."""
    async with lock_on(*answers) as (lock, server):
        with pytest.raises(ApiError) as caught:
            await (lock.annotate(WANTED) if how == "annotate" else lock.swap(WANTED))
    assert type(caught.value) is kind
    assert len(server.asked) == len(answers)


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
        {"metadata": {"resourceVersion": "7", "labels": ["x"]}},
        {"metadata": {"resourceVersion": "7", "labels": "x"}},
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
            await lock.write(None, RECORD, CLAIM, {})


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
