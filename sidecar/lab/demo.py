"""The demonstration: three real sidecars elect a leader, lose it twice, and show who leads at every moment.

The sidecars are processes of their own, started with the stock image's flags; only the API server is the embedded one.
Everything that is claimed is checked: what should happen and does not is a `DemoError`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import tempfile
from asyncio import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import aiohttp

from sidecar import duration
from sidecar.lab.apiserver import EmbeddedAPIServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Found = TypeVar("Found")

ELECTION = "demo"
CANDIDATES = ("demo-0", "demo-1", "demo-2")
POLL_SECONDS = 0.02
ROLES_EVERY = 10
"""Rounds of questions between two in which the roles are asked for as well; they are for the eye only."""
ANSWER_SECONDS = 1.0
START_SECONDS = 15.0
"""From the start of three processes until they agree on a leader; they take one or two on an idle machine."""
GRACE_SECONDS = 4.0
"""What a take-over may take beyond what is promised, on a machine that is busy with something else."""
STEADY_PERIODS = 2
"""Retry periods of peace in which requests are counted."""
LOG_LINES = 5


class DemoError(Exception):
    """What should have happened did not."""


@dataclass(slots=True)
class Sidecar:
    """One sidecar process, and what it last answered."""

    identity: str
    port: int
    log: Path
    process: subprocess.Process | None = None
    state: str = "starting"
    answer: str | None = None
    """The name that `/` gave; `None` when it did not answer."""
    role: str = ""

    @property
    def names_itself(self) -> bool:
        """Tell whether its last answer said that it leads."""
        return self.answer == self.identity


@dataclass(slots=True)
class Figures:
    """What was measured, in seconds, and requests a second."""

    first_leader: float = 0.0
    after_sigkill: float = 0.0
    after_sigterm: float = 0.0
    requests: dict[str, float] = field(default_factory=dict)


class Report(Protocol):
    """Where the demonstration says what happens."""

    def show(self, sidecars: list[Sidecar]) -> None:
        """The sidecars as they are now; called often."""

    def tell(self, seconds: float, text: str) -> None:
        """Something happened, so many seconds after the start."""


async def run(report: Report, *, ttl: str) -> Figures:
    """Run the demonstration and return its figures. Raises `DemoError` when something did not happen as promised.

    `ttl` is the lease duration as the flag has it.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leader-elector-demo-")))
        server = await stack.enter_async_context(EmbeddedAPIServer())
        kubeconfig = folder / "kubeconfig"
        server.write_kubeconfig(kubeconfig)
        sidecars = [
            Sidecar(identity, port, folder / f"{identity}.log")
            for identity, port in zip(CANDIDATES, _free_ports(len(CANDIDATES)), strict=True)
        ]
        stage = _Stage(report, sidecars)
        try:
            for sidecar in sidecars:
                await stack.enter_async_context(_running(sidecar, kubeconfig, ttl))
            stage.tell(f"started {len(sidecars)} sidecars: {_command(sidecars[0], ttl)}")
            await stack.enter_async_context(stage.watched())
            return await _play(stage, server, lease=duration.parse(ttl))
        except DemoError as error:
            raise DemoError(f"{error}\n{_last_words(sidecars)}") from error


async def _play(stage: _Stage, server: EmbeddedAPIServer, *, lease: float) -> Figures:
    figures = Figures()
    leader, figures.first_leader = await stage.elected("all agree on a leader", START_SECONDS)
    stage.tell(f"{leader.identity} leads, and all say so")

    await stage.until(lambda: server.open_watches == len(CANDIDATES), "every candidate watches the lock", GRACE_SECONDS)
    # A watch counts once it has shown something; until then a follower reads as well. From between two renewals on,
    # there is one in each retry period.
    renewals = server.requests["update", "endpoints"]
    await stage.until(lambda: server.requests["update", "endpoints"] > renewals, "the leader renews", lease)
    retry_period = lease / 4
    await asyncio.sleep(retry_period / 2)
    before = dict(server.requests)
    peace = STEADY_PERIODS * retry_period
    await asyncio.sleep(peace)
    now = {verb: count - before.get((verb, plural), 0) for (verb, plural), count in server.requests.items()}
    figures.requests = {verb: round(count / peace, 2) for verb, count in now.items() if count}
    stage.tell(f"{peace:g} s of peace: {_told(figures.requests)} a second for this election")

    await stage.end(leader, signal.SIGKILL)
    killed = leader
    leader, figures.after_sigkill = await stage.elected("a follower takes over", lease + GRACE_SECONDS)
    stage.tell(f"{leader.identity} took over {figures.after_sigkill:.2f} s after {killed.identity} was killed")

    terminated = leader
    await stage.end(terminated, signal.SIGTERM)
    leader, figures.after_sigterm = await stage.elected("the last one takes over", GRACE_SECONDS)
    stage.tell(f"{leader.identity} took over {figures.after_sigterm:.3f} s after {terminated.identity} was terminated")
    code = await terminated.process.wait() if terminated.process else None
    if code != 0:
        raise DemoError(f"{terminated.identity} should have exited 0 on SIGTERM; it exited {code}")
    return figures


