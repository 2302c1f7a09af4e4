"""Connections in memory have to behave as TCP does, for better and for worse, or the simulation proves nothing."""

from __future__ import annotations

import asyncio
import math
import socket
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING

import pytest

from sidecar.lab.virtualtime import PROCESS
from tests.safety.simulate.connections import RETRANSMITTED, BusyError, ConnectedLoop, Link

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

LIMIT = 100.0


class Heard(asyncio.Protocol):
    """A protocol that keeps what it hears, and when."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard = b""
        self.heard_at: list[float] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard += data
        self.heard_at.append(asyncio.get_running_loop().time())

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.lost.set_result(exc)

    def write(self, data: bytes) -> None:
        """Send."""
        assert self.transport is not None
        self.transport.write(data)


class Bed:
    """A server that keeps the protocols of its connections, and one client."""

    def __init__(self, name: str = "client") -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ConnectedLoop)
        self.loop = loop
        self.link = loop.links[name] = Link(name, seed=1)
        self.served: list[Heard] = []
        self.name = name
        loop.accept = self._accept

    def _accept(self) -> Heard:
        self.served.append(Heard())
        return self.served[-1]

    async def connect(self) -> Heard:
        """Connect as aiohttp does."""
        PROCESS.set(self.name)
        sock = socket.socket()
        try:
            await self.loop.sock_connect(sock, ("127.0.0.1", 1))
            _, protocol = await self.loop.create_connection(Heard, sock=sock)
        finally:
            sock.close()
        assert isinstance(protocol, Heard)
        await self.until(lambda: self.served[-1].transport is not None)
        return protocol

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.01)


def play(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a test in a loop that connects."""
    with asyncio.Runner(loop_factory=ConnectedLoop) as runner:
        runner.run(main())


def test_bytes_arrive_in_order_and_later() -> None:
    """What is written arrives in both directions, whole and in order, after a while, and is split now and then."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        server = bed.served[0]
        bed.link.up.latency = (0.1, 5.0)
        began = bed.loop.time()
        expected = b"".join(b"%04d" % number for number in range(200))
        for number in range(200):
            client.write(b"%04d" % number)
        server.write(b"answer")
        await bed.until(lambda: len(server.heard) == len(expected))
        assert (server.heard, client.heard) == (expected, b"answer")
        assert server.heard_at[0] >= began + 0.1
        assert len(server.heard_at) > 200, "some of it has to arrive in pieces"

    play(main)


def test_nobody_listens() -> None:
    """A connection is refused while no server listens, and the one that comes up again is reached."""

    async def main() -> None:
        bed = Bed()
        accept, bed.loop.accept = bed.loop.accept, None
        with pytest.raises(ConnectionRefusedError):
            await bed.connect()
        bed.loop.accept = accept
        await bed.connect()

    play(main)


def test_a_way_that_is_shut_holds_back_until_it_is_open() -> None:
    """A cut in one direction leaves the other alone; what was held back arrives once it is healed."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        server = bed.served[0]
        bed.link.down.shut()
        client.write(b"question")
        server.write(b"answer")
        await asyncio.sleep(10)
        assert (server.heard, client.heard) == (b"question", b"")
        bed.link.down.open(deliver=True)
        healed = bed.loop.time()
        server.write(b", more")
        await bed.until(lambda: client.heard == b"answer, more")
        assert client.heard_at[-1] <= healed + RETRANSMITTED[1] + 0.1

    play(main)


def test_two_cuts_are_healed_when_both_are() -> None:
    """Faults may overlap: a way that was shut twice is open after it was opened twice."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        for _ in range(2):
            bed.link.up.shut()
        client.write(b"question")
        bed.link.up.open(deliver=True)
        await asyncio.sleep(10)
        assert bed.served[0].heard == b""
        bed.link.up.open(deliver=True)
        await bed.until(lambda: bed.served[0].heard == b"question")

    play(main)


def test_what_is_never_delivered_leaves_the_connection_half_open() -> None:
    """Without delivery, a connection that missed something stays silent for ever; a new one works."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        bed.link.up.shut()
        client.write(b"lost")
        await asyncio.sleep(1)
        bed.link.up.open(deliver=False)
        client.write(b"as well")
        other = await bed.connect()
        other.write(b"heard")
        await bed.until(lambda: bed.served[1].heard == b"heard")
        assert bed.served[0].heard == b""
        assert not client.lost.done()

    play(main)


