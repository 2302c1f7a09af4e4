"""The group under attack: elections whose candidates are processes, each with its own way to the API server."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Self

import sidecar
from tests.safety.chaos.polling import Asked, Poller
from tests.testbed.monitored_election import RULES
from tests.testbed.ports import free_port
from tests.testbed.processes import state, tail
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import Sidecar, environment, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.testbed.apiserver import RealAPIServer

NAMES = ("amber", "birch", "cedar", "delta", "ember")
"""What elections are called."""

OWN_PROGRAM = (sys.executable, "-m", "sidecar")
"""The program in the tree that holds these tests."""

TREE = Path(sidecar.__file__).parents[1]

END_SECONDS = 20.0
"""Within which a process that was told to end must have done so, not counting what this process was late."""

READ_SECONDS = 0.02
"""After which a process's answer, which comes over loopback, has certainly been read by a poller that is waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How big the group is, and how fast. `ttl` is in seconds."""

    elections: int = 3
    candidates: int = 4
    nodes: int = 3
    ttl: float = 3


@dataclass(eq=False, kw_only=True)
class Process:
    """One process of a candidate."""

    name: str
    """Unique in the fleet."""
    sidecar: Sidecar
    end_wanted: bool = False
    """Whether it was killed, or told to end."""
    status_wanted: int | None = None
    """What it is to exit with, where that is known."""
    read: int = 0
    """Bytes of its log that were looked through."""


@dataclass(eq=False, kw_only=True)
class Pod:
    """A candidate's pod: its name, where it runs, and its own way to the API server. It outlives its processes."""

    election: str
    identity: str
    node: str
    uid: str
    proxy: Proxy
    kubeconfig: Path
    process: Process | None = None
    harmed: set[str] = field(default_factory=set)
    """The subjects of the faults that are going on with it."""

    @property
    def is_running(self) -> bool:
        """Tell whether it has a process, stopped or not."""
        return self.process is not None and self.process.sidecar.is_running()


