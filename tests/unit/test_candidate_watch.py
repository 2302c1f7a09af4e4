"""The driver and watches that are accepted and of no use, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from sidecar.kube import ApiError
from sidecar.lab import virtualtime
from sidecar.lab.network import Network
from tests.unit.arena import RETRY, TTL, Arena

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def play(scene: Callable[[Arena], Awaitable[None]]) -> None:
    """Play a scene to its end, and see that never two led."""

    async def whole() -> None:
        arena = Arena()
        try:
            await scene(arena)
        finally:
            await arena.end()
        assert arena.broken == []

    virtualtime.run(whole())


def test_watch_that_shows_nothing_does_not_replace_polling() -> None:
    """Something in between accepts every watch and holds its events back: polling goes on, and it is said once."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        follower = arena.start("b", network=Network(watch="silent"))
        await asyncio.sleep(300)
        assert len(arena.said(follower)) <= 4
        assert arena.requests_since(0, follower).count("get") > 300 / RETRY / 2
        for _ in range(100):
            assert follower.candidate.leader_name() == "a"
            await asyncio.sleep(0.25)
        since = arena.loop.time()
        leader.candidate.leave()
        await arena.until(lambda: arena.leaders() == [follower], within=2 * RETRY)
        assert arena.loop.time() - since < TTL / 2

    play(scene)


def test_healthy_watch_makes_polling_end() -> None:
    """A follower that is shown something reads no more, for hours."""

    async def scene(arena: Arena) -> None:
        arena.start("a")
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(10)
        since = arena.loop.time()
        await asyncio.sleep(20_000)
        assert set(arena.requests_since(since, follower)) <= {"watch", "get"}
        assert Counter(arena.requests_since(since, follower))["get"] <= 1
        assert Counter(arena.requests_since(since, follower))["watch"] <= 7

    play(scene)


def test_version_that_an_api_server_never_knew_is_not_watched_from_again() -> None:
    """410 for the very version that is in force: polling goes on until there is a later one, without a herd."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(10)
        since = arena.loop.time()
        arena.stop(leader, 30)
        follower.network.watch = "gone"
        follower.network.cut_watch()
        await asyncio.sleep(TTL / 2)
        assert arena.requests_since(since, follower).count("watch") == 1
        assert 1 <= arena.requests_since(since, follower).count("get") <= 4
        follower.network.heal()
        await arena.until(lambda: arena.leaders() == [follower])

    play(scene)


def test_watch_comes_back_when_the_api_server_says() -> None:
    """Retry-After is honoured for watches as well."""

    async def scene(arena: Arena) -> None:
        arena.start("a")
        await arena.leader()
        network = Network()
        follower = arena.start("b", network=network)
        await asyncio.sleep(10)
        watch = follower.candidate._lock.watch
        asked: list[float] = []

        def busy(version: int, seconds: int) -> object:
            asked.append(arena.loop.time())
            if len(asked) < 4:
                raise ApiError("watch: 429", status=429, retry_after=10.0)
            return watch(version, seconds)

        follower.candidate._lock.watch = busy  # type: ignore[method-assign,assignment] # stands in for the real one
        network.cut_watch()
        await asyncio.sleep(60)
        assert len(asked) == 4
        assert all(later - earlier >= 10.0 for earlier, later in itertools.pairwise(asked))

    play(scene)
