"""In which order runs are made, which of them count, and when a node counts as back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.paper import __main__ as program
from tests.paper import data
from tests.paper.bed import NAMES, Leader, is_placed, moved, per_node
from tests.paper.data import BALANCED, CONCENTRATED, CpuRun, DataError
from tests.paper.failure import _started_since
from tests.paper.made_up import ABOUT, RUN
from tests.paper.placements import turns
from tests.paper.probing import longest_gap
from tests.paper.tries import TRIES, tried
from tests.testbed.hey import HeyError

if TYPE_CHECKING:
    from pathlib import Path

NODES = ["n1", "n2", "n3"]


def led(*nodes: str, token: int = 1) -> dict[str, Leader]:
    """Return the leaders of the first stores, on these nodes."""
    return {
        name: Leader(pod=f"{name}-0", node=node, address="10.0.0.1", token=token)
        for name, node in zip(NAMES, nodes, strict=False)
    }


def test_placements_take_turns() -> None:
    """Each is first in every second repeat, so leaders move once a repeat, and a trend favours nobody."""
    assert [placement[0] for _, placement in turns(4)] == list("cbbccbbc")
    assert [repeat for repeat, _ in turns(2)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("nodes", "concentrated", "balanced"),
    [
        (("n1",) * 5, True, False),
        (("n2",) * 5, False, False),
        (("n1", "n1", "n1", "n1", "n2"), False, False),
        (("n1", "n1", "n1", "n2", "n2"), False, False),
        (("n1", "n1", "n1", "n2", "n3"), False, False),
        (("n1", "n1", "n2", "n2", "n3"), False, True),
    ],
)
def test_a_placement_is_told_from_the_leaders(nodes: tuple[str, ...], *, concentrated: bool, balanced: bool) -> None:
    """Concentrated is all on the wanted node, balanced is 2 : 2 : 1."""
    counts = per_node(led(*nodes), NODES)
    assert is_placed(counts, CONCENTRATED, "n1") is concentrated
    assert is_placed(counts, BALANCED, "n1") is balanced


def test_a_leader_that_led_anew_has_moved() -> None:
    """The same replica in another term was deposed in between; a store without a leader has moved as well."""
    before = led("n1", "n1", "n2", "n2", "n3")
    assert moved(before, before) == []
    assert moved(before, led("n1", "n1", "n2", "n2", "n3", token=2)) == NAMES
    assert moved(before, led("n1", "n1", "n2", "n1")) == NAMES[3:]
    assert moved(led("n1"), before) == NAMES[1:]


@pytest.mark.parametrize(
    ("acknowledged", "gap"),
    [([], 10.0), ([1.0, 1.5, 9.5], 8.0), ([4.0], 6.0), ([9.0], 9.0), ([-5.0, 5.0, 20.0], 5.0), ([6.0, 3.0], 4.0)],
)
def test_a_gap_is_between_acknowledged_writes(acknowledged: list[float], gap: float) -> None:
    """The two ends count, so that a store which never took a write again is not overlooked."""
    assert longest_gap(acknowledged, 0.0, 10.0) == gap


def container(started: str | None) -> dict[str, Any]:
    """Return the status of a container."""
    return {"state": {"running": {"startedAt": started}} if started else {"waiting": {}}}


def test_a_pod_is_back_when_all_its_containers_are() -> None:
    """The API server goes on telling of the containers of before until the kubelet of a booted node reports."""
    booted = datetime(2026, 11, 23, 12, 0, 5, 700_000, tzinfo=UTC)

    def back(sidecar: str | None, main: str | None) -> bool:
        status = {"initContainerStatuses": [container(sidecar)], "containerStatuses": [container(main)]}
        return _started_since({"status": status}, booted)

    assert back("2026-11-23T12:00:05Z", "2026-11-23T12:00:07Z")
    assert not back("2026-11-23T11:59:00Z", "2026-11-23T12:00:07Z")
    assert not back("2026-11-23T12:00:06Z", None)
    assert not _started_since({"status": {}}, booted)


def experiment(folder: Path, *, seconds: int = 20, resume: bool = True) -> program.Experiment:
    """Return the CPU experiment of a folder."""
    return program.Experiment(folder, data.CPU, CpuRun, options={"seconds": seconds}, resume=resume)


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    """A run is in the file as soon as it was made, and another start goes on from there when it is told to."""
    first = experiment(tmp_path)
    first.begin(ABOUT)
    first.add(CpuRun(**RUN))
    second = experiment(tmp_path)
    second.begin(ABOUT)
    assert second.runs == [CpuRun(**RUN)]
    second.add(CpuRun(**RUN))
    assert len(experiment(tmp_path).runs) == 2
    assert experiment(tmp_path, resume=False).runs == []


def test_runs_that_cannot_be_compared_are_not_put_together(tmp_path: Path) -> None:
    """Other options, or another machine, are an error when a series is to go on."""
    first = experiment(tmp_path)
    first.begin(ABOUT)
    first.add(CpuRun(**RUN))
    with pytest.raises(DataError, match="--resume"):
        experiment(tmp_path, seconds=30)
    other = replace(ABOUT, node_cpus=0.25)
    with pytest.raises(DataError, match="--resume"):
        experiment(tmp_path).begin(other)


@pytest.mark.parametrize(
    "arguments",
    [["--seconds", "1"], ["--clients", "1,0"], ["--clients", ""], ["--node-cpus", "nan"], ["--only", "x"]],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    """It is said before anything is begun, with the status of a wrong call."""
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2


def test_a_run_that_does_not_count_is_made_again() -> None:
    """A few times, and then the experiment goes on without it; one that counts is not made at all."""
    made: list[str] = []

    def attempt(needed: int) -> None:
        tried(
            lambda: made.append("made"),
            counts=lambda: len(made) >= needed,
            restore=lambda: made.append("restored"),
            said="a run",
            progress=lambda _: None,
        )

    attempt(2)
    assert made == ["made", "made"]
    attempt(2)
    assert made == ["made", "made"]
    attempt(99)
    assert made == ["made"] * (2 + TRIES)


def test_a_run_that_broke_off_leaves_no_node_behind() -> None:
    """The cluster is restored before the next try, and what broke the last one off is told."""
    told: list[str] = []

    def broken() -> None:
        raise HeyError("hey printed nothing")

    with pytest.raises(HeyError):
        tried(broken, counts=lambda: False, restore=lambda: told.append("restored"), said="a run", progress=told.append)
    assert told == ["a run: again, for hey printed nothing", "restored"] * (TRIES - 1)
