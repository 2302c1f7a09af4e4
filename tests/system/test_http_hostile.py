"""Whoever can reach the port may send anything, as slowly or as much as they like: the election does not mind.

A real process leads on an embedded API server while it is attacked. Its renewals go on before their deadline, a new
client is answered, a new reader of `/events` is told the leader, and neither memory nor descriptors grow beyond what
connections may cost.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import resource
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.stream import READER_LIMIT
from sidecar.web import CONNECTION_LIMIT
from tests.testbed.sidecar import ANSWER_SECONDS, Sidecar, Sidecars, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.testbed.embedded import EmbeddedForTests

    Attack = Callable[[int], Awaitable[None]]

TTL, RETRY_PERIOD = "6s", "500ms"
RENEWALS = 4
"""How many of them an attack lasts for. Whoever is kept from them loses its term after 4 seconds, which is told."""

OTHER_DESCRIPTORS = 40
"""Of a process, beside the connections to its port: the API server's, the log, the loop's own."""

GROWTH_MIB = 48
"""What an attack may add to the memory of a process: 256 connections, and what waits in each of them."""

FOLLOW = b"GET /events HTTP/1.1\r\nHost: x\r\n"

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Let this process open as many connections as an attack needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- Attacks -----------------------------------------------------------------------------------------------------------


async def send(port: int, *parts: bytes, every: float = 0.0, again: bool = False) -> None:
    """Open a connection, send the parts with a pause after each, and keep it open; `again` and again the last part."""
    writer = None
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(every)
        while again:
            writer.write(parts[-1])
            await writer.drain()
            await asyncio.sleep(every)
        await asyncio.Event().wait()
    except OSError:
        pass  # the server has had enough
    finally:
        if writer is not None:
            writer.transport.abort()


async def crowd(port: int, count: int, *parts: bytes, every: float = 0.0, again: bool = False) -> None:
    """Let so many do that at once, and come back when they are thrown out."""

    async def one() -> None:
        while True:
            await send(port, *parts, every=every, again=again)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(one())


async def idle(port: int) -> None:
    """A thousand connections over which nothing comes."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(1000):
            tasks.create_task(send(port))


async def trickle(port: int) -> None:
    """Heads that come byte by byte, and never end."""
    await crowd(port, 200, *(bytes([byte]) for byte in HEAD), b"X: y\r\n", every=0.05, again=True)


async def flood(port: int) -> None:
    """Bodies of ten gigabytes, sent as fast as possible."""
    await crowd(port, 4, HEAD + b"Content-Length: 10000000000\r\n\r\n", b"a" * 2**16, again=True)


async def bodies(port: int) -> None:
    """Bodies of ten gigabytes, of which little comes, and bodies in chunks of a byte, without end."""
    chunks = b"1\r\na\r\n" * 1000
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd(port, 100, HEAD + b"Content-Length: 10000000000\r\n\r\nabc"))
        tasks.create_task(crowd(port, 4, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunks, again=True))


async def bombs(port: int) -> None:
    """Bodies that would be a thousand times as long, were they unpacked."""
    bomb = gzip.compress(bytes(50_000_000))
    await crowd(port, 20, HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb, HEAD)


async def heads(port: int) -> None:
    """Heads of more lines than anybody needs, heads whose last line never ends, and request lines without end."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd(port, 10, HEAD + b"X: y\r\n" * 100_000))
        tasks.create_task(crowd(port, 10, HEAD + b"X: ", b"y" * 2**16, again=True))
        tasks.create_task(crowd(port, 10, b"GET /", b"a" * 2**16, again=True))


async def pipeline(port: int) -> None:
    """Requests without end, whose answers are never read: small ones, and large ones once no answer fits any more."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    large = HEAD + b"".join(b"X%d: %b\r\n" % (number, b"y" * 8000) for number in range(100)) + b"\r\n"
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd(port, 4, b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 200, again=True))
        tasks.create_task(crowd(port, 8, *[ask] * 110, large, every=0.002, again=True))


async def garbage(port: int) -> None:
    """Anything, over connections that come and go."""
    chance = random.Random(1)  # noqa: S311 - plays, protects nothing

    async def one() -> None:
        while True:
            parts = (chance.randbytes(chance.randrange(5000)) for _ in range(2))
            with suppress(TimeoutError):
                await asyncio.wait_for(send(port, *parts), 0.05)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(one())


