"""Trials on real nodes: on which of them the leaders of 5 StatefulSets of 5 replicas end up.

    python -m tests.cluster.trials --trials 20

One trial is two namespaces at the same time, of StatefulSets that start their pods in order, and at once. The leaders
of each are counted when nothing changes any more: after the start, and after a node was lost and has come back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING

from sidecar.lab.optimum import Contest, is_balanced
from tests.bench.table import aligned
from tests.cluster.manifests import IDLE, Application
from tests.cluster.observer import ObserverError
from tests.cluster.opening import OpeningError, opened
from tests.cluster.stage import staged
from tests.cluster.terms import gaps
from tests.testbed.cluster import ClusterError
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.cluster.opening import Ground
    from tests.cluster.stage import Stage
    from tests.cluster.terms import Term

APPLICATIONS, REPLICAS = 5, 5
ORDERED, PARALLEL = "ordered", "parallel"

STARTED, RETURNED = "after the start", "after a node was lost and came back"

EVERY = 0.4
"""Seconds from one question to each of the 50 sidecars to the next."""

VOID = 0.05
"""The share of the time in which two leaders at once would not have been seen that a trial says so from."""

QUIET_SECONDS = 8.0
"""Without a change of leaders or candidates, after which a balanced trial is over: two looks of every leader."""

PATIENCE = 60.0
"""Seconds without a change of candidates that a trial has to be over by: the looks end when half of it has passed."""

START_SECONDS = 180.0
"""Within which all pods have to be candidates, and after a node returned all of its pods again."""


class TrialError(Exception):
    """A trial did not come to its end; the message says what did not happen."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial of StatefulSets ended, at one of its two ends."""

    trial: int
    pods: str
    """`ORDERED` or `PARALLEL`."""
    end: str
    """`STARTED` or `RETURNED`."""
    leaders: dict[str, int]
    """By node."""
    balanced: bool
    """No other choice among where there are candidates would be more even."""
    settled: float
    """Seconds from the last candidate that came to the last change of a leader."""
    terms: int
    """Of all elections together, since the start, or since the node was lost."""
    gap: float | None
    """The most seconds without a leader when one gave its leadership up; None when none did."""
    unseen: float
    """Of the time in which leaders named themselves, the share in which questions came too late to see another one."""

    @property
    def ratio(self) -> str:
        """Leaders of each node, the most first: `2 : 2 : 1`."""
        return " : ".join(str(count) for count in sorted(self.leaders.values(), reverse=True))


async def trial(ground: Ground, number: int) -> list[Outcome]:
    """Carry out one trial. On a given cluster, whose nodes cannot be lost, it is over when the start is.

    Raises TrialError, ObserverError, and ClusterError.
    """
    cluster = ground.cluster
    async with AsyncExitStack() as stack:
        sides = [
            Side(number, pods, await stack.enter_async_context(staged(ground, every=EVERY)))
            for pods in (ORDERED, PARALLEL)
        ]
        outcomes = await asyncio.gather(*(side.start() for side in sides))
        if cluster.given:
            return outcomes
        leaders: Counter[str] = sum((Counter(outcome.leaders) for outcome in outcomes), Counter())
        node = max(cluster.nodes, key=lambda node: (leaders[node], node))
        await asyncio.to_thread(cluster.kill, node)
        try:
            await asyncio.gather(*(side.lose(node) for side in sides))
        finally:
            await asyncio.to_thread(cluster.boot, node)
        await asyncio.to_thread(cluster.await_ready, node)
        return [*outcomes, *await asyncio.gather(*(side.recover() for side in sides))]


