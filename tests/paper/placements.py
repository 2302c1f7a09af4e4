"""Figs. 4 and 5: the same stores and volumes under writes, their leaders on one node, and spread over all.

The placements take turns, so that what else the machine does hits both alike.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.paper import loading
from tests.paper.bed import NAMES, is_placed, moved, per_node
from tests.paper.data import BALANCED, CONCENTRATED, CpuRun, ThroughputRun
from tests.paper.tries import tried
from tests.testbed.hey import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.paper.bed import Bed, Leader

CPU_CLIENTS = 4
"""Of each store, as in the paper."""


def turns(repeats: int) -> Iterator[tuple[int, str]]:
    """Yield each repeat with each placement: concentrated, balanced, balanced, concentrated, and so on."""
    for repeat in range(repeats):
        for placement in (CONCENTRATED, BALANCED) if repeat % 2 == 0 else (BALANCED, CONCENTRATED):
            yield repeat, placement


def cpu(
    bed: Bed,
    *,
    repeats: int,
    seconds: float,
    done: Sequence[CpuRun],
    each: Callable[[CpuRun], None],
    progress: Callable[[str], None],
) -> None:
    """Make the runs of Fig. 4 that are not done, `repeats` of each placement that count; tell `each` of every one.

    Each write is a connection of its own to a node's port, so that kube-proxy chooses its replica. Raises StateError,
    HeyError and ClusterError.
    """
    runs = list(done)
    targets = {
        store: Target(
            url=f"{bed.entry(number, store)}/kv/{loading.KEY}", clients=CPU_CLIENTS, seconds=seconds, keep_alive=False
        )
        for number, store in enumerate(NAMES)
    }

    def make(placement: str, node: str) -> None:
        measured = _measured(bed, placement, node, CPU_CLIENTS, lambda _: targets)
        runs.append(CpuRun(number=len(runs) + 1, placement=placement, clients=CPU_CLIENTS, **measured))
        each(runs[-1])

    def counts(placement: str, repeat: int) -> bool:
        return sum(run.placement == placement and not run.void for run in runs) > repeat

    for repeat, placement in turns(repeats):
        said = f"CPU for {seconds:g} s, {placement}, {repeat + 1} of {repeats}"
        if not counts(placement, repeat):
            progress(said)
        tried(
            partial(make, placement, _chosen(bed, repeat)),
            counts=partial(counts, placement, repeat),
            restore=bed.cluster.restore,
            said=said,
            progress=progress,
        )


def throughput(
    bed: Bed,
    *,
    repeats: int,
    requests: int,
    clients: Sequence[int],
    done: Sequence[ThroughputRun],
    each: Callable[[ThroughputRun], None],
    progress: Callable[[str], None],
) -> None:
    """Make the runs of Fig. 5 that are not done, `repeats` of each placement and number of clients that count.

    The clients write to the leaders' pods directly. Raises StateError, HeyError and ClusterError.
    """
    runs = list(done)

    def make(placement: str, node: str, count: int) -> None:
        some = partial(loading.to_leaders, clients=count, requests=max(requests, count))
        measured = _measured(bed, placement, node, count, some)
        runs.append(ThroughputRun(number=len(runs) + 1, placement=placement, clients=count, **measured))
        each(runs[-1])

    def counts(placement: str, repeat: int, count: int) -> bool:
        same = [run for run in runs if (run.placement, run.clients) == (placement, count) and not run.void]
        return len(same) > repeat

    # Across the numbers of clients as well, so that leaders move no more often than they have to.
    course = [(repeat, count) for repeat in range(repeats) for count in clients]
    for turn, placement in turns(len(course)):
        repeat, count = course[turn]
        said = f"throughput of {count} clients each, {placement}, {repeat + 1} of {repeats}"
        if not counts(placement, repeat, count):
            progress(said)
        tried(
            partial(make, placement, _chosen(bed, repeat), count),
            counts=partial(counts, placement, repeat, count),
            restore=bed.cluster.restore,
            said=said,
            progress=progress,
        )


def _measured(
    bed: Bed,
    placement: str,
    node: str,
    clients: int,
    targets: Callable[[Mapping[str, Leader]], Mapping[str, Target]],
) -> dict[str, Any]:
    """Move the leaders, send a load, and return what both kinds of runs have of that."""
    before = bed.place(placement, node)
    loading.warm(before, clients=clients)
    loads, usage = loading.loaded(bed.cluster, bed.cluster.nodes, targets(before))
    after = bed.leaders()
    return {
        "leaders_before": per_node(before, bed.cluster.nodes),
        "leaders_after": per_node(after, bed.cluster.nodes),
        "moved": moved(before, after),
        "void": void(before, after, placement=placement, node=node, bed=bed),
        "loads": loads,
        "usage": usage,
    }


def void(before: Mapping[str, Leader], after: Mapping[str, Leader], *, placement: str, node: str, bed: Bed) -> str:
    """Return why a run between these two does not count; empty for one that does."""
    if changed := moved(before, after):
        return f"leadership of {', '.join(changed)} changed meanwhile"
    if not is_placed(per_node(after, bed.cluster.nodes), placement, node):
        return f"leaders were not {placement}"
    return ""


def _chosen(bed: Bed, repeat: int) -> str:
    """Return where leaders are concentrated: on each node in turn, for no node is like the other."""
    return bed.cluster.nodes[repeat % len(bed.cluster.nodes)]
