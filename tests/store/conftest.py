"""What the tests of the store share: an API server, sidecars, and the store's replicas, ended whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
import pytest_asyncio

from sidecar.lab.apiserver import EmbeddedAPIServer
from tests.store.replicas import TTL_SECONDS, Replicas
from tests.testbed.embedded import EmbeddedForTests
from tests.testbed.ports import free_port
from tests.testbed.sidecar import Sidecars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class StartReplicas(Protocol):
    """Starts a store: what `Replicas.start` takes besides the API server, the sidecars and the folder."""

    async def __call__(self, *, log_kept: int = 1000, ttl: int = TTL_SECONDS, proxied: bool = False) -> Replicas:
        """Start three replicas, each with its sidecar."""


@pytest_asyncio.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedForTests]:
    """Serve an embedded API server."""
    async with EmbeddedAPIServer(port=free_port()) as server:
        yield EmbeddedForTests(server, tmp_path)


@pytest.fixture
def sidecars(tmp_path: Path) -> Iterator[Sidecars]:
    """Start sidecars; all are killed after the test."""
    started = Sidecars(tmp_path)
    yield started
    started.close()


@pytest_asyncio.fixture
async def start_replicas(
    embedded: EmbeddedForTests, sidecars: Sidecars, tmp_path: Path
) -> AsyncIterator[StartReplicas]:
    """Start stores; all are killed after the test, and none may have tripped over anything."""
    started: list[Replicas] = []

    async def start(*, log_kept: int = 1000, ttl: int = TTL_SECONDS, proxied: bool = False) -> Replicas:
        made = await Replicas.start(embedded, sidecars, tmp_path, log_kept=log_kept, ttl=ttl, proxied=proxied)
        started.append(made)
        return made

    yield start
    for store in started:
        store.close()
        await store.network.close()
    for store in started:
        for member in store.members:
            assert "Traceback" not in member.output()
            assert "RuntimeWarning" not in member.output()  # what was never awaited
            assert "Unclosed" not in member.output()  # aiohttp, of what it had to close itself
