"""One replica: its log, kept in a thread of its own, and what it does when it does not lead."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from store.log import BehindError, FencedError
from store.peers import UnavailableError, entries_from, entries_to

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from store.log import Append, Log, Standing
    from store.peers import Peer

RETRY_SECONDS = 0.2
"""Between two tries."""

JOIN_SECONDS = 5 * RETRY_SECONDS
"""After a copy, during which nothing is dropped from the log: who has copied is to find what follows it there."""

HANGING_SECONDS = 10.0
"""After which a disk that has not taken a write is taken for one that never will."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class NotReadyError(Exception):
    """The volume is new, and does not know yet what was promised in its place."""


class Replica:
    """A log, and the peers that have the others."""

    def __init__(self, name: str, log: Log, peers: Mapping[str, Peer]) -> None:
        self.name = name
        self.log = log
        self.peers = peers
        self.majority = (len(peers) + 1) // 2 + 1
        self.in_step = False
        """Whether this one has been where a leader was, since it started."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._failed = False
        self._since: float | None = None
        """When the disk was given what it has not taken yet."""
        self._copying: asyncio.Task[None] | None = None

    @property
    def failing(self) -> bool:
        """Whether the disk did not take what was last written, or has not for so long that it will not."""
        since = self._since
        return self._failed or (since is not None and time.monotonic() - since > HANGING_SECONDS)

    async def written(self, write: Callable[..., T], *given: Any, **named: Any) -> T:  # noqa: ANN401 - what it takes
        """Call what writes to the log, in the order of the calls. Raises what it raises.

        When the caller is cancelled, nobody learns whether it was carried out.
        """

        def carry_out() -> T:
            self._since = time.monotonic()
            try:
                return write(*given, **named)
            finally:
                self._since = None

        try:
            made = await asyncio.get_running_loop().run_in_executor(self._thread, carry_out)
        except sqlite3.Error as error:
            self._failed = True
            logger.error("the disk does not take it: %s", error)  # noqa: TRY400 - one line; the caller raises it
            raise
        self._failed = False
        return made

    async def recover(self) -> None:
        """Wait until a new volume has learned from the others what it has to; one that is not new knows it."""
        while not self.log.recovered:
            found = await asyncio.gather(*(peer.standing() for peer in self.peers.values()), return_exceptions=True)
            others = [one for one in found if not isinstance(one, BaseException)]
            if len(others) == len(self.peers):
                await self.written(self.log.recover, others)
                logger.info("this volume is new; others were asked what was promised")
                return
            logger.info("this volume is new, and waits: %d of %d others answer", len(others), len(found))
            await asyncio.sleep(5 * RETRY_SECONDS)

    async def promise(self, token: int) -> Standing:
        """Refuse from now on whoever has a smaller token. Raises FencedError, NotReadyError and sqlite3.Error."""
        if not self.log.recovered:
            raise NotReadyError
        return await self.written(self.log.promise, token)

    async def accept(self, append: Append) -> None:
        """Store what a leader sends; where too much is missing, copy it from there meanwhile.

        Raises FencedError, BehindError, NotReadyError and sqlite3.Error.
        """
        if not self.log.recovered:
            raise NotReadyError
        try:
            await self.written(self.log.accept, append)
        except BehindError as error:
            if error.committed < append.horizon and append.leader in self.peers and not self._is_copying():
                self._copying = asyncio.create_task(self._copy_quietly(append.leader, append.token))
            raise
        self.in_step = self.in_step or self.log.committed >= append.committed

    async def copy(self, peer: Peer, token: int) -> None:
        """Make the rest of this log like that of a peer that has promised the same token.

        Raises UnavailableError, FencedError and sqlite3.Error; then the log is as it was.
        """
        about: Mapping[str, int] = {}
        async with aclosing(peer.copy(token, self.log.committed)) as lines:
            async for line in lines:
                if not about:
                    about = line
                    await self.written(self.log.receive, token, None)
                elif "end" not in line:
                    await self.written(self.log.receive, token, entries_from(line["entries"]))
                else:
                    await self.written(self.log.replace, token, **about)
                    logger.info("copied from %s: everything after entry %d", peer.name, about["after"])
                    return
        raise UnavailableError(f"{peer.name} broke off what was copied")

    async def copied(self, token: int, after: int) -> AsyncGenerator[dict[str, object]]:
        """Yield the lines of a copy of this log, for a peer. Raises FencedError where another token is promised."""
        self.log.copies += 1
        try:
            horizon = self.log.horizon
            after = after if after >= horizon else 0
            yield {"after": after, "committed": self.log.committed, "horizon": horizon}
            while True:
                page = self.log.after(after)
                # Whoever leads with another token may have changed what was sent already; and what was being dropped
                # when this began may be gone by now.
                if self.log.promised != token or self.log.horizon != horizon:
                    raise FencedError(self.log.promised)
                if not page:
                    yield {"end": True}
                    return
                yield {"entries": entries_to(page)}
                after = page[-1].sequence
        finally:
            asyncio.get_running_loop().call_later(JOIN_SECONDS, self._copy_is_over)

    async def close(self) -> None:
        """End what is under way, and let go of the volume."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait([self._copying])
        self._thread.shutdown()
        self.log.close()

    def _copy_is_over(self) -> None:
        self.log.copies -= 1

    def _is_copying(self) -> bool:
        return self._copying is not None and not self._copying.done()

    async def _copy_quietly(self, leader: str, token: int) -> None:
        try:
            await self.copy(self.peers[leader], token)
        except (UnavailableError, FencedError, sqlite3.Error) as error:
            logger.warning("not copied from %s: %s", leader, error)
