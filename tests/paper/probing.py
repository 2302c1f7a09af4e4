"""Writes that go on while a node is lost: when they were acknowledged, and for how long none was."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager, suppress
from itertools import cycle, pairwise
from threading import Event, Thread
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EVERY = 0.05
"""Seconds from one write of a store to its next, whatever becomes of the one before."""
WRITE_SECONDS = 2.0
"""Until a write that is not answered is given up: it may have gone to a replica that is gone."""
MOST_AT_ONCE = 60
"""Writes of one store under way, beyond which none is added."""
BODY = b"probe"
KEY = "probe"
END_SECONDS = 3 * WRITE_SECONDS


class Prober:
    """Writes to every store at once. Made by `probing`."""

    def __init__(self, entries: Mapping[str, Sequence[str]]) -> None:
        self._entries = entries
        self._acknowledged: dict[str, list[float]] = {store: [] for store in entries}
        self._over = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._probe()), name="prober", daemon=True)

    def begin(self) -> None:
        """Begin to write."""
        self._thread.start()

    def end(self) -> None:
        """Write no more, and wait for what is under way."""
        self._over.set()
        self._thread.join(END_SECONDS)

    def last(self) -> dict[str, float]:
        """Return when each store acknowledged last, in `time.monotonic`; 0 for one that has not yet."""
        return {store: (found[-1] if found else 0.0) for store, found in self._acknowledged.items()}

    def gaps(self, began: float, ended: float) -> dict[str, float]:
        """Return for each store the longest time between two acknowledged writes of those from `began` to `ended`."""
        return {store: longest_gap(found, began, ended) for store, found in self._acknowledged.items()}

    async def _probe(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=WRITE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            await asyncio.gather(*(self._write_on(session, store, urls) for store, urls in self._entries.items()))

    async def _write_on(self, session: aiohttp.ClientSession, store: str, urls: Sequence[str]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        for url in cycle(urls):
            if self._over.is_set():
                break
            if len(under_way) < MOST_AT_ONCE:
                under_way.add(task := asyncio.create_task(self._write(session, store, f"{url}/kv/{KEY}")))
                task.add_done_callback(under_way.discard)
            due = max(due + EVERY, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        await asyncio.gather(*under_way)

    async def _write(self, session: aiohttp.ClientSession, store: str, url: str) -> None:
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.put(url, data=BODY) as answer:
                if answer.ok:
                    self._acknowledged[store].append(time.monotonic())


@contextmanager
def probing(entries: Mapping[str, Sequence[str]]) -> Iterator[Prober]:
    """Write to each store through its entries in turn, for the block."""
    prober = Prober(entries)
    prober.begin()
    try:
        yield prober
    finally:
        prober.end()


def longest_gap(acknowledged: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time without an acknowledged write between two instants; all of it where there was none."""
    instants = [began, *sorted(at for at in acknowledged if began < at < ended), ended]
    return max(later - earlier for earlier, later in pairwise(instants))
