"""One cold start of a group of elections: started as pods come up, watched until nothing changes any more, judged."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.lab.optimum import Contest, is_balanced
from sidecar.lab.placement import candidates_per_node, spread
from tests.bench.candidates import CandidateError
from tests.bench.holdings import gaps, leader, parse_log
from tests.bench.outcome import Run, leaders_per_node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.lab.placement import Pod
    from tests.bench.bed import Bed, Stage
    from tests.bench.candidates import Candidate
    from tests.bench.figures import Request
    from tests.bench.holdings import Holding, Said

ORDERED, BY_NODE = "ordered", "by-node"

QUIET_SECONDS = 3.0
"""Without any change of a leader, at least, before a run is over."""
LOOK_PAUSE = 0.1
"""Seconds between two looks at what has happened; nothing is measured by when they are."""
READY_PAUSE = 0.02
"""Seconds between two questions to the pods that the next ones wait for."""
AGREED_SECONDS = 10.0
"""Within which all candidates have to name the leader that the lock objects name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What every cold start is."""

    applications: int
    replicas: int
    nodes: int
    starts: str
    """`ORDERED`, `BY_NODE`, or the seconds over which the starts are spread."""
    settle: float
    """Seconds after the last start that are watched, at least."""
    patience: float
    """Seconds after the last start within which it has to be quiet."""

    @property
    def shape(self) -> str:
        """Applications, replicas and nodes."""
        return f"{self.applications}x{self.replicas}x{self.nodes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was seen of a run."""

    requests: Sequence[Request]
    held: Mapping[str, list[Holding]]
    said: Sequence[Said]


def cold_start(bed: Bed, series: Series, *, seed: int, progress: Callable[[str], None]) -> Run:
    """Carry out one. The same seed places the pods on the same nodes, and starts them at the same times.

    Raises CandidateError, TemplateError, WatchError, and what a request raises.
    """
    chance = random.Random(seed)  # noqa: S311 - protects nothing
    nodes = [f"node-{number}" for number in range(1, series.nodes + 1)]
    pods = spread(series.applications, series.replicas, nodes, chance)
    bed.server.requests()  # those of the run before
    with bed.stage(pods, f"run-{seed}") as stage:
        progress("starting")
        match series.starts:
            case "ordered":
                _start_in_order(stage, series.patience)
            case "by-node":
                _start_by_node(pods, stage, series.patience)
            case seconds:
                _start_spread(pods, stage, float(seconds), chance)
        requests = _await_quiet(bed, stage, series, progress)
        held = _await_agreement(stage)
        requests += bed.server.requests()
        said = [line for one in stage.candidates.values() for line in parse_log(one.identity, one.output())]
    return judge(pods, nodes, Seen(requests=requests, held=held, said=said), seed=seed)


def _start_spread(pods: Sequence[Pod], stage: Stage, seconds: float, chance: random.Random) -> None:
    """Start the first at once, the last when the time is up, all others at any time in between, in any order."""
    between = sorted(chance.uniform(0, seconds) for _ in pods[2:])
    began = time.monotonic()
    for at, pod in zip([0.0, *between, seconds], chance.sample(pods, len(pods)), strict=False):
        time.sleep(max(0.0, began + at - time.monotonic()))
        stage.candidates[pod.identity].begin()


def _start_in_order(stage: Stage, patience: float) -> None:
    """Start each pod of an application when the one before is ready, as a StatefulSet does; applications in parallel.

    A sidecar without a readiness probe makes a pod ready when it runs; here, when it answers on its port.
    """
    waiting = [list(election.candidates) for election in stage.elections.values()]
    newest: list[Candidate | None] = [None] * len(waiting)
    deadline = time.monotonic() + patience
    while any(waiting):
        for place, candidates in enumerate(waiting):
            before = newest[place]
            if not candidates:
                continue
            if before is None or before.name() is not None:
                newest[place] = candidate = candidates.pop(0)
                candidate.begin()
                deadline = time.monotonic() + patience
            else:
                before.check()
        if time.monotonic() > deadline:
            raise CandidateError(f"the pods before the last {sum(map(len, waiting))} do not answer")
        time.sleep(READY_PAUSE)


