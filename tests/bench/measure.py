"""How one command is measured: a fresh API server, the candidates one after the other, a quiet window, failovers."""

from __future__ import annotations

import random
import signal
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.lab.placement import spread as spread_over
from tests.bench.candidates import Candidate, Command, Election, cpu_seconds, elections_of
from tests.bench.figures import Row, count_finished, median_mib, spread, traffic
from tests.bench.server import AuditedAPIServer
from tests.testbed.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.testbed.apiserver import PolicyRule

# Everything in their own namespace: what a command may need, so that none is held up.
RULES: tuple[PolicyRule, ...] = ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},)

WARM_UP_SECONDS = 10.0
"""Of the API server: it goes on with its own affairs for a while after it is ready."""
IDLE_SECONDS = 20.0
"""At most, in which the API server is measured without candidates."""
LEADER_SECONDS = 60.0
"""At least, within which an election must have a leader; where the ttl is long, six of it."""
WATCHFUL_SECONDS = 1.0
"""Between two looks at whether all candidates are still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What every command has to do."""

    elections: int
    replicas: int
    nodes: int
    ttl: str
    """As Go writes durations."""
    ttl_seconds: float
    settle: float
    """Seconds from when all lead and follow to the window."""
    window: float
    kill_trials: int
    term_trials: int

    @property
    def patience(self) -> float:
        """Seconds within which an election must have a leader."""
        return patience(self.ttl_seconds)


