"""The lock objects of one election, by kind, and which of them there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.kube import ForbiddenError
from sidecar.lab.commandline import CommandError
from sidecar.locks import EndpointsLock, LeaseLock

if TYPE_CHECKING:
    from sidecar.kube import KubeClient
    from sidecar.locks import Lock
    from sidecar.record import Snapshot

ENDPOINTS, LEASES, AUTO = "endpoints", "leases", "auto"
"""What a command can be told to look at. `AUTO`: whatever there is."""

API_GROUPS = {ENDPOINTS: "", LEASES: "coordination.k8s.io"}
"""What RBAC calls the API group of each kind."""


def locks_of(kube: KubeClient, kind: str, *, namespace: str, election: str) -> list[Lock]:
    """Return the locks that an election may have."""
    locks: list[Lock] = []
    if kind in (AUTO, ENDPOINTS):
        locks.append(EndpointsLock(kube, namespace=namespace, election=election))
    if kind in (AUTO, LEASES):
        locks.append(LeaseLock(kube, namespace=namespace, election=election))
    return locks


async def fetch_all(locks: list[Lock]) -> tuple[dict[Lock, Snapshot], dict[str, str]]:
    """Return the lock objects that there are, and what may not be read of them: a text for each resource.

    Raises `ApiError`, and `CommandError` when none of them may be read.
    """
    found: dict[Lock, Snapshot] = {}
    denied: dict[str, str] = {}
    for lock in locks:
        try:
            snapshot = await lock.fetch()
        except ForbiddenError as error:
            namespace = lock.name.partition("/")[0]
            denied[lock.resource] = f"not allowed to get {lock.resource} in namespace {namespace} ({error})"
        else:
            if snapshot is not None:
                found[lock] = snapshot
    if len(denied) == len(locks):
        raise CommandError("; ".join(denied.values()))
    return found, denied
