"""Where a scenario takes place: a namespace of its own, under observation, that is removed with all that is in it."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster import manifests
from tests.cluster.manifests import APPLICATION, SIDECAR
from tests.cluster.observer import EVERY, observing
from tests.cluster.opening import LABEL
from tests.testbed.cluster import ClusterError
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.cluster.manifests import Application, Image
    from tests.cluster.observer import Observer, Pod
    from tests.cluster.opening import Ground
    from tests.testbed.cluster import Cluster

LEASE = 10.0
"""Seconds: the ttl that every user has who sets none."""
RETRY_PERIOD = LEASE / 4
"""Seconds after which a follower asks that hears nothing."""

SOON = LEASE / 2
"""Seconds without a leader that no lease that has to run out can explain, however busy the machine is."""

LONG_LEASE = 120
"""Seconds. Who leads within one second of a release has then neither waited for the lease, nor asked by chance."""

TOLD = (
    ("get", "pods", "--output=wide"),
    ("get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp"),
    ("get", "endpoints", "--output=yaml"),
    ("logs", f"--selector={APPLICATION}", f"--container={SIDECAR}", "--prefix", "--tail=30", "--max-log-requests=50"),
)
"""What is told of a namespace in which something failed."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A namespace of a cluster, and what is seen there. Made by `staged`."""

    ground: Ground
    namespace: str
    seen: Observer

    @property
    def cluster(self) -> Cluster:
        """The cluster that the namespace is in."""
        return self.ground.cluster

    async def kubectl(self, *arguments: str) -> str:
        """Run a kubectl command in the namespace; return what it prints."""
        return await asyncio.to_thread(self.cluster.kubectl, "--namespace", self.namespace, *arguments)

    async def apply(self, *given: Application, rbac: str = "recommended", image: Image | None = None) -> None:
        """Apply applications, and one of the three steps of permissions; `image` is not the one under test."""
        documents = await asyncio.to_thread(
            manifests.applications, self.cluster, image or self.ground.image, given, namespace=self.namespace, rbac=rbac
        )
        await asyncio.to_thread(manifests.apply, self.cluster, documents)

    async def apply_example(self) -> None:
        """Apply the example, in this namespace and with the images of the tests."""
        example = await asyncio.to_thread(manifests.example, self.cluster, self.ground.image, namespace=self.namespace)
        await asyncio.to_thread(manifests.apply, self.cluster, example)

    async def replaced(self, application: Application, pods: Sequence[Pod]) -> Pod:
        """Wait until all these pods of an application are gone, and others are ready; return the one that leads."""
        await until(
            lambda: all(pod.deleted for pod in pods), f"all pods of {application.name} are replaced", seconds=90
        )
        return await self.led(application)

    async def led(self, application: Application) -> Pod:
        """Wait until all pods of an application are ready, and all their sidecars name one of them; return that one."""
        pods = await self.seen.ready(application.replicas, application.name)
        return await self.seen.agreed(application.election, pods)


@asynccontextmanager
async def staged(ground: Ground, *, every: float = EVERY) -> AsyncIterator[Stage]:
    """Make a namespace for the block, removed when it ends; every sidecar is asked `every` so many seconds.

    When the block ends well, no two sidecars may have named themselves at once.
    """
    name = f"{LABEL}-{secrets.token_hex(3)}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: ground.run}}}
    await asyncio.to_thread(manifests.apply, ground.cluster, [made])
    try:
        async with observing(ground.cluster, name, every=every) as seen:
            yield Stage(ground=ground, namespace=name, seen=seen)
            assert seen.at_once() == []
    except BaseException:
        await asyncio.to_thread(_tell, ground.cluster, name)
        raise
    finally:
        await asyncio.to_thread(ground.cluster.kubectl, "delete", "namespace", name, "--wait=false")


def _tell(cluster: Cluster, namespace: str) -> None:
    """Print what is in a namespace where something failed; pytest shows it with the test."""
    for command in TOLD:
        with suppress(ClusterError):
            told = cluster.kubectl("--namespace", namespace, *command)
            sys.stderr.write(f"-- kubectl {shlex.join(command)}\n{told}\n")
