"""The bench from end to end, as `make bench` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG

ROOT = Path(__file__).parents[2]


def bench(options: str) -> Any:  # noqa: ANN401 - JSON
    """Run the bench; it must exit 0, be quiet in a pipe, and print JSON."""
    if os.environ.get(ENVIRONMENT_KUBECONFIG):
        pytest.skip(f"{ENVIRONMENT_KUBECONFIG} is set, and the bench needs a server of its own")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options.split(), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.usefixtures("real_api_server")
def test_the_bench_measures_an_election() -> None:
    """The figures of a short run fit together.

    Followers only register, both ways of counting requests agree, and somebody led after each end of a leader.
    """
    document = bench("--elections=1 --replicas=3 --ttl=6s --settle=6 --window=6 --kill-trials=1 --term-trials=1")

    (workload,) = document["workloads"]
    (row,) = workload["rows"]
    assert (row["name"], row["elections"], row["replicas"], row["ttl"]) == ("leader-elector", 1, 3, 6.0)
    assert row["leader_changes"] == 0
    assert row["traffic"]["leaders"]["update"] > 0
    assert set(row["traffic"]["followers"]) <= {"watch", "patch"}
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


@pytest.mark.usefixtures("real_api_server")
def test_the_bench_sees_who_is_balanced(tmp_path: Path) -> None:
    """When one node comes up before the other, leaders are handed over to it, and without balance they are not.

    The hand-over is seen in the lock object as in the logs, and another call finds the runs in their file.
    """
    options = f"--balance=2x2x2 --starts=by-node --runs=1 --settle=5 --compare=off --out={tmp_path / 'runs'}"

    commands = bench(options)["commands"]

    ours, off = commands
    (run,), (other,) = ours["each"], off["each"]
    assert (ours["name"], ours["balanced"], run["leaders"]) == ("leader-elector", 1, [1, 1])
    assert (off["name"], off["balanced"], other["leaders"]) == ("off", 0, [2, 0])
    assert sorted(run["leaders_seen"]) == sorted([1, 1 + len(run["gaps"])])
    assert sum(run["hand_overs"]) >= len(run["gaps"]) == run["told"] >= 1
    assert all(gap > 0 for gap in run["gaps"])
    assert min(run["lists"]) > 0
    assert (other["leaders_seen"], other["hand_overs"], other["gaps"]) == ([1, 1], [0, 0], [])
    assert other["spread"] > 0
    assert len((tmp_path / "runs").read_text().splitlines()) == 2
    assert [command["each"] for command in bench(options)["commands"]] == [[run], [other]]


@pytest.mark.usefixtures("real_api_server")
def test_the_bench_measures_vacancies() -> None:
    """A leader is killed where its heir is on the least loaded node, and one where it is not; each has a successor."""
    document = bench("--balance=1x1x1 --runs=0 --crashes=1 --ttl=4s")

    (command,) = document["commands"]
    assert [crash["loaded"] for crash in command["crashes"]] == [False, True]
    # Nobody takes over before the lease has run out, but for what separates two readers of one watch event.
    assert all(crash["beyond"] > -0.5 < crash["vacancy"] for crash in command["crashes"])
    assert command["light"]["count"] == command["loaded"]["count"] == 1
