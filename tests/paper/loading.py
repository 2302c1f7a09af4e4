"""Loads of writes on all stores at once, with what they came to and how much of the processor was used meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.paper.data import Load
from tests.paper.usage import Meter
from tests.testbed import hey
from tests.testbed.hey import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.paper.bed import Leader
    from tests.paper.data import Usage
    from tests.testbed.clusters import LocalCluster

BODY = b"0123456789" * 10
"""What is written: a hundred bytes, always under the same key."""
KEY = "load"
SAMPLE_SECONDS = 1.0
"""From one sample of the processors to the next."""
LOOK_SECONDS = 0.05
"""From one look whether the load has ended to the next."""
SLOWEST = 5.0
"""Writes a second of one store, below which a load of so many requests is given up."""
WARM_SECONDS = 3.0
"""Of load before what is measured: a placement's first writes go over connections that have to be opened."""


def to_leaders(
    leaders: Mapping[str, Leader], *, clients: int, requests: int = 0, seconds: float = 0
) -> dict[str, Target]:
    """Return a load of every store's leader, over connections that stay open."""
    return {
        store: Target(url=f"{leader.url}/kv/{KEY}", clients=clients, requests=requests, seconds=seconds)
        for store, leader in sorted(leaders.items())
    }


def warm(leaders: Mapping[str, Leader], *, clients: int) -> None:
    """Send a load that is not measured. Raises HeyError."""
    targets = to_leaders(leaders, clients=clients, seconds=WARM_SECONDS)
    with hey.putting(list(targets.values()), body=BODY, limit=_limit(targets)) as loads:
        while not loads.done():
            time.sleep(LOOK_SECONDS)


def loaded(cluster: LocalCluster, nodes: Sequence[str], targets: Mapping[str, Target]) -> tuple[list[Load], Usage]:
    """Send loads, by store; return what they came to, and what these nodes, which have power, used meanwhile.

    Raises HeyError and ClusterError.
    """
    meter = Meter(cluster, nodes, every=SAMPLE_SECONDS)
    meter.begin()
    with hey.putting(list(targets.values()), body=BODY, limit=_limit(targets)) as loads:
        while not loads.done():
            meter.look()
            time.sleep(LOOK_SECONDS)
        results = dict(zip(targets, loads.results(), strict=True))
    return [_load(store, result) for store, result in results.items()], meter.usage()


def _limit(targets: Mapping[str, Target]) -> float:
    longest = max(target.seconds + target.requests / SLOWEST for target in targets.values())
    return longest + 3 * hey.REQUEST_SECONDS


def _load(store: str, result: hey.Result) -> Load:
    return Load(
        store=store,
        requests=result.requests,
        acknowledged=len(result.latencies),
        failures=result.failures,
        seconds=result.seconds,
        p50=result.percentile(50),
        p99=result.percentile(99),
    )
