"""The way to an API server for a command: whose credentials, which namespace, and what time it is there."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sidecar.kube import ApiError, KubeClient
from sidecar.kubeconfig import ConfigError, choose
from sidecar.lab import context
from sidecar.lab.commandline import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

REQUEST_SECONDS = 10.0
"""For one request."""

PAGE_SIZE = 100
"""Whole objects of a page. Those of pods have some 10 kB each, and an answer at most 4 MiB."""

_DATE_STEP = 1.0
"""Seconds: a Date header has no fractions."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far the API server's clock is ahead of this machine's: `ahead` seconds, give or take `doubt`."""

    ahead: float
    doubt: float


class OperatorClient(KubeClient):
    """What commands ask for beyond what candidates do."""

    async def clock_reading(self) -> ClockReading | None:
        """Compare the API server's clock with this one's; `None` where it does not tell the time. Raises `ApiError`."""
        path = "/version"
        loop = asyncio.get_running_loop()
        async with self._asking("GET", path) as session:
            asked = loop.time()
            async with await self._send(session, "GET", path) as response:
                await response.read()
                now, took = datetime.now(UTC), loop.time() - asked
                told = response.headers.get("Date", "")
        try:
            date = parsedate_to_datetime(told)
        except ValueError:
            return None
        if date.tzinfo is None:
            return None
        # It was cut down to whole seconds, and told some time between the question and the answer.
        ahead = (date - now).total_seconds() + _DATE_STEP / 2 + took / 2
        return ClockReading(ahead, _DATE_STEP / 2 + took / 2)

    async def all_objects(self, path: str, *, most: int) -> list[Mapping[str, Any]]:
        """Return the whole objects of a collection, `most` and a page's at most. Raises `ApiError`."""
        found: list[Mapping[str, Any]] = []
        following = f"{path}?limit={PAGE_SIZE}"
        while following and len(found) < most:
            page = await self.get(following)
            items = page.get("items")
            metadata = page.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise ApiError(f"GET {path}: the answer is no list")
            found += [one for one in items if isinstance(one, dict)]
            token = metadata.get("continue")
            following = ""
            if isinstance(token, str) and token:
                following = f"{path}?limit={PAGE_SIZE}&continue={quote(token, safe='')}"
        return found


@dataclass(frozen=True, slots=True)
class Reached:
    """An API server, and the namespace that is meant: `""` for all."""

    kube: OperatorClient
    namespace: str


@asynccontextmanager
async def reaching(*, kubeconfig_paths: str, namespace: str | None) -> AsyncIterator[Reached]:
    """Reach the API server for as long as the block runs. Raises `CommandError`, for whatever fails in it as well.

    `kubeconfig_paths` is as in KUBECONFIG, and wins over it. `namespace` is `""` for all, `None` for the context's.
    """
    paths = kubeconfig_paths or os.environ.get("KUBECONFIG")
    home = Path("~")
    try:
        load = choose(kubeconfig=paths, use_cluster_credentials=False, environ=os.environ, home=home)
        kube = OperatorClient(load, timeout=REQUEST_SECONDS, user_agent=f"electionctl/{version('leader-elector')}")
        try:
            await kube.connect()
            if namespace is None:
                namespace = context.namespace(kubeconfig=paths, environ=os.environ, home=home)
            yield Reached(kube, namespace)
        finally:
            await kube.close()
    except (ConfigError, ApiError) as error:
        raise CommandError(str(error)) from error
