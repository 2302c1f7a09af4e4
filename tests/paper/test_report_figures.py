"""What the experiments come to: medians, spreads, and which runs count."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TypeVar

import pytest

from tests.paper.data import BALANCED, CONCENTRATED, OFF, OURS, PODS, PROCESSES, CpuRun, Recorded, Trace, Usage
from tests.paper.report_figures import Spread, capacity, elections, gain, losses, spread, writing
from tests.paper.report_invented import SPREAD, about, invented, load, usage

Run = TypeVar("Run")
QUIET = usage({"n1": 0.5, "n2": 0.5, "n3": 0.5}, 2, random.Random(1))  # noqa: S311 - protects nothing


def cpu_run(*rates: float, placement: str = CONCENTRATED, void: str = "", used: Usage = QUIET) -> CpuRun:
    """Return a run in which stores acknowledged so many writes a second."""
    return CpuRun(
        number=1,
        placement=placement,
        clients=4,
        leaders_before=SPREAD,
        leaders_after=SPREAD,
        moved=[],
        void=void,
        loads=[load(f"s{number}", rate) for number, rate in enumerate(rates)],
        usage=used,
    )


def test_a_spread_is_the_median_between_least_and_greatest() -> None:
    """The median is between the two in the middle where the number is even; of nothing there is none."""
    assert spread([4.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=4.0, count=3)
    assert spread([4.0, 1.0, 2.0, 3.0]) == Spread(median=2.5, low=1.0, high=4.0, count=4)
    assert spread([]) is None


def test_throughputs_are_summed_over_the_stores() -> None:
    """Each store counts over its own time; the cautious sum goes by the slowest store."""
    one = writing(Recorded(about=about(), runs=[cpu_run(10, 50)]))[CONCENTRATED][4]
    assert one.throughput.median == pytest.approx(60)
    assert one.together.median == pytest.approx(200 / 10)
    assert (one.sent, one.failed) == (200, 0)


def test_void_runs_do_not_count() -> None:
    """Neither in medians nor in their number."""
    runs = [cpu_run(10), cpu_run(1000, void="leaders moved"), cpu_run(30), cpu_run(20)]
    found = writing(Recorded(about=about(), runs=runs))
    assert found[CONCENTRATED][4].throughput == Spread(median=20.0, low=10.0, high=30.0, count=3)
    assert found[BALANCED] == {}


def test_nodes_are_ranked_by_their_leaders() -> None:
    """The node with the most leaders comes first in every run, whatever it is called; equal ones go by name."""

    def used(**cores: float) -> Usage:
        traces = {node: Trace(cores=[value] * 2, throttled=[value] * 2) for node, value in cores.items()}
        return Usage(at=[1.0, 2.0], nodes=traces, generator=0, control_plane=0, machine=1)

    first = replace(cpu_run(10, used=used(n1=0.1, n2=0.5, n3=0.2)), leaders_before={"n1": 0, "n2": 5, "n3": 0})
    second = replace(cpu_run(10, used=used(n1=0.3, n2=0.2, n3=0.4)), leaders_before={"n1": 0, "n2": 0, "n3": 5})
    busy, *others = writing(Recorded(about=about(), runs=[first, second]))[CONCENTRATED][4].nodes
    assert (busy.leaders, busy.share) == (5, Spread(median=0.9, low=0.8, high=1.0, count=2))
    assert [one.share.low for one in others] == pytest.approx([0.2, 0.4])
    assert busy.series[0] == pytest.approx((1.0, 0.9, 0.8, 1.0))
    assert [at for at, *_ in busy.series] == [1.0, 2.0]


def test_the_ceiling_is_what_even_work_would_give() -> None:
    """A node at its limit beside two idle ones leaves room for twice as much more; evenly used nodes leave none."""
    traces = {node: Trace(cores=[cores], throttled=[1.0]) for node, cores in (("n1", 0.5), ("n2", 0.0), ("n3", 0.0))}
    uneven = Usage(at=[1.0], nodes=traces, generator=0, control_plane=0, machine=1)
    found = writing(Recorded(about=about(), runs=[cpu_run(10, used=uneven)]))
    assert found[CONCENTRATED][4].ceiling == pytest.approx(2.0)
    even = replace(uneven, nodes=dict.fromkeys(traces, traces["n1"]))
    assert writing(Recorded(about=about(), runs=[cpu_run(10, used=even)]))[CONCENTRATED][4].ceiling == pytest.approx(0)


def test_the_cost_of_a_write_is_what_all_nodes_used() -> None:
    """Intervals between samples may differ; and what neither nodes, generator nor control plane used is others'."""
    traces = {"n1": Trace(cores=[0.5, 0.25], throttled=[0, 0]), "n2": Trace(cores=[0.1, 0.1], throttled=[0, 0])}
    used = Usage(at=[1.0, 3.0], nodes=traces, generator=0.1, control_plane=0.2, machine=1.5)
    one = writing(Recorded(about=about(), runs=[cpu_run(10, used=used)]))[CONCENTRATED][4]
    assert one.cost.median == pytest.approx((0.5 + 2 * 0.25 + 3 * 0.1) / 100)
    assert one.others.median == pytest.approx(1.5 - 0.1 - 0.2 - 0.375 - 0.1)


