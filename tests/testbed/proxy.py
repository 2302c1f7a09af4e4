"""A TCP proxy between a candidate and its API server, for faults of the network. TLS passes through it unseen.

It runs in the test's own loop. Nothing is lost inside a connection: what is held back flows once it is let through, as
packets do after a cut. A connection that is never let through again is half-open for its client.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.testbed.ports import free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

CHUNK = 2**16
"""Bytes that are read at a time."""

UNDER_WAY = 64
"""Pieces of a direction that are read and not passed on yet; what is beyond waits in the sender's socket."""

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER for a connection that is closed with a reset."""


@dataclass(slots=True, eq=False)
class _Link:
    """One client's connection, and ours to the server. An event that is not set holds its direction back."""

    client: asyncio.StreamWriter
    requests: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.StreamWriter | None = None

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None and not writer.is_closing():
                # Without this the kernel takes leave in order.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                writer.transport.abort()

    def close(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()

    def let(self, *, requests: bool, answers: bool) -> None:
        for event, flows in ((self.requests, requests), (self.answers, answers)):
            if flows:
                event.set()
            else:
                event.clear()


class Proxy:
    """Forwards connections to `url`'s host and port; `async with` it, or `start` and `close`.

    `upstream` may be changed: it counts for new connections.
    With `terminate`, TLS ends here and begins anew: the contexts are those of our listener and of our own connections.
    """

    def __init__(self, url: str, *, terminate: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> None:
        address = urlsplit(url)
        self._scheme = address.scheme
        self._name = address.hostname or ""
        self.upstream = (self._name, address.port or 443)
        self.port = free_port()
        self.accepted = 0
        """Connections that were accepted so far, those that could not be forwarded included."""
        self._terminate = terminate
        self._server: asyncio.Server | None = None
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._new_requests = True
        self._new_answers = True
        self._request_delay = 0.0
        self._answer_delay = 0.0

    @property
    def url(self) -> str:
        """Where it listens, with the scheme of what it forwards to."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._links)

    async def start(self) -> None:
        """Listen, the first time or after `refuse`, on the same port. Raises OSError when it is taken."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self._terminate and self._terminate[0]
        )

    async def close(self) -> None:
        """End everything."""
        self.refuse()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def kubeconfig(self, through: Path) -> Path:
        """Write a kubeconfig like `through`, beside it, that leads through this proxy; return its path."""
        config = json.loads(through.read_text())
        for entry in config["clusters"]:
            entry["cluster"]["server"] = self.url
            if self._scheme == "https" and self._name != "127.0.0.1":
                entry["cluster"]["tls-server-name"] = self._name
        path = through.with_name(f"{through.stem}-through-{self.port}.kubeconfig")
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path

    # -- Faults --

    def refuse(self) -> None:
        """Stop listening and reset every connection, until `start`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection; new ones are served."""
        for link in self._links:
            link.reset()

    def silence(self, *, requests: bool = True, answers: bool = True, new: bool = True) -> None:
        """Hold back, until `heal`, what comes in the named directions on the connections there are, and on `new` ones.

        Connections stay open, and new ones are accepted.
        """
        for link in self._links:
            link.let(requests=link.requests.is_set() and not requests, answers=link.answers.is_set() and not answers)
        if new:
            self._new_requests = self._new_requests and not requests
            self._new_answers = self._new_answers and not answers

    def delay(self, *, requests: float = 0.0, answers: float = 0.0) -> None:
        """From now on, until `heal`, what comes is passed on so many seconds later, on all connections, in its order.

        It is a latency: what comes meanwhile follows as closely as it came. What is under way keeps its own.
        """
        self._request_delay = requests
        self._answer_delay = answers

    def heal(self) -> None:
        """Let everything flow again, without a latency; what was held back comes first."""
        self._request_delay = self._answer_delay = 0.0
        self._new_requests = self._new_answers = True
        for link in self._links:
            link.let(requests=True, answers=True)

    # -- Forwarding --

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer)
        link.let(requests=self._new_requests, answers=self._new_answers)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._links[link] = task
        try:
            await self._forward(link, reader)
        except (OSError, asyncio.CancelledError):
            # Who cannot be reached is a reset to the client.
            link.reset()
        finally:
            del self._links[link]
            link.close()

    async def _forward(self, link: _Link, requests: asyncio.StreamReader) -> None:
        answers, server = await asyncio.open_connection(*self.upstream, ssl=self._terminate and self._terminate[1])
        link.server = server
        pumps = [
            asyncio.create_task(_pump(requests, server, link.requests, lambda: self._request_delay)),
            asyncio.create_task(_pump(answers, link.client, link.answers, lambda: self._answer_delay)),
        ]
        try:
            # The end of either direction ends the connection: HTTP has no use for one that is half closed.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event, delay: Callable[[], float]
) -> None:
    """Pass on what comes, each piece when it is due and its direction flows, until the end of either side."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
    receiving = asyncio.create_task(_receive(reader, pieces, delay))
    try:
        with suppress(ConnectionError):
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(due - time.monotonic())
                if not piece:
                    break
                await flows.wait()
                writer.write(piece)
                await writer.drain()
    finally:
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)


async def _receive(
    reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], delay: Callable[[], float]
) -> None:
    """Read what comes, and note when it is due; the last piece is empty. A reset is an end like any other."""
    piece = b""
    due = 0.0
    while True:
        with suppress(ConnectionError):
            piece = await reader.read(CHUNK)
        # A latency that becomes shorter lets nothing overtake.
        due = max(due, time.monotonic() + delay())
        await pieces.put((due, piece))
        if not piece:
            return
        piece = b""
