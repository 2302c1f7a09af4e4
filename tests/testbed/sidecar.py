"""Candidates as processes under test: the real program, or a peer that takes the same flags.

Everything that waits is a coroutine with a deadline, so that an embedded API server in the test's own loop goes on
answering. What is asked goes over a plain connection, so that a test sees every byte of the answer.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.testbed import processes
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

PROGRAM = Path(sysconfig.get_path("scripts"), "leader-elector")
"""The program, as it is installed beside the Python that runs the tests."""

PATIENCE = 20.0
"""Seconds until a condition that was waited for counts as missed. Far more than any of them takes."""

ANSWER_SECONDS = 2.0
"""Seconds that a question over HTTP may take."""

LIMIT = 2**20
"""Bytes of an answer that are read."""


async def until(
    condition: Callable[[], object | Awaitable[object]], what: str, *, seconds: float = PATIENCE, every: float = 0.01
) -> None:
    """Ask until the answer is true. Fails the test, saying `what` did not happen, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last: {answer!r})")
        await asyncio.sleep(every)


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that says nothing but `variables`: not the developer's cluster, not a pod's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(folder), **variables}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer over HTTP. Header names are in lower case; `raw` is everything that came."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Answer:
        """Read what came over the connection. Raises ConnectionError when that is no whole answer."""
        head, blank, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        protocol, _, rest = lines[0].partition(" ")
        if not blank or not protocol.startswith("HTTP/1."):
            raise ConnectionError(f"no HTTP answer: {raw[:100]!r}")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return cls(status=int(rest[:3]), headers=headers, body=body, raw=raw)

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body."""
        return json.loads(self.body)


async def exchange(host: str, port: int, sent: bytes) -> bytes:
    """Send bytes over a connection of their own and return all that comes until it is closed.

    Raises OSError; TimeoutError, which is one, after `ANSWER_SECONDS`.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            received = b""
            with suppress(ConnectionResetError, BrokenPipeError):
                writer.write(sent)
                await writer.drain()
            # What was answered before a reset has been received all the same.
            with suppress(ConnectionResetError):
                while len(received) < LIMIT and (part := await reader.read(2**16)):
                    received += part
            return received
        finally:
            writer.transport.abort()


