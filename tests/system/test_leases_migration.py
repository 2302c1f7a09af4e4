"""From Endpoints to Leases and back, by rolling updates of real processes on the real API server.

Everybody is asked all the while, `/` and `/leader`, many times a second. Who says by either that it leads, while
somebody else says so, has broken what the pair of locks is for.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.locks import record_of_lease
from sidecar.record import RECORD_ANNOTATION
from tests.safety.chaos.account import proven
from tests.safety.chaos.polling import Asked, Poller
from tests.safety.history import judge
from tests.testbed.connection import APIError
from tests.testbed.sidecar import PROGRAM, Sidecar, Sidecars, environment, leader_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.safety.chaos.polling import Run
    from tests.testbed.apiserver import PolicyRule, RealAPIServer

pytestmark = pytest.mark.timeout(300)

TTL = "3s"
ELECTION = "example"
PATIENCE = 40.0
"""Seconds until somebody leads: a lease of its own at the worst, and whatever a busy machine adds."""

ENDPOINTS, PAIR, LEASES = "endpoints", "endpointsleases", "leases"

VERBS = ["get", "create", "update", "patch", "list", "watch"]
RULES: tuple[PolicyRule, ...] = (
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": VERBS},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": VERBS},
)
"""In place before the first update begins."""


class RolePoller(Poller):
    """Asks `/leader`: whoever answers 200 is taken to name itself, and whoever answers 503 nobody."""

    async def _ask_over(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            sent = time.monotonic()
            writer.write(b"GET /leader HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            (length,) = (line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            status = head.split()[1]
            if status not in (b"200", b"503"):
                raise ConnectionError(f"not an answer to /leader: {head!r}")
            self._said(asked, asked.identity if status == b"200" else "", sent, time.monotonic())
            await asyncio.sleep(max(0.0, sent + 0.03 - time.monotonic()))


@dataclass
class Fleet:
    """The members of one election, by their identities, and all that any process ever said."""

    server: RealAPIServer
    namespace: str
    kubeconfig: Path
    sidecars: Sidecars
    names: Poller
    roles: Poller
    members: dict[str, Sidecar] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    """What they are called where they are asked: a new one under an old name is another process."""
    started: int = 0
    leaders: int = 0
    """Processes that have led."""
    found: list[str] = field(default_factory=list)
    """Who led at the same time as somebody else, or with a smaller fencing token than somebody before."""

    def start(self, identity: str, lock: str, *, peer: Path | None = None) -> Sidecar:
        """Start a member, as a pod of its own, on locks of a kind; with `peer` that program."""
        self.started += 1
        ours = {"ELECTION_LOCK": lock, "POD_UID": f"uid-{self.started}", "NODE_NAME": f"node-of-{identity}"}
        member = self.sidecars.start(
            election=ELECTION,
            identity=identity,
            namespace=self.namespace,
            ttl=TTL,
            kubeconfig=self.kubeconfig,
            env={} if peer else ours,
            program=peer or PROGRAM,
        )
        self.members[identity] = member
        process = self.processes[identity] = f"{identity}-{self.started}-{'peer' if peer else lock}"
        asked = Asked(
            process=process,
            election=ELECTION,
            identity=identity,
            port=member.port,
            tells_tokens=peer is None,
        )
        self.names.watch(asked)
        if peer is None:
            self.roles.watch(asked)
        return member

    async def leader(self) -> Sidecar:
        """Wait until all members name the same one of them."""
        return await leader_of(self.members.values(), seconds=PATIENCE)

    async def update(self, lock: str, *, peer: Path | None = None, kill_first: bool = False) -> None:
        """Replace the members one by one, under their names, the leader first while it is one of the old.

        Each is told to end; with `kill_first` the first one is killed. After each step somebody leads, and all name it.
        """
        left = set(self.members)
        killed = False
        while left:
            leader = (await self.leader()).identity
            identity = leader if leader in left else min(left)
            left.remove(identity)
            await self.end(identity, kill=kill_first and not killed)
            killed = True
            self.start(identity, lock, peer=peer)
        await self.leader()

    async def end(self, identity: str, *, kill: bool) -> None:
        """End a member, and ask it no more: its port may be somebody else's next."""
        member, process = self.members[identity], self.processes[identity]
        await (member.kill() if kill else member.terminate())
        for poller in (self.names, self.roles):
            if poller.is_watching(process):
                await poller.leave(process)

    def all_lead(self) -> bool:
        """Tell whether all members have said for a while that they lead."""
        runs = self.names.open_runs()
        return len(runs) == len(self.members) and all(run.is_own and run.count > 20 for run in runs)

    async def shown(self) -> list[tuple[str, str]]:
        """Return what `electionctl leaders` shows: lock and state of each election."""
        program = await asyncio.create_subprocess_exec(
            PROGRAM.with_name("electionctl"),
            *("leaders", "-n", self.namespace, "--json"),
            env=environment(self.kubeconfig.parent, {"KUBECONFIG": str(self.kubeconfig)}),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await program.communicate()
        return [(one["lock"], one["state"]) for one in json.loads(out)["elections"]]

    # -- The lock objects --

    async def records(self) -> tuple[str | None, str | None]:
        """Return the text of the record on the Endpoints, and of the one that the Lease's spec is."""
        endpoints = await self._object("/api/v1", "endpoints")
        lease = await self._object("/apis/coordination.k8s.io/v1", "leases")
        annotations = endpoints.get("metadata", {}).get("annotations", {})
        return annotations.get(RECORD_ANNOTATION), record_of_lease(lease.get("spec"))[0]

    async def _object(self, api: str, resource: str) -> dict[str, Any]:
        path = f"{api}/namespaces/{self.namespace}/{resource}/{ELECTION}"
        try:
            found: dict[str, Any] = await asyncio.to_thread(self.server.request, "GET", path)
        except APIError as error:
            if error.reason != "NotFound":
                raise
            return {}
        return found

    async def agreeing(self) -> None:
        """Wait until both lock objects have the same record."""

        async def agree() -> bool:
            endpoints, lease = await self.records()
            return endpoints is not None and endpoints == lease

        await until(agree, "both lock objects agree", seconds=PATIENCE, every=0.05)

    async def renewing(self, lock: str) -> None:
        """See the lock object of this kind renewed three times, and the other one not at all."""
        mine = (ENDPOINTS, LEASES).index(lock)
        seen: set[tuple[str | None, str | None]] = set()

        async def renewed() -> bool:
            seen.add(await self.records())
            return len({records[mine] for records in seen}) > 3

        await until(renewed, f"the {lock} are renewed", seconds=PATIENCE, every=0.1)
        assert len({records[1 - mine] for records in seen}) == 1


@asynccontextmanager
async def fleet_of(server: RealAPIServer, sidecars: Sidecars) -> AsyncIterator[Fleet]:
    """Hold an election; when the block has ended well, the fleet's `found` says what must not be in its history."""
    namespace = await asyncio.to_thread(server.namespace)
    kubeconfig = await asyncio.to_thread(server.kubeconfig_for, "candidate", RULES, namespace=namespace)
    said: list[Run] = []
    async with Poller(said.append) as names, RolePoller(said.append) as roles:
        fleet = Fleet(server, namespace, kubeconfig, sidecars, names, roles)
        yield fleet
        names.check()
        roles.check()
    served = proven(run for run in said if run.is_own)
    fleet.found = judge(served)
    fleet.leaders = len({span.process for span in served})


@pytest.mark.parametrize("way", [(ENDPOINTS, PAIR, LEASES), (LEASES, PAIR, ENDPOINTS)], ids=["there", "back"])
async def test_a_fleet_moves(real_api_server: RealAPIServer, sidecars: Sidecars, way: tuple[str, str, str]) -> None:
    """Three members are updated to the pair and then to the other kind: never two leaders, and one after each step.

    Under the pair both lock objects have one record. Before and after it only one of them is renewed. Fencing tokens
    grow all the way. One of the pair's leaders is killed, so that both records are still held when others take over.
    """
    first, pair, last = way
    async with fleet_of(real_api_server, sidecars) as fleet:
        for identity in ("web-0", "web-1", "web-2"):
            fleet.start(identity, first)
        await fleet.leader()
        await fleet.renewing(first)
        await fleet.update(pair)
        await fleet.agreeing()
        assert await fleet.shown() == [(pair, "leading")]
        await fleet.update(last, kill_first=True)
        await fleet.renewing(last)

        async def is_shown() -> bool:
            return await fleet.shown() == [(last, "leading")]

        await until(is_shown, f"the election is shown to be on {last} alone", seconds=PATIENCE, every=0.2)
    assert fleet.found == []
    assert fleet.leaders > 2


@pytest.mark.parametrize("lock", [ENDPOINTS, LEASES])
async def test_others_beside_the_pair(
    real_api_server: RealAPIServer, sidecars: Sidecars, clientgo_peer: Path, clientgo_lease_peer: Path, lock: str
) -> None:
    """Candidates that know one kind only, as the stock image or client-go's, are updated to the pair and back.

    They end without a release, and come back under their names.
    """
    peer = clientgo_peer if lock == ENDPOINTS else clientgo_lease_peer
    async with fleet_of(real_api_server, sidecars) as fleet:
        for identity in ("web-0", "web-1"):
            fleet.start(identity, lock, peer=peer)
        await fleet.update(PAIR)
        await fleet.agreeing()
        await fleet.update(lock, peer=peer)
    assert fleet.found == []
    # One of the pair's and one of the others', at least: who takes over in between is up to luck, and a leader that is
    # replaced at once is not seen for long enough to be proven.
    assert fleet.leaders > 1


async def test_nobody_skips_the_pair(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """Candidates of one kind beside those of the other have a leader each: that is found here, and shown to operators.

    It is what the pair is for, and what this judge must not miss. Updated to the pair, they have one leader again.
    """
    async with fleet_of(real_api_server, sidecars) as fleet:
        for identity, lock in (("web-0", ENDPOINTS), ("web-1", LEASES)):
            await fleet.start(identity, lock).leading()
        await until(fleet.all_lead, "both lead for a while")
        assert await fleet.shown() == [(PAIR, "divided")]
        for identity in ("web-1", "web-0"):
            await fleet.end(identity, kill=False)
            fleet.start(identity, PAIR)
            await fleet.leader()
        await fleet.agreeing()
    assert fleet.found != []
