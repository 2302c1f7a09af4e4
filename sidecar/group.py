"""What a candidate sees of the other elections of its group, and how it nudges their leaders.

All of it is optional: an election needs none of these permissions, and whatever fails here never stops one.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sidecar.balance import LockSeen
from sidecar.kube import DENIAL_SECONDS, ApiError, ForbiddenError, NotFoundError, Permission
from sidecar.locks import EndpointsLock, LeaseLock, record_of_lease
from sidecar.record import GROUP_LABEL, LOOK_ANNOTATION, RECORD_ANNOTATION, decimal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.kube import KubeClient

ABSENCE_SECONDS = 10.0
"""Seconds for which a group that has no locks of the other kind is not asked for them again."""

OTHER_KIND_SECONDS = 0.5
"""How long the list of the other kind may take, so that a census does without it rather than fail."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME = 253
"""Characters of the name of an object (RFC 1123 subdomains, as Kubernetes limits them)."""


class Group(Protocol):
    """The elections whose leaders are spread against each other."""

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """Return the group's lock objects, from a cache that may lag behind where `cached`. Raises `ApiError`."""
        ...

    async def nudge(self, lock: str, counter: str) -> None:
        """Ask the leader of the election with a lock of this name to look, the counter being so. Raises `ApiError`."""
        ...

    async def node_of(self, namespace: str, pod: str) -> str:
        """Return the node that a pod runs on, `""` where that cannot be known. Raises `ApiError`."""
        ...


class KindOfGroup(Group, Protocol):
    """Those of them that are on one kind of lock object."""

    @property
    def resource(self) -> str:
        """What RBAC calls this kind of object."""
        ...


class _ListedGroup(ABC):
    """The objects of one kind with the group's label, in one namespace or, with `cluster`, in all of them.

    Where the whole cluster may not be listed, the namespace is. `clock` returns seconds.
    """

    _root: ClassVar[str]
    _resource: ClassVar[str]

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        group: str,
        cluster: bool,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._label = f"{GROUP_LABEL}={group}"
        self._cluster = cluster
        self._log = log
        self._listing_cluster = Permission(clock)
        self._reading_pods = Permission(clock)

    @property
    def resource(self) -> str:
        """What RBAC calls this kind of object."""
        return self._resource

    @abstractmethod
    async def _list(self, path: str, *, cached: bool) -> list[Mapping[str, Any]]:
        """Return what is needed of the objects of a collection."""

    @abstractmethod
    def _annotations(self, item: Mapping[str, Any], annotations: dict[str, str]) -> dict[str, str]:
        """Return these annotations of an object with its record among them."""

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """See `Group.locks`. What is listed and is no lock object is left out: others' objects are input.

        Of one that is listed twice, which no API server does, the last counts: a plan has each election once.
        """
        items = await self._listed(cached=cached)
        return list({lock.name: lock for lock in map(self._seen, items) if lock is not None}.values())

    async def _listed(self, *, cached: bool) -> list[Mapping[str, Any]]:
        refusal: ForbiddenError | None = None
        if self._cluster and not self._listing_cluster.denied:
            try:
                items = await self._list(f"{self._root}/{self._resource}", cached=cached)
            except ForbiddenError as error:
                refusal = error if self._listing_cluster.deny() else None
            else:
                if self._listing_cluster.allow():
                    self._log.info(f"the cluster's {self._resource} may be listed again")
                return items
        items = await self._list(self._collection(self._namespace), cached=cached)
        if refusal is not None:
            self._log.warning(
                f"the cluster's {self._resource} may not be listed: only those in the namespace are counted",
                error=str(refusal),
            )
        return items

    def _collection(self, namespace: str) -> str:
        return f"{self._root}/namespaces/{namespace}/{self._resource}"

    def _seen(self, item: Mapping[str, Any]) -> LockSeen | None:
        metadata = item.get("metadata")
        if not isinstance(metadata, dict):
            return None
        namespace, name = metadata.get("namespace"), metadata.get("name")
        version, annotations = decimal(metadata.get("resourceVersion")), metadata.get("annotations") or {}
        if not (
            _is_name(namespace)
            and _is_name(name)
            and version
            and isinstance(annotations, dict)
            and all(isinstance(value, str) for value in annotations.values())
        ):
            return None
        return LockSeen(name=f"{namespace}/{name}", version=version, annotations=self._annotations(item, annotations))

    async def nudge(self, lock: str, counter: str) -> None:
        """See `Group.nudge`. Two who nudge after having seen the same nudge once."""
        namespace, election = lock.split("/")
        raised = str((decimal(counter) or 0) + 1)
        await self._kube.patch(
            f"{self._collection(namespace)}/{election}", {"metadata": {"annotations": {LOOK_ANNOTATION: raised}}}
        )

    async def node_of(self, namespace: str, pod: str) -> str:
        """See `Group.node_of`. The pod's name is a holder's, which is whatever somebody called itself."""
        if self._reading_pods.denied or not (_is_name(namespace) and _is_name(pod)):
            return ""
        try:
            body = await self._kube.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        except NotFoundError:
            return ""
        except ForbiddenError as error:
            if self._reading_pods.deny():
                self._log.info("pods may not be read: leaders that make no claim are not counted", error=str(error))
            return ""
        if self._reading_pods.allow():
            self._log.info("pods may be read again")
        spec = body.get("spec")
        node = spec.get("nodeName") if isinstance(spec, dict) else None
        return node if isinstance(node, str) else ""


