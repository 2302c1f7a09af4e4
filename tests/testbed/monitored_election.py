"""One election for a fault test: its candidates as processes, its lock object, and a monitor over all of it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from tests.testbed.monitor import Monitor
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from tests.testbed.apiserver import PolicyRule, RealAPIServer
    from tests.testbed.embedded import APIServer
    from tests.testbed.sidecar import Sidecar, Sidecars

RULES: tuple[PolicyRule, ...] = (
    {
        "apiGroups": [""],
        "resources": ["endpoints"],
        "verbs": ["get", "create", "update", "watch", "list", "patch"],
    },
)
"""What a candidate may do on its lock object."""

ELECTION = "example"


@dataclass(kw_only=True)
class MonitoredElection:
    """One election among processes. Made by `monitored_election`.

    `ttl` is in seconds, whole ones; the other times are what the program derives from it.
    """

    namespace: str
    kubeconfig: Path
    ttl: int
    monitor: Monitor
    candidates: list[Sidecar] = field(default_factory=list)
    _sidecars: Sidecars

    @property
    def renew_deadline(self) -> float:
        """Seconds that a leader leads after its last renewal."""
        return self.ttl * 2 / 3

    @property
    def retry_period(self) -> float:
        """Seconds between two renewals."""
        return self.ttl / 4

    @property
    def request_timeout(self) -> float:
        """Seconds that a request may take."""
        return (self.renew_deadline - self.retry_period) / 2

    def start(
        self, identity: str, *, pod_uid: str = "", kubeconfig: Path | None = None, flags: Iterable[str] = ()
    ) -> Sidecar:
        """Start a candidate, under the monitor's eyes."""
        candidate = self._sidecars.start(
            election=ELECTION,
            identity=identity,
            namespace=self.namespace,
            ttl=f"{self.ttl}s",
            kubeconfig=kubeconfig or self.kubeconfig,
            flags=flags,
            env={"POD_UID": pod_uid or f"uid-of-{identity}", "NODE_NAME": f"node-of-{identity}"},
        )
        self.candidates.append(candidate)
        self.monitor.watch(candidate)
        return candidate

    def start_many(self, count: int, *, kubeconfig: Path | None = None) -> list[Sidecar]:
        """Start candidates `pod-0`, `pod-1` and so on."""
        return [self.start(f"pod-{number}", kubeconfig=kubeconfig) for number in range(count)]

    def leader(self, among: Iterable[Sidecar] | None = None, *, since: float = 0.0) -> Sidecar | None:
        """Return the one who leads, by the last answers of those `among`, when all agree; else None.

        Who does not run has no say; an answer to what was asked before `since` counts for none.
        """
        asked = [one for one in (self.candidates if among is None else among) if one.is_running()]
        named = {one: self.monitor.last(one, since=since) for one in asked}
        leading = [one for one in asked if named[one] == one.identity]
        agreed = len(leading) == 1 and set(named.values()) == {leading[0].identity}
        return leading[0] if agreed else None

    async def settled(self, among: Iterable[Sidecar] | None = None, *, seconds: float = 20) -> Sidecar:
        """Wait until exactly one of those `among` leads and the others name it, asked from now on; return it."""
        asked = list(self.candidates if among is None else among)
        since = time.monotonic()
        found: list[Sidecar] = []

        def agreed() -> bool:
            leader = self.leader(asked, since=since)
            found[:] = [leader] if leader else []
            return bool(found)

        await until(agreed, "exactly one leads and all name it", seconds=seconds)
        return found[0]

    async def nobody(self, among: Iterable[Sidecar] | None = None, *, seconds: float = 20) -> None:
        """Wait until every one of those `among` names nobody, asked from now on."""
        asked = list(self.candidates if among is None else among)
        since = time.monotonic()
        await until(
            lambda: all(self.monitor.last(one, since=since) == "" for one in asked),
            "all name nobody",
            seconds=seconds,
            every=0.005,
        )

    def others(self, *named: Sidecar) -> list[Sidecar]:
        """Return the running candidates but those named."""
        return [one for one in self.candidates if one not in named and one.is_running()]


@asynccontextmanager
async def monitored_election(
    server: APIServer, sidecars: Sidecars, *, ttl: int = 3
) -> AsyncIterator[MonitoredElection]:
    """Hold an election on a server, in a namespace of its own.

    When the block ends well, no two candidates may have named themselves at once.
    """
    namespace = await asyncio.to_thread(server.namespace)
    kubeconfig = await asyncio.to_thread(server.kubeconfig_for, "candidate", RULES, namespace=namespace)
    async with Monitor() as monitor:
        yield MonitoredElection(
            namespace=namespace, kubeconfig=kubeconfig, ttl=ttl, monitor=monitor, _sidecars=sidecars
        )
        assert monitor.at_once() == []


@dataclass(frozen=True)
class LockObject:
    """The lock object of an election on a real server, in the hands of its administrator. Every call is a coroutine.

    What asks the server raises APIError where there is no object, and KeyError where it has no record.
    """

    server: RealAPIServer
    namespace: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/api/v1/namespaces/{self.namespace}/endpoints/{ELECTION}"

    async def create(self, annotations: dict[str, str] | None = None, **content: object) -> Any:  # noqa: ANN401 - JSON
        """Create it, with `labels` and whatever else belongs into it; return it."""
        metadata = {"name": ELECTION, "annotations": annotations or {}, "labels": content.pop("labels", {})}
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, **content}
        return await asyncio.to_thread(self.server.request, "POST", self.path.rpartition("/")[0], body)

    async def everything(self) -> Any:  # noqa: ANN401 - JSON
        """Return all of it."""
        return await asyncio.to_thread(self.server.request, "GET", self.path)

    async def text(self) -> str:
        """Return the text in the record's place."""
        return str((await self.everything())["metadata"]["annotations"][RECORD_ANNOTATION])

    async def record(self) -> dict[str, Any]:
        """Return the leader election record."""
        found: dict[str, Any] = json.loads(await self.text())
        return found

    async def merge(self, metadata: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Merge this into its metadata, where None removes; return all of it."""
        return await asyncio.to_thread(
            self.server.request,
            "PATCH",
            self.path,
            {"metadata": metadata},
            content_type="application/merge-patch+json",
        )

    async def annotate(self, text: str | None, *, claim: str | None = "") -> Any:  # noqa: ANN401 - JSON
        """Put a text in the record's place, None for nothing; and in the claim's, which `""` leaves alone.

        Returns all of it.
        """
        annotations = {RECORD_ANNOTATION: text} | ({CLAIM_ANNOTATION: claim} if claim != "" else {})
        return await self.merge({"annotations": annotations})

    async def delete(self) -> None:
        """Delete it."""
        await asyncio.to_thread(self.server.request, "DELETE", self.path)

    async def renewed(self) -> float:
        """Wait for the next renewal; return an instant of `time.monotonic` that came before it was applied."""
        before = await self.record()
        unchanged_at = time.monotonic()

        async def changed() -> bool:
            nonlocal unchanged_at
            asked_at = time.monotonic()
            if await self.record() != before:
                return True
            unchanged_at = asked_at
            return False

        await until(changed, "the record is renewed")
        return unchanged_at
