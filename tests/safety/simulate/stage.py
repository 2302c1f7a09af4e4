"""The stage of one seed: an API server, links, and the processes that take part, in one loop in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

import structlog
from kubernetes_asyncio.client import Configuration

from sidecar.candidate import Candidate
from sidecar.election import Balance, Candidacy
from sidecar.group import EndpointsGroup, LeaseGroup, MixedGroup
from sidecar.kube import ApiError, KubeClient
from sidecar.lab import resources
from sidecar.lab.access import User, rule
from sidecar.lab.status import ApiError as NoSuchObject
from sidecar.lab.virtualtime import PROCESS, VirtualClock
from sidecar.locks import EndpointsLock, LeaseLock
from sidecar.pairlock import PairLock
from sidecar.record import Record
from sidecar.settings import MAX_REQUEST_TIMEOUT
from tests.safety.simulate import plan
from tests.safety.simulate.checker import Checker
from tests.safety.simulate.connections import ConnectedLoop, Link
from tests.safety.simulate.faultyserver import PORT, FaultyAPIServer
from tests.safety.simulate.lockobjects import record_in
from tests.safety.simulate.plan import BACKOFF, FULL, OFF, STOCK
from tests.safety.simulate.stockpeer import StockPeer

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.election import State
    from sidecar.lab.store import WatchEvent
    from sidecar.locks import Lock
    from tests.safety.simulate.plan import Participant, Plan

NAMESPACE: Final = "default"
GROUP: Final = "default"

FOR_EVER: Final = 1e9
"""Seconds; the time-out of who has none."""

_BALANCES: Final = {FULL: Balance(), BACKOFF: Balance(rebalance=False), OFF: None}
_VERBS: Final = frozenset({"get", "create", "update", "patch", "list", "watch"})
_LOCKS: Final = ("endpoints", "leases.coordination.k8s.io")
_STOCK_VERBS: Final = frozenset({"get", "create", "update"})

_SECONDS_ASKED: Final = 0.25
"""Between two instants at which everybody is asked, although nothing has happened."""


class CheckedCandidate(Candidate):
    """A candidate that tells the stage whenever its state changes."""

    process: Process
    stage: Stage

    def _replace(self, state: State) -> None:
        super()._replace(state)
        self.stage.checker.look(self.process)


@dataclass(eq=False, kw_only=True)
class Process:
    """One process. Its `name` is its own; its identity, and its pod's UID, may have been another's before."""

    name: str
    participant: Participant
    node: str
    pod_uid: str
    link: Link
    clock: VirtualClock
    candidate: CheckedCandidate | None = None
    peer: StockPeer | None = None
    task: asyncio.Task[None] | None = None
    context: Context = field(default_factory=Context)
    """The one that its task runs in."""
    lock: str = plan.ENDPOINTS
    """The kind of its lock, as `ELECTION_LOCK` says it."""
    token: str = ""
    load_takes: float = 0.0
    """Seconds that its credentials take to be loaded."""
    killed: bool = False
    leaving: bool = False
    when_gone: list[Callable[[], None]] = field(default_factory=list)
    """Called when it has ended or was killed."""

    @property
    def identity(self) -> str:
        """What it calls itself."""
        return self.participant.identity

    @property
    def election(self) -> str:
        """What it takes part in."""
        return self.participant.election

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or will go on."""
        return not self.killed and self.task is not None and not self.task.done()


