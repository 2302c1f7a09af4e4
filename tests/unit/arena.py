"""Real candidates against the lab's store in virtual time, with everything between them that can go wrong.

Between a candidate and the store stands a client that answers as the API server would, after a time, or not at all:
`Network` says how. Every change of any candidate's state is checked: never do two lead.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

import structlog

from sidecar import kube
from sidecar.candidate import Candidate
from sidecar.election import Candidacy
from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, KubeClient, NotFoundError, WatchEvent
from sidecar.lab import status
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.selectors import FieldSelector, LabelSelector
from sidecar.lab.store import Store
from sidecar.lab.virtualtime import EPOCH, PROCESS, VirtualClock, VirtualTimeLoop
from sidecar.locks import EndpointsLock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, MutableMapping

    from sidecar.election import State

TTL: Final = 10
DEADLINE: Final = TTL * 2 / 3
RETRY: Final = TTL / 4
TIMEOUT: Final = (DEADLINE - RETRY) / 2
ELECTION: Final = "example"


@dataclass
class Network:
    """What lies between one candidate and the API server, and how that server treats it."""

    latency: tuple[float, float] = (0.001, 0.02)
    """Seconds of each way, drawn from this range."""
    lost_requests: float = 0.0
    """The part of the requests that never arrive."""
    lost_answers: float = 0.0
    """The part of the requests that are done and not answered."""
    errors: tuple[ApiError, ...] = ()
    """What requests are answered with, one after the other in turn; `broken` is the part of them."""
    broken: float = 1.0
    hangs: bool = False
    """No request arrives, and watches fall silent."""
    watch: str = "works"
    """"works", "silent", "forbidden", "gone" or "ends" (as soon as it began)."""
    cuts: int = 0
    """How often the open watches were broken off."""
    watching: set[asyncio.Event] = field(default_factory=set)
    """What wakes the open watches."""

    def cut_watch(self) -> None:
        """Break off the watch that is open, if any."""
        self.cuts += 1
        for woken in self.watching:
            woken.set()

    def heal(self) -> None:
        """Make everything work again."""
        self.latency, self.lost_requests, self.lost_answers = Network.latency, 0.0, 0.0
        self.errors, self.broken, self.hangs, self.watch = (), 1.0, False, "works"


@dataclass(frozen=True)
class Request:
    """One request that a candidate sent."""

    time: float
    sender: str
    verb: str


class LabClient(KubeClient):
    """The client of one candidate, without a network: `Network` takes its place."""

    def __init__(self, arena: Arena, sender: str, network: Network) -> None:
        self._arena = arena
        self._sender = sender
        self._network = network
        self._random = arena.random
        self._served: set[asyncio.Task[None]] = set()
        self._failures = 0

    async def get(self, path: str) -> Mapping[str, Any]:
        """See `KubeClient.get`."""
        return await self._ask("get", lambda store: store.get(ENDPOINTS, "default", path.rsplit("/", 1)[1]))

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.create`."""
        assert path.endswith("/endpoints")
        return await self._ask("create", lambda store: store.create(ENDPOINTS, "default", body))

    async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient.update`."""
        name = path.rsplit("/", 1)[1]
        return await self._ask("update", lambda store: store.update(ENDPOINTS, "default", name, body)[0])

    async def _ask(self, verb: str, operation: Callable[[Store], Mapping[str, Any]]) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        self._arena.requests.append(Request(loop.time(), self._sender, verb))
        answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        # What is on its way, or at the API server, goes on when the sender is stopped or dies.
        task = loop.create_task(self._serve(operation, answer), context=Context())
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        try:
            async with asyncio.timeout(TIMEOUT):
                return await answer
        except TimeoutError as error:
            raise ApiError(f"{verb}: no answer in time") from error

    async def _serve(
        self, operation: Callable[[Store], Mapping[str, Any]], answer: asyncio.Future[Mapping[str, Any]]
    ) -> None:
        network = self._network
        if network.hangs or self._random.random() < network.lost_requests:
            return
        lost = self._random.random() < network.lost_answers
        await self._travel()
        result: Mapping[str, Any] | ApiError
        if network.errors and self._random.random() < network.broken:
            self._failures += 1
            result = network.errors[self._failures % len(network.errors)]
        else:
            try:
                result = operation(self._arena.store)
            except status.ApiError as error:
                result = _as_client_sees(error)
        await self._travel()
        if lost or answer.done():
            return
        if isinstance(result, ApiError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(*self._network.latency))

    @asynccontextmanager
    async def watch(
        self, path: str, *, name: str, version: int, seconds: int
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """See `KubeClient.watch`."""
        assert path.endswith("/endpoints")
        network = self._network
        loop = asyncio.get_running_loop()
        self._arena.requests.append(Request(loop.time(), self._sender, "watch"))
        await self._travel()
        if network.hangs:
            await asyncio.sleep(TIMEOUT)
            raise ApiError("watch: no answer in time")
        if network.watch == "forbidden":
            raise ForbiddenError("watch: forbidden", status=403)
        if network.watch == "gone":
            raise GoneError("watch: too old", status=410)
        woken = asyncio.Event()

        def wake() -> None:
            loop.call_soon(woken.set)

        selectors = (LabelSelector(), FieldSelector((("metadata.name", True, name),)))
        try:
            watch = self._arena.store.watch(ENDPOINTS, "default", selectors=selectors, since=version, wake=wake)
        except status.ApiError as error:
            raise _as_client_sees(error) from error
        self._arena.watches += 1

        async def events() -> AsyncGenerator[WatchEvent, None]:
            ends_at = loop.time() + (1 if network.watch == "ends" else seconds)
            cuts = network.cuts
            while loop.time() < ends_at and not watch.ended:
                woken.clear()
                for event in [] if self._is_silent() else watch.take():
                    await self._travel()
                    yield WatchEvent(event.type, event.object)
                # A watch that is silent looks now and then whether it may speak again.
                limit = min(ends_at - loop.time(), 1.0 if self._is_silent() else 3600.0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(limit, 0)):
                        await woken.wait()
                if network.cuts != cuts:
                    raise ApiError("watch: connection reset")

        network.watching.add(woken)
        async with aclosing(events()) as stream:
            try:
                yield stream
            finally:
                network.watching.discard(woken)
                self._arena.watches -= 1
                watch.stop()

    def _is_silent(self) -> bool:
        return self._network.hangs or self._network.watch == "silent"


def _as_client_sees(error: status.ApiError) -> ApiError:
    known: dict[int, type[ApiError]] = {404: NotFoundError, 409: ConflictError, 410: GoneError}
    return known.get(error.code, ApiError)(error.message, status=error.code)


class CheckedCandidate(Candidate):
    """A candidate that has the arena look at everybody whenever its state changes."""

    arena: Arena

    def _replace(self, state: State) -> None:
        super()._replace(state)
        self.arena.check()


@dataclass(frozen=True)
class Logged:
    """One line of a log."""

    time: float
    sender: str
    level: str
    event: str


@dataclass(eq=False)
class Process:
    """One candidate's process: `name` is its own, its identity may be another's too."""

    name: str
    identity: str
    candidate: CheckedCandidate
    clock: VirtualClock
    network: Network
    task: asyncio.Task[None]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.task.done()


class Arena:
    """One election: the store, and whoever takes part. Made inside of a loop in virtual time."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)  # noqa: S311 - plays, protects nothing
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self.loop = loop
        self.store = Store(now=lambda: datetime.fromtimestamp(EPOCH + loop.time(), UTC), random=self.random)
        self.processes: list[Process] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.requests: list[Request] = []
        self.log: list[Logged] = []
        self.watches = 0
        self.tokens: list[int] = []
        self.broken: list[str] = []
        """What should never have happened, in words."""

    def start(
        self,
        identity: str,
        *,
        pod_uid: str = "",
        rate: float = 1.0,
        offset: float = 0.0,
        network: Network | None = None,
    ) -> Process:
        """Start a process, which takes part until it is told to leave or is killed."""
        name = f"{identity}-{len(self.requests)}-{len(self.processes)}"
        network = network or Network()
        clock = VirtualClock(rate=rate, offset=offset)

        async def take_part() -> None:
            PROCESS.set(name)
            await candidate.run()

        candidate = CheckedCandidate(
            Candidacy(
                identity=identity,
                pod_uid=pod_uid or f"uid-{name}",
                node=f"node-{identity}",
                lease_seconds=TTL,
                renew_deadline=DEADLINE,
                retry_period=RETRY,
            ),
            EndpointsLock(LabClient(self, name, network), namespace="default", election=ELECTION),
            clock=clock,
            random=Random(self.random.random()),  # noqa: S311 - plays, protects nothing
            request_timeout=TIMEOUT,
            log=self._logger(name),
        )
        candidate.arena = self
        task = asyncio.create_task(take_part(), name=name)
        process = Process(name, identity, candidate, clock, network, task)
        self.processes.append(process)
        self._tasks.append(task)
        return process

    def _logger(self, sender: str) -> Any:  # noqa: ANN401 - structlog's own type for a bound logger that is wrapped
        def collect(_logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            self.log.append(
                Logged(self.loop.time(), sender, level, f"{event['event']} {event.get('error', '')}".strip())
            )
            raise structlog.DropEvent

        wrapper = structlog.make_filtering_bound_logger(20)
        return structlog.wrap_logger(None, processors=[collect], wrapper_class=wrapper)

    def kill(self, process: Process) -> None:
        """End a process without a word, as SIGKILL does; its requests that are under way may still arrive."""
        self.processes.remove(process)
        self.loop.stop_process(process.name, math.inf)

    def stop(self, process: Process, seconds: float) -> None:
        """Let a process stand still for that long, as SIGSTOP does."""
        self.loop.stop_process(process.name, seconds)

    # -- What must hold, and what is seen --

    def exists(self) -> bool:
        """Tell whether there is a lock object."""
        return bool(self.store.list_objects(ENDPOINTS, "default").items)

    def leaders(self) -> list[Process]:
        """Return whoever would answer now that it leads."""
        return [process for process in self.processes if process.candidate.is_leading()]

    def check(self) -> None:
        """Note it when two lead, when an own name is answered by somebody who does not, or a token does not grow."""
        leaders = self.leaders()
        if len(leaders) > 1:
            self.broken.append(f"{self.loop.time():.3f}: {' and '.join(process.name for process in leaders)} lead")
        for process in leaders:
            term = process.candidate._state.term
            if term is not None and term.token not in self.tokens:
                if self.tokens and term.token < self.tokens[-1]:
                    self.broken.append(f"{self.loop.time():.3f}: token {term.token} after {self.tokens[-1]}")
                self.tokens.append(term.token)
        for process in self.processes:
            if process.candidate.leader_name() == process.identity and process not in leaders:
                self.broken.append(f"{self.loop.time():.3f}: {process.name} names itself and does not lead")

    async def leader(self, within: float = 3 * TTL) -> Process:
        """Wait until somebody leads, and return who."""
        async with asyncio.timeout(within):
            while not (leaders := self.leaders()):  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.01)
        return leaders[0]

    async def until(self, condition: Callable[[], bool], within: float = 3 * TTL) -> float:
        """Wait until `condition` holds; return how long that took. Raises TimeoutError."""
        began = self.loop.time()
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.01)
        return self.loop.time() - began

    def requests_since(self, instant: float, sender: Process | None = None) -> list[str]:
        """Return the verbs of the requests that were sent since then, by `sender` or by all."""
        return [
            request.verb
            for request in self.requests
            if request.time >= instant and (sender is None or request.sender == sender.name)
        ]

    def said(self, sender: Process, since: float = 0.0) -> list[str]:
        """Return the lines that a process logged since then."""
        return [line.event for line in self.log if line.sender == sender.name and line.time >= since]

    async def end(self) -> None:
        """End all that still runs, and raise what broke."""
        for process in self.processes:
            if process.ended:
                process.task.result()
        self.processes.clear()
        for task in self._tasks:
            task.cancel()
        for name in list(self.loop.stopped):
            self.loop.continue_process(name)
        await asyncio.wait(self._tasks)
        assert not self.broken, "\n".join(self.broken)


REFUSED: Final = tuple(ApiError(f"{code}", status=code, retry_after=after) for code, after in ((429, 1), (422, 0)))
UNKNOWN: Final = tuple(ApiError(f"{code}", status=code) for code in (500, 503, 504))
CONFLICT: Final = (kube.ConflictError("409", status=409),)
