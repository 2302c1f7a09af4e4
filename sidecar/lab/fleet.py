"""Real sidecar processes, one for each pod of a placement, started and ended together.

Each runs as it would in its pod: told by variables only, as the downward API sets them, and known by its port and its
log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from sidecar.lab.placement import Pod

INHERITED = frozenset({"ELECTION_BALANCE", "ELECTION_REBALANCE", "ELECTION_BALANCE_SLOT", "ELECTION_LOG_LEVEL"})
"""Variables of the sidecar that whoever starts the laboratory may set; others would change what is shown."""

STARTING, RUNNING, KILLED, TERMINATED = "starting", "running", "killed", "terminated"
"""What a sidecar is: started, answering, or ended by the signal that it was sent."""

_ENDS = {signal.SIGKILL: KILLED, signal.SIGTERM: TERMINATED}

LOG_LINES = 3
"""Lines of one log that are quoted; the last ones."""


@dataclass(slots=True, eq=False)
class Sidecar:
    """One sidecar process. `state` is what it was last known to be; times are the event loop's."""

    pod: Pod
    variables: Mapping[str, str]
    log: Path
    process: subprocess.Process
    state: str = STARTING
    ended_at: float = 0.0
    """When it was sent the signal that ends it."""
    port: int = 0
    """Where it answers; 0 until `find_port` has found it in the log."""

    @property
    def lives(self) -> bool:
        """Tell whether it was not sent a signal that ends it."""
        return self.state in (STARTING, RUNNING)

    def find_port(self) -> int:
        """Return the port that it told in its log, 0 when it has not told it yet."""
        if not self.port:
            for line in self.log.read_text(errors="replace").splitlines(keepends=True):
                # The last line may not be whole yet.
                if '"ports"' in line and line.endswith("\n"):
                    self.port = json.loads(line)["ports"][0]
        return self.port

    def end(self, how: signal.Signals) -> None:
        """Send the signal that ends it."""
        self.state, self.ended_at = _ENDS[how], asyncio.get_running_loop().time()
        if self.process.returncode is None:
            self.process.send_signal(how)

    def last_words(self) -> list[str]:
        """Return the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [f"{self.pod.identity}: {line}" for line in lines[-LOG_LINES:]]


class Fleet:
    """The sidecars of one namespace. Whatever happens in the block, none of them outlives it."""

    def __init__(self, folder: Path, kubeconfig: Path, *, namespace: str, ttl: str, balance: bool = True) -> None:
        self.sidecars: list[Sidecar] = []
        """In the order in which they were started, the ended ones included."""
        self._folder = folder
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith("ELECTION_")}
        self._variables |= {name: os.environ[name] for name in INHERITED & os.environ.keys()}
        self._variables |= {
            "KUBECONFIG": str(kubeconfig),
            "ELECTION_NAMESPACE": namespace,
            "ELECTION_TTL": ttl,
            # Any free port; which one it is, the log tells.
            "ELECTION_HTTP": "127.0.0.1:0",
        }
        if not balance:
            self._variables["ELECTION_BALANCE"] = "off"

    async def start(self, pods: Iterable[Pod]) -> list[Sidecar]:
        """Start a sidecar for each pod, all at once, and return them; none of them need answer yet."""
        return [await self._start(pod) for pod in pods]

    @property
    def living(self) -> list[Sidecar]:
        """The sidecars that were not told to end."""
        return [sidecar for sidecar in self.sidecars if sidecar.lives]

    async def close(self) -> None:
        """Kill what still runs, and wait until nothing does."""
        for sidecar in self.sidecars:
            if sidecar.process.returncode is None:
                sidecar.end(signal.SIGKILL)
        for sidecar in self.sidecars:
            await sidecar.process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self, pod: Pod) -> Sidecar:
        number = len(self.sidecars) + 1
        told = {
            "ELECTION_NAME": pod.election,
            "POD_NAME": pod.identity,
            # A pod that is made again has its old name, and a UID of its own.
            "POD_UID": f"{pod.identity}-uid-{number}",
            "NODE_NAME": pod.node,
        }
        log = self._folder / f"{self._variables['ELECTION_NAMESPACE']}-{number}.log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sidecar",
                env=self._variables | told,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        sidecar = Sidecar(pod, told, log, process)
        self.sidecars.append(sidecar)
        return sidecar
