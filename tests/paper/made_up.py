"""Runs for tests: nothing of them was measured."""

from __future__ import annotations

from typing import Any

from tests.paper import data
from tests.paper.data import About, FailureRun, Load, Trace, Usage

ABOUT = About(
    date="2026-11-23T23:45:00+00:00",
    machine_cores=2,
    machine_memory_gib=23.5,
    kernel="6.18",
    python="3.11.2",
    node_cpus=0.5,
    nodes=["n1", "n2"],
    stores=5,
    replicas=5,
    kubernetes="1.37.2",
    images={"store": "store:1"},
    hey="v0.1.5",
    options={"seconds": 20, "clients": [1, 2]},
)
LOAD = Load(store="a", requests=10, acknowledged=8, failures={"503": 2}, seconds=4.0, p50=0.25, p99=None)
USAGE = Usage(
    at=[1.0, 2.0],
    nodes={"n1": Trace(cores=[0.5, 0.25], throttled=[1.0, 0.0])},
    generator=0.1,
    control_plane=0.2,
    machine=1.5,
)
RUN: dict[str, Any] = {
    "number": 1,
    "placement": data.BALANCED,
    "clients": 4,
    "leaders_before": {"n1": 1},
    "leaders_after": {"n1": 0},
    "moved": ["a"],
    "void": "",
    "loads": [LOAD],
    "usage": USAGE,
}
FAILURE = FailureRun(
    number=1,
    policy=data.OFF,
    killed="n1",
    leaders_before={"n1": 3},
    leaders_after={"n1": 0},
    leaders_returned={"n1": 0},
    lost=["a"],
    gaps={"a": 10.5},
    void="",
    before=[LOAD, LOAD],
    after=[LOAD],
)
