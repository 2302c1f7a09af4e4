"""kubectl commands that go on printing: watches, logs that are followed, a proxy."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.testbed.processes import TETHER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.testbed.cluster import Cluster

LONGEST_LINE = 2**24
"""Bytes. A watch event is one line."""


@asynccontextmanager
async def streaming(cluster: Cluster, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Yield what a kubectl command prints while it runs. It is killed when the block ends, or the tests do."""
    # The kernel kills it when the thread ends that started it, which here is the main one.
    tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())]
    process = await asyncio.create_subprocess_exec(
        *tether, *cluster.command(*arguments), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, limit=LONGEST_LINE
    )
    if process.stdout is None:
        raise RuntimeError("a pipe was asked for")
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
