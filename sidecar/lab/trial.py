"""One trial: real candidates of several elections, on nodes that are only names, in virtual time.

Whatever changes at any candidate is looked at in that instant: never do two candidates of one election lead.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Final

import structlog

from sidecar.candidate import Candidate
from sidecar.election import Balance, Candidacy
from sidecar.group import EndpointsGroup
from sidecar.lab import optimum, scenario, virtualtime
from sidecar.lab.network import LabClient, Network, Request
from sidecar.lab.optimum import Contest
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.store import Store
from sidecar.lab.virtualtime import EPOCH, PROCESS, VirtualClock, VirtualTimeLoop
from sidecar.locks import EndpointsLock
from sidecar.record import CLAIM_ANNOTATION, parse_claim

if TYPE_CHECKING:
    from sidecar.election import State
    from sidecar.lab.placement import Pod
    from sidecar.lab.scenario import Cast, Scenario

_BALANCES: Final[dict[str, Balance | None]] = {
    scenario.STOCK: None,
    scenario.BACKOFF: Balance(rebalance=False),
    scenario.FULL: Balance(),
}

LIMIT: Final = 60.0
"""Seconds from the end of the disturbance until everything has to have settled."""

NAMESPACE: Final = "default"
GROUP: Final = "default"


class SafetyError(Exception):
    """Two candidates of one election led at once, or one named itself and did not lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one phase ended, and what it took. Times are in seconds, loads are leaders (or their weights) on a node."""

    phase: str
    loads: tuple[int, ...]
    """The heaviest first; of every node that has candidates."""
    balanced: bool
    distance: int | None
    """By how much the sum of the squared loads is above the optimum's; `None` while an election has no leader."""
    leaderless: int
    """Elections that have candidates and no leader."""
    led_after: float
    """From the end of the disturbance until every election has its leader at once; infinity when that never was."""
    settled_after: float
    """From the end of the disturbance until nothing changed any more; infinity when that never was."""
    leaders: dict[str, int]
    """Terms that began, by election."""
    handovers: dict[str, int]
    """By election."""
    restless: int
    """Hand-overs that began in a balanced assignment."""
    requests: dict[str, int]
    """By verb."""
    lists: dict[str, int]
    """LIST requests by election."""
    counted_for: float
    """From the beginning of the phase to its end: how long all of this was counted."""

    @property
    def spread(self) -> int:
        """The greatest load less the least."""
        return self.loads[0] - self.loads[-1] if self.loads else 0

    @property
    def variation(self) -> float:
        """The coefficient of variation of the loads."""
        return pstdev(self.loads) / fmean(self.loads) if any(self.loads) else 0.0


def run(asked: Scenario, policy: str, seed: int) -> list[Outcome]:
    """Play one trial and return how its phases ended. Raises `SafetyError`, and whatever a candidate raises."""
    return virtualtime.run(_play(asked, policy, seed))


async def _play(asked: Scenario, policy: str, seed: int) -> list[Outcome]:
    stage = _Stage(asked, policy, scenario.draw(asked, seed))
    try:
        return [await stage.play(phase) for phase in asked.phases]
    finally:
        await stage.clear()


class _Observed(Candidate):
    """A candidate that tells the stage whenever its state changes."""

    stage: _Stage
    process: _Process

    def _replace(self, state: State) -> None:
        super()._replace(state)
        self.stage.look_at(self.process)


@dataclass(eq=False, slots=True)
class _Process:
    """One candidate's process."""

    name: str
    pod: Pod
    candidate: _Observed
    network: Network
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    leads: bool = False
    task: asyncio.Task[None] | None = None


