"""The store's replicas as processes under test: each with a real sidecar process, and a folder for its volume."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.store.load import Target, client_session, is_ready, record_end, role_of
from tests.testbed import processes
from tests.testbed.monitored_election import RULES
from tests.testbed.ports import free_ports
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import environment, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    from tests.store.history import History
    from tests.testbed.embedded import APIServer
    from tests.testbed.sidecar import Sidecar, Sidecars

PROGRAM = Path(__file__).parents[2] / "k8s" / "store"
"""Where Python finds the package `store`."""

TTL_SECONDS = 2
"""Of the lease: what is to be outwaited is short."""

PATIENCE = 30.0
"""Seconds until a condition that was waited for counts as missed."""

HEALTH = {"ELECTION_HEALTH_INTERVAL": "300ms", "ELECTION_HEALTH_FAILURES": "2"}
"""How soon a sidecar gives way whose store does not answer."""


class Replica:
    """One replica: the store's process, its sidecar, and its volume, which outlives both."""

    def __init__(self, name: str, *, folder: Path, port: int, env: Mapping[str, str]) -> None:
        self.name = name
        self.volume = folder / name
        self.port = port
        self.env = dict(env)
        self.log = folder / f"{name}.log"
        self.sidecar: Sidecar | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._stopped = False

    @property
    def target(self) -> Target:
        """Where clients reach it."""
        return Target(f"http://127.0.0.1:{self.port}", lambda: f"{self.name}, start {self._starts}")

    def start(self) -> None:
        """Start the store, on the volume as it is."""
        self.volume.mkdir(exist_ok=True)
        self._starts += 1
        self._stopped = False
        self.process = processes.start([sys.executable, "-m", "store"], log=self.log, env=self.env)

    def is_running(self) -> bool:
        """Tell whether the store's process has not ended."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the store a signal; nothing happens when it has ended."""
        assert self.process is not None
        self.process.send_signal(number)
        self._stopped = {signal.SIGSTOP: True, signal.SIGCONT: False}.get(number, self._stopped)

    async def kill(self) -> None:
        """End the store as a crash would."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the store, and return its status."""
        await until(lambda: not self.is_running(), f"the store of {self.name} ends", seconds=PATIENCE)
        assert self.process is not None
        return self.process.wait()

    @contextmanager
    def standing_still(self, *, store: bool = True, sidecar: bool = True) -> Iterator[None]:
        """Stop processes while the block runs: both, as a machine does that is suspended, or one of them."""
        assert self.sidecar is not None
        stopped: list[Replica | Sidecar] = [*([self] if store else []), *([self.sidecar] if sidecar else [])]
        for one in stopped:
            one.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for one in stopped:
                one.signal(signal.SIGCONT)

    @property
    def peers_url(self) -> str:
        """Where the other replicas reach it."""
        return f"http://127.0.0.1:{self.env['REPLICATION_PORT']}"

    def lose_volume(self) -> None:
        """Make the volume as new. The store must not run."""
        assert not self.is_running()
        shutil.rmtree(self.volume)

    @property
    def is_awake(self) -> bool:
        """Whether it may be expected to answer."""
        return self.is_running() and not self._stopped

    async def role(self) -> dict[str, Any] | None:
        """Return what it says of itself; None where it does not answer in time."""
        async with client_session(seconds=2) as session:
            return await role_of(session, self.target)

    async def said(self) -> dict[str, Any]:
        """Wait for what it says of itself, and return that."""
        role = None

        async def told() -> bool:
            nonlocal role
            role = await self.role()
            return role is not None

        await until(told, f"{self.name} answers", seconds=PATIENCE)
        assert role is not None
        return role

    async def following(self) -> None:
        """Wait until it says that it follows a leader."""

        async def follows() -> bool:
            role = await self.said()
            return bool(role["role"] == "follower" and role["leader"] not in {None, self.name})

        await until(follows, f"{self.name} follows", seconds=PATIENCE)

    def output(self) -> str:
        """Return all that the store wrote, of every start."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        """End the store, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Network:
    """What lies between the processes of one store, where faults of it are wanted: a proxy for each way."""

    def __init__(self) -> None:
        self._ways: dict[tuple[str, str], Proxy] = {}

    async def way(self, source: str, target: str, port: int) -> int:
        """Lay a way to a port on this machine, and return the port that is its beginning."""
        proxy = Proxy(f"http://127.0.0.1:{port}")
        await proxy.start()
        self._ways[source, target] = proxy
        return proxy.port

    def peers(self, name: str) -> list[Proxy]:
        """Return the ways between a replica and the others, those that it is reached by and those that it takes."""
        return self.inward(name) + [proxy for way, proxy in self._ways.items() if way[0] == name and way[1] not in ENDS]

    def inward(self, name: str) -> list[Proxy]:
        """Return the ways by which the others reach a replica."""
        return [proxy for way, proxy in self._ways.items() if way[1] == name]

    def to(self, name: str, target: str) -> list[Proxy]:
        """Return the way of a replica to `API` or `EVENTS`."""
        return [self._ways[name, target]]

    def heal(self) -> None:
        """End all faults."""
        for proxy in self._ways.values():
            proxy.heal()

    async def close(self) -> None:
        """End everything."""
        for proxy in self._ways.values():
            await proxy.close()


