"""What a candidate sees of the other elections of its group, and how it nudges their leaders.

All of it is optional: an election needs none of these permissions, and whatever fails here never stops one.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.balance import LockSeen
from sidecar.kube import ForbiddenError, NotFoundError, Permission
from sidecar.record import GROUP_LABEL, LOOK_ANNOTATION, decimal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.kube import KubeClient

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


class EndpointsGroup:
    """The Endpoints objects with the group's label, in one namespace or, with `cluster`, in all of them.

    Where the whole cluster may not be listed, the namespace is. `clock` returns seconds.
    """

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

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """See `Group.locks`. What is listed and is no lock object is left out: others' objects are input.

        Of one that is listed twice, which no API server does, the last counts: a plan has each election once.
        """
        items = await self._listed(cached=cached)
        return list({lock.name: lock for lock in map(_seen, items) if lock is not None}.values())

    async def _listed(self, *, cached: bool) -> list[Mapping[str, Any]]:
        if self._cluster and not self._listing_cluster.denied:
            try:
                items = await self._kube.list_metadata("/api/v1/endpoints", label=self._label, cached=cached)
            except ForbiddenError as error:
                if self._listing_cluster.deny():
                    self._log.warning(
                        "the cluster's endpoints may not be listed: leaders are spread within the namespace only",
                        error=str(error),
                    )
            else:
                if self._listing_cluster.allow():
                    self._log.info("the cluster's endpoints may be listed again")
                return items
        return await self._kube.list_metadata(_endpoints(self._namespace), label=self._label, cached=cached)

    async def nudge(self, lock: str, counter: str) -> None:
        """See `Group.nudge`. Two who nudge after having seen the same nudge once."""
        namespace, election = lock.split("/")
        raised = str((decimal(counter) or 0) + 1)
        await self._kube.patch(
            f"{_endpoints(namespace)}/{election}", {"metadata": {"annotations": {LOOK_ANNOTATION: raised}}}
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


def _endpoints(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/endpoints"


def _seen(item: Mapping[str, Any]) -> LockSeen | None:
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
    return LockSeen(name=f"{namespace}/{name}", version=version, annotations=annotations)


def _is_name(text: object) -> bool:
    """Tell whether an object can have this name; nothing else may become a part of a path."""
    return isinstance(text, str) and len(text) <= _LONGEST_NAME and _SUBDOMAIN.fullmatch(text) is not None