class Sidecar:
    """A running candidate. `Sidecars` starts the program; `command` may be any other that answers `/`.

    The constructor starts it; `start` does again what it did, on the same port.
    """

    def __init__(
        self, command: Sequence[str | Path], *, folder: Path, identity: str, port: int, env: Mapping[str, str]
    ) -> None:
        self.command = command
        self.identity = identity
        self.port = port
        self.env = env
        self.log = folder / f"{Path(command[0]).name}-{identity or 'unnamed'}-{port}.log"
        self.start()

    # -- The process --

    def start(self) -> None:
        """Start the process, the first time or after it ended; its log goes on."""
        self.process = processes.start(self.command, log=self.log, env=self.env)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def is_running(self) -> bool:
        """Tell whether the process has not ended."""
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self.process.send_signal(number)

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Wait until the process has ended and return its status, which is `-N` after signal N."""
        await until(lambda: not self.is_running(), f"{self.identity} ends", seconds=seconds, every=0.002)
        return self.process.wait()

    async def terminate(self) -> int:
        """Send SIGTERM, wait for the end, return the status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.signal(signal.SIGKILL)
        await self.ended()

    def close(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()

    # -- What it says over HTTP --

    async def ask(self, path: str = "/", method: str = "GET", *, body: bytes = b"", host: str = "127.0.0.1") -> Answer:
        """Send one request and return the answer. Raises OSError when there is none in time."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{self.port}\r\n{length}Connection: close\r\n\r\n"
        return Answer.parse(await exchange(host, self.port, head.encode() + body))

    async def leader_name(self) -> str | None:
        """Return whom `/` names, `""` when nobody, None when nothing answers in time."""
        try:
            return str((await self.ask()).json()["name"])
        except OSError:
            return None

    async def names_itself(self) -> bool:
        """Tell whether `/` names this candidate."""
        return await self.leader_name() == self.identity

    async def status(self) -> dict[str, Any]:
        """Return what `/status` tells. Raises OSError when there is no answer in time."""
        told: dict[str, Any] = (await self.ask("/status")).json()
        return told

    async def answering(self, seconds: float = PATIENCE) -> None:
        """Wait until `/` is answered."""

        async def answered() -> bool:
            return await self.leader_name() is not None

        await until(answered, f"{self.identity} answers", seconds=seconds)

    async def naming(self, name: str, seconds: float = PATIENCE) -> None:
        """Wait until `/` names `name`, which may be `""`."""

        async def named() -> bool:
            return await self.leader_name() == name

        await until(named, f"{self.identity} names {name!r}", seconds=seconds)

    async def leading(self, seconds: float = PATIENCE) -> None:
        """Wait until `/` names this candidate."""
        await self.naming(self.identity, seconds)

    # -- What it logs --

    def output(self) -> str:
        """Return all that was written to standard output and standard error, of every start."""
        return self.log.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Return the log's lines that are whole JSON objects."""
        found: list[dict[str, Any]] = []
        for line in self.output().splitlines():
            with suppress(ValueError):
                parsed = json.loads(line)
                if isinstance(parsed, dict):
                    found.append(parsed)
        return found

    def logged(self, text: str) -> list[dict[str, Any]]:
        """Return the log's lines that have `text` in any of their fields."""
        return [line for line in self.lines() if any(text in str(value) for value in line.values())]

    async def logging(self, text: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for a line with `text` in any of its fields and return the first."""
        await until(lambda: self.logged(text), f"{self.identity} logs {text!r}", seconds=seconds)
        return self.logged(text)[0]


async def leader_of(candidates: Iterable[Sidecar], *, seconds: float = PATIENCE) -> Sidecar:
    """Wait until all of them name the same one of them, and return it."""
    members = {candidate.identity: candidate for candidate in candidates}
    names: set[str | None] = set()

    async def agreed() -> bool:
        nonlocal names
        names = {await member.leader_name() for member in members.values()}
        return len(names) == 1 and names <= set(members)

    await until(agreed, "all name one of them", seconds=seconds)
    return members[str(names.pop())]


class Sidecars:
    """Starts candidates and keeps them, so that all of them can be ended whatever happened."""

    def __init__(self, folder: Path) -> None:
        self.started: list[Sidecar] = []
        self._folder = folder

    def start(
        self,
        *,
        election: str = "",
        identity: str = "",
        namespace: str = "",
        ttl: str = "",
        kubeconfig: Path | None = None,
        flags: Iterable[str] = (),
        http: str | None = "127.0.0.1:{port}",
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        program: Path = PROGRAM,
    ) -> Sidecar:
        """Start the program, or a peer with its flags, on a free port. What is empty is not given as a flag.

        `http` is the flag's form, None for no flag; `env` is added to a clean environment.
        """
        port = port or free_port()
        given = {"election": election, "id": identity, "election-namespace": namespace, "ttl": ttl}
        command = [str(program), *(f"--{flag}={value}" for flag, value in given.items() if value)]
        if http is not None:
            command.append(f"--http={http.format(port=port)}")
        sidecar = Sidecar(
            [*command, *flags],
            folder=self._folder,
            identity=identity,
            port=port,
            env=environment(self._folder, {**({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}), **(env or {})}),
        )
        self.started.append(sidecar)
        return sidecar

    def close(self) -> None:
        """End all of them at once, and print the ends of their logs: pytest shows them with a test that failed."""
        for sidecar in self.started:
            sidecar.close()
        for sidecar in self.started:
            sys.stdout.write(f"-- {sidecar.log.name}\n{processes.tail(sidecar.log, lines=40)}\n")
