"""The faults that the proxy promises, seen by a client of an echo server."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.testbed.connection import write_kubeconfig
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while piece := await reader.read(100):
                self.received += piece
                writer.write(piece)
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[tuple[Echo, Proxy]]:
    """Serve an echo server behind a proxy."""
    served = Echo()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy(f"http://127.0.0.1:{port}") as proxy:
        yield served, proxy
    server.close()


class Client:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, text: bytes) -> None:
        """Send bytes."""
        self._writer.write(text)

    async def echoed(self, text: bytes) -> None:
        """Wait until bytes come back."""
        async with asyncio.timeout(5):
            assert await self._reader.readexactly(len(text)) == text

    async def is_reset(self) -> None:
        """Wait until the connection is reset."""
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await self._reader.readexactly(1)

    async def hears_nothing(self) -> None:
        """See that nothing comes for a while, the connection's end included."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await self._reader.read(1)


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    """Connect to a proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_what_is_sent_comes_through(echo: tuple[Echo, Proxy]) -> None:
    """Without a fault bytes pass in both directions, and connections are counted."""
    _, proxy = echo
    async with client(proxy) as one:
        one.send(b"hello")
        await one.echoed(b"hello")
        assert (proxy.accepted, proxy.open_connections) == (1, 1)
    await until(lambda: proxy.open_connections == 0, "the connection ends")


async def test_connections_are_cut_and_refused(echo: tuple[Echo, Proxy]) -> None:
    """`cut` resets what there is; after `refuse` nobody listens until `start`."""
    _, proxy = echo
    async with client(proxy) as one:
        one.send(b"hello")
        await one.echoed(b"hello")
        proxy.cut()
        await one.is_reset()
    async with client(proxy) as one:
        one.send(b"again")
        await one.echoed(b"again")
        proxy.refuse()
        await one.is_reset()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.start()
    async with client(proxy) as one:
        one.send(b"back")
        await one.echoed(b"back")


async def test_half_open_connections_stay_silent_while_new_ones_work(echo: tuple[Echo, Proxy]) -> None:
    """What is sent on a silenced connection arrives nowhere, without an error, and comes through once it is healed."""
    served, proxy = echo
    async with client(proxy) as old:
        old.send(b"a")
        await old.echoed(b"a")
        proxy.silence(new=False)
        old.send(b"held")
        await old.hears_nothing()
        async with client(proxy) as new:
            new.send(b"b")
            await new.echoed(b"b")
        assert served.received == b"ab"
        proxy.heal()
        await old.echoed(b"held")


async def test_new_connections_are_accepted_into_silence(echo: tuple[Echo, Proxy]) -> None:
    """Unless told otherwise, silence is for connections to come as well."""
    _, proxy = echo
    proxy.silence()
    async with client(proxy) as new:
        new.send(b"b")
        await new.hears_nothing()
    assert proxy.accepted == 1


async def test_one_direction_is_silenced(echo: tuple[Echo, Proxy]) -> None:
    """With `requests=False` what is sent arrives, and what is answered does not."""
    served, proxy = echo
    async with client(proxy) as one:
        proxy.silence(requests=False)
        one.send(b"a")
        await one.hears_nothing()
        assert served.received == b"a"


@pytest.mark.parametrize("direction", ["requests", "answers"])
async def test_what_comes_is_passed_on_late(echo: tuple[Echo, Proxy], direction: str) -> None:
    """A latency holds either direction back by its seconds, in order, each piece from when it came; `heal` ends it."""
    served, proxy = echo
    late = 0.5
    async with client(proxy) as one:
        one.send(b"before")
        await one.echoed(b"before")
        proxy.delay(**{direction: late})
        began = time.monotonic()
        one.send(b"a")
        if direction == "answers":
            await until(lambda: served.received == b"beforea", "the request arrives")
        one.send(b"b")
        await one.echoed(b"a")
        assert time.monotonic() - began >= late
        await one.echoed(b"b")
        proxy.heal()
        one.send(b"after")
        await one.echoed(b"after")
    proxy.delay(**{direction: 60.0})
    async with client(proxy) as new:
        new.send(b"c")
        await new.hears_nothing()


async def test_a_latency_does_not_add_up(echo: tuple[Echo, Proxy]) -> None:
    """Many pieces that follow each other closely take one latency, not one each."""
    _, proxy = echo
    late, pieces = 0.2, 50
    proxy.delay(requests=late)
    async with client(proxy) as one:
        began = time.monotonic()
        for _ in range(pieces):
            one.send(b"x")
            await asyncio.sleep(0.001)  # so that they do not come as one
        await one.echoed(b"x" * pieces)
        assert late <= time.monotonic() - began < pieces * late / 2


async def test_a_server_that_is_not_there_is_a_reset(echo: tuple[Echo, Proxy]) -> None:
    """A connection that cannot be forwarded is accepted, counted, and ended."""
    _, proxy = echo
    proxy.upstream = ("127.0.0.1", 1)
    async with client(proxy) as one:
        await one.is_reset()
    assert proxy.accepted == 1


def test_a_kubeconfig_leads_through_the_proxy(tmp_path: Path) -> None:
    """The copy names the proxy, and, for a server with a name, the name that its certificate is for."""
    original = write_kubeconfig(
        tmp_path / "original.kubeconfig", url="https://example.com:6443", ca_file=tmp_path / "ca", token="secret"
    )
    proxy = Proxy("https://example.com:6443")

    config = json.loads(proxy.kubeconfig(original).read_text())

    cluster = config["clusters"][0]["cluster"]
    assert cluster["server"] == f"https://127.0.0.1:{proxy.port}"
    assert cluster["tls-server-name"] == "example.com"
    assert config["users"] == json.loads(original.read_text())["users"]
