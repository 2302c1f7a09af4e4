"""Clients of the store that write and read a few keys, and record what they were told: for processes and for pods."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from yarl import URL

from tests.store.history import WRITES, Kind, Operation, Outcome, Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType

    from tests.store.history import History

REQUEST_SECONDS = 15.0
"""Longer than the store takes until it says that the outcome is unknown."""

PAUSE_SECONDS = 0.02
"""Between two operations of one client."""

FAILED_SECONDS = 0.1
"""A client that was refused, or not answered, rests for so long."""

ANSWER_BYTES = 2**17
"""Of an answer that are read."""

IN_STEP_SECONDS = 40.0
"""Until replicas that are not in step are looked at as they are."""

ASK_AGAIN = 0.1
"""Seconds until replicas that are not in step are asked again."""

CERTAIN = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.SERVICE_UNAVAILABLE}  # of writes
)
"""Statuses that say that a write was not done, and never will be."""

SEQUENCE = "Store-Sequence"

KINDS = (Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELETE, Kind.GET, Kind.GET, Kind.CONSISTENT_GET, Kind.CONSISTENT_GET)
"""What a client does next is drawn from these."""


@dataclass(slots=True)
class Target:
    """Where clients send their requests to."""

    url: str
    """Without a slash at the end."""
    process: Callable[[], str | None] = field(default=lambda: None)
    """Which process answers there, unique to the process; None where that is not known, as behind a Service."""


@asynccontextmanager
async def client_session(seconds: float = REQUEST_SECONDS) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve a session whose requests are sent once. aiohttp's own are sent again when a connection breaks, PUTs too."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session:
        session._retry_connection = False
        yield session


async def ask(
    session: aiohttp.ClientSession,
    target: Target,
    kind: Kind,
    key: str,
    value: str | None = None,
    *,
    client: str = "test",
) -> Operation:
    """Do one operation, and return what came of it. Nothing is raised but what cancels the task."""
    process = target.process()
    told: dict[str, Any] = {"outcome": Outcome.UNKNOWN, "told": "cancelled"}
    invoked = time.monotonic()
    try:
        told = await _told(session, target, kind, key, value)
    except aiohttp.ClientConnectorError as error:
        # Nothing was sent.
        told = {"outcome": Outcome.REFUSED, "told": repr(error)}
    except (OSError, aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        told = {"outcome": Outcome.UNKNOWN, "told": repr(error)}
    returned = time.monotonic()
    # A process may have been succeeded by another at the same address meanwhile.
    certain = process if kind is Kind.GET and process == target.process() else None
    about: dict[str, Any] = {"value": value, **told}
    return Operation(client=client, kind=kind, key=key, invoked=invoked, returned=returned, replica=certain, **about)


async def _told(
    session: aiohttp.ClientSession, target: Target, kind: Kind, key: str, value: str | None
) -> dict[str, Any]:
    method = {Kind.PUT: "PUT", Kind.DELETE: "DELETE"}.get(kind, "GET")
    url = URL(f"{target.url}/kv/{key}").update_query({"consistent": "1"} if kind is Kind.CONSISTENT_GET else {})
    body = value.encode() if value is not None else None
    async with session.request(method, url, data=body) as answer:
        received = await _body(answer)
    told = f"{answer.status} {received[:200].decode(errors='replace')}"
    if kind not in WRITES:
        if answer.status == HTTPStatus.OK:
            sequence = answer.headers.get(SEQUENCE)
            read = received.decode(errors="backslashreplace")
            return {"outcome": Outcome.DONE, "value": read, "sequence": int(sequence) if sequence else None}
        return {"outcome": Outcome.DONE if answer.status == HTTPStatus.NOT_FOUND else Outcome.REFUSED, "told": told}
    if answer.status == HTTPStatus.OK:
        said = json.loads(received)
        return {"outcome": Outcome.DONE, "sequence": int(said["sequence"]), "token": int(said["token"])}
    return {"outcome": Outcome.REFUSED if answer.status in CERTAIN else Outcome.UNKNOWN, "told": told}


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """Return all of the body. Raises ValueError where it is too long to be an answer of the store."""
    received = bytearray()
    async for part in answer.content.iter_chunked(2**16):
        received += part
        if len(received) > ANSWER_BYTES:
            raise ValueError(f"an answer of more than {ANSWER_BYTES} bytes")
    return bytes(received)


class Load:
    """Clients that write and read until they are told to stop; what they were told is in the history.

    Each does one thing at a time, at a target that is drawn each time. As a context manager it starts them, and stops
    them at the end of the block: what is under way then is waited for, and recorded. Where the block raises, it is
    broken off, and recorded as unknown.
    """

    def __init__(
        self,
        history: History,
        targets: Sequence[Target],
        *,
        keys: Sequence[str] = ("a", "b", "c", "d", "e"),
        clients: int = 6,
        kinds: Sequence[Kind] = KINDS,
        seconds: float = REQUEST_SECONDS,
        pause: float = PAUSE_SECONDS,
        seed: int = 0,
    ) -> None:
        """Prepare `clients` clients; a request of theirs may take `seconds`, and they rest `pause` seconds after it."""
        self.history = history
        self._targets = targets
        self._keys = keys
        self._clients = clients
        self._kinds = kinds
        self._seconds = seconds
        self._pause = pause
        self._seed = seed
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._acknowledged: list[float] = []
        """When the acknowledged writes were asked for."""
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start the clients."""
        self._tasks = [asyncio.create_task(self._work(number)) for number in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the clients; raises what one of them tripped over."""
        self._stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in ended:
            if error is None and isinstance(one, BaseException):
                raise one

    async def acknowledged(self, *, writes: int = 5, seconds: float = 30) -> float:
        """Wait until so many writes that were asked for from now on are acknowledged, and return how long it took.

        Raises AssertionError after `seconds`.
        """
        began, before = time.monotonic(), len(self._acknowledged)
        try:
            async with asyncio.timeout(seconds):
                while sum(invoked > began for invoked in self._acknowledged[before:]) < writes:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            last = [one for one in self.history.operations if one.kind in WRITES and one.outcome is not Outcome.DONE]
            told = f"; the last one failed: {last[-1]}: {last[-1].told}" if last else ""
            raise AssertionError(f"no {writes} writes were acknowledged within {seconds:g} s{told}") from None
        return time.monotonic() - began

    async def _work(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311 - what is drawn is no secret
        async with client_session(self._seconds) as session:
            while not self._stopping:
                kind = chance.choice(self._kinds)
                value = self.history.unique_value() if kind is Kind.PUT else None
                key, target = chance.choice(self._keys), chance.choice(self._targets)
                outcome = await self._once(session, target, kind, key, value, f"client {number}")
                await asyncio.sleep(self._pause if outcome is Outcome.DONE else max(self._pause, FAILED_SECONDS))

    async def _once(  # noqa: PLR0917 - as `ask` has them
        self, session: aiohttp.ClientSession, target: Target, kind: Kind, key: str, value: str | None, client: str
    ) -> Outcome:
        invoked = time.monotonic()
        try:
            operation = await ask(session, target, kind, key, value, client=client)
        except asyncio.CancelledError:
            about: dict[str, Any] = {"client": client, "kind": kind, "key": key, "value": value, "told": "broken off"}
            self.history.record(Operation(invoked=invoked, returned=time.monotonic(), outcome=Outcome.UNKNOWN, **about))
            raise
        self.history.record(operation)
        if kind in WRITES and operation.outcome is Outcome.DONE:
            self._acknowledged.append(operation.invoked)
            self._news.set()
        return operation.outcome


async def record_end(history: History, replicas: dict[str, Target], *, seconds: float = IN_STEP_SECONDS) -> None:
    """Wait until all replicas are in step, and record what each of them holds of every key that was written.

    Nobody may write meanwhile. Replicas that are not in step after `seconds` are recorded as they are, for the judge to
    find. Raises what asking a replica raises, OSError and aiohttp.ClientError among it.
    """
    deadline = time.monotonic() + seconds
    async with client_session() as session:
        while not await _in_step(session, replicas) and time.monotonic() < deadline:  # noqa: ASYNC110 - in other processes
            await asyncio.sleep(ASK_AGAIN)
        for name, target in replicas.items():
            held = history.final.setdefault(name, {})
            for key in history.written_keys():
                read = await ask(session, target, Kind.GET, key, client=name)
                if read.outcome is not Outcome.DONE:
                    raise OSError(f"{name} did not say what it holds of {key}: {read.told}")
                held[key] = Seen(read.value, read.sequence)


async def _in_step(session: aiohttp.ClientSession, replicas: dict[str, Target]) -> bool:
    """Tell whether all have committed the same, and nothing beyond it is on anybody's disk."""
    at = set()
    for target in replicas.values():
        role = await role_of(session, target)
        if role is None:
            return False
        at |= {role["sequence"], role["committed"]}
    return len(at) == 1


async def role_of(session: aiohttp.ClientSession, target: Target) -> dict[str, Any] | None:
    """Return what `/role` tells; None where there is no answer."""
    try:
        async with session.get(f"{target.url}/role") as answer:
            told: dict[str, Any] = json.loads(await _body(answer))
            return told
    except (OSError, aiohttp.ClientError, ValueError):
        return None


async def is_ready(session: aiohttp.ClientSession, target: Target) -> bool:
    """Tell whether `/readyz` says that the replica has been in step with a leader."""
    try:
        async with session.get(f"{target.url}/readyz") as answer:
            return answer.status == HTTPStatus.OK
    except (OSError, aiohttp.ClientError):
        return False
