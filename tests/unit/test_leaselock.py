"""The Lease: what its spec says in the terms of a record, and what is sent to the API server in its place."""

from __future__ import annotations

import copy
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes_asyncio.client import Configuration

from sidecar.kube import ApiError, KubeClient
from sidecar.locks import LeaseLock, record_of_lease
from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, RECORD_ANNOTATION, Claim, Record, UnreadableRecord
from tests.unit.wire import Wire, answered, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COLLECTION = "/apis/coordination.k8s.io/v1/namespaces/apps/leases"
RECORD = Record(
    holder="a",
    lease_seconds=10,
    acquire_time="2024-05-01T10:00:00Z",
    renew_time="2024-05-01T10:00:05Z",
    transitions=3,
)
CLAIM = Claim(holder="a", node="n1", pod_uid="u", renewed=RECORD.renew_time)
SPEC = {
    "holderIdentity": "a",
    "leaseDurationSeconds": 10,
    "acquireTime": "2024-05-01T10:00:00.000000Z",
    "renewTime": "2024-05-01T10:00:05.000000Z",
    "leaseTransitions": 3,
}
LEASE = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {
        "name": "example",
        "namespace": "apps",
        "uid": "0b5",
        "resourceVersion": "41",
        "labels": {"app": "example"},
        "annotations": {"other": "x"},
    },
    "spec": {**SPEC, "holderIdentity": "b", "strategy": "OldestEmulationVersion", "preferredHolder": "c", "new": [1]},
    "newerField": {"kept": True},
}


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust nobody by default: loading the machine's authorities takes longer than any of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@asynccontextmanager
async def lock_on(*answers: bytes, group: str = "") -> AsyncIterator[tuple[LeaseLock, Wire]]:
    """Return a lock, and the server that gives it these answers."""
    async with wire(*answers) as server:

        async def load() -> Configuration:
            configuration = Configuration()
            configuration.host = server.url
            return configuration

        kube = KubeClient(load, timeout=5, user_agent="t")
        try:
            yield LeaseLock(kube, namespace="apps", election="example", group=group), server
        finally:
            await kube.close()


# -- Reading -----------------------------------------------------------------------------------------------------------


def test_what_was_written_reads_back_as_it_was_sent() -> None:
    """A spec in whole seconds is the record that it was written for, with the very text."""
    assert record_of_lease(SPEC) == (RECORD.encode(), RECORD)


def test_fractions_of_a_second_stay() -> None:
    """client-go writes microseconds: two renewals within a second are two."""
    first, second = (
        record_of_lease({**SPEC, "renewTime": f"2024-05-01T10:00:05.{digits}Z"}) for digits in ("123456", "123457")
    )
    assert isinstance(first[1], Record)
    assert first[1].renew_time == "2024-05-01T10:00:05.123456Z"
    assert first[0] != second[0]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"holderIdentity": None},
        {"holderIdentity": ""},
        {"leaseDurationSeconds": 10, "leaseTransitions": 2},
        {"holderIdentity": "", "acquireTime": None, "renewTime": None, "leaseDurationSeconds": 1},
        {"strategy": "OldestEmulationVersion"},
    ],
)
def test_a_lease_that_nobody_holds_and_nobody_gave_up(spec: dict[str, Any] | None) -> None:
    """No holder and no times: there is no record, as on Endpoints without the annotation."""
    assert record_of_lease(spec) == (None, None)


