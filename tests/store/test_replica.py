"""What a replica does with its disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest
from store import replica as module
from store.replica import Replica

from tests.store.test_log import made

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 30.0


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, and not for ever."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.01)


async def test_a_disk_that_hangs_is_failing_until_it_takes_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar asks for it, so a leader whose disk hangs is succeeded; when the disk is back, so is the replica."""
    monkeypatch.setattr(module, "HANGING_SECONDS", 0.05)
    replica = Replica("s-0", made(tmp_path), {})
    taken = threading.Event()
    write = asyncio.create_task(replica.written(taken.wait, SECONDS))
    try:
        await until(lambda: replica.failing)
    finally:
        taken.set()
    assert await write
    assert not replica.failing
    await replica.close()


async def test_a_disk_that_takes_a_write_again_is_well(tmp_path: Path) -> None:
    """An error makes a replica fail, and the next write that is stored makes it well."""

    def fail() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    replica = Replica("s-0", made(tmp_path), {})
    with pytest.raises(sqlite3.Error):
        await replica.written(fail)
    assert replica.failing
    await replica.written(replica.log.promise, 7)
    assert not replica.failing
    await replica.close()
