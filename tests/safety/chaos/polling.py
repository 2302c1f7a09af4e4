"""Asks every process many times a second who leads, and keeps what it says as runs of like answers.

It asks from outside, over HTTP, as anybody would, over one connection to each process. So a process that is stopped
finds a question there when it goes on. What it answers first is what it would have told anybody at that moment, and
is not taken for older than that: see `resumed`.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.testbed.monitor import EVERY

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which a question counts as not answered: longer than any process is stopped."""

LONGEST_GAP = 0.25
"""Seconds between two answers beyond which they prove nothing about the time between them.

Within it nobody hands a lock over, and gets it back.
"""

FRESH_SECONDS = 0.25
"""For how long an answer says what a process says at present."""

TOKEN_EVERY = 1.0
"""Seconds after which a process that names itself is asked for its fencing token again."""

LONGEST_ANSWER = 2**20
"""Bytes of an answer that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The process that is asked."""

    process: str
    """Unique to the process."""
    election: str
    identity: str
    port: int
    tells_tokens: bool
    """Whether it has a `/status`; a peer has none."""


@dataclass(slots=True, kw_only=True)
class Run:
    """Answers in a row that name the same; `None` for questions without an answer.

    Instants are of `time.monotonic`. The first answer was made between `sent` and `begin`, the last between `end` and
    `received`, with no two more than `LONGEST_GAP` apart. Of a single answer `end` is before `begin`.
    """

    process: str
    election: str
    identity: str
    name: str | None
    sent: float
    begin: float
    end: float
    received: float
    count: int = 1
    token: int | None = None
    """The fencing token of the term in which the process named itself, where it told one."""

    def line(self) -> dict[str, Any]:
        """Return it for the history file."""
        return asdict(self)

    @property
    def is_own(self) -> bool:
        """Tell whether the process named itself."""
        return self.name == self.identity


class Poller:
    """Asks processes, from `watch` to `leave`, and knows how late it was itself. `async with` it.

    `keep` is called with every run once it is over.
    """

    def __init__(self, keep: Callable[[Run], None]) -> None:
        self._keep = keep
        self._open: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._resumed: dict[str, float] = {}
        self._ticking: asyncio.Task[None] | None = None
        self.late = 0.0
        """Seconds by which this process went on too late, in sum: a busy machine's doing, hardly the candidates'."""
        self.questions = 0
        self.answers = 0
        """To questions that followed upon an answer."""
        self.attentive = 0.0
        """Seconds, added over the processes, in which they answered: what the rate of questions is reckoned from."""

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks.values(), *([self._ticking] if self._ticking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in [*self._open]:
            self._close(name)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error

    def watch(self, asked: Asked) -> None:
        """Ask this process from now on."""
        self._tasks[asked.process] = asyncio.create_task(self._ask(asked))

    async def leave(self, process: str) -> None:
        """Ask it no more: it has ended."""
        task = self._tasks.pop(process)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._close(process)
        if not task.cancelled() and (error := task.exception()):
            raise error

    def resumed(self, process: str, instant: float) -> None:
        """Know that the process was stopped up to this instant, for long enough that nothing it said before is unread.

        What comes from it now was said after that, however long ago it was asked.
        """
        self._resumed[process] = instant

    def is_watching(self, process: str) -> bool:
        """Tell whether it is asked."""
        return process in self._tasks

    def now(self, process: str) -> Run | None:
        """Return what it says at present; None when it has not said anything just now."""
        run = self._open.get(process)
        return run if run is not None and time.monotonic() - run.received < FRESH_SECONDS else None

    def open_runs(self) -> list[Run]:
        """Return the runs that are not over."""
        return [*self._open.values()]

    @property
    def rate(self) -> float:
        """Answers a second and process, over the time in which processes answered."""
        return self.answers / self.attentive if self.attentive else 0.0

    def check(self) -> None:
        """Raise what went wrong in the asking itself."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _tick(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            self.late += max(0.0, now - before - 2 * EVERY)
            before = now

    async def _ask(self, asked: Asked) -> None:
        while True:
            with suppress(OSError, EOFError):
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection("127.0.0.1", asked.port, limit=LONGEST_ANSWER)
                try:
                    await self._ask_over(asked, reader, writer)
                finally:
                    writer.transport.abort()
            now = time.monotonic()
            self._said(asked, None, now, now)
            await asyncio.sleep(EVERY)

    async def _ask_over(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask until the connection ends, or an answer stays out. Raises OSError, with it TimeoutError, or EOFError."""
        told_at = 0.0
        while True:
            sent = time.monotonic()
            name = str((await _exchange(reader, writer, "/"))["name"])
            received = time.monotonic()
            self._said(asked, name, sent, received)
            run = self._open[asked.process]
            if asked.tells_tokens and run.is_own and (run.token is None or received - told_at > TOKEN_EVERY):
                told_at = received
                told = await _exchange(reader, writer, "/status")
                if told["role"] == "leading":
                    self._tokened(asked, int(told["fencing_token"]))
            await asyncio.sleep(max(0.0, sent + EVERY - time.monotonic()))

    def _said(self, asked: Asked, name: str | None, sent: float, received: float) -> None:
        self.questions += 1
        resumed = self._resumed.get(asked.process, 0.0)
        sent = max(sent, resumed)
        run = self._open.get(asked.process)
        if run is not None and name is not None and run.name is not None:
            self.answers += 1
            self.attentive += received - max(run.received, resumed)
        if run is not None and run.name == name and sent - run.received <= LONGEST_GAP:
            run.end, run.received = sent, received
            run.count += 1
            return
        self._close(asked.process)
        self._open[asked.process] = Run(
            process=asked.process,
            election=asked.election,
            identity=asked.identity,
            name=name,
            sent=sent,
            begin=received,
            end=sent,
            received=received,
        )

    def _tokened(self, asked: Asked, token: int) -> None:
        run = self._open[asked.process]
        if run.token is None:
            run.token = token
        elif run.token != token:
            # Another term, with nothing in between that was asked about.
            self._close(asked.process)

    def _close(self, process: str) -> None:
        if (run := self._open.pop(process, None)) is not None:
            self._keep(run)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> dict[str, Any]:
    """Ask one question. Raises OSError, with it TimeoutError, or EOFError."""
    async with asyncio.timeout(PATIENCE):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
        if not head.startswith(b"http/1.1 200 ") or length is None:
            raise ConnectionError(f"not a candidate's answer: {head!r}")
        told: dict[str, Any] = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
        return told