@pytest.mark.parametrize("holder", [None, ""])
def test_a_lease_that_was_given_up(holder: str | None) -> None:
    """No holder, and times: a release, whoever wrote it, with a count that goes on."""
    text, record = record_of_lease({**SPEC, "holderIdentity": holder, "leaseDurationSeconds": 1})
    expected = replace(RECORD, holder="", lease_seconds=1)
    assert (text, record) == (expected.encode(), expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"leaseDurationSeconds": None}, "leaseDurationSeconds"),
        ({"leaseDurationSeconds": 0}, "leaseDurationSeconds"),
        ({"leaseDurationSeconds": -1}, "leaseDurationSeconds"),
        ({"leaseDurationSeconds": 86_401}, "leaseDurationSeconds"),
        ({"leaseDurationSeconds": "10"}, "leaseDurationSeconds"),
        ({"holderIdentity": 7}, "holderIdentity"),
        ({"holderIdentity": "x" * 1025}, "holderIdentity"),
    ],
)
def test_a_lease_that_cannot_be_read(change: dict[str, Any], reason: str) -> None:
    """What cannot decide who leads counts as held by somebody, and every change of it shows."""
    text, record = record_of_lease({**SPEC, **change})
    assert isinstance(record, UnreadableRecord)
    assert reason in record.reason
    later, _ = record_of_lease({**SPEC, **change, "renewTime": "2024-05-01T10:00:06.000000Z"})
    assert text is not None
    assert text != later


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"acquireTime": None, "renewTime": None}, {"acquire_time": "", "renew_time": ""}),
        ({"acquireTime": 7}, {"acquire_time": ""}),
        ({"leaseTransitions": None}, {"transitions": 0}),
        ({"leaseTransitions": -1}, {"transitions": 0}),
        ({"leaseTransitions": 2**31 - 1}, {"transitions": 0}),
        ({"leaseDurationSeconds": 86_400}, {"lease_seconds": 86_400}),
        ({"strategy": "x", "preferredHolder": "y"}, {}),
    ],
)
def test_what_decides_nothing_is_forgiven(change: dict[str, Any], expected: dict[str, Any]) -> None:
    """Missing times, odd counts and fields of others do not make a Lease unreadable."""
    record = replace(RECORD, **expected)
    assert record_of_lease({**SPEC, **change}) == (record.encode(), record)


@pytest.mark.parametrize("spec", [[], "x", 7, True])
def test_what_is_no_spec(spec: object) -> None:
    """A spec that is no object is no answer of an API server."""
    with pytest.raises(ApiError):
        record_of_lease(spec)


# -- Writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", "g"])
async def test_everything_else_in_the_lease_stays(group: str) -> None:
    """An update sends back what was read, unknown fields included, with the record in the spec and the claim set."""
    async with lock_on(answered(LEASE), group=group) as (lock, server):
        base = await lock.fetch()
        assert base is not None
        before = copy.deepcopy(dict(base.body))
        await lock.write(base, RECORD, CLAIM, {"other": None, "more": "y"})
        assert base.body == before
    expected: dict[str, Any] = copy.deepcopy(LEASE)
    expected["spec"] |= SPEC
    expected["metadata"]["annotations"] = {CLAIM_ANNOTATION: CLAIM.encode(), "more": "y"}
    if group:
        expected["metadata"]["labels"][GROUP_LABEL] = group
    assert json.loads(server.asked[1].body) == expected
    assert [(asked.method, asked.target) for asked in server.asked] == [
        ("GET", f"{COLLECTION}/example"),
        ("PUT", f"{COLLECTION}/example"),
    ]


async def test_create_makes_the_least_lease() -> None:
    """A Lease that is created has a name, the record in its spec, and the claim; no annotation for the record."""
    async with lock_on(answered(LEASE, 201)) as (lock, server):
        await lock.write(None, RECORD, CLAIM, {})
    assert (server.asked[0].method, server.asked[0].target) == ("POST", COLLECTION)
    assert json.loads(server.asked[0].body) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "example", "namespace": "apps", "annotations": {CLAIM_ANNOTATION: CLAIM.encode()}},
        "spec": SPEC,
    }


@pytest.mark.parametrize(
    ("time", "written"),
    [
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00.000000Z"),
        ("2024-05-01T10:00:00.123456Z", "2024-05-01T10:00:00.123456Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
        ("", None),
        ("yesterday", None),
        ("2024-13-01T10:00:00Z", None),
        ("2024-05-01T10:00:00.1Z", None),
        ("2024-05-01T10:00:00+02:00", None),
    ],
)
async def test_times_that_a_lease_can_hold(time: str, written: str | None) -> None:
    """Whole seconds get six digits; what a Lease cannot hold is left out, for the API server would refuse all of it."""
    async with lock_on(answered(LEASE, 201)) as (lock, server):
        await lock.write(None, replace(RECORD, acquire_time=time), CLAIM, {})
    assert json.loads(server.asked[0].body)["spec"].get("acquireTime") == written


async def test_a_record_in_an_annotation_of_a_lease_is_nobody_s() -> None:
    """What decides on a Lease is its spec; an annotation that was copied from Endpoints says nothing, and stays."""
    body: dict[str, Any] = copy.deepcopy(LEASE)
    body["metadata"]["annotations"] = {RECORD_ANNOTATION: RECORD.encode()}
    async with lock_on(answered(body)) as (lock, server):
        base = await lock.fetch()
        assert base is not None
        assert base.holder == "b"
        await lock.write(base, RECORD, CLAIM, {})
    assert RECORD_ANNOTATION in json.loads(server.asked[1].body)["metadata"]["annotations"]