class EndpointsGroup(_ListedGroup):
    """The Endpoints of a group. All that counts is in their metadata."""

    _root = EndpointsLock.root()
    _resource = EndpointsLock.resource

    async def _list(self, path: str, *, cached: bool) -> list[Mapping[str, Any]]:
        return await self._kube.list_metadata(path, label=self._label, cached=cached)

    def _annotations(self, _item: Mapping[str, Any], annotations: dict[str, str]) -> dict[str, str]:
        return annotations


class LeaseGroup(_ListedGroup):
    """The Leases of a group. They are small, and listed whole, for the record is in their spec."""

    _root = LeaseLock.root()
    _resource = LeaseLock.resource

    async def _list(self, path: str, *, cached: bool) -> list[Mapping[str, Any]]:
        return await self._kube.list_objects(path, label=self._label, cached=cached)

    def _annotations(self, item: Mapping[str, Any], annotations: dict[str, str]) -> dict[str, str]:
        try:
            text, _ = record_of_lease(item.get("spec"))
        except ApiError:
            text = None
        others = {key: value for key, value in annotations.items() if key != RECORD_ANNOTATION}
        return others if text is None else {**others, RECORD_ANNOTATION: text}


class MixedGroup:
    """A group whose elections are partly on `own`'s kind of lock object and partly on the `other`'s.

    The other kind never stands in the way: where there is nothing of it, or it may not be listed, it is left alone for
    a while, and whatever its list fails with, the census is of what is left. An election that is on both counts once,
    as the object says that was written last.
    """

    def __init__(
        self,
        own: KindOfGroup,
        other: KindOfGroup,
        *,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._other = other
        self._log = log
        self._clock = clock
        self._not_before = float("-inf")
        self._is_failing = False
        self._on_other: frozenset[str] = frozenset()
        """The names of those that were counted on the other kind."""

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """See `Group.locks`. The two kinds are listed at the same time."""
        others = asyncio.create_task(self._others(cached=cached))
        try:
            counted = {lock.name: lock for lock in await self._own.locks(cached=cached)}
        except BaseException:
            others.cancel()
            raise
        on_other = {lock.name: lock for lock in await others if lock.version > _version_of(counted.get(lock.name))}
        self._on_other = frozenset(on_other)
        return [*(counted | on_other).values()]

    async def _others(self, *, cached: bool) -> list[LockSeen]:
        now = self._clock()
        if now < self._not_before:
            return []
        try:
            async with asyncio.timeout(OTHER_KIND_SECONDS):
                found = await self._other.locks(cached=cached)
        except ForbiddenError as error:
            self._not_before = now + DENIAL_SECONDS
            self._fail(f"{self._other.resource} may not be listed: elections on them are not counted", error)
            return []
        except (ApiError, TimeoutError) as error:
            self._fail(f"{self._other.resource} cannot be listed: elections on them are not counted meanwhile", error)
            return []
        if self._is_failing:
            self._is_failing = False
            self._log.info(f"{self._other.resource} can be listed again")
        if not found:
            self._not_before = now + ABSENCE_SECONDS
        return found

    def _fail(self, what: str, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.info(what, error=str(error) or "no answer in time")

    async def nudge(self, lock: str, counter: str) -> None:
        """See `Group.nudge`. Nudged is the object that was counted."""
        await (self._other if lock in self._on_other else self._own).nudge(lock, counter)

    async def node_of(self, namespace: str, pod: str) -> str:
        """See `Group.node_of`."""
        return await self._own.node_of(namespace, pod)


def _version_of(lock: LockSeen | None) -> int:
    return lock.version if lock is not None else 0


def _is_name(text: object) -> bool:
    """Tell whether an object can have this name; nothing else may become a part of a path."""
    return isinstance(text, str) and len(text) <= _LONGEST_NAME and _SUBDOMAIN.fullmatch(text) is not None
