"""Invented data for the tests of the report. Nothing of it was ever measured; it never goes into docs/."""

from __future__ import annotations

import random

from tests.paper.data import (
    BALANCED,
    CONCENTRATED,
    OFF,
    OURS,
    PODS,
    PROCESSES,
    About,
    CpuRun,
    Election,
    FailureRun,
    Load,
    Recorded,
    ThroughputRun,
    Trace,
    Usage,
)
from tests.paper.report_figures import Measured

NODES = ["n1", "n2", "n3"]
STORES = [f"store-{letter}" for letter in "abcde"]
SPREAD = {"n1": 2, "n2": 2, "n3": 1}
HEAPED = {"n1": 5, "n2": 0, "n3": 0}
LEADERS = {CONCENTRATED: HEAPED, BALANCED: SPREAD}
CLIENTS = (1, 2, 4, 8, 16, 32)
PLACED = {store: {"n1": 2, "n2": 2, "n3": 1} for store in STORES}


def about(**options: object) -> About:
    """Return what invented data were measured with."""
    return About(
        date="2026-01-02T03:04:05+00:00",
        machine_cores=2,
        machine_memory_gib=24.0,
        kernel="6.18-invented",
        python="3.11.7",
        node_cpus=0.5,
        nodes=NODES,
        stores=5,
        replicas=5,
        kubernetes="v1.37.2",
        images={"sidecar": "leader-elector:0.1.0", "store": "leader-elector-store:0.1.0"},
        hey="v0.1.5",
        options=dict(options),
    )


def load(store: str, rate: float, *, sent: int = 100, acknowledged: int | None = None) -> Load:
    """Return a load that so many writes a second were acknowledged of."""
    done = sent if acknowledged is None else acknowledged
    failures = {"503": sent - done} if sent > done else {}
    return Load(
        store=store,
        requests=sent,
        acknowledged=done,
        failures=failures,
        seconds=done / rate,
        p50=1 / rate,
        p99=5 / rate,
    )


def usage(shares: dict[str, float], seconds: int, chance: random.Random) -> Usage:
    """Return a use of the processor around these shares of half a core."""
    traces = {
        node: Trace(
            cores=[0.5 * min(1.0, share * chance.uniform(0.9, 1.1)) for _ in range(seconds)],
            throttled=[0.9 if share > 0.9 else 0.1] * seconds,
        )
        for node, share in shares.items()
    }
    return Usage(
        at=[second + 1.0 for second in range(seconds)], nodes=traces, generator=0.1, control_plane=0.2, machine=1.7
    )


def invented() -> Measured:
    """Return a small set of every experiment."""
    chance = random.Random(1)  # noqa: S311 - protects nothing
    return Measured(
        distribution=Recorded(about=about(), runs=[*_elections(PROCESSES, 100, chance), *_elections(PODS, 20, chance)]),
        cpu=Recorded(
            about=about(seconds=60),
            runs=[_cpu_run(number, chance) for number in range(1, 7)],
        ),
        throughput=Recorded(
            about=about(requests=100, clients=list(CLIENTS)),
            runs=[
                _throughput_run(6 * turn + place + 1, clients, chance)
                for turn in range(6)
                for place, clients in enumerate(CLIENTS)
            ],
        ),
        node_failure=Recorded(about=about(clients=4), runs=[_failure(number, chance) for number in range(1, 11)]),
    )


def _elections(part: str, count: int, chance: random.Random) -> list[Election]:
    by_chance = [[3, 2, 0], [3, 1, 1], [2, 2, 1], [4, 1, 0], [3, 2, 0], [2, 2, 1]]
    return [
        Election(
            number=number,
            part=part,
            policy=policy,
            leaders=[2, 2, 1] if policy == OURS else chance.choice(by_chance),
            settled=chance.random(),
            candidates=PLACED,
            started={f"{store}-{replica}": float(replica) for store in STORES for replica in range(5)}
            if part == PODS
            else {},
            leading={store: f"{store}-0" for store in STORES} if part == PODS else {},
        )
        for number in range(1, count + 1)
        for policy in (OFF, OURS)
    ]


def _placement(turn: int) -> str:
    return (CONCENTRATED, BALANCED, BALANCED, CONCENTRATED)[turn % 4]


def _cpu_run(number: int, chance: random.Random) -> CpuRun:
    placement = _placement(number - 1)
    shares = {"n1": 0.97, "n2": 0.45, "n3": 0.4} if placement == CONCENTRATED else {"n1": 0.8, "n2": 0.78, "n3": 0.6}
    return CpuRun(
        number=number,
        placement=placement,
        clients=4,
        leaders_before=LEADERS[placement],
        leaders_after=LEADERS[placement],
        moved=[],
        void="",
        loads=[load(store, chance.uniform(30, 40)) for store in STORES],
        usage=usage(shares, 60, chance),
    )


def _throughput_run(number: int, clients: int, chance: random.Random) -> ThroughputRun:
    placement = _placement((number - 1) // len(CLIENTS))
    most = 150 if placement == CONCENTRATED else 260
    rate = most * clients / (clients + 1.5) * chance.uniform(0.95, 1.05) / len(STORES)
    shares = {"n1": 0.95, "n2": 0.4, "n3": 0.4} if placement == CONCENTRATED else {"n1": 0.8, "n2": 0.8, "n3": 0.6}
    return ThroughputRun(
        number=number,
        placement=placement,
        clients=clients,
        leaders_before=LEADERS[placement],
        leaders_after=LEADERS[placement],
        moved=[],
        void="",
        loads=[load(store, rate) for store in STORES],
        usage=usage(shares, 5, chance),
    )


def _failure(number: int, chance: random.Random) -> FailureRun:
    policy = OURS if number % 2 else OFF
    before = SPREAD if policy == OURS else {"n1": 3, "n2": 2, "n3": 0}
    lost = STORES[: before["n1"]]
    return FailureRun(
        number=number,
        policy=policy,
        killed="n1",
        leaders_before=before,
        leaders_after={"n2": 3, "n3": 2} if policy == OURS else {"n2": 4, "n3": 1},
        leaders_returned=SPREAD if policy == OURS else {"n2": 4, "n3": 1},
        lost=lost,
        gaps={store: chance.uniform(10, 14) if store in lost else chance.uniform(0.1, 0.6) for store in STORES},
        void="",
        before=[load(store, chance.uniform(30, 34)) for store in STORES],
        after=[load(store, chance.uniform(22, 26)) for store in STORES],
    )