class Side:
    """The StatefulSets of one namespace."""

    def __init__(self, number: int, pods: str, stage: Stage) -> None:
        self._number = number
        self._pods = pods
        self._stage = stage
        self._seen = stage.seen
        self._applications = [
            Application(name=f"app-{one}", replicas=REPLICAS, parallel=pods == PARALLEL, script=IDLE)
            for one in range(1, APPLICATIONS + 1)
        ]
        self._since = 0.0
        """What happened before is not counted."""
        self._lost: dict[str, str] = {}
        """The containers that are gone for good, by the UID of their pod."""

    async def start(self) -> Outcome:
        """Start all pods; return how that ended."""
        self._since = time.monotonic()
        await self._stage.apply(*self._applications)
        return await self._outcome(STARTED)

    async def lose(self, node: str) -> None:
        """Wait until nothing is led any more on a node that was just lost."""
        self._since = time.monotonic()
        self._lost = {pod.uid: pod.started for pod in self._seen.living() if pod.node == node}

        def led_elsewhere() -> bool:
            terms = self._present_terms()
            return len(terms) == APPLICATIONS and all(term.node != node for term in terms)

        await _until(led_elsewhere, f"others lead than those on {node}", seconds=PATIENCE)

    async def recover(self) -> Outcome:
        """Wait until what was lost is back; return how that ended."""
        return await self._outcome(RETURNED)

    async def _outcome(self, end: str) -> Outcome:
        await _until(self._is_complete, "all pods are candidates", seconds=START_SECONDS)
        complete = time.monotonic()
        # Whether the leaders are spread evenly is judged below; here they only get the time for it.
        with suppress(TrialError):
            await _until(lambda: self._is_over(complete), "evenly spread for good", seconds=PATIENCE)
        for one in self._applications:
            await self._seen.agreed(one.election, self._seen.living(one.name))
        led = [self._seen.terms(one.election) for one in self._applications]
        nodes = Counter(term.node for term in self._present_terms())
        named, unseen = self._seen.unproven()
        return Outcome(
            trial=self._number,
            pods=self._pods,
            end=end,
            leaders={node: nodes[node] for node in sorted({pod.node for pod in self._seen.living()})},
            balanced=self._is_balanced(),
            settled=max(0.0, self._last_change() - complete),
            terms=sum(term.began > self._since for terms in led for term in terms),
            gap=max((gap for terms in led for gap in _given_up(terms, self._since)), default=None),
            unseen=unseen / named if named else 1.0,
        )

    def _is_complete(self) -> bool:
        """Tell whether all pods are candidates, those that were lost again."""
        registered: set[str] = set()
        for one in self._applications:
            registered.update(*(version.registered for version in self._seen.versions(one.election)[-1:]))
        pods = self._seen.living()
        return len(pods) == APPLICATIONS * REPLICAS and all(
            pod.uid in registered and pod.started != self._lost.get(pod.uid) and pod.last_name() is not None
            for pod in pods
        )

    def _is_over(self, complete: float) -> bool:
        return time.monotonic() > max(complete, self._last_change()) + QUIET_SECONDS and self._is_balanced()

    def _last_change(self) -> float:
        led = [self._seen.terms(one.election) for one in self._applications]
        return max((term.ended or term.began for terms in led for term in terms[-1:]), default=0.0)

    def _present_terms(self) -> list[Term]:
        terms = [self._seen.present_term(one.election) for one in self._applications]
        return [term for term in terms if term is not None]

    def _is_balanced(self) -> bool:
        nodes = {one: {pod.node for pod in self._seen.living(one.name)} for one in self._applications}
        contests = {one.election: Contest(1, tuple(sorted(found))) for one, found in nodes.items()}
        leaders = {one.election: self._seen.present_term(one.election) for one in self._applications}
        assigned = {election: term.node for election, term in leaders.items() if term is not None}
        return len(assigned) == len(contests) and is_balanced(contests, assigned)


async def _until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait for a condition. Raises TrialError."""
    try:
        await until(condition, what, seconds=seconds, every=EVERY / 2)
    except AssertionError as error:
        raise TrialError(str(error)) from error


def _given_up(terms: Sequence[Term], since: float) -> list[float]:
    return [
        gap
        for gap, (earlier, later) in zip(gaps(terms), pairwise(terms), strict=True)
        if earlier.released and later.began > since
    ]


# -- Many of them --


def table(outcomes: Sequence[Outcome]) -> str:
    """Return what they came to, for people. Where there are two figures, they are the median and the most."""
    lines = [["", "trials", "balanced", "settled after (s)", "longest gap (s)", "terms (mean)", "unseen (%)"]]
    for pods, end in sorted({(one.pods, one.end) for one in outcomes}):
        some = [one for one in outcomes if (one.pods, one.end) == (pods, end)]
        lines.append(
            [
                f"{pods}, {end}",
                str(len(some)),
                str(sum(one.balanced for one in some)),
                _figures(one.settled for one in some),
                _figures(one.gap for one in some),
                f"{fmean(one.terms for one in some):.1f}",
                _figures(100 * one.unseen for one in some),
            ]
        )
    counted = Counter(one.ratio for one in outcomes)
    ratios = ", ".join(f"{ratio} ({count} times)" for ratio, count in counted.most_common())
    return "\n".join([*aligned(lines), f"leaders on the nodes: {ratios}"])


def _figures(values: Iterable[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return f"{median(known):.2f}, {known[-1]:.2f}" if known else "-"


async def _series(ground: Ground, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for number in range(1, count + 1):
        outcomes += (found := await trial(ground, number))
        for one in found:
            told = f"{one.ratio}, {'balanced' if one.balanced else 'NOT balanced'}, settled after {one.settled:.1f} s"
            sys.stderr.write(f"trial {number} of {count}, {one.pods}, {one.end}: {told}\n")
            if one.unseen > VOID:
                late = f"for {one.unseen:.0%} of the time two leaders at once would not have been seen"
                sys.stderr.write(f"trial {number} of {count}, {one.pods}: the questions came too late, {late}\n")
    return outcomes


def main() -> int:
    """Carry them out; print a table, or JSON. Status 1 when one did not end balanced, 2 when it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.trials", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=1, metavar="<number>", help="how many (default 1)")
    parser.add_argument("--json", action="store_true", help="print every outcome as JSON")
    options = parser.parse_args()
    try:
        with opened() as ground:
            outcomes = asyncio.run(_series(ground, options.trials))
    except (AssertionError, OpeningError, TrialError, ObserverError, ClusterError) as error:
        # An assertion says that two named themselves at once, or that sidecars do not name who holds the lock.
        sys.stderr.write(f"error: {error}\n")
        return 2
    told = json.dumps([asdict(one) for one in outcomes], indent=1) if options.json else table(outcomes)
    sys.stdout.write(f"{told}\n")
    return 0 if all(one.balanced for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
