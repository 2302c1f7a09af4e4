"""How a record and its claim sit in a Kubernetes object, and how that object is read, written and watched."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, NotFoundError
from sidecar.record import (
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    RECORD_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    decimal,
    parse_claim,
    parse_record,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from sidecar.kube import KubeClient, WatchEvent


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


class EndpointsLock:
    """The stock image's lock: two annotations on an Endpoints object named after the election.

    The object may be a Service's own Endpoints: what else is in it is sent back as it came. Every write labels it with
    `group`, unless that is empty.
    """

    resource = "endpoints"

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
        self._collection = f"/api/v1/namespaces/{namespace}/endpoints"
        self._path = f"{self._collection}/{election}"
        self._labels = {GROUP_LABEL: group} if group else {}

    @property
    def name(self) -> str:
        """See `Lock.name`."""
        return f"{self._namespace}/{self._election}"

    async def fetch(self) -> Snapshot | None:
        """See `Lock.fetch`."""
        try:
            return _snapshot(await self._kube.get(self._path))
        except NotFoundError:
            return None

    async def write(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> Snapshot:
        """See `Lock.write`."""
        written = {
            **others,
            RECORD_ANNOTATION: record.encode(),
            CLAIM_ANNOTATION: claim.encode() if claim else None,
        }
        if base is not None:
            return await self._replace(base, written)
        fresh = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": self._election, "namespace": self._namespace},
        }
        return _snapshot(await self._kube.create(self._collection, self._merged(fresh, written)))

    async def annotate(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.annotate`."""
        metadata = {"annotations": annotations, **({"labels": self._labels} if self._labels else {})}
        return _snapshot(await self._kube.patch(self._path, {"metadata": metadata}))

    async def swap(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.swap`."""
        return await self._replace(_snapshot(await self._kube.get(self._path)), annotations)

    async def _replace(self, base: Snapshot, annotations: Mapping[str, str | None]) -> Snapshot:
        return _snapshot(await self._kube.update(self._path, self._merged(base.body, annotations)))

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
            yield _lock_events(events)


async def _lock_events(events: AsyncIterator[WatchEvent]) -> AsyncIterator[LockEvent]:
    async for event in events:
        match event.kind:
            case "ADDED" | "MODIFIED":
                yield Changed(_snapshot(event.body))
            case "DELETED":
                yield Deleted(_version(event.body))
            case "BOOKMARK":
                yield Bookmark(_version(event.body))


def _snapshot(body: Mapping[str, Any]) -> Snapshot:
    annotations, labels = (_metadata(body).get(key) or {} for key in ("annotations", "labels"))
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise ApiError("the lock object's annotations are not strings by name")
    if not isinstance(labels, dict):
        raise ApiError("the lock object's labels are not strings by name")
    text = annotations.get(RECORD_ANNOTATION)
    return Snapshot(
        version=_version(body),
        text=text,
        record=None if text is None else parse_record(text),
        claim=parse_claim(annotations.get(CLAIM_ANNOTATION)),
        body=body,
    )


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
