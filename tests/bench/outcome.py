"""What one cold start came to, and many of them together. No I/O here."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One cold start. Lists have an entry for each election, in the order of their names."""

    seed: int
    leaders: list[int] = field(default_factory=list)
    """Leaders per node in the end, the most loaded node first."""
    balanced: bool = False
    """Whether they are as even as the placement allows."""
    spread: float = 0.0
    """Seconds from the first to the last start: a candidate's first request at the API server."""
    settled: float = 0.0
    """Seconds from the last start until the last change of any leader; 0 when nothing changed any more."""
    leaders_seen: list[int] = field(default_factory=list)
    """How often somebody began to lead."""
    hand_overs: list[int] = field(default_factory=list)
    """How often the lock went from one holder to the next, those that never led included."""
    lists: list[int] = field(default_factory=list)
    """LISTs that the candidates sent."""
    gaps: list[float] = field(default_factory=list)
    """Seconds without a leader at each change of a leader, of all elections."""
    told: int = 0
    """How many of these both leaders told in their logs; the others are concluded from the API server."""
    requests: dict[str, int] = field(default_factory=dict)
    """Requests by verb, of all elections."""
    problem: str = ""
    """What went wrong; then there is nothing else to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """One leader that was killed. Seconds."""

    loaded: bool
    """Whether the only candidate left runs on the most loaded node; else it is the least loaded one."""
    vacancy: float
    """From SIGKILL to the successor's confirmation."""
    beyond: float
    """From the end of the lease, counted from when its last renewal was seen, to the successor's confirmation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Several figures of one kind."""

    p50: float
    p90: float
    most: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All runs of one command. What there was nothing to measure for is None."""

    name: str
    runs: int
    balanced: int
    problems: int
    """Runs in which something went wrong."""
    leaders: list[float]
    """Leaders per node, the most loaded node first, the mean of the runs."""
    spread: Range | None
    settled: Range | None
    gap: Range | None
    told: int
    leaders_seen: Range | None
    leaders_seen_mean: float | None
    hand_overs: Range | None
    hand_overs_mean: float | None
    lists: Range | None
    requests: dict[str, float]
    """Of one election in one run, by verb."""
    light: Range | None
    """Seconds beyond the lease after a crash, where the bidder's node was the least loaded; then the most loaded."""
    loaded: Range | None
    light_vacancy: Range | None
    loaded_vacancy: Range | None


def range_of(values: Collection[float]) -> Range | None:
    """Return the range of some values; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return Range(p50=percentile(ordered, 0.5), p90=percentile(ordered, 0.9), most=ordered[-1], count=len(ordered))


def summary(name: str, runs: Sequence[Run], crashes: Sequence[Crash]) -> Summary:
    """Summarise what was measured of one command."""
    good = [run for run in runs if not run.problem]
    seen = [count for run in good for count in run.leaders_seen]
    moved = [count for run in good for count in run.hand_overs]
    listed = [count for run in good for count in run.lists]
    requests = Counter[str]()
    for run in good:
        requests.update(run.requests)
    return Summary(
        name=name,
        runs=len(runs),
        balanced=sum(run.balanced for run in good),
        problems=len(runs) - len(good),
        leaders=[statistics.mean(rank) for rank in zip(*(run.leaders for run in good), strict=True)],
        spread=range_of([run.spread for run in good]),
        settled=range_of([run.settled for run in good]),
        gap=range_of([gap for run in good for gap in run.gaps]),
        told=sum(run.told for run in good),
        leaders_seen=range_of(seen),
        leaders_seen_mean=_mean(seen),
        hand_overs=range_of(moved),
        hand_overs_mean=_mean(moved),
        lists=range_of(listed),
        requests={verb: count / len(seen) for verb, count in sorted(requests.items())},
        light=range_of([crash.beyond for crash in crashes if not crash.loaded]),
        loaded=range_of([crash.beyond for crash in crashes if crash.loaded]),
        light_vacancy=range_of([crash.vacancy for crash in crashes if not crash.loaded]),
        loaded_vacancy=range_of([crash.vacancy for crash in crashes if crash.loaded]),
    )


def leaders_per_node(leaders: Mapping[str, str], nodes: Iterable[str]) -> list[int]:
    """Count the elections led on each node, the most loaded first; `leaders` has the leader's node by election."""
    counted = Counter(leaders.values())
    return sorted((counted[node] for node in nodes), reverse=True)


def _mean(values: Sequence[int]) -> float | None:
    return statistics.mean(values) if values else None
