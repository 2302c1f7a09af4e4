"""What becomes of a process's answers, asked of a server that says what it is told to say."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.safety.chaos.polling import Asked, Poller, Run
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(eq=False)
class Speaker:
    """Names `name`, with None nobody yet; and tells `token`."""

    name: str | None = "a"
    token: int = 1
    port: int = 0
    status_asked: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await until(lambda: self.name is not None, "there is something to say", every=0.001)
                told: dict[str, object] = {"name": self.name}
                if head.startswith(b"GET /status "):
                    self.status_asked += 1
                    told = {"role": "leading", "fencing_token": self.token}
                body = json.dumps(told)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asked(*, tells_tokens: bool = True) -> AsyncIterator[tuple[Speaker, Poller, list[Run]]]:
    """Ask a speaker; what it said is in the list once that is over."""
    speaker, runs = Speaker(), list[Run]()
    server = await asyncio.start_server(speaker.serve, "127.0.0.1", 0)
    speaker.port = server.sockets[0].getsockname()[1]
    async with Poller(runs.append) as poller:
        poller.watch(Asked(process="a/1", election="amber", identity="a", port=speaker.port, tells_tokens=tells_tokens))
        await until(lambda: poller.now("a/1"), "an answer")
        yield speaker, poller, runs
    server.close()


async def test_like_answers_are_one_run() -> None:
    """A run goes from the first answer to the last, with the token of the term; another name is another run."""
    async with asked() as (speaker, poller, runs):
        await until(lambda: poller.open_runs()[0].count > 10, "many answers")
        speaker.name = "b"
        await until(lambda: runs, "the run is over")
        speaker.name = None
    first = runs[0]
    assert (first.name, first.token, first.is_own) == ("a", 1, True)
    assert first.count > 10
    assert first.sent < first.begin < first.end < first.received
    assert [run.name for run in runs] == ["a", "b"]
    assert not runs[1].is_own


async def test_another_token_is_another_run() -> None:
    """A process that lost its term and won another between two questions has led in two terms."""
    async with asked() as (speaker, poller, runs):
        await until(lambda: poller.open_runs()[0].token == 1, "a token")
        speaker.token = 2
        await until(lambda: runs, "the first term is over")
        await until(lambda: poller.open_runs() and poller.open_runs()[0].token == 2, "the second token")
    assert [run.token for run in runs] == [1, 2]


async def test_a_peer_is_not_asked_for_tokens() -> None:
    """Who has no `/status` is only asked for names."""
    async with asked(tells_tokens=False) as (speaker, poller, _):
        await until(lambda: poller.open_runs()[0].count > 5, "many answers")
        assert speaker.status_asked == 0


async def test_what_a_process_says_when_it_goes_on_is_no_older() -> None:
    """A question that waited while the process stood is answered after that, however long ago it was asked."""
    async with asked() as (speaker, poller, runs):
        speaker.name = None
        await until(lambda: poller.now("a/1") is None, "it has not said anything just now")
        stood = time.monotonic()
        await until(lambda: time.monotonic() - stood > 0.5, "it stood for longer than a run lasts")
        resumed = time.monotonic()
        poller.resumed("a/1", resumed)
        speaker.name = "a"
        await until(lambda: runs, "the run before is over")
        await until(lambda: poller.now("a/1"), "an answer")
        assert poller.open_runs()[0].sent >= resumed
        assert runs[0].received < stood


async def test_a_process_that_is_gone_is_left_alone() -> None:
    """Nobody asks it any more, and what it said is over; one that does not answer says None."""
    async with asked() as (speaker, poller, runs):
        await poller.leave("a/1")
        assert not poller.is_watching("a/1")
        assert poller.now("a/1") is None
        assert [run.name for run in runs] == ["a"]
        poller.watch(Asked(process="b/1", election="amber", identity="b", port=1, tells_tokens=True))
        await until(poller.open_runs, "an answer that is none")
        assert poller.open_runs()[0].name is None
        assert speaker.name == "a"
