"""What runs beside a candidate, and never in its way: each companion minds one thing that operators expect.

A companion hears of the candidate through `Candidate.on_change`, and may give it orders. Whatever it fails with stays
its own: the election goes on as if there were none.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from structlog.typing import FilteringBoundLogger

FINISH_LIMIT = 1.0
"""Seconds that all companions together have for what is left to do once the candidate has ended."""

RESTART_SECONDS = 60.0
"""Seconds until a companion that ended because of a defect is started again."""


class Companion(Protocol):
    """One thing that runs beside a candidate."""

    @property
    def name(self) -> str:
        """What it minds, in a word or two."""
        ...

    async def run(self) -> None:
        """Work until cancelled. What is due to be told to the candidate before it takes part is told at its making."""
        ...

    async def finish(self) -> None:
        """Return once nothing is left to do, the candidate having ended; `run` goes on meanwhile."""
        ...


@asynccontextmanager
async def accompanied(companions: Iterable[Companion], log: FilteringBoundLogger) -> AsyncIterator[None]:
    """Run companions for as long as the block takes, and give them a moment for what is left to do then."""
    members = list(companions)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_kept_running(member, log), name=member.name) for member in members]
        yield
        finishing = [tasks.create_task(_finished(member, log)) for member in members]
        if finishing:
            _, late = await asyncio.wait(finishing, timeout=FINISH_LIMIT)
            for task in late:
                task.cancel()
        for task in running:
            task.cancel()


async def _kept_running(companion: Companion, log: FilteringBoundLogger) -> None:
    while True:
        try:
            await companion.run()
        except Exception:
            log.critical(
                "a companion ended because of a defect; the election goes on", name=companion.name, exc_info=True
            )
        await asyncio.sleep(RESTART_SECONDS)


async def _finished(companion: Companion, log: FilteringBoundLogger) -> None:
    try:
        await companion.finish()
    except Exception:
        log.critical("a companion did not finish because of a defect", name=companion.name, exc_info=True)
