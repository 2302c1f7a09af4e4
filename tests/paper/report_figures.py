"""What the experiments come to: medians and spreads of the runs that count. No I/O here."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.paper.data import (
    BALANCED,
    CONCENTRATED,
    OFF,
    OURS,
    PODS,
    PROCESSES,
    CpuRun,
    Election,
    FailureRun,
    Recorded,
    ThroughputRun,
)
from tests.paper.distribution import Expected, placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.paper.data import About, Load, Usage

PLACEMENTS = (CONCENTRATED, BALANCED)
POLICIES = (OFF, OURS)
PARTS = (PROCESSES, PODS)

GRID_SECONDS = 1.0
"""Of processor use over time: samples within one of these count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured; None for an experiment without data."""

    distribution: Recorded[Election] | None = None
    cpu: Recorded[CpuRun] | None = None
    throughput: Recorded[ThroughputRun] | None = None
    node_failure: Recorded[FailureRun] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of several figures, and the least and the greatest of them."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of some values; None of none."""
    known = sorted(values)
    if not known:
        return None
    return Spread(median=statistics.median(known), low=known[0], high=known[-1], count=len(known))


# -- Leader distribution --


@dataclass(frozen=True, slots=True, kw_only=True)
class Elections:
    """What the elections of one policy came to, as processes or in pods."""

    part: str
    policy: str
    leaders: tuple[float, ...]
    """Of each node, the most loaded first, the mean."""
    errors: tuple[float, ...]
    """The standard error of each of these; 0 where there was one election."""
    balanced: int
    """Elections that ended as even as can be."""
    settled: Spread
    expected: Expected
    """What chance gives for the candidates' placement in these elections."""
    starts: Spread | None
    """Seconds from the first start of a candidate to the last, of elections in which they were seen."""
    first_lead: float
    """The share of the leaders, of these elections, that started in the same second as the first of their store."""
    first_all: float
    """The same share of all candidates: of leaders too, if when they started did not matter."""
    count: int


def elections(recorded: Recorded[Election]) -> list[Elections]:
    """Return what they came to, by part and policy; what was not measured is left out."""
    found = []
    for part in PARTS:
        for policy in POLICIES:
            some = [one for one in recorded.runs if (one.part, one.policy) == (part, policy)]
            settled = spread(one.settled for one in some)
            if settled is not None:
                ranks = list(zip(*(one.leaders for one in some), strict=True))
                found.append(
                    Elections(
                        part=part,
                        policy=policy,
                        leaders=tuple(statistics.fmean(rank) for rank in ranks),
                        errors=tuple(_standard_error(rank) for rank in ranks),
                        balanced=sum(max(one.leaders) - min(one.leaders) <= 1 for one in some),
                        settled=settled,
                        expected=placed(some),
                        starts=spread(max(one.started.values()) for one in some if one.started),
                        first_lead=_first_share(some, leaders=True),
                        first_all=_first_share(some, leaders=False),
                        count=len(some),
                    )
                )
    return found


def _first_share(some: Sequence[Election], *, leaders: bool) -> float:
    first, total = 0, 0
    for one in some:
        for store, leader in one.leading.items():
            # A StatefulSet's pods have its name and a number.
            times = {pod: at for pod, at in one.started.items() if pod.rpartition("-")[0] == store}
            asked = [leader] if leaders else list(times)
            total += len(asked)
            first += sum(pod in times and times[pod] <= min(times.values()) for pod in asked)
    return first / total if total else 0.0


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


# -- Processor use --


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUse:
    """One node's use of the processor, as a share of what it may use. Nodes are ranked by their leaders."""

    leaders: int
    share: Spread
    """Of each run its median over time; the spread is that of the runs."""
    throttled: Spread
    """Of each run the mean share of the time in which the node wanted more than its limit."""
    series: tuple[tuple[float, float, float, float], ...]
    """Seconds since the load began; the runs' median, least and greatest share then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """What the runs of one placement came to, with so many clients a store."""

    placement: str
    clients: int
    throughput: Spread
    """Acknowledged writes a second: the sum over the stores, each over its own time."""
    together: Spread
    """The same, but all acknowledged writes over the time of the slowest store."""
    p50: Spread | None
    """Seconds; of each run the median of its stores."""
    p99: Spread | None
    """Of each run the greatest of its stores."""
    failed: int
    """Writes of all runs that were not acknowledged."""
    sent: int
    nodes: tuple[NodeUse, ...]
    """The node with the most leaders first."""
    cost: Spread
    """Seconds of the nodes' processor time for an acknowledged write, whatever the nodes did besides included."""
    generator: Spread
    """Cores; so are the next two."""
    control_plane: Spread
    machine: Spread
    others: Spread
    """Of `machine`, what neither the nodes nor the generator nor the control plane used."""
    count: int

    @property
    def ceiling(self) -> float:
        """By how much the throughput could grow at most if all nodes shared this work evenly: 1.0 is twice as much."""
        shares = [node.share.median for node in self.nodes]
        return max(shares) / statistics.fmean(shares) - 1 if any(shares) else 0.0


