"""The loss of the node that leads most: for how long its stores take no writes, and what is left of the throughput."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tests.paper import distribution, loading
from tests.paper.bed import NAMES, READY_SECONDS, is_ready, per_node
from tests.paper.data import OFF, OURS, STORES, FailureRun
from tests.paper.probing import probing
from tests.paper.tries import tried
from tests.paper.waiting import StateError, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from tests.paper.bed import Bed
    from tests.paper.data import Load

CLIENTS = 4
"""Of each store, for the throughput before and after."""
LOAD_SECONDS = 10.0
CALM_SECONDS = 2.0
"""Of acknowledged writes to every store before the node is lost."""
RECOVERED_SECONDS = 120.0
"""Within which every store has to take writes again."""


def failures(
    bed: Bed,
    *,
    repeats: int,
    done: Sequence[FailureRun],
    each: Callable[[FailureRun], None],
    progress: Callable[[str], None],
) -> None:
    """Lose a node so many times with each policy, the policies in turn; trials in `done` are not made again.

    Every trial begins with a cold start of all replicas. Raises StateError, HeyError, ClusterError.
    """
    runs = list(done)

    def make(policy: str, said: str) -> None:
        runs.append(_trial(bed, policy, len(runs) + 1, partial(_told, progress, said)))
        each(runs[-1])

    def counts(policy: str, number: int) -> bool:
        return sum(run.policy == policy and not run.void for run in runs) >= number

    for number in range(1, repeats + 1):
        for policy in (OFF, OURS) if number % 2 else (OURS, OFF):
            said = f"node failure, {policy}, {number} of {repeats}"
            tried(
                partial(make, policy, said),
                counts=partial(counts, policy, number),
                restore=bed.cluster.restore,
                said=said,
                progress=progress,
            )


def _told(progress: Callable[[str], None], subject: str, text: str) -> None:
    progress(f"{subject}: {text}")


def _trial(bed: Bed, policy: str, number: int, progress: Callable[[str], None]) -> FailureRun:
    nodes = bed.cluster.nodes
    bed.cluster.kubectl("uncordon", *nodes)
    progress("starting all replicas")
    distribution.election(bed.deployed, policy, number)
    leaders = bed.settled(lambda _: True, "every store is led")
    counts = per_node(leaders, nodes)
    progress("measuring the throughput before")
    before = _measured(bed, nodes)
    killed = max(nodes, key=lambda node: (counts[node], node))
    alive = [node for node in nodes if node != killed]
    entries = {store: [f"http://{bed.cluster.address(node)}:{bed.ports[store]}" for node in alive] for store in NAMES}
    progress(f"{killed} is lost")
    with probing(entries) as prober:
        _await_writes(prober.last, time.monotonic() + CALM_SECONDS)
        began = time.monotonic()
        bed.cluster.kill(killed)
        try:
            lost_at = time.monotonic()
            settled = bed.settled(lambda found: not found[killed], f"every store is led, none on {killed}")
            _await_writes(prober.last, lost_at)
            gaps = prober.gaps(began, time.monotonic())
        except BaseException:
            bed.cluster.boot(killed)
            raise
    try:
        progress("measuring the throughput after")
        after = _measured(bed, alive)
    finally:
        booted = datetime.now(UTC)
        bed.cluster.boot(killed)
    progress(f"{killed} comes back")
    bed.cluster.await_ready(killed)
    _await_return(bed, killed, booted)
    returned = bed.settled(lambda _: True, "every store is led")
    return FailureRun(
        number=number,
        policy=policy,
        killed=killed,
        leaders_before=counts,
        leaders_after=per_node(settled, nodes),
        leaders_returned=per_node(returned, nodes),
        lost=sorted(store for store, leader in leaders.items() if leader.node == killed),
        gaps=gaps,
        void="",
        before=before,
        after=after,
    )


def _measured(bed: Bed, nodes: Sequence[str]) -> list[Load]:
    leaders = bed.leaders()
    if len(leaders) != STORES:
        raise StateError(f"no leader: {', '.join(sorted(set(NAMES) - set(leaders)))}")
    loading.warm(leaders, clients=CLIENTS)
    targets = loading.to_leaders(leaders, clients=CLIENTS, seconds=LOAD_SECONDS)
    return loading.loaded(bed.cluster, nodes, targets)[0]


def _await_writes(last: Callable[[], Mapping[str, float]], since: float) -> None:
    """Wait until every store has acknowledged a write after an instant. Raises StateError."""

    def missing() -> list[str]:
        return [store for store, at in last().items() if at <= since]

    until(
        lambda: not missing(), RECOVERED_SECONDS, lambda: f"a write acknowledged by {', '.join(missing())}", every=0.05
    )


def _await_return(bed: Bed, node: str, booted: datetime) -> None:
    """Wait until a node's replicas were started again after it was booted, and all are ready. Raises StateError."""

    def missing() -> list[str]:
        return [
            name
            for name, pod in bed.deployed.pods().items()
            if not is_ready(pod) or (pod["spec"].get("nodeName") == node and not _started_since(pod, booted))
        ]

    until(lambda: not missing(), READY_SECONDS, lambda: f"{', '.join(missing())} ready again, since {node} is back")


def _started_since(pod: Mapping[str, Any], instant: datetime) -> bool:
    """Tell whether all containers of a pod, which the API server has, were started after an instant."""
    status = pod["status"]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    started = [one.get("state", {}).get("running", {}).get("startedAt", "") for one in containers]
    # They are whole seconds, rounded down.
    return bool(started) and all(
        text and datetime.fromisoformat(text) >= instant.replace(microsecond=0) for text in started
    )