class _Stage:
    """The sidecars as they are seen from outside, over and over."""

    def __init__(self, report: Report, sidecars: list[Sidecar]) -> None:
        self._report = report
        self._sidecars = sidecars
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._since = self._began
        self._rivals = 0
        self._watching: asyncio.Task[None] | None = None

    def tell(self, text: str) -> None:
        self._report.tell(self._clock() - self._began, text)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Ask every sidecar all the time while the block runs."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session:
            self._watching = asyncio.create_task(self._watch(session))
            try:
                yield
            finally:
                self._watching.cancel()
                await asyncio.wait([self._watching])

    async def end(self, sidecar: Sidecar, how: signal.Signals) -> None:
        """Send a signal to a sidecar; the next `elected` counts from here."""
        self.tell(f"{how.name} to {sidecar.identity}")
        self._since = self._clock()
        sidecar.state = "killed" if how is signal.SIGKILL else "terminated"
        sidecar.answer, sidecar.role = None, ""
        if sidecar.process is not None:
            sidecar.process.send_signal(how)

    async def elected(self, what: str, seconds: float) -> tuple[Sidecar, float]:
        """Wait until every running sidecar names the same running one; return it, and when it first named itself."""
        named_itself_at: dict[str, float] = {}

        def agreed() -> Sidecar | None:
            running = [sidecar for sidecar in self._sidecars if sidecar.state == "running"]
            for sidecar in running:
                if sidecar.names_itself:
                    named_itself_at.setdefault(sidecar.identity, self._clock())
            leaders = [sidecar for sidecar in running if sidecar.names_itself]
            if len(leaders) == 1 and all(sidecar.answer == leaders[0].identity for sidecar in running):
                return leaders[0]
            return None

        leader = await self.until(agreed, what, seconds)
        return leader, round(named_itself_at[leader.identity] - self._since, 3)

    async def until(self, holds: Callable[[], Found | None], what: str, seconds: float) -> Found:
        """Return what `holds` returns as soon as that is true. Raises `DemoError` when it takes longer."""
        deadline = self._clock() + seconds
        while not (found := holds()):
            if self._watching is not None and self._watching.done():
                self._watching.result()
            if self._clock() > deadline:
                raise DemoError(f"after {seconds:g} s this had not happened: {what}")
            await asyncio.sleep(POLL_SECONDS)
        return found

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        for number in itertools.count():
            roles = number % ROLES_EVERY == 0
            await asyncio.gather(*(_ask(session, sidecar, roles=roles) for sidecar in self._sidecars))
            # Two rounds in a row: within one, the old leader may have been asked just before the new one was.
            self._rivals = self._rivals + 1 if sum(sidecar.names_itself for sidecar in self._sidecars) > 1 else 0
            if self._rivals > 1:
                raise DemoError("two sidecars named themselves at once")
            for sidecar in self._sidecars:
                if (
                    sidecar.state in ("starting", "running")
                    and sidecar.process
                    and sidecar.process.returncode is not None
                ):
                    raise DemoError(f"{sidecar.identity} exited {sidecar.process.returncode}")
            self._report.show(self._sidecars)
            await asyncio.sleep(POLL_SECONDS)


async def _ask(session: aiohttp.ClientSession, sidecar: Sidecar, *, roles: bool) -> None:
    if sidecar.state not in ("starting", "running"):
        return
    role = sidecar.role
    try:
        async with session.get(f"http://localhost:{sidecar.port}/") as response:
            name = (await response.json())["name"]
        if roles:
            async with session.get(f"http://localhost:{sidecar.port}/status") as response:
                role = (await response.json())["role"]
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return
    if sidecar.state in ("starting", "running"):
        sidecar.state, sidecar.answer, sidecar.role = "running", name, role


@asynccontextmanager
async def _running(sidecar: Sidecar, kubeconfig: Path, ttl: str) -> AsyncIterator[None]:
    """Run a sidecar's process while the block runs."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ELECTION_")}
    environ |= {"KUBECONFIG": str(kubeconfig), "POD_UID": f"uid-of-{sidecar.identity}"}
    with sidecar.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar", *_flags(sidecar, ttl), env=environ, stderr=log, stdin=subprocess.DEVNULL
        )
    sidecar.process = process
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _flags(sidecar: Sidecar, ttl: str) -> list[str]:
    return [
        f"--election={ELECTION}",
        f"--id={sidecar.identity}",
        "--election-namespace=default",
        f"--ttl={ttl}",
        f"--http=localhost:{sidecar.port}",
    ]


def _command(sidecar: Sidecar, ttl: str) -> str:
    return " ".join(["leader-elector", *_flags(sidecar, ttl)])


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _told(requests: dict[str, float]) -> str:
    return ", ".join(f"{rate:g} {verb}" for verb, rate in sorted(requests.items())) or "no request"


def _last_words(sidecars: list[Sidecar]) -> str:
    """Return the end of each sidecar's log."""
    said = []
    for sidecar in sidecars:
        lines = sidecar.log.read_text(errors="replace").splitlines() if sidecar.log.exists() else []
        said += [f"{sidecar.identity}: {line}" for line in lines[-LOG_LINES:]]
    return "\n".join(said)