class Fleet:
    """A group of elections on one API server. `async with` it: all candidates are started, and ended at the end.

    `program` is what is started, with the sidecar's flags.
    """

    def __init__(
        self,
        server: RealAPIServer,
        folder: Path,
        poller: Poller,
        *,
        shape: Shape | None = None,
        program: Sequence[str] = OWN_PROGRAM,
    ) -> None:
        self.shape = shape or Shape()
        self.elections = NAMES[: self.shape.elections]
        self.pods: list[Pod] = []
        self.processes: list[Process] = []
        self.problems: list[str] = []
        """What must not be, in sentences: processes that ended by themselves, or did not end."""
        self.namespace = ""
        self._server = server
        self._folder = folder
        self._poller = poller
        self._program = program
        self._kubeconfig = Path()
        self._proxies: list[Proxy] = []
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        try:
            self.namespace = await asyncio.to_thread(self._server.namespace)
            self._kubeconfig = await asyncio.to_thread(
                self._server.kubeconfig_for, "candidate", RULES, namespace=self.namespace
            )
            for election, number in product(self.elections, range(self.shape.candidates)):
                self.launch(await self.pod(election, f"{election}-{number}", self.node(number)))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        for process in self.processes:
            process.sidecar.process.kill()
        for process in self.processes:
            process.sidecar.close()
        await asyncio.gather(*(proxy.close() for proxy in self._proxies), return_exceptions=True)

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig that leads to the API server directly."""
        return self._kubeconfig

    # -- Pods and their processes --

    def node(self, number: int) -> str:
        """Return the name of a node."""
        return f"node-{number % self.shape.nodes}"

    async def pod(self, election: str, identity: str, node: str) -> Pod:
        """Make a pod, with a UID of its own; one of the same name has no say in the fleet any more."""
        proxy = Proxy(self._server.url)
        await proxy.start()
        self._proxies.append(proxy)
        pod = Pod(
            election=election,
            identity=identity,
            node=node,
            uid=f"uid-{next(self._numbers)}-of-{identity}",
            proxy=proxy,
            kubeconfig=proxy.kubeconfig(self._kubeconfig),
        )
        self.pods = [*(one for one in self.pods if one.identity != identity), pod]
        return pod

    def launch(self, pod: Pod) -> Process:
        """Start a process of a pod, under the poller's eyes."""
        variables = {
            "KUBECONFIG": str(pod.kubeconfig),
            "POD_UID": pod.uid,
            "NODE_NAME": pod.node,
            # The same tree as these tests', wherever that was copied to.
            "PYTHONPATH": str(TREE),
        }
        pod.process = self.start(self._program, election=pod.election, identity=pod.identity, variables=variables)
        return pod.process

    def start(
        self,
        program: Sequence[str],
        *,
        election: str,
        identity: str,
        variables: dict[str, str],
        is_peer: bool = False,
    ) -> Process:
        """Start a candidate, ours or a peer, under the poller's eyes."""
        port = free_port()
        flags = {
            "election": election,
            "id": identity,
            "election-namespace": self.namespace,
            "ttl": f"{self.shape.ttl:g}s",
            "http": f"127.0.0.1:{port}",
        }
        command = [*program, *(f"--{flag}={value}" for flag, value in flags.items())]
        one = Sidecar(
            command, folder=self._folder, identity=identity, port=port, env=environment(self._folder, variables)
        )
        process = Process(name=f"{identity}/{port}", sidecar=one)
        self.processes.append(process)
        self._poller.watch(
            Asked(process=process.name, election=election, identity=identity, port=port, tells_tokens=not is_peer)
        )
        return process

    def stop(self, process: Process) -> None:
        """Let a process stand still until `resume`."""
        process.sidecar.signal(signal.SIGSTOP)

    async def resume(self, process: Process) -> None:
        """Let a stopped process go on."""
        await until(lambda: state(process.sidecar.pid) in ("T", "Z", ""), f"{process.name} stands", every=0.001)
        # Everything that it said before it stood is read by then, so that the poller knows what it says afterwards.
        await asyncio.sleep(READ_SECONDS)
        self._poller.resumed(process.name, time.monotonic())
        process.sidecar.signal(signal.SIGCONT)

    async def kill(self, process: Process) -> None:
        """End a process at once."""
        process.end_wanted = True
        process.sidecar.signal(signal.SIGKILL)
        await self._ended(process)

    def terminate(self, process: Process) -> None:
        """Tell a process to end; `ended` waits for it."""
        if not process.end_wanted:
            process.status_wanted = 0
        process.end_wanted = True
        process.sidecar.signal(signal.SIGTERM)

    async def ended(self, process: Process) -> None:
        """Wait for the end of a process that was told to; one that does not end in time is a problem, and killed."""
        began, late = time.monotonic(), self._poller.late
        while process.sidecar.is_running():
            if time.monotonic() - began - (self._poller.late - late) > END_SECONDS:
                self.problems.append(f"{process.name} did not end within {END_SECONDS:g} s of SIGTERM")
                process.status_wanted = None
                await self.kill(process)
                return
            await asyncio.sleep(0.01)
        await self._ended(process)

    async def _ended(self, process: Process) -> None:
        await asyncio.to_thread(process.sidecar.process.wait)
        if self._poller.is_watching(process.name):
            await self._poller.leave(process.name)

    # -- Who leads --

    def leader(self, election: str) -> Pod | None:
        """Return a pod of the election that names itself at present."""
        return next((pod for pod in self.members(election) if self._says(pod) == pod.identity), None)

    def members(self, election: str) -> list[Pod]:
        """Return the election's pods."""
        return [pod for pod in self.pods if pod.election == election]

    def agreed(self, election: str, *, since: float) -> Pod | None:
        """Return who leads, when all of its pods run and name that one, by answers to what was asked from `since`."""
        members = self.members(election)
        names = {self._says(pod, since=since) if pod.is_running else None for pod in members}
        return next((pod for pod in members if {pod.identity} == names), None)

    def _says(self, pod: Pod, *, since: float = 0.0) -> str | None:
        run = self._poller.now(pod.process.name) if pod.process is not None else None
        return run.name if run is not None and run.end >= since else None

    def is_balanced(self) -> bool:
        """Tell whether the leaders that there are cannot be spread any better over the nodes of the elections' pods."""
        leaders = [self.leader(election) for election in self.elections]
        if None in leaders:
            return False
        present = _cost(pod.node for pod in leaders if pod is not None)
        choices = [sorted({pod.node for pod in self.members(election)}) for election in self.elections]
        return present == min(_cost(chosen) for chosen in product(*choices))

    def placing(self) -> str:
        """Say who leads where, for messages."""
        leaders = {election: self.leader(election) for election in self.elections}
        return ", ".join(
            f"{election}: {f'{pod.identity} on {pod.node}' if pod else 'nobody'}" for election, pod in leaders.items()
        )

    # -- What must not be --

    def check(self) -> None:
        """Add to `problems` every process that ended by itself or tripped over something, each once."""
        for process in self.processes:
            status = process.sidecar.process.poll()
            if status is not None and not process.end_wanted:
                self.problems.append(
                    f"{process.name} ended by itself, status {status}:\n{tail(process.sidecar.log, lines=5)}"
                )
                process.end_wanted = True
            elif status is not None and process.status_wanted is not None:
                if status != process.status_wanted:
                    self.problems.append(f"{process.name} ended with status {status} after SIGTERM")
                process.status_wanted = None
            if _has_traceback(process):
                self.problems.append(f"{process.name} tripped:\n{tail(process.sidecar.log, lines=25)}")


def _cost(nodes: Iterable[str]) -> int:
    return sum(load**2 for load in Counter(nodes).values())


def _has_traceback(process: Process) -> bool:
    with process.sidecar.log.open("rb") as log:
        log.seek(process.read)
        # A line that is not whole yet is read again.
        text = log.read()
    whole = text[: text.rfind(b"\n") + 1]
    process.read += len(whole)
    return b"Traceback" in whole