def test_connecting_waits_for_a_cut_to_be_healed() -> None:
    """Who connects over a way that is shut waits; a time-out can give it up."""

    async def main() -> None:
        bed = Bed()
        bed.link.down.shut()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await bed.connect()
        bed.loop.call_later(5, lambda: bed.link.down.open(deliver=True), context=Context())
        began = bed.loop.time()
        await bed.connect()
        assert bed.loop.time() >= began + 5

    play(main)


def test_silence_may_meet_watches_alone() -> None:
    """A half-open connection hears nothing; only those that carry a watch are met where that is asked."""

    async def main() -> None:
        bed = Bed()
        watching, other = await bed.connect(), await bed.connect()
        watching.write(b"GET /?watch=true HTTP/1.1")
        other.write(b"GET / HTTP/1.1")
        await bed.until(lambda: all(server.heard for server in bed.served))
        assert bed.link.silence(watches_only=True) == 1
        for server in bed.served:
            server.write(b"answer")
        await asyncio.sleep(10)
        assert (watching.heard, other.heard) == (b"", b"answer")

    play(main)


def test_a_watch_may_lag() -> None:
    """What a watch shows comes later than other answers while the watch cache is behind."""

    async def main() -> None:
        bed = Bed()
        watching, other = await bed.connect(), await bed.connect()
        watching.write(b"GET /?watch=true HTTP/1.1")
        await bed.until(lambda: bed.served[0].heard != b"")
        bed.link.down.watch_lag = (5.0, 6.0)
        began = bed.loop.time()
        for server in bed.served:
            server.write(b"x")
        await bed.until(lambda: watching.heard == b"x")
        assert other.heard_at[0] < began + 1 < began + 5 <= watching.heard_at[0]

    play(main)


def test_a_reset_is_told_to_both_ends() -> None:
    """Something in between can reset a connection: both sides lose it, with an error."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        assert bed.link.reset() == 1
        for end in (client, bed.served[0]):
            assert isinstance(await end.lost, ConnectionResetError)
        assert bed.link.reset() == 0

    play(main)


def test_who_closes_is_heard_and_what_comes_later_is_refused() -> None:
    """A close arrives as an end, after all that was written; an abort as a reset."""

    async def main() -> None:
        bed = Bed()
        client, other = await bed.connect(), await bed.connect()
        client.write(b"last words")
        assert client.transport is not None
        client.transport.close()
        assert await client.lost is None
        assert await bed.served[0].lost is None
        assert (bed.served[0].heard, bed.served[0].ended) == (b"last words", True)
        assert other.transport is not None
        other.transport.abort()
        assert isinstance(await bed.served[1].lost, ConnectionResetError)

    play(main)


def test_a_process_that_is_stopped_hears_when_it_goes_on() -> None:
    """What arrives at a process that stands still is taken in when it goes on, in order; it is not lost."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()
        bed.loop.stop_process("client", 10)
        stopped = bed.loop.time()

        async def elsewhere() -> None:
            for server in bed.served:
                server.write(b"one")
                server.write(b"two")
            await asyncio.sleep(5)
            assert client.heard == b""
            await asyncio.sleep(6)

        await asyncio.get_running_loop().create_task(elsewhere(), context=Context())
        assert client.heard == b"onetwo"
        assert client.heard_at[0] >= stopped + 10

    play(main)


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_process_is_hung_up_by_its_kernel(seed: int) -> None:
    """The server hears that the connections of a killed process are closed; nothing of the process runs any more."""

    async def main() -> None:
        bed = Bed()
        client = await bed.connect()

        async def outside() -> None:
            bed.loop.stop_process("client", math.inf)
            bed.link.hang_up(Random(seed))  # noqa: S311 - plays, protects nothing
            await bed.served[0].lost
            assert not client.lost.done()
            bed.loop.continue_process("client")

        await asyncio.get_running_loop().create_task(outside(), context=Context())

    play(main)


def test_a_busy_loop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who never waits ends the play with an error, instead of going on for hours."""
    monkeypatch.setattr("tests.safety.simulate.connections.ROUNDS", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - which is the point
            await asyncio.sleep(0)

    with pytest.raises(BusyError, match="somebody does not wait"):
        play(main)
