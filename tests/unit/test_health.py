"""Health: how many answers turn a judgement over, what counts as one, and what the candidate is told."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from aiohttp import web

from sidecar.health import WHY, Health, HealthGate, judged
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.candidate import Candidate

LOG: Any = structlog.wrap_logger(
    structlog.testing.CapturingLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)

LATE = 100
"""Answers that may come later than the interval, on a machine that is busy, before anything is made of that."""


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ("", ""),
        ("+", "-"),
        ("++", "-+"),
        ("+-++", "---+"),
        ("++---", "-+++-"),
        ("++--+--", "-++++++"),
        ("++---+", "-+++--"),
        ("++---++", "-+++--+"),
    ],
)
def test_thresholds(answers: str, healthy: str) -> None:
    """Two good answers in a row, or three bad ones, turn the judgement over; one contrary answer begins anew."""
    health, told = Health(), ""
    for answer in answers:
        health = judged(health, good=answer == "+", failures=3, successes=2)
        told += "+" if health.healthy else "-"
    assert told == healthy


class Told:
    """Takes the place of a candidate, and remembers its orders."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.ordered = asyncio.Event()

    def abstain(self, why: str, *, until: float = math.inf, patience: float = math.inf) -> None:
        """See `Candidate.abstain`."""
        assert until == patience == math.inf
        self.orders.append(("abstain", why))
        self.ordered.set()

    def stand(self, why: str) -> None:
        """See `Candidate.stand`."""
        self.orders.append(("stand", why))
        self.ordered.set()

    async def next(self) -> tuple[str, str]:
        """Wait for one more order, and return it."""
        async with asyncio.timeout(10):
            await self.ordered.wait()
        self.ordered.clear()
        return self.orders[-1]


def gate(told: Told, url: str, *, interval: float = 0.05, failures: int = 1, successes: int = 1) -> HealthGate:
    """Return a gate."""
    candidate = cast("Candidate", told)
    return HealthGate(candidate, url, interval=interval, failures=failures, successes=successes, log=LOG)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve a main container's answers, and yield the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/healthz"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(opened: HealthGate) -> AsyncIterator[None]:
    """Run a gate for as long as the block takes."""
    task = asyncio.create_task(opened.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_nobody_stands_before_the_first_good_answer() -> None:
    """The order to abstain is given when the gate is made, before anything runs."""
    told = Told()
    gate(told, "http://127.0.0.1:1/")
    assert told.orders == [("abstain", WHY)]


@pytest.mark.parametrize(
    ("status", "healthy"),
    [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)],
)
async def test_what_counts_as_healthy(status: int, healthy: bool) -> None:  # noqa: FBT001 - a case
    """Any status from 200 to 399 says so; a redirect is not followed, and the request is a GET of that very path."""
    asked: list[str] = []
    enough = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        if len(asked) >= 3:
            enough.set()
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    told = Told()
    failures = LATE if healthy else 1
    async with serving(answer) as url, running(gate(told, url, failures=failures)), asyncio.timeout(10):
        await enough.wait()
    assert set(asked) == {"GET /healthz"}
    # The second one gives up what the pod may hold from before its container was restarted.
    assert told.orders == [("abstain", WHY), ("stand", WHY) if healthy else ("abstain", WHY)]


async def test_orders_follow_the_answers() -> None:
    """Healthy, ill and healthy again: each change is one order."""
    status = 200

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    told = Told()
    async with serving(answer) as url, running(gate(told, url, failures=2)):
        told.ordered.clear()
        assert await told.next() == ("stand", WHY)
        status = 500
        assert await told.next() == ("abstain", WHY)
        status = 200
        assert await told.next() == ("stand", WHY)


async def test_an_answer_that_does_not_come_is_a_failure() -> None:
    """Who takes longer than the interval is not healthy; neither is who does not listen, or answers what is no HTTP."""

    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\xffnothing of the kind\r\n\r\n")
        writer.close()

    broken = await asyncio.start_server(garbage, "127.0.0.1", 0)
    port = broken.sockets[0].getsockname()[1]
    async with serving(answer) as slow, broken:
        for url in (slow, f"http://127.0.0.1:{free_port()}/", f"http://127.0.0.1:{port}/", "http://nowhere.invalid/"):
            told = Told()
            opened = gate(told, url)
            async with running(opened):
                async with asyncio.timeout(10):
                    while not opened._reason:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.01)
                assert set(told.orders) == {("abstain", WHY)}


async def test_an_answer_without_end_is_not_read() -> None:
    """The status is what counts: a body that goes on for ever is healthy, and it is asked again all the same."""
    asked = 0
    enough = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked >= 3:
            enough.set()
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)

    told = Told()
    # On a machine that is busy an answer may come too late: that is not what this is about.
    async with serving(answer) as url, running(gate(told, url, failures=LATE)), asyncio.timeout(10):
        await enough.wait()
    assert told.orders == [("abstain", WHY), ("stand", WHY)]


async def test_variables_for_proxies_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main container is asked directly, whatever proxies the environment names."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def answer(_request: web.Request) -> web.Response:
        return web.Response()

    told = Told()
    async with serving(answer) as url, running(gate(told, url)):
        told.ordered.clear()
        assert await told.next() == ("stand", WHY)