async def listen(port: int, *, every: float = 0.0) -> None:
    """Listen to events and take a byte of them `every` so many seconds, or none at all."""
    loop = asyncio.get_running_loop()
    with suppress(OSError), closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(0)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, FOLLOW + b"\r\n")
        while every:
            await loop.sock_recv(connection, 1)
            await asyncio.sleep(every)
        await asyncio.Event().wait()


async def deaf(port: int) -> None:
    """More readers of events than there may be; most of them never read, and some a byte now and then."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(READER_LIMIT + 100):
            tasks.create_task(listen(port, every=0.0 if number % 10 else 0.2))


async def babble(port: int) -> None:
    """Readers of events who go on talking: bodies, large heads, and requests by the hundred."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(crowd(port, 100, FOLLOW + b"\r\n", (FOLLOW + b"X: y\r\n" * 1000) * 5, every=0.2, again=True))
        tasks.create_task(crowd(port, 4, FOLLOW + b"Content-Length: 10000000000\r\n\r\n", b"a" * 2**16, again=True))
        tasks.create_task(crowd(port, 100, (FOLLOW + b"\r\n") * 200))


async def knock(port: int) -> None:
    """Readers of events who come and go."""
    await asyncio.gather(*(_come_and_go(port) for _ in range(10)))


async def _come_and_go(port: int) -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(listen(port), 0.1)


ATTACKS: list[Attack] = [idle, trickle, flood, bodies, bombs, heads, pipeline, garbage, deaf, babble, knock]


# -- What must hold ----------------------------------------------------------------------------------------------------


def memory_mib(sidecar: Sidecar) -> float:
    """Return the resident memory of its process."""
    pages = int(Path(f"/proc/{sidecar.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_descriptors(sidecar: Sidecar) -> int:
    """Return how many descriptors its process has open."""
    return len(list(Path(f"/proc/{sidecar.pid}/fd").iterdir()))


async def is_told(sidecar: Sidecar) -> bool:
    """Tell whether a new reader of events hears at once that this candidate leads."""
    with suppress(OSError, EOFError):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
            try:
                writer.write(FOLLOW + b"\r\n")
                return b'"leading":true' in await reader.readuntil(b'"}\n\n')
            finally:
                writer.transport.abort()
    return False


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_no_attack_disturbs_a_renewal(sidecars: Sidecars, embedded: EmbeddedForTests, attack: Attack) -> None:
    """The term goes on, renewed as ever; new clients are told the leader; memory and descriptors stay bounded."""
    leader = sidecars.start(
        election="example",
        identity="a",
        ttl=TTL,
        kubeconfig=embedded.admin_kubeconfig,
        env={"ELECTION_RETRY_PERIOD": RETRY_PERIOD},
    )
    await leader.leading()
    token = (await leader.status())["fencing_token"]
    memory, renewed = memory_mib(leader), embedded.server.requests["update", "endpoints"]
    most_memory, most_descriptors = memory, 0

    attacking = asyncio.ensure_future(attack(leader.port))
    try:
        while embedded.server.requests["update", "endpoints"] < renewed + RENEWALS:
            await leader.leading()
            await until(lambda: is_told(leader), "a new reader is told the leader")
            most_memory = max(most_memory, memory_mib(leader))
            most_descriptors = max(most_descriptors, open_descriptors(leader))
            assert not attacking.done(), attacking
            assert not leader.logged("stopped leading")
            await asyncio.sleep(0.05)
    finally:
        attacking.cancel()
        await asyncio.wait([attacking])

    assert (await leader.status())["fencing_token"] == token
    assert len(leader.logged("leading")) == 1
    assert most_memory < memory + GROWTH_MIB
    assert most_descriptors <= CONNECTION_LIMIT + READER_LIMIT + OTHER_DESCRIPTORS
    await until(lambda: open_descriptors(leader) <= OTHER_DESCRIPTORS, "what the attack opened is closed")
    assert await leader.terminate() == 0
    assert leader.logged("the lock was released")
    assert [line for line in leader.lines() if "logger" in line or line["level"] in ("error", "critical")] == []
