"""The embedded API server as it is in bad times: it errs, stalls, loses answers, lags behind, forgets and restarts.

Each request is treated by who sent it, which its User-Agent says. What is done to the store is told to `committed`
with who did it, in the instant in which it is done.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sidecar.lab import rest
from sidecar.lab.apiserver import DropConnection, EmbeddedAPIServer
from sidecar.lab.resources import ENDPOINTS, LEASES
from sidecar.lab.status import ApiError, conflict
from sidecar.lab.virtualtime import EPOCH
from tests.safety.simulate.connections import ConnectedLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from sidecar.lab.store import WatchEvent

HAND: Final = "by hand"
"""Who writes when no request does."""

PORT: Final = 6443

_WRITES: Final = frozenset({"create", "update", "patch", "delete"})
_SENDER: Final[ContextVar[str]] = ContextVar("sender", default=HAND)


@dataclass(eq=False, kw_only=True)
class Treatment:
    """What befalls a share of the requests of some."""

    meets: Callable[[str], bool]
    """Whether it meets a process of this name."""
    share: float = 1.0
    statuses: tuple[int, ...] = ()
    """One of them is answered, and nothing done. 409 is for writes alone."""
    retry_after: int = 0
    applied: str = ""
    """What a write is answered with after it was done: "reset", "none" for nothing ever, or a status."""
    delay: tuple[float, float] = (0.0, 0.0)
    """Seconds until the server gets to a request, whether or not its client still waits."""


class FaultyAPIServer(EmbeddedAPIServer):
    """An embedded API server for a `ConnectedLoop`, by its clock and by random numbers of its own.

    `told` hears of every request and its answer, in words; `committed` of every change of a lock object.
    """

    def __init__(self, seed: int, *, told: Callable[[str], None], committed: Callable[[str, WatchEvent], None]) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, ConnectedLoop):
            raise TypeError("this server is reached through a ConnectedLoop")
        super().__init__(
            port=PORT,
            now=lambda: datetime.fromtimestamp(EPOCH + loop.time(), UTC),
            random=Random(f"store/{seed}"),  # noqa: S311 - plays, protects nothing
        )
        self._loop = loop
        self._random = Random(f"server/{seed}")  # noqa: S311 - plays, protects nothing
        self._told = told
        self._committed = committed
        self.treatments: dict[Treatment, None] = {}
        self.lists_lag = 0.0
        """Seconds by which lists from the cache are behind."""
        self._versions: list[tuple[float, int]] = []
        """When there was which version."""
        self._late: set[asyncio.Task[Any]] = set()
        self.before_request = self._treat
        self.before_answer = self._lose
        self._commits = [self.store.watch(resource, wake=self._commit) for resource in (ENDPOINTS, LEASES)]

    async def _listen(self, runner: web.AppRunner) -> int:
        self._loop.accept = runner.server
        return PORT

    async def stop(self) -> None:
        """See `EmbeddedAPIServer.stop`."""
        self._loop.accept = None
        for task in list(self._late):
            task.cancel()
        await super().stop()

    def forget(self) -> None:
        """Forget the history: no watch can be resumed, and the cache begins anew."""
        self.store.compact()
        self._versions.clear()

    def _commit(self) -> None:
        self._versions.append((self._loop.time(), self.store.version))
        for commits in self._commits:
            for event in commits.take():
                self._committed(_SENDER.get(), event)

    # -- Before a request is handled --

    async def _treat(self, request: web.Request) -> web.StreamResponse | None:
        sender = request.headers.get("User-Agent", "")
        _SENDER.set(sender)
        target = rest.target_of(request)
        if target is None:
            return None
        what = f"{sender}: {target.verb} {target.name or target.namespace}"
        for treatment in list(self.treatments):
            if not treatment.meets(sender) or self._random.random() >= treatment.share:
                continue
            if treatment.statuses:
                status = self._random.choice(treatment.statuses)
                if status == HTTPStatus.CONFLICT and target.verb not in _WRITES:
                    continue
                self._told(f"{what}: {status}, not done")
                return rest.failure(_error(status, target, treatment.retry_after), target)
            if treatment.delay[1] and target.verb != "watch":
                await request.read()  # while there still is a connection to read from
                self._told(f"{what}: kept waiting")
                return await self._handled_late(request, target, self._random.uniform(*treatment.delay))
        if target.verb == "list" and request.query.get("resourceVersion") == "0" and self.lists_lag:
            return self._stale_list(request, target)
        return None

    async def _handled_late(self, request: web.Request, target: rest.Target, seconds: float) -> web.StreamResponse:
        """Handle a request after a while, also when its client has gone: what is in the queue gets done."""

        async def handle() -> web.StreamResponse:
            await asyncio.sleep(seconds)
            return await self._handled(request, target)

        task = asyncio.create_task(handle())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return await asyncio.shield(task)

    def _stale_list(self, request: web.Request, target: rest.Target) -> web.StreamResponse:
        then = self._loop.time() - self.lists_lag
        at = max((version for when, version in self._versions if when <= then), default=None)
        options = rest.list_options(request, target.resource)
        oldest = self._versions[0][1] if self._versions else self.store.version
        listing = self.store.list_objects(
            target.resource, target.namespace, selectors=options.selectors, at=oldest if at is None else at
        )
        self._told(f"{request.headers['User-Agent']}: list: as of version {listing.version}")
        partial = rest.wants_metadata_only(request)
        return rest.success(target.resource, rest.shown_list(target.resource, listing, partial=partial))

    # -- Before an answer is sent --

    async def _lose(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
        sender = _SENDER.get()
        target = rest.target_of(request)
        if target is None:
            return None
        what = f"{sender}: {target.verb} {target.name or target.namespace}"
        if response.status < HTTPStatus.BAD_REQUEST and target.verb in _WRITES:
            for treatment in list(self.treatments):
                if treatment.applied and treatment.meets(sender) and self._random.random() < treatment.share:
                    self._told(f"{what}: done at version {self.store.version}, but answered with {treatment.applied}")
                    return await self._misanswered(treatment.applied, target)
        self._told(f"{what}: {response.status} at version {self.store.version}")
        return None

    @staticmethod
    async def _misanswered(how: str, target: rest.Target) -> web.StreamResponse:
        match how:
            case "reset":
                raise DropConnection
            case "none":
                await asyncio.get_running_loop().create_future()  # until the client gives up
        return rest.failure(_error(int(how), target, 0), target)


def _error(status: int, target: rest.Target, retry_after: int) -> ApiError:
    if status == HTTPStatus.CONFLICT:
        return conflict(target.resource, target.name)
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}[status]
    told = HTTPStatus(status).phrase.lower()
    return ApiError(HTTPStatus(status), reason, f"the server is in trouble: {told}", retry_after=retry_after or None)
