"""How a record and its claim sit in a Kubernetes object, and how that object is read, written and watched."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, NotFoundError
from sidecar.record import (
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    RECORD_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    UnreadableRecord,
    decimal,
    go_json,
    parse_claim,
    parse_record,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from sidecar.kube import KubeClient, WatchEvent


PAIR_ANNOTATION = "leader-elector/pair"
"""The text of the record that it stands beside, when that was written to two lock objects; see `sidecar.pairlock`."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The watch has shown everything up to `version`."""

    version: int


LockEvent = Changed | Deleted | Bookmark


class Lock(Protocol):
    """One lock object. Everything raises `ApiError`."""

    @property
    def resource(self) -> str:
        """What RBAC calls this kind of object."""
        ...

    async def fetch(self) -> Snapshot | None:
        """Return the lock object as it is now, `None` when there is none."""
        ...

    @property
    def name(self) -> str:
        """The namespace and the name of the lock object, `namespace/name`."""
        ...

    async def write(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> Snapshot:
        """Replace `base`'s record and claim (create the object where `base` is `None`); return the result.

        The annotations in `others` are set, or with `None` removed, by the same write. Raises `ConflictError` or
        `NotFoundError` when the object is not `base` any more. Whatever else is in the object stays.
        """
        ...

    async def annotate(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """Set these annotations, and remove those that are `None`, whatever else happens to the object; return it.

        Raises `NotFoundError` when there is no lock object, `ForbiddenError` when patches are not allowed.
        """
        ...

    async def swap(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """Do what `annotate` does with a read and a compare-and-swap, which need no further permission.

        Raises `NotFoundError` when there is no lock object, `ConflictError` when it changed between the two.
        """
        ...

    def watch(self, version: int, seconds: int) -> AbstractAsyncContextManager[AsyncIterator[LockEvent]]:
        """Watch from `version` on, for at most `seconds`; the block is entered once the watch is accepted."""
        ...


class _ObjectLock(ABC):
    """One object named after the election, whatever its kind. What else is in it is sent back as it came.

    Every write labels it with `group`, unless that is empty.
    """

    resource: ClassVar[str]
    api_version: ClassVar[str]
    kind: ClassVar[str]

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        election: str,
        group: str = "",
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._election = election
        self._collection = f"{self.root()}/namespaces/{namespace}/{self.resource}"
        self._path = f"{self._collection}/{election}"
        self._labels = {GROUP_LABEL: group} if group else {}

    @classmethod
    def root(cls) -> str:
        """Return the path of the API that serves this kind."""
        return f"/apis/{cls.api_version}" if "/" in cls.api_version else f"/api/{cls.api_version}"

    @property
    def name(self) -> str:
        """See `Lock.name`."""
        return f"{self._namespace}/{self._election}"

    @abstractmethod
    def snapshot(self, body: Mapping[str, Any]) -> Snapshot:
        """Return what an object of this kind says. Raises `ApiError` for what is none."""

    @abstractmethod
    def _annotations(self, record: Record) -> Mapping[str, str]:
        """Return the part of a record that stands in annotations."""

    @abstractmethod
    def _content(self, body: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
        """Return the part of a record that stands elsewhere, with what is there beside it."""

    async def fetch(self) -> Snapshot | None:
        """See `Lock.fetch`."""
        try:
            return self.snapshot(await self._kube.get(self._path))
        except NotFoundError:
            return None

    async def write(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> Snapshot:
        """See `Lock.write`."""
        written = {
            PAIR_ANNOTATION: None,
            **others,
            **self._annotations(record),
            CLAIM_ANNOTATION: claim.encode() if claim else None,
        }
        if base is not None:
            return await self._replace({**base.body, **self._content(base.body, record)}, written)
        fresh = {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"name": self._election, "namespace": self._namespace},
        }
        fresh |= self._content(fresh, record)
        return self.snapshot(await self._kube.create(self._collection, self._merged(fresh, written)))

    async def annotate(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.annotate`."""
        metadata = {"annotations": annotations, **({"labels": self._labels} if self._labels else {})}
        return self.snapshot(await self._kube.patch(self._path, {"metadata": metadata}))

    async def swap(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.swap`."""
        return await self._replace(self.snapshot(await self._kube.get(self._path)).body, annotations)

    async def _replace(self, body: Mapping[str, Any], annotations: Mapping[str, str | None]) -> Snapshot:
        return self.snapshot(await self._kube.update(self._path, self._merged(body, annotations)))

    def _merged(self, body: Mapping[str, Any], annotations: Mapping[str, str | None]) -> dict[str, Any]:
        """Return `body` with the group's label and these annotations set, and those that are `None` gone."""
        metadata = body["metadata"]
        merged = {**(metadata.get("annotations") or {}), **annotations}
        changed = {"annotations": {key: value for key, value in merged.items() if value is not None}}
        if self._labels:
            changed["labels"] = {**(metadata.get("labels") or {}), **self._labels}
        return {**body, "metadata": {**metadata, **changed}}

    @asynccontextmanager
    async def watch(self, version: int, seconds: int) -> AsyncIterator[AsyncIterator[LockEvent]]:
        """See `Lock.watch`."""
        async with self._kube.watch(self._collection, name=self._election, version=version, seconds=seconds) as events:
            yield self._lock_events(events)

    async def _lock_events(self, events: AsyncIterator[WatchEvent]) -> AsyncIterator[LockEvent]:
        async for event in events:
            match event.kind:
                case "ADDED" | "MODIFIED":
                    yield Changed(self.snapshot(event.body))
                case "DELETED":
                    yield Deleted(_version(event.body))
                case "BOOKMARK":
                    yield Bookmark(_version(event.body))


class EndpointsLock(_ObjectLock):
    """The stock image's lock: two annotations on an Endpoints object, which may be a Service's own."""

    resource = "endpoints"
    api_version = "v1"
    kind = "Endpoints"

    def snapshot(self, body: Mapping[str, Any]) -> Snapshot:
        """See `_ObjectLock.snapshot`."""
        text = _annotations_of(body).get(RECORD_ANNOTATION)
        return _snapshot(body, text, None if text is None else parse_record(text))

    def _annotations(self, record: Record) -> Mapping[str, str]:
        return {RECORD_ANNOTATION: record.encode()}

    def _content(self, _body: Mapping[str, Any], _record: Record) -> Mapping[str, Any]:
        return {}


class LeaseLock(_ObjectLock):
    """client-go's lock of today: the spec of a Lease. The claim, and all the rest of ours, stand in annotations.

    The record's text, by which changes are told, is what would stand in the annotation of an Endpoints object.
    """

    resource = "leases"
    api_version = "coordination.k8s.io/v1"
    kind = "Lease"

    def snapshot(self, body: Mapping[str, Any]) -> Snapshot:
        """See `_ObjectLock.snapshot`."""
        return _snapshot(body, *record_of_lease(body.get("spec")))

    def _annotations(self, _record: Record) -> Mapping[str, str]:
        return {}

    def _content(self, body: Mapping[str, Any], record: Record) -> Mapping[str, Any]:
        written = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.lease_seconds,
            "acquireTime": _with_microseconds(record.acquire_time),
            "renewTime": _with_microseconds(record.renew_time),
            "leaseTransitions": record.transitions,
        }
        spec = {**(body.get("spec") or {}), **written}
        return {"spec": {key: value for key, value in spec.items() if value is not None}}


def record_of_lease(spec: object) -> tuple[str | None, Record | UnreadableRecord | None]:
    """Return the record in the spec of a Lease and its text, `None` when there is none. Raises `ApiError`.

    A spec without a holder and without times is what a Lease has that nobody has held; a release has times.
    """
    if spec is None:
        return None, None
    if not isinstance(spec, dict):
        raise ApiError("the lock object's spec is not an object")
    holder, acquired, renewed = (spec.get(key) for key in ("holderIdentity", "acquireTime", "renewTime"))
    if not holder and not acquired and not renewed:
        return None, None
    fields = {
        "holderIdentity": holder,
        "leaseDurationSeconds": spec.get("leaseDurationSeconds"),
        "acquireTime": _in_whole_seconds(acquired),
        "renewTime": _in_whole_seconds(renewed),
        "leaderTransitions": spec.get("leaseTransitions"),
    }
    record = parse_record(go_json(fields))
    return record.encode() if isinstance(record, Record) else go_json(spec), record


_MICRO_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z")
"""Times of a Lease have six digits after the point (Kubernetes' `metav1.MicroTime`), times of a record mostly none."""


def _in_whole_seconds(time: object) -> object:
    """Return a time of a Lease as a record has it: what is written in whole seconds reads back as it was written."""
    return f"{time.removesuffix('.000000Z')}Z" if isinstance(time, str) and time.endswith(".000000Z") else time


def _with_microseconds(time: str) -> str | None:
    """Return a time of a record as a Lease can hold it, `None` for whatever is no time in UTC."""
    found = _MICRO_TIME.fullmatch(time)
    if found is None:
        return None
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return None
    return time if found[1] else f"{time.removesuffix('Z')}.000000Z"


def _snapshot(body: Mapping[str, Any], text: str | None, record: Record | UnreadableRecord | None) -> Snapshot:
    annotations = _annotations_of(body)
    if not isinstance(_metadata(body).get("labels") or {}, dict):
        raise ApiError("the lock object's labels are not strings by name")
    return Snapshot(
        version=_version(body),
        text=text,
        record=record,
        claim=parse_claim(annotations.get(CLAIM_ANNOTATION)),
        body=body,
    )


def _annotations_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    annotations = _metadata(body).get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise ApiError("the lock object's annotations are not strings by name")
    return annotations


def _version(body: Mapping[str, Any]) -> int:
    """Return the resourceVersion, which is a growing decimal number (Kubernetes API concepts, since 1.35)."""
    text = _metadata(body).get("resourceVersion")
    version = decimal(text)
    if version is None:
        raise ApiError(f"the lock object's resourceVersion is not a number: {str(text)[:100]!r}")
    return version


def _metadata(body: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        raise ApiError("what the API server sent as the lock object has no metadata")
    return metadata