def patience(ttl_seconds: float) -> float:
    """Return the seconds within which an election with this lease must have a leader."""
    return max(LEADER_SECONDS, 6 * ttl_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steady:
    """What was seen in the window."""

    began: float
    ended: float
    leaders: frozenset[str]
    leader_changes: int
    apiserver: float
    cpu: float


def measure(command: Command, load: Workload, *, folder: Path, progress: Callable[[str], None]) -> Row:
    """Measure one command. Raises CandidateError, TemplateError, and what `LocalAPIServer` raises."""
    folder.mkdir()
    progress("starting the API server")
    with AuditedAPIServer(folder) as server, ExitStack() as stack:
        elections = _elections(command, load, server)
        candidates = [candidate for election in elections for candidate in election.candidates]
        for reap in (Candidate.bury, Candidate.kill):  # the last callback runs first
            for candidate in candidates:
                stack.callback(reap, candidate)

        _sleep(WARM_UP_SECONDS, [], "the API server warms up", progress)
        idle = _millicores(server.apiserver_pid, min(load.window, IDLE_SECONDS), progress)
        watches_before = server.metrics().watches.total()

        answers, leaders = _start(elections, load, progress)
        for election in elections:
            election.await_leader(load.patience)
        _sleep(max(load.settle, load.ttl_seconds), candidates, "settling", progress)

        counted_from, before = time.monotonic(), server.metrics()
        steady = _steady(elections, load, server, progress)
        after = server.metrics()
        counted = time.monotonic() - counted_from
        requests = server.requests()
        memory = [candidate.memory() for candidate in candidates]

        killed = _failovers(signal.SIGKILL, load.kill_trials, elections, load, progress)
        terminated = _failovers(signal.SIGTERM, load.term_trials, elections, load, progress)

    seen = [request for request in requests if steady.began <= request.at < steady.ended]
    resources = {request.resource for request in seen}
    finished = count_finished(before.requests, after.requests, resources=resources)
    return Row(
        name=command.name,
        elections=load.elections,
        replicas=load.replicas,
        ttl=load.ttl_seconds,
        window=load.window,
        traffic=traffic(seen, leaders=steady.leaders, elections=load.elections, seconds=steady.ended - steady.began),
        counted_by_metrics=finished / counted / load.elections,
        open_watches=(after.watches.total() - watches_before) / load.elections,
        leader_changes=steady.leader_changes,
        apiserver_idle=idle,
        apiserver=steady.apiserver,
        first_answer=spread(answers),
        first_leader=spread(leaders),
        killed=spread(killed) if killed else None,
        terminated=spread(terminated) if terminated else None,
        resident=median_mib(one.resident for one in memory),
        anonymous=median_mib(one.anonymous for one in memory),
        proportional=median_mib(one.proportional for one in memory),
        cpu=steady.cpu,
    )


def _elections(command: Command, load: Workload, server: AuditedAPIServer) -> list[Election]:
    """Make every candidate, with a user of its own, so that its requests are told from the others'."""
    namespace = server.namespace()
    nodes = [f"node-{number}" for number in range(1, load.nodes + 1)]
    pods = spread_over(load.elections, load.replicas, nodes, random.Random(0))  # noqa: S311 - protects nothing
    candidates = {}
    for pod, port in zip(pods, free_ports(len(pods)), strict=True):
        kubeconfig = server.kubeconfig_for(pod.identity, RULES, namespace=namespace)
        candidates[pod.identity] = command.candidate(
            pod, namespace=namespace, port=port, kubeconfig=kubeconfig, ttl=load.ttl, folder=server.folder
        )
    return list(elections_of(pods, candidates).values())


def _start(
    elections: list[Election], load: Workload, progress: Callable[[str], None]
) -> tuple[list[float], list[float]]:
    """Start all, each when the one before has answered; return the seconds to first answers and to first leaders.

    One at a time, because the processor would otherwise be what is measured.
    """
    answers: list[float] = []
    leaders: list[float] = []
    for replica in range(load.replicas):
        for election in elections:
            candidate = election.candidates[replica]
            began = time.monotonic()
            answers.append(candidate.start())
            if replica == 0:
                candidate.await_that(candidate.leads, load.patience, "is alone and does not lead")
                leaders.append(time.monotonic() - began)
            progress(f"started {len(answers)} of {load.elections * load.replicas} candidates")
    return answers, leaders


def _steady(
    elections: list[Election], load: Workload, server: AuditedAPIServer, progress: Callable[[str], None]
) -> _Steady:
    """Leave all in peace for the window."""
    candidates = [candidate for election in elections for candidate in election.candidates]
    first = [election.await_leader(load.patience).identity for election in elections]
    used = [candidate.cpu_seconds() for candidate in candidates]
    used_by_server = cpu_seconds(server.apiserver_pid)
    began, began_at = time.time(), time.monotonic()
    _sleep(load.window, candidates, "steady state", progress)
    elapsed, ended = time.monotonic() - began_at, time.time()
    server_used = cpu_seconds(server.apiserver_pid) - used_by_server
    cpu = [candidate.cpu_seconds() - before for candidate, before in zip(candidates, used, strict=True)]
    last = [election.await_leader(load.patience).identity for election in elections]
    return _Steady(
        began=began,
        ended=ended,
        leaders=frozenset([*first, *last]),
        leader_changes=sum(before != after for before, after in zip(first, last, strict=True)),
        apiserver=1000 * server_used / elapsed,
        cpu=1000 * statistics.mean(cpu) / elapsed,
    )


def _failovers(
    number: signal.Signals,
    trials: int,
    elections: list[Election],
    load: Workload,
    progress: Callable[[str], None],
) -> list[float]:
    """End a leader again and again, in one election after the other; return the seconds without one."""
    seconds: list[float] = []
    for trial in range(trials):
        election = elections[trial % len(elections)]
        election.await_leader(load.patience)
        # A leader's last renewal may be up to a retry period old, whenever it goes.
        pause = random.uniform(0, load.ttl_seconds / 4)  # noqa: S311 - spreads the trials, protects nothing
        _sleep(pause, election.candidates, "", progress)
        seconds.append(election.fail_over(number, load.patience))
        progress(f"{number.name} {trial + 1} of {trials}: {seconds[-1]:.2f} s")
    return seconds


def _millicores(pid: int, seconds: float, progress: Callable[[str], None]) -> float:
    used, began = cpu_seconds(pid), time.monotonic()
    _sleep(seconds, [], "the API server alone", progress)
    return 1000 * (cpu_seconds(pid) - used) / (time.monotonic() - began)


def _sleep(seconds: float, candidates: list[Candidate], what: str, progress: Callable[[str], None]) -> None:
    """Sleep, and see that nobody ends meanwhile. Raises CandidateError."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        for candidate in candidates:
            candidate.check()
        if what:
            progress(f"{what}: {left:.0f} s to go")
        time.sleep(min(left, WATCHFUL_SECONDS))