API = "API server"
"""What a sidecar needs to know who leads."""
EVENTS = "sidecar"
"""What a store needs to know who leads."""
ENDS = {API, EVENTS}
"""The ends of ways that are no replicas."""


@contextmanager
def silenced(ways: Sequence[Proxy], *, requests: bool = True, answers: bool = True) -> Iterator[None]:
    """Hold back whatever goes along some ways while the block runs."""
    for way in ways:
        way.silence(requests=requests, answers=answers)
    try:
        yield
    finally:
        for way in ways:
            way.heal()


@dataclass
class Replicas:
    """All replicas of one store."""

    members: list[Replica] = field(default_factory=list)
    network: Network = field(default_factory=Network)

    @classmethod
    async def start(
        cls,
        server: APIServer,
        sidecars: Sidecars,
        folder: Path,
        *,
        count: int = 3,
        log_kept: int = 1000,
        ttl: int = TTL_SECONDS,
        proxied: bool = False,
        program: Path = PROGRAM,
    ) -> Replicas:
        """Start so many replicas, each with its sidecar; with `proxied`, `network` is between all of them.

        `close` ends the stores, and `network.close` the network; the sidecars are not ended.
        """
        namespace = server.namespace()
        made = cls()
        names = [f"store-{number}" for number in range(count)]
        clients, peers, asked = (dict(zip(names, free_ports(count), strict=True)) for _ in range(3))
        for name in names:
            kubeconfig = server.kubeconfig_for("store", RULES, namespace=namespace)
            reached, sidecar = dict(peers), asked[name]
            if proxied:
                for other in set(names) - {name}:
                    reached[other] = await made.network.way(name, other, peers[other])
                sidecar = await made.network.way(name, EVENTS, sidecar)
                await made.network.way(name, API, int(server.url.rpartition(":")[2]))
                kubeconfig = made.network.to(name, API)[0].kubeconfig(kubeconfig)
            variables = {
                "PYTHONPATH": str(program),
                "POD_NAME": name,
                "PEERS": ",".join(f"{peer}=127.0.0.1:{port}" for peer, port in reached.items()),
                "DATA": str(folder / name),
                "HOST": "127.0.0.1",
                "PORT": str(clients[name]),
                "REPLICATION_PORT": str(peers[name]),
                "SIDECAR": f"http://127.0.0.1:{sidecar}",
                "LOG_KEPT": str(log_kept),
            }
            replica = Replica(name, folder=folder, port=clients[name], env=environment(folder, variables))
            made.members.append(replica)
            replica.start()
            replica.sidecar = sidecars.start(
                election="store",
                identity=name,
                namespace=namespace,
                ttl=f"{ttl}s",
                kubeconfig=kubeconfig,
                port=asked[name],
                env={"ELECTION_HEALTH_URL": f"http://127.0.0.1:{replica.port}/healthz", **HEALTH},
            )
        return made

    async def ready(self, *, seconds: float = PATIENCE) -> None:
        """Wait until all are in step with a leader, and so ready for any one of them to fail."""

        async def all_ready() -> bool:
            async with client_session(seconds=2) as session:
                return all([await is_ready(session, member.target) for member in self.members])

        await until(all_ready, "all replicas are ready", seconds=seconds, every=0.05)

    @property
    def targets(self) -> list[Target]:
        """Where clients reach the replicas."""
        return [member.target for member in self.members]

    def others(self, *but: Replica) -> list[Replica]:
        """Return all replicas but these."""
        return [member for member in self.members if member not in but]

    async def leader(self, among: Sequence[Replica] | None = None, *, seconds: float = PATIENCE) -> Replica:
        """Wait until one of them, of all that are awake, takes writes, and return it."""
        found: list[Replica] = []

        async def one_leads() -> bool:
            awake = [member for member in among or self.members if member.is_awake]
            roles = await asyncio.gather(*(member.role() for member in awake))
            leading = [role is not None and role["role"] == "leader" for role in roles]
            found[:] = [member for member, leads in zip(awake, leading, strict=True) if leads]
            return len(found) == 1

        await until(one_leads, "one replica takes writes", seconds=seconds, every=0.05)
        return found[0]

    async def in_step(self, replica: Replica, *, seconds: float = PATIENCE) -> None:
        """Wait until a replica has committed all that the leader has by now."""
        role = await (await self.leader(seconds=seconds)).said()

        async def caught_up() -> bool:
            own = await replica.role()
            return own is not None and own["committed"] >= role["committed"]

        await until(caught_up, f"{replica.name} is in step", seconds=seconds, every=0.05)

    async def record_end(self, history: History) -> None:
        """Record what all of them hold in the end; all have to run, and nobody may write."""
        await record_end(history, {member.name: member.target for member in self.members})

    def close(self) -> None:
        """End all stores, and print the ends of their logs: pytest shows them with a test that failed."""
        for member in self.members:
            member.close()
        for member in self.members:
            sys.stdout.write(f"-- {member.log.name}\n{processes.tail(member.log, lines=40)}\n")
