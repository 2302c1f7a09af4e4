"""What the system tests share: candidates that are ended whatever happens, and a server that does what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from sidecar.lab.apiserver import EmbeddedAPIServer
from tests.testbed.embedded import EmbeddedForTests
from tests.testbed.ports import free_port
from tests.testbed.sidecar import PROGRAM, Sidecars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def sidecars(tmp_path: Path) -> Iterator[Sidecars]:
    """Start candidates; all are killed after the test, and none of ours may have tripped over anything."""
    started = Sidecars(tmp_path)
    yield started
    started.close()
    for sidecar in started.started:
        if sidecar.command[0] == str(PROGRAM):
            assert "Traceback" not in sidecar.output()
            assert "Unclosed" not in sidecar.output()  # aiohttp, of what it had to close itself


@pytest_asyncio.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedForTests]:
    """Serve an embedded API server, whose faults can be aimed at one request or one answer."""
    async with EmbeddedAPIServer(port=free_port()) as server:
        yield EmbeddedForTests(server, tmp_path)
