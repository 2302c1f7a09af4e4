"""`/events` of running programs: who leads, told at the instant at which it changes, and never what is over."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar.stream import READER_LIMIT
from tests.testbed.sidecar import PATIENCE, Sidecar, Sidecars, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from tests.testbed.embedded import EmbeddedForTests


class Listener:
    """Listens to the events of one candidate, as a main container does; `told` is what was told so far."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.told: list[dict[str, Any]] = []
        self.ended_well = False
        self._reader = reader

    async def listen(self) -> None:
        """Take note of every event until the stream ends."""
        while size := int(await self._reader.readline(), 16):
            for event in (await self._reader.readexactly(size + 2)).decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in event.splitlines() if ": " in line)
                if "data" in fields:
                    self.told.append({"id": fields["id"], **json.loads(fields["data"])})
        self.ended_well = await self._reader.read() == b"\r\n"

    async def hearing(self, **fields: object) -> None:
        """Wait until the last event says this."""
        await until(lambda: self.told and self.told[-1].items() >= fields.items(), f"it is told {fields}")


@asynccontextmanager
async def listening(sidecar: Sidecar, *, last_id: str = "") -> AsyncIterator[Listener]:
    """Listen while the block runs. The request is sent before it, and answered whenever the process comes to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    header = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
    writer.write(f"GET /events HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
    listener = Listener(reader)

    async def listen() -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        await listener.listen()

    task = asyncio.create_task(listen())
    try:
        yield listener
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        writer.transport.abort()


async def test_a_change_of_leaders_is_told(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """A leader that ends: its readers are told before the lock is released, and those of its follower who leads next.

    What the streams said last is what the paths say; the leader's stream ends in good order with its process.
    """
    start = partial(sidecars.start, election="example", ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    first = start(identity="a")
    await first.leading()
    second = start(identity="b")
    await second.naming("a")
    release, released = asyncio.Event(), asyncio.Event()

    async def hold_back(request: web.Request) -> None:
        if request.method == "PUT":
            released.set()
            await release.wait()

    async with listening(first) as leader, listening(second) as follower:
        await leader.hearing(name="a", leading=True, role="leading")
        await follower.hearing(name="a", leading=False, role="following", fencing_token=None)
        assert leader.told[-1]["fencing_token"] == (await first.status())["fencing_token"]
        embedded.server.before_request = hold_back
        first.signal(signal.SIGTERM)
        await leader.hearing(name="", leading=False, role="releasing", fencing_token=None)
        await asyncio.wait_for(released.wait(), PATIENCE)
        assert not follower.told[-1]["leading"]
        embedded.server.before_request = None
        release.set()

        await follower.hearing(name="b", leading=True, role="leading")
        assert follower.told[-1]["fencing_token"] > leader.told[0]["fencing_token"]
        assert await first.ended() == 0
        await until(lambda: leader.ended_well, "the stream ends")
        assert [event["leading"] for event in leader.told] == [True, False]
        async with listening(second, last_id=follower.told[0]["id"]) as back:
            await back.hearing(id=follower.told[-1]["id"])
            assert back.told == follower.told[1:]


async def test_the_end_of_a_lease_is_told(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """The API server hangs, nothing happens, and the time is over: leader and follower tell that nobody leads."""
    async with AsyncExitStack() as hanging:
        start = partial(sidecars.start, election="example", ttl="2s", kubeconfig=embedded.admin_kubeconfig)
        first = start(identity="a")
        await first.leading()
        second = start(identity="b")
        await second.naming("a")
        ended = asyncio.Event()
        hanging.callback(ended.set)

        async def hang(_: web.Request) -> None:
            await ended.wait()

        async with listening(first) as leader, listening(second) as follower:
            await leader.hearing(leading=True)
            await follower.hearing(name="a")
            embedded.server.before_request = hang
            await leader.hearing(name="", leading=False, fencing_token=None)
            await follower.hearing(name="", leading=False)
            embedded.server.before_request = None
            ended.set()
            await until(lambda: leader.told[-1]["leading"] or follower.told[-1]["leading"], "somebody leads again")


async def test_a_process_that_was_stopped_does_not_tell_the_past(
    sidecars: Sidecars, embedded: EmbeddedForTests
) -> None:
    """A leader stopped for longer than its lease: whoever listens to it, or came meanwhile, never hears that it leads.

    It is continued when another one leads, and goes on as its follower.
    """
    start = partial(sidecars.start, election="example", ttl="2s", kubeconfig=embedded.admin_kubeconfig)
    first = start(identity="a")
    await first.leading()
    second = start(identity="b")
    await second.naming("a")
    async with listening(first) as there, listening(second) as follower:
        await there.hearing(leading=True)
        first.signal(signal.SIGSTOP)
        last = there.told[-1]["id"]
        async with listening(first) as late, listening(first, last_id=last) as back:
            await follower.hearing(name="b", leading=True)
            first.signal(signal.SIGCONT)
            for listener in (there, late, back):
                await listener.hearing(name="b", leading=False, role="following")
            assert [event["leading"] for event in [*there.told[1:], *late.told, *back.told]].count(True) == 0


async def test_steps_down_when_asked(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """`POST /release` in the pod: the leader stops leading at once, another one leads, and the first one stays out."""
    start = partial(sidecars.start, election="example", ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    first = start(identity="a")
    await first.leading()
    second = start(identity="b")
    await second.naming("a")
    async with listening(first) as leader:
        await leader.hearing(leading=True)
        assert (await first.ask("/release", "POST")).json() == {"released": True}
        assert (await first.ask("/release", "POST")).json() == {"released": False}
        await second.leading()
        await leader.hearing(name="b", leading=False, role="following")
        assert [event["leading"] for event in leader.told].count(True) == 1
    assert await second.terminate() == 0
    assert not await first.names_itself()
    assert first.is_running()


async def test_five_hundred_listen_at_once(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """As many as there may be are all told, at first and of a change; meanwhile others are answered as ever."""
    leader = sidecars.start(election="example", identity="a", ttl="60s", kubeconfig=embedded.admin_kubeconfig)
    await leader.leading()
    async with AsyncExitStack() as all_of_them:
        listeners = [await all_of_them.enter_async_context(listening(leader)) for _ in range(READER_LIMIT)]
        for listener in listeners:
            await listener.hearing(name="a", leading=True)
        assert (await leader.ask("/release", "POST")).json() == {"released": True}
        for listener in listeners:
            await listener.hearing(name="", leading=False)
        assert await leader.terminate() == 0
        await until(lambda: all(listener.ended_well for listener in listeners), "all streams end")
