"""The bench from end to end, as `make bench` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("real_api_server")
def test_the_bench_measures_an_election() -> None:
    """A short run exits 0, is quiet in a pipe, and its figures fit together.

    Followers send nothing, both ways of counting requests agree, and somebody led after each end of a leader.
    """
    if os.environ.get(ENVIRONMENT_KUBECONFIG):
        pytest.skip(f"{ENVIRONMENT_KUBECONFIG} is set, and the bench needs a server of its own")
    options = "--elections=1 --replicas=3 --ttl=6s --window=6 --kill-trials=1 --term-trials=1 --json"

    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    (workload,) = json.loads(done.stdout)["workloads"]
    (row,) = workload["rows"]
    assert (row["name"], row["elections"], row["replicas"], row["ttl"]) == ("leader-elector", 1, 3, 6.0)
    assert row["leader_changes"] == 0
    assert set(row["traffic"]["leaders"]) == {"update"}
    assert set(row["traffic"]["followers"]) <= {"watch"}
    # The counters are read a moment before and after the window, so that they may hold a renewal more at either end.
    assert abs(row["counted_by_metrics"] - row["requests"]) * row["window"] <= 2.5
    assert row["open_watches"] == 3
    assert row["apiserver"] > 0
    assert 0 < row["first_answer"]["p50"] <= row["first_answer"]["p90"]
    assert (row["first_answer"]["trials"], row["first_leader"]["trials"]) == (3, 1)
    assert row["killed"]["trials"] == row["terminated"]["trials"] == 1
    assert row["killed"]["p50"] > 0 < row["terminated"]["p50"]
    assert 0 < row["anonymous"] < row["resident"]
    assert 0 < row["proportional"] <= row["resident"]
