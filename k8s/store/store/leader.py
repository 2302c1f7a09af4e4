"""One term of leadership: from the fencing token to the last acknowledgement."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from store.log import PAGE_ENTRIES, Append, BehindError, Entry, FencedError
from store.peers import UnavailableError
from store.replica import RETRY_SECONDS

if TYPE_CHECKING:
    from store.log import Position, Standing
    from store.peers import Peer
    from store.replica import Replica

WRITE_SECONDS = 10.0
"""Within which a majority has to have a write; then nobody can say whether it will be stored."""

HEARTBEAT_SECONDS = 0.5
"""Between two messages to a follower when nothing is written: what was committed last is told with the next one."""

WAITING_WRITES = 256
"""Writes that may wait for the disk. With the limits on keys and values they take 17 MiB."""

UNACKNOWLEDGED_WRITES = 512
"""Writes on the leader's disk that may wait for a majority: without one, its log does not grow without end."""

logger = logging.getLogger(__name__)


class NotStoredError(Exception):
    """The write was not stored, and never will be: nobody leads here, or too many writes wait."""


class UnknownError(Exception):
    """The write may or may not have been stored, and may still be."""


class Waiting(NamedTuple):
    """A write that is not on a majority of disks yet, and whom it is acknowledged to."""

    key: str
    value: bytes | None
    acknowledged: asyncio.Future[Entry]


class Follower:
    """What a leader knows of another replica."""

    def __init__(self, peer: Peer, sequence: int) -> None:
        self.peer = peer
        self.sequence = sequence
        """Up to here it has the leader's entries, as far as is known; where the next message begins."""
        self.has = 0
        """Up to here it has said that it has them."""
        self.round = 0
        """The greatest round of which it answered a message: it knew of no greater token after that round began."""
        self.woken = asyncio.Event()