def test_a_gain_is_that_of_the_medians_within_the_worst_and_the_best() -> None:
    """Its least sets the worst balanced run against the best concentrated one; without both there is none."""
    runs = [cpu_run(rate) for rate in (8, 10, 20)] + [cpu_run(rate, placement=BALANCED) for rate in (15, 16, 40)]
    found = writing(Recorded(about=about(), runs=runs))
    more = gain(found, 4)
    assert more is not None
    assert (more.median, more.low, more.high) == pytest.approx((0.6, -0.25, 4))
    assert gain(found, 8) is None


def test_a_node_without_a_limit_may_use_the_machine() -> None:
    """Then its share is one of all processors."""
    assert capacity(about()) == 0.5
    assert capacity(replace(about(), node_cpus=0.0)) == 2.0


def test_elections_are_counted_by_part_and_policy() -> None:
    """Means by rank, their standard errors, and how many ended as even as can be."""
    recorded = invented().distribution
    assert recorded is not None
    one = recorded.runs[0]
    runs = [replace(one, part=PODS, policy=OFF, leaders=leaders) for leaders in ([3, 2, 0], [2, 2, 1], [4, 1, 0])]
    (found,) = elections(replace_runs(recorded, runs))
    assert (found.part, found.policy, found.balanced, found.count) == (PODS, OFF, 1, 3)
    assert found.leaders == pytest.approx((3, 5 / 3, 1 / 3))
    assert found.errors == pytest.approx((3**-0.5, 1 / 3, 1 / 3))
    assert [(each.part, each.policy) for each in elections(recorded)] == [
        (part, policy) for part in (PROCESSES, PODS) for policy in (OFF, OURS)
    ]


def test_who_started_first_is_told_of_leaders_and_of_all() -> None:
    """By store and by second; elections in which starts were not seen say nothing."""
    recorded = invented().distribution
    assert recorded is not None
    started = {"a-0": 0.0, "a-1": 3.0, "b-0": 5.0, "b-1": 5.0, "c-0": 1.0, "c-1": 2.0}
    seen = replace(recorded.runs[-1], started=started, leading={"a": "a-0", "b": "b-1", "c": "c-1"})
    unseen = replace(seen, started={}, leading={})
    (found,) = elections(replace_runs(recorded, [seen, unseen]))
    assert found.starts == Spread(median=5.0, low=5.0, high=5.0, count=1)
    assert (found.first_lead, found.first_all) == pytest.approx((2 / 3, 4 / 6))
    (found,) = elections(replace_runs(recorded, [unseen]))
    assert (found.starts, found.first_lead) == (None, 0.0)


def replace_runs(recorded: Recorded[Run], runs: list[Run]) -> Recorded[Run]:
    """Return the same with other runs."""
    return Recorded(about=recorded.about, runs=runs)


def test_a_loss_is_counted_on_the_nodes_that_are_left() -> None:
    """Gaps are those of the stores that lost their leader and of the others; a lost node has no leaders to count."""
    recorded = invented().node_failure
    assert recorded is not None
    one = replace(
        recorded.runs[0],
        policy=OFF,
        killed="n1",
        leaders_before={"n1": 3, "n2": 2, "n3": 0},
        leaders_after={"n1": 0, "n2": 5, "n3": 0},
        lost=["a"],
        gaps={"a": 12.0, "b": 0.5},
    )
    void = replace(one, gaps={"a": 99.0}, void="the node did not come back")
    (found,) = losses(replace_runs(recorded, [one, void]))
    assert (found.policy, found.count) == (OFF, 1)
    assert (found.before, found.after) == ((3, 2, 0), (5, 0))
    assert found.gap_lost == Spread(median=12.0, low=12.0, high=12.0, count=1)
    assert found.gap_others == Spread(median=0.5, low=0.5, high=0.5, count=1)
