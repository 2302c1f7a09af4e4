"""Companions beside the arena's candidates, in virtual time: with a client of their own, which may fare otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.companions import accompanied
from sidecar.lab import virtualtime
from sidecar.lab.network import LabClient
from sidecar.lab.virtualtime import PROCESS
from tests.unit.arena import TIMEOUT, Arena

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.companions import Companion
    from sidecar.lab.network import Network, Request
    from tests.unit.arena import Process


def play(scene: Callable[[Arena], Awaitable[None]], seed: int = 0) -> None:
    """Play a scene to its end, and see that never two led."""

    async def whole() -> None:
        arena = Arena(seed)
        try:
            await scene(arena)
        finally:
            await arena.end()

    virtualtime.run(whole())


def accompany(
    arena: Arena,
    process: Process,
    make: Callable[[LabClient, Any], Companion],
    *,
    network: Network | None = None,
) -> list[Request]:
    """Make a companion of a process that has just been started, and return the list of the requests that it sends."""
    sent: list[Request] = []
    log = arena._logger(process.name)
    client = LabClient(
        arena.store,
        network or process.network,
        random=arena.random,
        timeout=TIMEOUT,
        sender=process.name,
        sent=sent.append,
    )
    companion = make(client, log)

    async def take_part() -> None:
        PROCESS.set(process.name)
        async with accompanied([companion], log):
            await asyncio.wait([process.task])

    arena._tasks.append(asyncio.create_task(take_part(), name=f"{process.name} {companion.name}"))
    return sent