def writing(recorded: Recorded[CpuRun] | Recorded[ThroughputRun]) -> dict[str, dict[int, Writing]]:
    """Return what the runs that count came to, by placement and clients a store."""
    groups: defaultdict[tuple[str, int], list[CpuRun | ThroughputRun]] = defaultdict(list)
    for run in recorded.runs:
        if not run.void:
            groups[run.placement, run.clients].append(run)
    found: dict[str, dict[int, Writing]] = {placement: {} for placement in PLACEMENTS}
    for (placement, clients), runs in sorted(groups.items()):
        found[placement][clients] = _writing(placement, clients, runs, recorded.about)
    return found


def _writing(placement: str, clients: int, runs: Sequence[CpuRun | ThroughputRun], about: About) -> Writing:
    loads = [load for run in runs for load in run.loads]
    return Writing(
        placement=placement,
        clients=clients,
        throughput=_spread(sum(load.throughput for load in run.loads) for run in runs),
        together=_spread(_together(run.loads) for run in runs),
        p50=spread(statistics.median(known) for run in runs if (known := [x.p50 for x in run.loads if x.p50])),
        p99=spread(max(known) for run in runs if (known := [x.p99 for x in run.loads if x.p99])),
        failed=sum(load.requests - load.acknowledged for load in loads),
        sent=sum(load.requests for load in loads),
        nodes=_nodes(runs, capacity(about)),
        cost=_spread(_cost(run) for run in runs),
        generator=_spread(run.usage.generator for run in runs),
        control_plane=_spread(run.usage.control_plane for run in runs),
        machine=_spread(run.usage.machine for run in runs),
        others=_spread(_others(run.usage) for run in runs),
        count=len(runs),
    )


def _others(usage: Usage) -> float:
    nodes = sum(statistics.fmean(trace.cores) for trace in usage.nodes.values() if trace.cores)
    return max(0.0, usage.machine - usage.generator - usage.control_plane - nodes)


def _cost(run: CpuRun | ThroughputRun) -> float:
    acknowledged = sum(load.acknowledged for load in run.loads)
    lengths = [end - begin for begin, end in pairwise([0.0, *run.usage.at])]
    used = sum(
        cores * length
        for trace in run.usage.nodes.values()
        for cores, length in zip(trace.cores, lengths, strict=False)
    )
    return used / acknowledged if acknowledged else 0.0


def capacity(about: About) -> float:
    """Return the cores that a node may use: its limit, or all of the machine's where it has none."""
    return about.node_cpus or float(about.machine_cores)


def _together(loads: Sequence[Load]) -> float:
    longest = max((load.seconds for load in loads), default=0.0)
    return sum(load.acknowledged for load in loads) / longest if longest else 0.0


def _nodes(runs: Sequence[CpuRun | ThroughputRun], cores: float) -> tuple[NodeUse, ...]:
    ranked = [sorted(run.usage.nodes, key=lambda node: (-run.leaders_before.get(node, 0), node)) for run in runs]
    found = []
    for place in range(min(map(len, ranked))):
        nodes = [names[place] for names in ranked]
        traces = [run.usage.nodes[node] for run, node in zip(runs, nodes, strict=True)]
        leaders = Counter(run.leaders_before.get(node, 0) for run, node in zip(runs, nodes, strict=True))
        found.append(
            NodeUse(
                leaders=leaders.most_common(1)[0][0],
                share=_spread(statistics.median(trace.cores) / cores if trace.cores else 0.0 for trace in traces),
                throttled=_spread(statistics.fmean(one.throttled) if one.throttled else 0.0 for one in traces),
                series=_series(
                    [
                        list(zip(run.usage.at, trace.cores, strict=False))
                        for run, trace in zip(runs, traces, strict=True)
                    ],
                    cores,
                ),
            )
        )
    return tuple(found)


