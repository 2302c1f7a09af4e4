"""Real candidates against the lab's store in virtual time, with everything between them that can go wrong.

Between a candidate and the store lies a `Network`. Every change of any candidate's state is checked: never do two of
one election lead, and nobody leads before a write that says so was applied and answered.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

import structlog

from sidecar import kube
from sidecar.candidate import Candidate
from sidecar.election import Candidacy, Written
from sidecar.group import EndpointsGroup, LeaseGroup, MixedGroup
from sidecar.kube import ApiError
from sidecar.lab.network import LabClient, Network, Request
from sidecar.lab.resources import ENDPOINTS, LEASES
from sidecar.lab.store import Store
from sidecar.lab.virtualtime import EPOCH, PROCESS, VirtualClock, VirtualTimeLoop
from sidecar.locks import EndpointsLock, LeaseLock
from sidecar.pairlock import PairLock
from sidecar.record import CLAIM_ANNOTATION, LEADING, RECORD_ANNOTATION, Record, parse_claim, parse_record

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.election import Balance, Event, State, Write
    from sidecar.group import Group
    from sidecar.locks import Lock
    from sidecar.record import Claim

TTL: Final = 10
DEADLINE: Final = TTL * 2 / 3
RETRY: Final = TTL / 4
TIMEOUT: Final = (DEADLINE - RETRY) / 2
ELECTION: Final = "example"
GROUP: Final = "default"


def _lock(kind: str, client: LabClient, clock: VirtualClock, *, election: str, group: str) -> Lock:
    """Return a lock of the kind that `ELECTION_LOCK` calls so."""
    if kind == "endpointsleases":
        return PairLock(client, namespace="default", election=election, group=group, timeout=TIMEOUT, clock=clock.now)
    one = {"endpoints": EndpointsLock, "leases": LeaseLock}[kind]
    return one(client, namespace="default", election=election, group=group)


def _group(kind: str, client: LabClient, clock: VirtualClock, log: FilteringBoundLogger, *, mixed: bool) -> Group:
    """Return the group for a lock of that kind; where all are Endpoints there is no other kind to ask for."""
    endpoints, leases = (
        of(client, namespace="default", group=GROUP, cluster=False, log=log, clock=clock.now)
        for of in (EndpointsGroup, LeaseGroup)
    )
    if kind == "endpoints" and not mixed:
        return endpoints
    own, other = (leases, endpoints) if kind == "leases" else (endpoints, leases)
    return MixedGroup(own, other, log=log, clock=clock.now)


class CheckedCandidate(Candidate):
    """A candidate that has the arena look at everybody whenever its state changes."""

    arena: Arena
    process: Process

    def _replace(self, state: State) -> None:
        super()._replace(state)
        self.arena.check(self.process)

    async def _write(self, write: Write) -> Event:
        event = await super()._write(write)
        if isinstance(event, Written):
            self.process.heard.add(event.snapshot.version)
        return event


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
    election: str
    node: str
    candidate: CheckedCandidate
    clock: VirtualClock
    network: Network
    task: asyncio.Task[None]
    heard: set[int] = field(default_factory=set)
    """The versions that its writes made, as far as it was answered."""
    lock: str = "endpoints"
    """The kind of its lock, as `ELECTION_LOCK` calls it."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.task.done()


