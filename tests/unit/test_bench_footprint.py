"""The bench's footprint of the image: its readers, its report, its limits, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from tests.bench import footprint_report as report
from tests.bench.__main__ import main
from tests.bench.container import added_mib
from tests.bench.figures import parse_run_time, parse_start_time
from tests.bench.footprint_report import Footprint, Occupied
from tests.bench.report import Goal, Machine
from tests.testbed.engine import EngineError

if TYPE_CHECKING:
    from tests.testbed.engine import Engine

LEADER = Occupied(resident=42.5, anonymous=26.2, proportional=29.6, cpu=1.68, first_answer=0.33)
FOLLOWERS = [
    Occupied(resident=resident, anonymous=26.0, proportional=29.0, cpu=cpu, first_answer=answer)
    for resident, cpu, answer in ((42.0, 0.3, 0.4), (42.1, 0.5, 0.3), (60.0, 0.4, 0.2))
]
MEASURED = Footprint(image="leader-elector:1.0", ttl="10s", window=60.0, added=18.9, leader=LEADER, followers=FOLLOWERS)
MACHINE = Machine(date="2026-01-01 00:00 UTC", cores=2, memory_gib=24.0, load=0.1, python="3.15.0")

BASE_LABEL = "org.opencontainers.image.base.name"
MIB = 2**20


class Inspected:
    """An engine with images that have labels, a size in MiB, and layers."""

    def __init__(self, images: dict[str, tuple[dict[str, str], int, str]]) -> None:
        self.images = images

    def image_labels(self, name: str) -> dict[str, str] | None:
        """Return the labels."""
        return self.images[name][0] if name in self.images else None

    def run(self, *arguments: str) -> str:
        """Answer `docker image inspect` with size and layers."""
        if arguments[-1] not in self.images:
            raise EngineError("no such image")
        _, size, layers = self.images[arguments[-1]]
        return f"{size * MIB} {layers}\n"


def test_the_start_of_a_process_is_read_whatever_it_is_called() -> None:
    """It is the 22nd field, in clock ticks since the machine was started (proc_pid_stat(5))."""
    fields = " ".join(str(number) for number in range(3, 53))
    assert parse_start_time(f"17 (a) b) {fields}", ticks=100) == 0.22


def test_the_run_time_of_a_thread_is_read() -> None:
    """It is the first field, in nanoseconds."""
    assert parse_run_time("1500000000 42 7\n") == 1.5


def test_a_follower_is_the_median_of_all() -> None:
    """One that is unlike the others does not count, figure by figure."""
    assert report.follower(MEASURED) == Occupied(
        resident=42.1, anonymous=26.0, proportional=29.0, cpu=0.4, first_answer=0.3
    )


def test_the_table_has_the_stock_image_beside_it() -> None:
    """A line for each figure: the leader's, a follower's, and the stock image's where it is known."""
    heading, *lines = report.table(MEASURED).splitlines()

    assert heading == (
        "leader-elector:1.0, 18.9 MiB on top of its base: 1 leader and 3 followers, ttl 10s, window 60 s"
    )
    assert [line.split() for line in lines][1:3] == [
        ["RSS,", "MiB", "42.5", "42.1", "17.8"],
        ["anonymous", "memory,", "MiB", "26.2", "26.0", "5.1"],
    ]
    assert lines[-1].split() == ["start", "to", "first", "answer,", "s", "0.33", "0.30"]


def test_markdown_has_the_same_cells() -> None:
    """The table in Markdown, under the same heading; one follower is one."""
    told = report.markdown(replace(MEASURED, added=None, followers=FOLLOWERS[:1]))

    assert told.startswith("leader-elector:1.0: 1 leader and 1 follower, ")
    assert "| CPU, millicores | 1.68 | 0.30 | 0.25 |" in told


def test_the_document_has_everybody() -> None:
    """Every container, the median of the followers, the stock image's figures, and the limits."""
    told = json.loads(report.document(MEASURED, report.compare_with_limits(MEASURED), MACHINE))

    assert (told["leader"]["anonymous"], told["follower"]["cpu"], told["stock"]["resident"]) == (26.2, 0.4, 17.8)
    assert len(told["followers"]) == 3
    assert len(told["goals"]) == 5
    assert told["machine"]["cores"] == 2


def test_limits_that_are_kept() -> None:
    """What a leader and a follower occupy is within the limits, and so is the image."""
    goals = report.compare_with_limits(MEASURED)

    assert all(goal.met for goal in goals)
    assert goals[0] == Goal(name="RSS, MiB: at most 45", measured="42.5 and 42.1", met=True)


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (replace(MEASURED, leader=replace(LEADER, resident=45.1)), "RSS, MiB: at most 45"),
        (replace(MEASURED, leader=replace(LEADER, anonymous=27.1)), "anonymous memory, MiB: at most 27"),
        (replace(MEASURED, leader=replace(LEADER, first_answer=0.6)), "start to first answer, s: at most 0.5"),
        (replace(MEASURED, followers=[replace(LEADER, cpu=1.1)]), "CPU of a follower, millicores: at most 1"),
        (replace(MEASURED, added=40.1), "image on top of its base, MiB: at most 40"),
        (replace(MEASURED, added=None), "image on top of its base, MiB: at most 40"),
    ],
)
def test_limits_that_are_exceeded(measured: Footprint, missed: str) -> None:
    """Each is told by its name; a leader may use more of the processor than a follower."""
    assert [goal.name for goal in report.compare_with_limits(measured) if not goal.met] == [missed]


@pytest.mark.parametrize(
    ("images", "added"),
    [
        ({"image": ({BASE_LABEL: "base"}, 190, "a b c"), "base": ({}, 172, "a")}, 18.0),
        # Another one has taken the base's name since.
        ({"image": ({BASE_LABEL: "base"}, 190, "a b c"), "base": ({}, 172, "d")}, None),
        ({"image": ({BASE_LABEL: "base"}, 190, "a b c")}, None),
        ({"image": ({}, 190, "a b c")}, None),
    ],
)
def test_what_an_image_adds(images: dict[str, tuple[dict[str, str], int, str]], added: float | None) -> None:
    """It is counted against the base that its label names, if the engine has that very one."""
    assert added_mib(cast("Engine", Inspected(images)), "image") == added


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--image", "--balance=5x5x3"], "--balance and --image are two things to measure"),
        (["--image", "--elections=2"], "--elections has no meaning with --image"),
        (["--image", "--runs=2"], "--runs has no meaning with --image"),
        (["--image", "--replicas=1"], "a leader alone has no followers"),
        (["--image", "--command=x"], "--command, --name and --compare have no meaning with it"),
        (["--runs=2"], "--runs has no meaning without --balance"),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with status 2 and its name, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