def _series(
    traces: Sequence[Sequence[tuple[float, float]]], cores: float
) -> tuple[tuple[float, float, float, float], ...]:
    """Return time, median, least and greatest share, where every run has a sample."""
    binned = []
    for trace in traces:
        bins: defaultdict[int, list[float]] = defaultdict(list)
        for at, used in trace:
            bins[round(at / GRID_SECONDS)].append(used / cores)
        binned.append({place: statistics.fmean(values) for place, values in bins.items()})
    common = sorted(set.intersection(*(set(one) for one in binned))) if binned else []
    return tuple(
        (place * GRID_SECONDS, statistics.median(values), min(values), max(values))
        for place in common
        for values in [[one[place] for one in binned]]
    )


def gain(found: Mapping[str, Mapping[int, Writing]], clients: int) -> Spread | None:
    """Return by how much more is written with balanced leaders: 0.5 is half as much again. None without both.

    The median is that of the medians. The least sets the worst balanced run against the best concentrated one, the
    greatest the other way round.
    """
    one, other = (found[placement].get(clients) for placement in PLACEMENTS)
    if one is None or other is None or not one.throughput.low:
        return None
    return Spread(
        median=other.throughput.median / one.throughput.median - 1,
        low=other.throughput.low / one.throughput.high - 1,
        high=other.throughput.high / one.throughput.low - 1,
        count=min(one.count, other.count),
    )


# -- The loss of a node --


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the loss of the node that leads most came to under one policy."""

    policy: str
    before: tuple[float, ...]
    """Leaders of each node, the most loaded first, the mean; so are the next two."""
    after: tuple[float, ...]
    """Of the nodes that are left."""
    returned: tuple[float, ...]
    """Empty where it was not seen."""
    lost: Spread
    """Stores that lost their leader, of each run."""
    gap_lost: Spread | None
    """Seconds without an acknowledged write, of stores whose leader was lost; of all runs."""
    gap_others: Spread | None
    """The same of the other stores."""
    throughput_before: Spread
    """Acknowledged writes a second, all stores together."""
    throughput_after: Spread
    kept: Spread | None
    """The share of the throughput that was left, of each run."""
    clients: int
    """Of each store, with which the throughput was measured; 0 where that is not said."""
    count: int


def losses(recorded: Recorded[FailureRun]) -> list[Loss]:
    """Return what the runs that count came to, by policy; what was not measured is left out."""
    clients = recorded.about.options.get("clients")
    return [
        Loss(
            policy=policy,
            before=_mean_ranks([run.leaders_before for run in runs], recorded.about.nodes),
            after=_mean_ranks([_without(run.leaders_after, run.killed) for run in runs]),
            returned=_mean_ranks([run.leaders_returned for run in runs if run.leaders_returned], recorded.about.nodes),
            lost=_spread(float(len(run.lost)) for run in runs),
            gap_lost=spread(gap for run in runs for store, gap in run.gaps.items() if store in run.lost),
            gap_others=spread(gap for run in runs for store, gap in run.gaps.items() if store not in run.lost),
            throughput_before=_spread(run.throughput_before for run in runs),
            throughput_after=_spread(run.throughput_after for run in runs),
            kept=spread(run.throughput_after / run.throughput_before for run in runs if run.throughput_before),
            clients=clients if isinstance(clients, int) else 0,
            count=len(runs),
        )
        for policy in POLICIES
        if (runs := [run for run in recorded.runs if run.policy == policy and not run.void])
    ]


def _without(leaders: Mapping[str, int], node: str) -> dict[str, int]:
    return {name: count for name, count in leaders.items() if name != node}


def _mean_ranks(counted: Sequence[Mapping[str, int]], nodes: Sequence[str] = ()) -> tuple[float, ...]:
    """Return the mean of the most loaded node, of the next, and so on; `nodes` that nothing is said of lead none."""
    ranks = [sorted({**dict.fromkeys(nodes, 0), **leaders}.values(), reverse=True) for leaders in counted]
    longest = max(map(len, ranks), default=0)
    padded = [[*rank, *[0] * (longest - len(rank))] for rank in ranks]
    return tuple(statistics.fmean(rank) for rank in zip(*padded, strict=True))


def _spread(values: Iterable[float]) -> Spread:
    """Return the spread of some values, of which there is at least one."""
    found = spread(values)
    if found is None:
        raise ValueError("there is nothing to take the median of")
    return found
