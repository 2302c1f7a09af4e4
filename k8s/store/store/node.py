"""What a replica does as long as it runs: it recovers, follows its sidecar, and leads when that says so."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import aclosing
from typing import TYPE_CHECKING

from store.leader import Leader
from store.log import FencedError, UsedError
from store.replica import RETRY_SECONDS, NotReadyError
from store.sidecar import NOBODY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from store.replica import Replica
    from store.sidecar import Leadership

logger = logging.getLogger(__name__)


class Node:
    """A replica, and the part that it has."""

    def __init__(
        self, replica: Replica, changes: AsyncGenerator[Leadership], release: Callable[[], Awaitable[None]]
    ) -> None:
        self.replica = replica
        self.leadership: Leadership = NOBODY
        self.leader: Leader | None = None
        """While this replica leads, or is about to."""
        self.stopping = False
        """Whether the process ends: it takes no more writes."""
        self._changes = changes
        self._release = release
        """Has the sidecar give leadership up."""

    @property
    def serves(self) -> bool:
        """Whether it takes writes."""
        return self.leader is not None and self.leader.serves

    async def run(self) -> None:
        """Run until it is cancelled. Raises what nobody has foreseen, in a group."""
        await self.replica.recover()
        async with asyncio.TaskGroup() as terms, aclosing(self._changes) as changes:
            term: asyncio.Task[None] | None = None
            try:
                async for leadership in changes:
                    before, self.leadership = self.leadership, leadership
                    if leadership.token == before.token:
                        continue
                    if term is not None:
                        term.cancel()
                        await asyncio.wait([term])
                    if leadership.token is not None:
                        term = terms.create_task(self._lead(leadership.token))
            finally:
                self.leadership = NOBODY

    async def _lead(self, token: int) -> None:
        """Lead as long as the sidecar says so, again after a trouble that passes."""
        logger.info("leading with the fencing token %d", token)
        try:
            # A group of tasks that fails while it is cancelled raises its failure alone, before Python 3.13: the
            # cancellation is lost, and only what the sidecar said last tells that this term is over.
            while self.leadership.token == token:
                self.leader = Leader(self.replica, token)
                try:
                    await self.leader.run()
                except (FencedError, UsedError, NotReadyError, sqlite3.Error) as error:
                    logger.warning("not leading with the fencing token %d: %s", token, error)
                    if isinstance(error, UsedError):
                        # Another election gives another token.
                        await self._release()
                await asyncio.sleep(5 * RETRY_SECONDS)
        finally:
            self.leader = None
            logger.info("leading no more")