class _Stage:
    """Everything that takes part in one trial."""

    def __init__(self, asked: Scenario, policy: str, cast: Cast) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise TypeError("a trial is played in virtual time")
        self._loop = loop
        self._asked = asked
        self._cast = cast
        self._balance = _BALANCES[policy]
        self._random = Random(cast.seed)  # noqa: S311 - plays, protects nothing
        self._store = Store(now=lambda: datetime.fromtimestamp(EPOCH + loop.time(), UTC), random=self._random)
        self._commits = self._store.watch(ENDPOINTS, wake=self._see_commits)
        self._claims: dict[str, str | None] = {}
        # Only what tells of a defect, and not on standard output, where the figures go.
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
        ).bind()
        self._running: dict[str, dict[str, _Process]] = defaultdict(dict)
        """By election and identity."""
        self._tasks: list[asyncio.Task[None]] = []
        self._generations: Counter[str] = Counter()
        self._leaders: dict[str, _Process] = {}
        self._changed = asyncio.Event()
        self._changed_at = 0.0
        self._complete_at: float | None = None
        """Since when every election that has candidates has a leader."""
        self._balanced = False
        """Whether that was balanced when it was last so, and nobody came or went since."""
        self._broken: list[str] = []
        self._began: Counter[str] = Counter()
        self._handovers: Counter[str] = Counter()
        self._restless = 0
        self._requests: dict[str, Counter[str]] = defaultdict(Counter)

    # -- One phase --

    async def play(self, phase: str) -> Outcome:
        """Play one phase until everything has settled, or time is over."""
        self._began.clear()
        self._handovers.clear()
        self._restless = 0
        self._requests.clear()
        began = self._loop.time()
        await self._disturb(phase)
        ended = self._loop.time()
        led_at = 0.0 if self._complete_at is not None else math.inf
        settled_at = math.inf
        limit = ended + LIMIT + self._asked.settle
        while self._loop.time() < limit:
            self._changed.clear()
            until = limit
            if self._complete_at is not None:
                led_at = min(led_at, self._complete_at)
                if self._balanced or self._balance is None or not self._balance.rebalance:
                    until = min(limit, max(ended, self._changed_at) + self._asked.settle)
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                if until < limit:
                    settled_at = self._changed_at
                    break
        return self._outcome(
            phase,
            led_after=max(led_at - ended, 0.0),
            settled_after=max(settled_at - ended, 0.0),
            counted_for=self._loop.time() - began,
        )

    async def _disturb(self, phase: str) -> None:
        match phase:
            case scenario.START:
                late = self._cast.late_node if self._asked.late_node else ""
                await self._start_all([start for start in self._cast.starts if start.pod.node != late])
            case scenario.LATE_NODE:
                await self._start_all([start for start in self._cast.starts if start.pod.node == self._cast.late_node])
            case scenario.ROLLING_RESTART:
                await self._restart_all()
            case scenario.NODE_LOSS:
                for process in self._on_lost_node():
                    self._kill(process)
            case scenario.NODE_RETURN:
                await self._start_all([start for start in self._cast.starts if start.pod.node == self._cast.lost_node])
            case scenario.QUIET:
                await asyncio.sleep(self._asked.quiet)

    def _on_lost_node(self) -> list[_Process]:
        return [
            process
            for processes in self._running.values()
            for process in processes.values()
            if process.pod.node == self._cast.lost_node
        ]

    async def _start_all(self, starts: list[scenario.Start]) -> None:
        queues: dict[str, list[scenario.Start]] = defaultdict(list)
        for start in starts:
            queues[start.pod.election if self._cast.ordered else start.pod.identity].append(start)
        async with asyncio.TaskGroup() as tasks:
            for queue in queues.values():
                tasks.create_task(self._start_in_turn(queue))

    async def _start_in_turn(self, starts: list[scenario.Start]) -> None:
        for number, start in enumerate(starts, 1):
            await asyncio.sleep(start.after)
            process = self._start(start.pod)
            if number < len(starts):
                await process.ready.wait()

    async def _restart_all(self) -> None:
        """Restart every application as a StatefulSet does: from the last pod to the first, one at a time."""
        async with asyncio.TaskGroup() as tasks:
            for processes in list(self._running.values()):
                tasks.create_task(self._restart_in_turn(sorted(processes.values(), key=_by_ordinal, reverse=True)))

    async def _restart_in_turn(self, processes: list[_Process]) -> None:
        for number, process in enumerate(processes, 1):
            process.candidate.leave()
            if process.task is not None:
                await process.task
            self._forget(process)
            await asyncio.sleep(self._random.uniform(*scenario.PAUSE))
            started = self._start(process.pod)
            if number < len(processes):
                await started.ready.wait()
                await asyncio.sleep(self._random.uniform(*scenario.PAUSE))

    # -- Processes --

    def _start(self, pod: Pod) -> _Process:
        self._generations[pod.identity] += 1
        name = f"{pod.identity}#{self._generations[pod.identity]}"
        asked = self._asked
        network = Network(latency=asked.latency)
        candidacy = Candidacy(
            identity=pod.identity,
            pod_uid=name,
            node=pod.node,
            lease_seconds=asked.ttl,
            renew_deadline=asked.renew_deadline,
            retry_period=asked.retry_period,
            weight=self._cast.weights[pod.election],
            balance=self._balance,
        )
        counted = self._requests

        def sent(request: Request) -> None:
            counted[pod.election][request.verb] += 1

        client = LabClient(
            self._store, network, random=self._random, timeout=asked.request_timeout, sender=name, sent=sent
        )
        clock = VirtualClock()
        group = None
        if self._balance is not None:
            group = EndpointsGroup(
                client, namespace=NAMESPACE, group=GROUP, cluster=False, log=self._log, clock=clock.now
            )
        candidate = _Observed(
            candidacy,
            EndpointsLock(client, namespace=NAMESPACE, election=pod.election, group=GROUP if group else ""),
            group=group,
            clock=clock,
            random=Random(self._random.getrandbits(64)),  # noqa: S311 - plays, protects nothing
            request_timeout=asked.request_timeout,
            log=self._log,
        )
        process = _Process(name, pod, candidate, network)
        candidate.stage, candidate.process = self, process

        async def take_part() -> None:
            PROCESS.set(name)
            await candidate.run()

        process.task = self._loop.create_task(take_part(), name=name)
        process.task.add_done_callback(lambda _: self._changed.set())
        self._tasks.append(process.task)
        self._running[pod.election][pod.identity] = process
        self._balanced = False
        self._update()
        return process

    def _kill(self, process: _Process) -> None:
        """End a process without a word, as SIGKILL does; its requests that are under way still arrive."""
        self._loop.stop_process(process.name, math.inf)
        process.network.cut_watch()
        self._forget(process)

    def _forget(self, process: _Process) -> None:
        self._running[process.pod.election].pop(process.pod.identity, None)
        if self._leaders.get(process.pod.election) is process:
            del self._leaders[process.pod.election]
        self._balanced = False
        self._update()

    async def clear(self) -> None:
        """End everything, however it stands."""
        for task in self._tasks:
            task.cancel()
        for name in list(self._loop.stopped):
            self._loop.continue_process(name)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- What is seen --

    def look_at(self, process: _Process) -> None:
        """Take note of whether a candidate leads, and of what must never be; called whenever its state changed."""
        candidate, election = process.candidate, process.pod.election
        if not process.ready.is_set() and candidate.is_ready():
            process.ready.set()
        rivals = self._running[election]
        if rivals.get(process.pod.identity) is not process:
            return
        leads = candidate.is_leading()
        if leads:
            for rival in rivals.values():
                if rival is not process and rival.candidate.is_leading():
                    self._broken.append(f"{self._loop.time():.3f} s: {process.name} and {rival.name} both lead")
        elif candidate.leader_name() == process.pod.identity:
            self._broken.append(f"{self._loop.time():.3f} s: {process.name} names itself and does not lead")
        if leads == process.leads:
            return
        process.leads = leads
        if leads:
            self._leaders[election] = process
            self._began[election] += 1
        elif self._leaders.get(election) is process:
            del self._leaders[election]
        self._update()

    def _update(self) -> None:
        """Take note of a change of who leads, or of who takes part."""
        now = self._loop.time()
        self._changed_at = now
        self._changed.set()
        if len(self._leaders) < sum(map(bool, self._running.values())):
            self._complete_at = None
            return
        if self._complete_at is None:
            self._complete_at = now
        self._balanced = optimum.is_balanced(self._contests(), self._assignment())

    def _see_commits(self) -> None:
        """Count hand-overs: releases that name a successor."""
        for event in self._commits.take():
            metadata: dict[str, Any] = event.object["metadata"]
            election, text = metadata["name"], metadata.get("annotations", {}).get(CLAIM_ANNOTATION)
            if text == self._claims.get(election):
                continue
            self._claims[election] = text
            claim = parse_claim(text)
            if claim is not None and not claim.holder and claim.successor:
                self._handovers[election] += 1
                self._restless += self._balanced
                self._changed_at = self._loop.time()
                self._changed.set()

    def _contests(self) -> dict[str, Contest]:
        return {
            election: Contest(
                self._cast.weights[election], tuple(sorted({process.pod.node for process in processes.values()}))
            )
            for election, processes in self._running.items()
            if processes
        }

    def _assignment(self) -> dict[str, str]:
        return {election: process.pod.node for election, process in self._leaders.items()}

    def _outcome(self, phase: str, *, led_after: float, settled_after: float, counted_for: float) -> Outcome:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
        if self._broken:
            raise SafetyError(self._broken[0])
        contests, assignment = self._contests(), self._assignment()
        loads = optimum.loads_of(contests, assignment)
        complete = len(assignment) == len(contests)
        requests: Counter[str] = Counter()
        for verbs in self._requests.values():
            requests.update(verbs)
        return Outcome(
            phase=phase,
            loads=tuple(sorted(loads.values(), reverse=True)),
            balanced=complete and optimum.is_balanced(contests, assignment),
            distance=optimum.cost(loads.values()) - optimum.least_cost(contests, assignment) if complete else None,
            leaderless=len(contests) - len(assignment),
            led_after=led_after,
            settled_after=settled_after,
            leaders={election: self._began[election] for election in contests},
            handovers={election: self._handovers[election] for election in contests},
            restless=self._restless,
            requests=dict(sorted(requests.items())),
            lists={election: self._requests[election]["list"] for election in contests},
            counted_for=counted_for,
        )


def _by_ordinal(process: _Process) -> int:
    return int(process.pod.identity.rpartition("-")[2])
