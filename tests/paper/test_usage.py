"""What a node's counters of the processor come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.paper.usage import Beside, Sample, machine_seconds, process_seconds, usage
from tests.testbed.cluster_site import ClusterError, Processor, Record, Site

if TYPE_CHECKING:
    from pathlib import Path

BEGAN = Beside(at=100.0, control_plane=5.0, machine=50.0, generator=1.0)
ENDED = Beside(at=104.0, control_plane=5.4, machine=56.0, generator=2.0)


def sample(at: float, seconds: float, periods: int = 0, throttled: int = 0) -> Sample:
    """Return one of a single node."""
    return Sample(at=at, nodes={"n1": Processor(seconds=seconds, periods=periods, throttled=throttled)})


def test_each_interval_has_its_own_share() -> None:
    """Cores are seconds of the processor by seconds, and throttled is by the periods of the same interval."""
    samples = [sample(10, 3.0, 100, 40), sample(11, 3.5, 110, 50), sample(13, 4.0, 130, 55)]
    found = usage(samples, BEGAN, ENDED, shortest=0.5)
    assert found.at == [1.0, 3.0]
    assert found.nodes["n1"].cores == [0.5, 0.25]
    assert found.nodes["n1"].throttled == [1.0, 0.25]


def test_what_ran_beside_the_nodes_is_a_mean() -> None:
    """It is of all the time from the beginning to the end."""
    found = usage([sample(10, 0), sample(11, 1)], BEGAN, ENDED, shortest=0.5)
    assert (found.generator, found.machine) == (0.25, 1.5)
    assert found.control_plane == pytest.approx(0.1)


def test_a_last_interval_that_was_cut_short_is_left_out() -> None:
    """A few milliseconds say nothing; the only interval there is stays."""
    samples = [sample(10, 0), sample(11, 1), sample(11.1, 1)]
    assert usage(samples, BEGAN, ENDED, shortest=0.5).at == [1.0]
    assert usage(samples[1:], BEGAN, ENDED, shortest=0.5).at == [pytest.approx(0.1)]


def test_a_node_without_a_period_was_not_throttled() -> None:
    """An idle node has no periods, and nothing is divided by them."""
    found = usage([sample(10, 1.0, 7, 3), sample(11, 1.0, 7, 3)], BEGAN, ENDED, shortest=0.5)
    assert found.nodes["n1"].throttled == [0.0]


def test_the_machine_s_idle_time_does_not_count() -> None:
    """Nor does the time in which it waited for its disk."""
    assert machine_seconds("cpu  100 200 300 9999 9999 10 20 30 0 0\ncpu0 1 2 3") == pytest.approx(6.6)


def test_a_command_s_name_does_not_confuse() -> None:
    """It may hold spaces and parentheses."""
    assert process_seconds("12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20") == pytest.approx(2.0)


def test_a_node_s_counters_are_read_from_its_cgroups(tmp_path: Path) -> None:
    """One without power has none, and that is said."""
    cgroups = {hierarchy: str(tmp_path / hierarchy) for hierarchy in ("cpu", "cpuacct")}
    for cgroup in cgroups:
        (tmp_path / cgroup / "n1").mkdir(parents=True)
    (tmp_path / "cpuacct" / "n1" / "cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "cpu" / "n1" / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 123456\n")
    site = Site(tmp_path / "record", -1, Record(folder="", process=0, command="", since="", cgroups=cgroups))
    assert site.processor("n1") == Processor(seconds=2.5, periods=10, throttled=4)
    with pytest.raises(ClusterError, match="n2 has no power"):
        site.processor("n2")
