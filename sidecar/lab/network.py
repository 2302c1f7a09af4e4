"""A client without a network: candidates ask a store in their own process, and `Network` says what lies in between.

Requests and answers travel for a while or get lost; the API server answers, refuses, fails or hangs; watches show what
happens, fall silent or break. All of it in virtual time, by the random numbers that are handed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.kube import (
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    KubeClient,
    Listing,
    NotFoundError,
    WatchEvent,
)
from sidecar.lab import status
from sidecar.lab.resources import ENDPOINTS, EVENTS, LEASES, NODES, PODS, Resource
from sidecar.lab.scenario import LATENCY
from sidecar.lab.selectors import FieldSelector, LabelSelector, parse_field_selector, parse_label_selector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from random import Random

    from sidecar.lab.store import Store, Watch

T = TypeVar("T")

_HEARING: Final = 1.0
"""Seconds between two looks of a silent watch whether it may speak again."""

_ROOTS: Final[dict[str, tuple[Resource, ...]]] = {
    "/api/v1/": (ENDPOINTS, PODS, EVENTS, NODES),
    "/apis/coordination.k8s.io/v1/": (LEASES,),
}


@dataclass
class Network:
    """What lies between one candidate and the API server, and how that server treats it."""

    latency: tuple[float, float] = LATENCY
    """Seconds of each way, drawn from this range."""
    lost_requests: float = 0.0
    """The part of the requests that never arrive."""
    lost_answers: float = 0.0
    """The part of the requests that are done and not answered."""
    errors: tuple[ApiError, ...] = ()
    """What requests are answered with, one after the other in turn; `broken` is the part of them."""
    broken: float = 1.0
    forbidden: frozenset[str] = frozenset()
    """The verbs that are answered with 403."""
    hangs: bool = False
    """No request arrives, and watches fall silent."""
    watch: str = "works"
    """"works", "silent", "forbidden", "gone" or "ends" (as soon as it began)."""
    watching: dict[_Stream, None] = field(default_factory=dict, repr=False)
    """The open watches."""

    def cut_watch(self) -> None:
        """Break off the watches that are open."""
        for stream in tuple(self.watching):
            stream.break_off()

    def heal(self) -> None:
        """Make everything work again."""
        self.latency, self.lost_requests, self.lost_answers = LATENCY, 0.0, 0.0
        self.errors, self.broken, self.hangs, self.watch = (), 1.0, False, "works"
        self.forbidden = frozenset()

    @property
    def is_silent(self) -> bool:
        """Whether watches show nothing."""
        return self.hangs or self.watch == "silent"


@dataclass(frozen=True, slots=True)
class Request:
    """One request that a candidate sent; `verb` is what RBAC calls it."""

    time: float
    sender: str
    verb: str


class LabClient(KubeClient):
    """The client of one candidate. Each request is told to `sent`, and given up `timeout` seconds after it."""

    def __init__(
        self,
        store: Store,
        network: Network,
        *,
        random: Random,
        timeout: float,
        sender: str,
        sent: Callable[[Request], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._network = network
        self._random = random
        self._timeout = timeout
        self._sender = sender
        self._sent = sent
        self._failures = 0
        # What is on its way, or at the API server, goes on when the sender is stopped or dies.
        self._outside = Context()

    async def get(self, path: str) -> Mapping[str, Any]:
        """See `KubeClient.get`."""
        resource, namespace, name = _target(path)
        return await self._ask("get", lambda: self._store.get(resource, namespace, name))

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.create`."""
        resource, namespace, _ = _target(path)
        return await self._ask("create", lambda: self._store.create(resource, namespace, body))

    async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.update`."""
        resource, namespace, name = _target(path)
        return await self._ask("update", lambda: self._store.update(resource, namespace, name, body)[0])

    async def patch(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.patch`."""
        resource, namespace, name = _target(path)
        return await self._ask("patch", lambda: self._store.patch(resource, namespace, name, body))

    async def list_metadata(self, path: str, *, label: str, cached: bool) -> Listing:
        """See `KubeClient.list_metadata`. A cache is behind by up to the way there: it shows what was on the way."""
        found = await self.list_objects(path, label=label, cached=cached)
        listing = Listing({"metadata": stored["metadata"]} for stored in found)
        listing.version = found.version
        return listing

    async def list_objects(self, path: str, *, label: str, field: str = "", cached: bool) -> Listing:
        """See `KubeClient.list_objects`, but for the cache as `list_metadata`."""
        resource, namespace, _ = _target(path)
        selectors = (_label_selector(label), parse_field_selector(field, resource))

        def listed() -> Listing:
            found = self._store.list_objects(resource, namespace, selectors=selectors)
            listing = Listing(found.items)
            listing.version = found.version
            return listing

        return await self._ask("list", listed, lag=self._random.random() if cached else 0.0)

    async def _ask(self, verb: str, operation: Callable[[], T], *, lag: float = 0.0) -> T:
        """Have `operation` done at the API server and its result sent back; `lag` is the part of the way not waited."""
        loop, network = self._loop, self._network
        self._sent(Request(loop.time(), self._sender, verb))
        answer: asyncio.Future[T] = loop.create_future()
        if not network.hangs and not (network.lost_requests and self._random.random() < network.lost_requests):
            way = self._travel()
            loop.call_later(way * (1 - lag), self._serve, verb, operation, answer, way * lag, context=self._outside)
        limit = loop.call_later(self._timeout, _give_up, verb, answer)
        try:
            return await answer
        finally:
            limit.cancel()

    def _serve(self, verb: str, operation: Callable[[], T], answer: asyncio.Future[T], rest: float) -> None:
        network = self._network
        result: T | ApiError
        if verb in network.forbidden:
            result = ForbiddenError(f"{verb}: forbidden", status=403)
        elif network.errors and self._random.random() < network.broken:
            self._failures += 1
            result = network.errors[self._failures % len(network.errors)]
        else:
            try:
                result = operation()
            except status.ApiError as error:
                result = _as_client_sees(error)
        if not (network.lost_answers and self._random.random() < network.lost_answers):
            self._loop.call_later(rest + self._travel(), _deliver, answer, result, context=self._outside)

    def _travel(self) -> float:
        return self._random.uniform(*self._network.latency)

    @asynccontextmanager
    async def watch(
        self, path: str, *, name: str, version: int, seconds: int
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """See `KubeClient.watch`."""
        network = self._network
        resource, namespace, _ = _target(path)
        self._sent(Request(self._loop.time(), self._sender, "watch"))
        await asyncio.sleep(self._travel())
        if network.hangs:
            await asyncio.sleep(self._timeout)
            raise ApiError("watch: no answer in time")
        if network.watch == "forbidden" or "watch" in network.forbidden:
            raise ForbiddenError("watch: forbidden", status=403)
        if network.watch == "gone":
            raise GoneError("watch: too old", status=410)
        stream = _Stream(network, self._travel, self._outside)
        selectors = (LabelSelector(), FieldSelector((("metadata.name", True, name),)))
        try:
            watch = self._store.watch(resource, namespace, selectors=selectors, since=version, wake=stream.wake)
        except status.ApiError as error:
            raise _as_client_sees(error) from error
        stream.open(watch, 1.0 if network.watch == "ends" else seconds)
        try:
            yield stream
        finally:
            stream.close()


class _Stream:
    """What a watch shows, in order, each event after a way of its own."""

    def __init__(self, network: Network, travel: Callable[[], float], outside: Context) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._travel = travel
        self._outside = outside
        self._watch: Watch | None = None
        self._under_way: deque[WatchEvent] = deque()
        self._arrived: deque[WatchEvent] = deque()
        self._last_arrival = 0.0
        self._ended = self._broken = self._waits_to_be_heard = False
        self._end: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    def open(self, watch: Watch, seconds: float) -> None:
        """Begin to show what `watch` holds, for that long."""
        self._watch = watch
        self._network.watching[self] = None
        self._end = self._loop.call_later(seconds, self._finish, context=self._outside)
        self.wake()

    def close(self) -> None:
        """Show nothing more."""
        self._network.watching.pop(self, None)
        watch, self._watch = self._watch, None
        if self._end is not None:
            self._end.cancel()
        if watch is not None:
            watch.stop()

    def break_off(self) -> None:
        """Break the connection: what has not arrived by now never does."""
        self._broken = True
        self.close()
        self._continue()

    def wake(self) -> None:
        """Send what the watch holds on its way."""
        watch = self._watch
        if watch is None:
            return
        if self._network.is_silent:
            if not self._waits_to_be_heard:
                self._waits_to_be_heard = True
                self._loop.call_later(_HEARING, self._try_again, context=self._outside)
            return
        for event in watch.take():
            self._last_arrival = max(self._last_arrival, self._loop.time() + self._travel())
            self._under_way.append(WatchEvent(event.type, event.object))
            self._loop.call_at(self._last_arrival, self._arrive, context=self._outside)
        if watch.ended:
            self._finish()

    def _try_again(self) -> None:
        self._waits_to_be_heard = False
        self.wake()

    def _arrive(self) -> None:
        event = self._under_way.popleft()
        if not self._broken:
            self._arrived.append(event)
            self._continue()

    def _finish(self) -> None:
        self._ended = True
        self._continue()

    def _continue(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        return self

    async def __anext__(self) -> WatchEvent:
        while not self._arrived:
            if self._broken:
                raise ApiError("watch: connection reset")
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._arrived.popleft()


def _deliver(answer: asyncio.Future[T], result: T | ApiError) -> None:
    if answer.done():
        return
    if isinstance(result, ApiError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _give_up(verb: str, answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(ApiError(f"{verb}: no answer in time"))


@cache
def _target(path: str) -> tuple[Resource, str, str]:
    """Return the resource, namespace and name that a path leads to; the latter two `""` where it names none."""
    for root, resources in _ROOTS.items():
        parts = path.removeprefix(root).split("/") if path.startswith(root) else []
        namespace = ""
        if len(parts) > 2 and parts[0] == "namespaces":  # noqa: PLR2004 - namespaces/NAMESPACE/RESOURCE
            namespace, parts = parts[1], parts[2:]
        for resource in resources:
            if parts and parts[0] == resource.plural:
                return resource, namespace, parts[1] if len(parts) > 1 else ""
    raise ValueError(f"the laboratory's API has no {path}")


_label_selector = cache(parse_label_selector)


def _as_client_sees(error: status.ApiError) -> ApiError:
    known: dict[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError, 410: GoneError}
    return known.get(error.code, ApiError)(error.message, status=error.code)