class Stage:
    """Everything that takes part in playing a plan. What happens is told to `story`, line by line."""

    def __init__(self, planned: Plan, story: list[str]) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, ConnectedLoop):
            raise TypeError("a plan is played in a ConnectedLoop")
        self.loop = loop
        self.plan = planned
        self.random = Random(f"stage/{planned.seed}")  # noqa: S311 - plays, protects nothing
        self.story = story
        self.processes: dict[str, Process] = {}
        """All there ever were, by name."""
        self.server = FaultyAPIServer(planned.seed, told=self.tell, committed=self._committed)
        self.checker = Checker(self)
        self.link_faults: dict[LinkFault, None] = {}
        self.forbidden: dict[Forbidden, None] = {}
        self.starting = 0
        """Processes that are to be started."""
        self._generations: Counter[str] = Counter()
        self._locks: dict[str, str] = {}
        """The kind of lock that each pod was made with."""
        self._down = 0
        self._forgets = False
        self._wanted_down, self._wanted_up = asyncio.Event(), asyncio.Event()
        loop.set_exception_handler(self._escaped)
        loop.went_on = self._went_on

    def tell(self, what: str) -> None:
        """Take note of what happens."""
        self.story.append(f"{self.loop.time():12.6f}  {what}")

    # -- Processes --

    def living(self) -> list[Process]:
        """Return the processes that have not ended."""
        return [process for process in self.processes.values() if process.is_alive]

    def is_stopped(self, process: Process) -> bool:
        """Tell whether a process stands still, or will never run again."""
        return process.name in self.loop.stopped

    def start_later(self, seconds: float, participant: Participant, *, pod_uid: str = "", node: str = "") -> None:
        """Start a process after a while, and no later than when the faults end."""
        self.starting += 1
        when = min(self.loop.time() + seconds, max(self.plan.ends_at, self.loop.time()))

        def start() -> None:
            self.starting -= 1
            self.start(participant, pod_uid=pod_uid, node=node)

        self.loop.call_at(when, start, context=Context())

    def start(self, participant: Participant, *, pod_uid: str = "", node: str = "") -> Process:
        """Start a process: of a new pod, unless `pod_uid` is one that there was."""
        self._generations[participant.identity] += 1
        name = f"{participant.identity}#{self._generations[participant.identity]}"
        pod_uid = pod_uid or f"uid-{name}"
        locks = participant.locks
        # What a pod was made with stays, however often its container is started again.
        lock = self._locks.setdefault(pod_uid, locks[(self._generations[participant.identity] - 1) % len(locks)])
        process = Process(
            name=name,
            participant=participant,
            node=node or participant.node,
            pod_uid=pod_uid,
            lock=lock,
            link=Link(name, self.plan.seed),
            clock=VirtualClock(
                rate=participant.rate,
                offset=Random(name).uniform(0, 1e6),  # noqa: S311 - plays, protects nothing
                wall_offset=participant.wall,
            ),
            token=f"token-of-{name}",
        )
        self.tell(f"{name} starts on {process.node}, pod {process.pod_uid}, lock {process.lock}")
        self.processes[name] = process
        self.loop.links[name] = process.link
        for fault in self.link_faults:
            if fault.meets(process):
                fault.begin(process.link)
        self.grant()
        process.context.run(PROCESS.set, name)
        process.task = self.loop.create_task(self._take_part(process), name=name, context=process.context)
        process.task.add_done_callback(lambda task: self._ended(process, task), context=Context())
        return process

    async def _take_part(self, process: Process) -> None:
        if process.participant.kind == STOCK:
            await self._be_stock(process)
            return
        kube = self._client(process, self._timeout(process.participant))
        process.candidate = self._candidate(process, kube)
        try:
            await kube.connect()
            await process.candidate.run()
        finally:
            await kube.close()

    async def _be_stock(self, process: Process) -> None:
        kube = self._client(process, FOR_EVER)
        process.peer = StockPeer(
            kube,
            namespace=NAMESPACE,
            election=process.election,
            identity=process.identity,
            ttl=process.participant.ttl,
            clock=process.clock,
            random=Random(f"{self.plan.seed}/{process.name}"),  # noqa: S311 - plays, protects nothing
        )
        try:
            await process.peer.run()
        except ApiError as error:
            self.tell(f"{process.name} exits: {error}")
        finally:
            await kube.close()

    @staticmethod
    def _timeout(participant: Participant) -> float:
        """As `sidecar.settings` derives it from the ttl."""
        deadline, retry_period = participant.ttl * 2 / 3, participant.ttl / 4
        return min(round((deadline - retry_period) / 2, 9), MAX_REQUEST_TIMEOUT)

    def _client(self, process: Process, timeout: float) -> KubeClient:
        async def load() -> Configuration:
            if process.load_takes:
                await asyncio.sleep(process.load_takes)
            configuration = Configuration()
            configuration.host = f"http://127.0.0.1:{PORT}"
            configuration.api_key["BearerToken"] = f"Bearer {process.token}"
            return configuration

        return KubeClient(load, timeout=timeout, user_agent=process.name, clock=process.clock.now)

    def _candidate(self, process: Process, kube: KubeClient) -> CheckedCandidate:
        participant = process.participant
        balance = _BALANCES[participant.balance]
        log = self._logger(process.name)
        candidate = CheckedCandidate(
            Candidacy(
                identity=participant.identity,
                pod_uid=process.pod_uid,
                node=process.node,
                lease_seconds=participant.ttl,
                renew_deadline=participant.ttl * 2 / 3,
                retry_period=participant.ttl / 4,
                balance=balance,
                releases_on_exit=participant.releases_on_exit,
                release_delay=participant.release_delay,
            ),
            self._lock_of(process, kube, group=GROUP if balance else ""),
            group=self._group_of(process, kube, log) if balance else None,
            clock=process.clock,
            random=Random(f"{self.plan.seed}/{process.name}"),  # noqa: S311 - plays, protects nothing
            request_timeout=self._timeout(participant),
            log=log,
        )
        candidate.process, candidate.stage = process, self
        return candidate

    def _lock_of(self, process: Process, kube: KubeClient, *, group: str) -> Lock:
        where = {"namespace": NAMESPACE, "election": process.election, "group": group}
        match process.lock:
            case plan.LEASES:
                return LeaseLock(kube, **where)
            case plan.PAIR:
                timeout = self._timeout(process.participant)
                return PairLock(kube, **where, timeout=timeout, clock=process.clock.now)
        return EndpointsLock(kube, **where)

    @staticmethod
    def _group_of(process: Process, kube: KubeClient, log: FilteringBoundLogger) -> MixedGroup:
        clock = process.clock.now
        endpoints = EndpointsGroup(kube, namespace=NAMESPACE, group=GROUP, cluster=False, log=log, clock=clock)
        leases = LeaseGroup(kube, namespace=NAMESPACE, group=GROUP, cluster=False, log=log, clock=clock)
        own, other = (leases, endpoints) if process.lock == plan.LEASES else (endpoints, leases)
        return MixedGroup(own, other, log=log, clock=clock)

    def _logger(self, name: str) -> Any:  # noqa: ANN401 - structlog's own type for a bound logger that is wrapped
        def collect(_logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            text = " ".join([event.pop("event"), *(f"{key}={value}" for key, value in event.items())])
            self.tell(f"{name} {level}: {text}")
            if level in {"error", "critical"}:
                self.checker.violated(f"{name} met a defect of its own: {text}")
            raise structlog.DropEvent

        wrapper = structlog.make_filtering_bound_logger(20)
        return structlog.wrap_logger(
            None, processors=[structlog.processors.format_exc_info, collect], wrapper_class=wrapper
        )

    def kill(self, process: Process, *, power_cut: bool = False) -> None:
        """End a process without a word. Its kernel closes its connections, unless that ended as well."""
        if process.killed:
            return
        self.tell(f"{process.name} is killed{', with its machine' if power_cut else ''}")
        process.killed = True
        self.loop.stop_process(process.name, math.inf)
        if power_cut:
            process.link.silence(watches_only=False)
        else:
            process.link.hang_up(self.random)
        self.checker.look(process)
        self._gone(process)

    def stop(self, process: Process, seconds: float) -> None:
        """Let a process stand still for a while, as SIGSTOP does."""
        if process.is_alive:
            self.tell(f"{process.name} stands still for {seconds:.3f} s")
            self.checker.look(process)
            self.loop.stop_process(process.name, seconds)

    def leave(self, process: Process) -> None:
        """Tell a process to end, as SIGTERM does; one that stands still hears of it when it goes on."""
        process.leaving = True
        if process.candidate is None:
            self.kill(process)
            return
        self.tell(f"{process.name} is told to leave")
        self.loop.call_soon(process.candidate.leave, context=process.context)

    def order(self, process: Process, order: Callable[[Candidate], object]) -> None:
        """Tell a candidate something; one that stands still hears of it when it goes on."""
        if process.candidate is not None:
            self.loop.call_soon(order, process.candidate, context=process.context)

    def grant(self) -> None:
        """Tell the server who may do what, and which tokens are good."""
        granted = _STOCK_VERBS if self.plan.stock_permissions else _VERBS
        users = {}
        for process in self.processes.values():
            verbs = granted - {verb for one in self.forbidden if one.meets(process) for verb in one.verbs}
            users[process.token] = User(process.identity, (rule(verbs, _LOCKS),))
        self.server.users = users

    # -- The server --

    async def keep_serving(self) -> None:
        """Run the API server, and take it down while anybody wants it down."""
        while True:
            await self.server.start()
            await self._wanted_down.wait()
            self.tell("the API server goes down")
            await self.server.stop()
            await self._wanted_up.wait()
            if self._forgets:
                self.server.forget()
            self.tell(f"the API server is up again{', and has forgotten its history' if self._forgets else ''}")
            self._forgets = False

    def take_server_down(self, *, forgets: bool) -> Callable[[], None]:
        """Take the server down; return what lets it come up again."""
        self._down += 1
        self._forgets |= forgets
        self._wanted_up.clear()
        self._wanted_down.set()

        def let_up() -> None:
            self._down -= 1
            if not self._down:
                self._wanted_down.clear()
                self._wanted_up.set()

        return let_up

    # -- The lock object --

    def lock(self, election: str) -> dict[str, Any] | None:
        """Return the Endpoints of an election, or its Lease where nobody knows Endpoints; `None` for none."""
        known = {lock for each in self.plan.participants if each.election == election for lock in each.locks}
        kind = resources.LEASES if known == {plan.LEASES} else resources.ENDPOINTS
        try:
            return self.server.store.get(kind, NAMESPACE, election)
        except NoSuchObject:
            return None

    def record(self, election: str) -> Record | None:
        """Return the record in the lock object, `None` when there is none that can be read."""
        lock = self.lock(election)
        if lock is None:
            return None
        record = record_in(lock)[1]
        return record if isinstance(record, Record) else None

    # -- What happens --

    async def ask_now_and_then(self) -> None:
        """Ask everybody at instants at which nothing need have happened."""
        while True:
            await asyncio.sleep(_SECONDS_ASKED)
            self.checker.look(None)

    def _committed(self, sender: str, event: WatchEvent) -> None:
        self.checker.committed(sender, event)

    def _went_on(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.is_alive:
            self.tell(f"{name} goes on")
            self.checker.look(process)

    def _gone(self, process: Process) -> None:
        while process.when_gone:
            process.when_gone.pop()()

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.checker.is_over:
            return
        self.tell(f"{process.name} has ended")
        self._gone(process)
        if (error := task.exception()) is not None:
            self.checker.violated(f"{process.name} ended with {error!r}")
        elif process.candidate is not None and not process.leaving:
            self.checker.violated(f"{process.name} ended, and nobody had told it to")
        elif process.peer is not None:
            # The kubelet starts it again.
            self.start_later(1.0, process.participant, node=process.node)

    def _escaped(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.checker.violated(f"an exception escaped: {context.get('message')}: {context.get('exception')!r}")

    async def clear(self) -> None:
        """End everything, however it stands."""
        self.checker.is_over = True
        tasks = [process.task for process in self.processes.values() if process.task is not None]
        for task in tasks:
            task.cancel()
        for name in list(self.loop.stopped):
            self.loop.continue_process(name)
        await asyncio.wait(tasks)
        await self.server.stop()


@dataclass(eq=False, kw_only=True)
class LinkFault:
    """Something that is wrong with the links of some, also of those who start while it lasts."""

    meets: Callable[[Process], bool]
    begin: Callable[[Link], None]
    end: Callable[[Link], None]


@dataclass(eq=False, kw_only=True)
class Forbidden:
    """Verbs that some may not use."""

    meets: Callable[[Process], bool]
    verbs: tuple[str, ...]