def _start_by_node(pods: Sequence[Pod], stage: Stage, patience: float) -> None:
    """Start all pods of one node, and when they lead all that they can, all others at once."""
    first = [pod for pod in pods if pod.node == pods[0].node]
    for pod in first:
        stage.candidates[pod.identity].begin()
    expected = {pod.election for pod in first}
    deadline = time.monotonic() + patience
    while not expected <= {election for election, held in stage.watch.holdings().items() if leader(held)}:
        _check(stage)
        if time.monotonic() > deadline:
            raise CandidateError(f"not all of {', '.join(sorted(expected))} have a leader within {patience:g} s")
        time.sleep(LOOK_PAUSE)
    for pod in pods:
        if pod.node != pods[0].node:
            stage.candidates[pod.identity].begin()


def _await_quiet(bed: Bed, stage: Stage, series: Series, progress: Callable[[str], None]) -> list[Request]:
    """Wait until all have appeared, every election is led, and nothing changes any more; return what was asked for."""
    requests: list[Request] = []
    missing = set(stage.candidates)
    last_start = 0.0
    deadline = time.monotonic() + series.patience
    while True:
        _check(stage)
        for request in bed.server.requests():
            requests.append(request)
            if request.identity in missing:
                missing.discard(request.identity)
                last_start = request.at
                deadline = time.monotonic() + series.patience
        held = stage.watch.holdings()
        led = [one for one in (leader(held.get(name, [])) for name in stage.elections) if one is not None]
        changed = max((one.led_from or 0.0 for one in led), default=0.0)
        progress(f"{len(stage.candidates) - len(missing)} of {len(stage.candidates)} have started, {len(led)} lead")
        over = max(last_start + series.settle, changed + QUIET_SECONDS)
        if not missing and len(led) == series.applications and time.time() >= over:
            return requests
        if time.monotonic() > deadline:
            told = f"{', '.join(sorted(missing))} asked the API server for nothing; " if missing else ""
            raise CandidateError(f"{told}{len(led)} of {series.applications} elections are led")
        time.sleep(LOOK_PAUSE)


def _await_agreement(stage: Stage) -> dict[str, list[Holding]]:
    """Wait until what all candidates answer is what their lock objects say; return that. Raises CandidateError."""
    deadline = time.monotonic() + AGREED_SECONDS
    while True:
        answered = {name: election.leader() for name, election in stage.elections.items()}
        held = stage.watch.holdings()
        differing = [name for name, one in answered.items() if one is None or one.identity != held[name][-1].holder]
        if not differing:
            return held
        if time.monotonic() > deadline:
            told = "; ".join(
                f"{name} is held by {held[name][-1].holder}, named are "
                f"{ {one.identity: one.name() for one in stage.elections[name].candidates} }"
                for name in differing
            )
            raise CandidateError(f"candidates do not name who holds the lock: {told}")
        time.sleep(LOOK_PAUSE)


def _check(stage: Stage) -> None:
    for candidate in stage.candidates.values():
        candidate.check()


def judge(pods: Sequence[Pod], nodes: Sequence[str], seen: Seen, *, seed: int) -> Run:
    """Return what a run came to, in the end of which every election has a leader."""
    node = {pod.identity: pod.node for pod in pods}
    election_of = {pod.identity: pod.election for pod in pods}
    contests = {name: Contest(1, tuple(sorted(found))) for name, found in candidates_per_node(pods).items()}
    held = [seen.held[name] for name in contests]
    leaders = {name: node[some[-1].holder] for name, some in zip(contests, held, strict=True)}
    first: dict[str, float] = {}
    for request in seen.requests:
        first.setdefault(request.identity, request.at)
    changes = [one.led_from for some in held for one in some if one.led_from is not None]
    lists = Counter(election_of[request.identity] for request in seen.requests if request.verb == "list")
    without = [gap for some in held for gap in gaps(some, seen.requests, seen.said)]
    return Run(
        seed=seed,
        leaders=leaders_per_node(leaders, nodes),
        balanced=is_balanced(contests, leaders),
        spread=max(first.values()) - min(first.values()),
        settled=max(0.0, max(changes) - max(first.values())),
        leaders_seen=[sum(one.led_from is not None for one in some) for some in held],
        hand_overs=[len(some) - 1 for some in held],
        lists=[lists[name] for name in contests],
        gaps=[gap.seconds for gap in without],
        told=sum(gap.told for gap in without),
        requests=dict(Counter(request.verb for request in seen.requests)),
    )