class Leader:
    """The leader with one fencing token. It takes writes once it has everything that earlier leaders acknowledged."""

    def __init__(self, replica: Replica, token: int) -> None:
        self.token = token
        self._replica = replica
        self._log = replica.log
        self._followers: list[Follower] = []
        self._first = 0
        """The entry that begins the term (Raft, section 5.4.2)."""
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(WAITING_WRITES)
        self._waiting: set[asyncio.Future[Entry]] = set()
        """Of all writes that were taken."""
        self._unacknowledged: deque[tuple[Entry, asyncio.Future[Entry]]] = deque()
        self._round = 0
        self._progress = asyncio.Condition()
        self._ended = False

    @property
    def serves(self) -> bool:
        """Whether it takes writes."""
        return not self._ended and 0 < self._first <= self._log.committed

    async def run(self) -> None:
        """Lead until it is cancelled. Raises FencedError once another one leads, UsedError and sqlite3.Error."""
        try:
            await self._catch_up()
            [begun] = await self._replica.written(self._log.add, self.token, [(None, None)])
            self._first = begun.sequence
            self._followers = [Follower(peer, begun.sequence - 1) for peer in self._replica.peers.values()]
            self._advance()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._store())
                for follower in self._followers:
                    tasks.create_task(self._send(follower))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            self._end()
            await self._tell_progress()

    async def write(self, key: str, value: bytes | None) -> Entry:
        """Store a value, or delete it; return when a majority has it on disk. Raises NotStoredError, UnknownError."""
        if not self.serves:
            raise NotStoredError("the leader is not ready yet")
        if len(self._unacknowledged) >= UNACKNOWLEDGED_WRITES:
            raise NotStoredError(f"{UNACKNOWLEDGED_WRITES} writes wait for a majority already")
        waiting = Waiting(key, value, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise NotStoredError(f"{WAITING_WRITES} writes are waiting already") from None
        self._waiting.add(waiting.acknowledged)
        waiting.acknowledged.add_done_callback(self._waiting.discard)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                return await waiting.acknowledged
        except TimeoutError:
            raise UnknownError(f"no majority has acknowledged it within {WRITE_SECONDS:g} s") from None

    async def confirm(self) -> None:
        """Return once a majority, asked after this was called, knew of no greater token. Raises NotStoredError.

        What is committed here then is new enough for a read that is not stale (Ongaro's dissertation, section 6.4).
        """
        self._round += 1
        mine = self._round
        for follower in self._followers:
            follower.woken.set()

        def confirmed() -> bool:
            own = self._log.member and self._log.promised == self.token
            others = sum(follower.round >= mine for follower in self._followers)
            return self._ended or own + others >= self._replica.majority

        try:
            async with asyncio.timeout(WRITE_SECONDS), self._progress:
                await self._progress.wait_for(confirmed)
        except TimeoutError:
            raise NotStoredError("no majority answers") from None
        if not self.serves:
            raise NotStoredError("it leads no more")

    async def drain(self) -> None:
        """Wait until every write that was taken is acknowledged, or will not be."""
        if self._waiting:
            await asyncio.wait(self._waiting)

    # -- The beginning of the term --

    async def _catch_up(self) -> None:
        """Have a majority of members refuse earlier leaders, and take over the log of the furthest of them."""
        while True:
            own = await self._replica.promise(self.token)
            members = await self._prepare(self._replica.majority - own.member)
            if members is not None:
                last, peer = max(members, key=lambda member: member[0], default=(own.last, None))
                if peer is None or last <= own.last or await self._copied(peer, last):
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def _prepare(self, number: int) -> list[tuple[Position, Peer]] | None:
        """Have so many members refuse earlier leaders, the first that answer; None where there are not as many."""
        members: list[tuple[Position, Peer]] = []
        asked = [asyncio.create_task(self._prepared(peer)) for peer in self._replica.peers.values()]
        try:
            while asked and len(members) < number:
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for peer, standing in [one.result() for one in asked if one.done()]:
                    if standing is not None and standing.member:
                        members.append((standing.last, peer))
                asked = [one for one in asked if not one.done()]
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return members if len(members) >= number else None

    async def _prepared(self, peer: Peer) -> tuple[Peer, Standing | None]:
        try:
            return peer, await peer.prepare(self.token)
        except UnavailableError as error:
            logger.info("%s", error)
            return peer, None

    async def _copied(self, peer: Peer, last: Position) -> bool:
        try:
            await self._replica.copy(peer, self.token)
        except UnavailableError as error:
            logger.warning("%s", error)
        return self._log.last >= last

    # -- The writes --

    async def _store(self) -> None:
        """Put the writes on the own disk, all that are waiting at once."""
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty() and len(batch) < PAGE_ENTRIES:
                batch.append(self._queue.get_nowait())
            writes = [(one.key, one.value) for one in batch]
            try:
                entries = await self._replica.written(self._log.add, self.token, writes)
            except asyncio.CancelledError:
                for one in batch:
                    _fail(one.acknowledged, UnknownError("leadership ended while it was stored"))
                raise
            except FencedError as error:
                for one in batch:
                    _fail(one.acknowledged, NotStoredError(str(error)))
                raise
            except sqlite3.Error:
                for one in batch:
                    _fail(one.acknowledged, UnknownError("the leader's disk fails"))
                raise
            self._unacknowledged.extend(zip(entries, (one.acknowledged for one in batch), strict=True))
            self._advance()
            for follower in self._followers:
                follower.woken.set()

    async def _send(self, follower: Follower) -> None:
        """Send a follower what it does not have, and a heartbeat now and then. Raises FencedError."""
        while True:
            round_, append = self._round, self._next(follower)
            try:
                await follower.peer.append(append)
            except UnavailableError as error:
                logger.debug("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except BehindError as error:
                follower.round = round_
                # It may have lost what it had, with its volume.
                follower.has = min(follower.has, error.committed)
                # What it has to copy first is older than what is left here.
                if error.committed < self._log.horizon:
                    await asyncio.sleep(RETRY_SECONDS)
                follower.sequence = error.committed
            else:
                follower.round = round_
                follower.has = follower.sequence = append.previous.sequence + len(append.entries)
                self._advance()
            await self._tell_progress()
            if follower.has == self._log.last.sequence and follower.round == self._round:
                await _patiently(HEARTBEAT_SECONDS, follower.woken)

    def _next(self, follower: Follower) -> Append:
        """Return the next message to a follower. Up to the horizon the log has gaps, and can only be copied."""
        horizon = self._log.horizon
        return Append(
            leader=self._replica.name,
            token=self.token,
            previous=self._log.position(max(follower.sequence, horizon)),
            entries=[] if follower.sequence < horizon else self._log.after(follower.sequence),
            committed=self._log.committed,
            horizon=horizon,
        )

    def _advance(self) -> None:
        """Acknowledge what a majority has."""
        has = sorted([self._log.last.sequence, *(follower.has for follower in self._followers)], reverse=True)
        sequence = has[self._replica.majority - 1]
        # Earlier leaders' entries are committed with the first of this one's, and not by being many. And once another
        # leader is promised, what this replica has is no longer what this leader gave it.
        if sequence < self._first or self._log.promised != self.token:
            return
        self._log.commit(sequence)
        while self._unacknowledged and self._unacknowledged[0][0].sequence <= sequence:
            entry, acknowledged = self._unacknowledged.popleft()
            if not acknowledged.done():
                acknowledged.set_result(entry)

    async def _tell_progress(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    def _end(self) -> None:
        self._ended = True
        while not self._queue.empty():
            _fail(self._queue.get_nowait().acknowledged, NotStoredError("leadership ended before it was stored"))
        for _, acknowledged in self._unacknowledged:
            _fail(acknowledged, UnknownError("leadership ended before a majority had it"))
        self._unacknowledged.clear()


def _fail(acknowledged: asyncio.Future[Entry], error: Exception) -> None:
    if not acknowledged.done():
        acknowledged.set_exception(error)


async def _patiently(seconds: float, woken: asyncio.Event) -> None:
    """Wait until an event is set, and for so long at the most; it is not set afterwards."""
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        pass
    woken.clear()