class Arena:
    """One election or several: the store, and whoever takes part. Made inside of a loop in virtual time."""

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
        self.tokens: dict[str, list[int]] = defaultdict(list)
        """By election."""
        self.claims: dict[int, Claim | None] = {}
        """What every write of any lock object claimed, by version."""
        self.handovers = 0
        """Releases in favour of a named successor."""
        self._commits = [self.store.watch(resource, wake=self._see_commits) for resource in (ENDPOINTS, LEASES)]
        self.broken: list[str] = []
        """What should never have happened, in words."""

    def start(
        self,
        identity: str,
        *,
        election: str = ELECTION,
        node: str = "",
        balance: Balance | None = None,
        pod_uid: str = "",
        rate: float = 1.0,
        offset: float = 0.0,
        network: Network | None = None,
        lock: str = "endpoints",
        mixed: bool = False,
    ) -> Process:
        """Start a process, which takes part until it is told to leave or is killed; on a node of its own by default.

        One of the Endpoints counts elections on Leases as well, where groups are `mixed`.
        """
        name = f"{identity}-{len(self.requests)}-{len(self._tasks)}"
        node = node or f"node-{identity}"
        network = network or Network()
        clock = VirtualClock(rate=rate, offset=offset)
        log = self._logger(name)
        client = LabClient(
            self.store, network, random=self.random, timeout=TIMEOUT, sender=name, sent=self.requests.append
        )

        async def take_part() -> None:
            PROCESS.set(name)
            await candidate.run()

        candidate = CheckedCandidate(
            Candidacy(
                identity=identity,
                pod_uid=pod_uid or f"uid-{name}",
                node=node,
                lease_seconds=TTL,
                renew_deadline=DEADLINE,
                retry_period=RETRY,
                balance=balance,
            ),
            _lock(lock, client, clock, election=election, group=GROUP if balance else ""),
            group=_group(lock, client, clock, log, mixed=mixed) if balance else None,
            clock=clock,
            random=Random(self.random.random()),  # noqa: S311 - plays, protects nothing
            request_timeout=TIMEOUT,
            log=log,
        )
        candidate.arena = self
        task = asyncio.create_task(take_part(), name=name)
        process = candidate.process = Process(
            name, identity, election, node, candidate, clock, network, task, lock=lock
        )
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

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return sum(len(process.network.watching) for process in self.processes)

    def lock(self, election: str = ELECTION) -> dict[str, Any] | None:
        """Return the lock object, `None` when there is none."""
        found = [
            each for each in self.store.list_objects(ENDPOINTS, "default").items if each["metadata"]["name"] == election
        ]
        return found[0] if found else None

    def exists(self) -> bool:
        """Tell whether there is a lock object."""
        return self.lock() is not None

    def leaders(self, election: str = ELECTION) -> list[Process]:
        """Return whoever would answer now that it leads this election."""
        return [
            process for process in self.processes if process.election == election and process.candidate.is_leading()
        ]

    def check(self, changed: Process) -> None:
        """Note what must never be, after a change of `changed`'s state.

        Leadership begins with a change of state only, so nothing is missed between two of them.
        """
        election, tokens = changed.election, self.tokens[changed.election]
        leaders = self.leaders(election)
        if len(leaders) > 1:
            self._note(f"{' and '.join(process.name for process in leaders)} lead {election}")
        for process in leaders:
            term = process.candidate._state.term
            if term is not None and term.token not in tokens:
                if tokens and term.token < tokens[-1]:
                    self._note(f"token {term.token} after {tokens[-1]}")
                tokens.append(term.token)
                claim = self.claims.get(term.token)
                pod_uid = process.candidate._state.candidacy.pod_uid
                if (
                    term.token not in process.heard
                    or claim is None
                    or (claim.pod_uid, claim.state)
                    != (
                        pod_uid,
                        LEADING,
                    )
                ):
                    self._note(f"{process.name} leads by {claim}, which it did not write, or of which it did not hear")
        others = [each for each in self.processes if each.election == election and each not in leaders]
        for process in others:
            if process.candidate.leader_name() == process.identity:
                self._note(f"{process.name} names itself and does not lead")
        role = changed.candidate.status().role
        if (role == "leading") != (changed in leaders) and changed in self.processes:
            self._note(f"{changed.name} calls itself {role}")

    def _see_commits(self) -> None:
        """Take note of every write, as it is applied."""
        for event in [event for commits in self._commits for event in commits.take()]:
            metadata = event.object["metadata"]
            annotations = metadata.get("annotations") or {}
            claim = parse_claim(annotations.get(CLAIM_ANNOTATION))
            self.claims[int(metadata["resourceVersion"])] = claim
            record = parse_record(annotations.get(RECORD_ANNOTATION, ""))
            if isinstance(record, Record) and not record.holder and claim is not None and not claim.holder:
                self.handovers += 1
                for process in self.leaders(metadata["name"]):
                    self._note(f"{process.name} still leads, and its lock is released for {claim.successor}")

    def _note(self, what: str) -> None:
        self.broken.append(f"{self.loop.time():.3f}: {what}")

    async def leader(self, within: float = 3 * TTL, election: str = ELECTION) -> Process:
        """Wait until somebody leads, and return who."""
        async with asyncio.timeout(within):
            while not (leaders := self.leaders(election)):  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.01)
        return leaders[0]

    async def until(self, condition: Callable[[], bool], within: float = 3 * TTL, every: float = 0.01) -> float:
        """Wait until `condition` holds; return how long that took. Raises TimeoutError."""
        began = self.loop.time()
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(every)
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
