"""What chance makes of a scenario: where candidates run and when they start, the same for the same seed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import ctl
from sidecar.lab import scenario
from sidecar.lab.scenario import LATE, PAUSE, Scenario, draw

if TYPE_CHECKING:
    from sidecar.lab.scenario import Cast

SEEDS = range(30)


def nodes_of(cast: Cast) -> dict[str, Counter[str]]:
    """Return how many candidates each application has on each node."""
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    for start in cast.starts:
        nodes[start.pod.election][start.pod.node] += 1
    return nodes


def test_the_same_seed_draws_the_same() -> None:
    """A seed decides everything, and another seed something else."""
    asked = Scenario(mixed_starts=True, weights=(1, 4), placement="random")
    assert draw(asked, 7) == draw(asked, 7)
    assert len({repr(draw(asked, seed)) for seed in SEEDS}) == len(SEEDS)


def test_spread_is_the_schedulers() -> None:
    """Each application is as even over the nodes as it can be, and so are all together."""
    for seed in SEEDS:
        nodes = nodes_of(draw(Scenario(), seed))
        assert all(sorted(counts.values()) == [1, 2, 2] for counts in nodes.values())
        together = sum(nodes.values(), Counter[str]())
        assert max(together.values()) - min(together.values()) <= 1


def test_random_is_anywhere() -> None:
    """Some application has no candidate on some node, and on average each node has as many as the others."""
    casts = [nodes_of(draw(Scenario(placement="random"), seed)) for seed in range(100)]
    assert any(len(counts) < 3 for nodes in casts for counts in nodes.values())
    together = sum((counts for nodes in casts for counts in nodes.values()), Counter[str]())
    assert all(700 < count < 970 for count in together.values()), together


def test_restricted_is_to_so_many_nodes() -> None:
    """Each application runs on exactly so many nodes, evenly, and different ones on different nodes."""
    asked = Scenario(apps=20, replicas=4, nodes=6, placement="restricted", restricted_to=2)
    for seed in SEEDS:
        nodes = nodes_of(draw(asked, seed))
        assert all(sorted(counts.values()) == [2, 2] for counts in nodes.values())
        assert len({tuple(sorted(counts)) for counts in nodes.values()}) > 1


@pytest.mark.parametrize("seconds", [0.0, 1.0, 20.0])
def test_starts_are_spread_over_the_time(seconds: float) -> None:
    """Starts fill the time that is given to them and nothing beyond."""
    times = [start.after for seed in SEEDS for start in draw(Scenario(starts=seconds), seed).starts]
    assert min(times) >= 0
    assert 0.9 * seconds <= max(times) <= seconds


def test_ordered_starts_wait_for_each_other() -> None:
    """The first pod of each application starts within the time; every other one a pause after the one before it."""
    cast = draw(Scenario(ordered=True, starts=0.25), 0)
    assert cast.ordered
    for start in cast.starts:
        least, most = (0.0, 0.25) if start.pod.identity.endswith("-0") else PAUSE
        assert least <= start.after <= most


def test_stragglers_are_a_part_and_late() -> None:
    """About that part of the candidates starts later, by the time that is said, and the others in time."""
    times = [start.after for seed in SEEDS for start in draw(Scenario(stragglers=0.3), seed).starts]
    late = [time for time in times if time >= LATE[0]]
    assert all(time <= LATE[1] + 1 for time in late)
    assert all(time <= 1 for time in times if time < LATE[0])
    assert 0.25 < len(late) / len(times) < 0.35


def test_mixed_starts_are_of_every_kind() -> None:
    """Over many seeds there are trials that start at once, spread out, in order, and with stragglers."""
    casts = [draw(Scenario(mixed_starts=True), seed) for seed in range(100)]
    at_once = [cast for cast in casts if all(start.after == 0 for start in cast.starts)]
    ordered = [cast for cast in casts if cast.ordered]
    straggling = [cast for cast in casts if any(start.after >= LATE[0] for start in cast.starts)]
    assert len(at_once) > 10
    assert len(ordered) > 10
    assert len(straggling) > 10
    assert len(at_once) + len(ordered) + len(straggling) < 90


def test_weights_are_drawn_by_election() -> None:
    """Each election has one of the weights, and each weight is drawn."""
    cast = draw(Scenario(apps=40, weights=(1, 4)), 0)
    assert set(cast.weights) == {start.pod.election for start in cast.starts}
    assert set(cast.weights.values()) == {1, 4}


def test_the_node_that_is_hit_has_candidates() -> None:
    """A node that is late or lost is one on which something runs."""
    for seed in SEEDS:
        cast = draw(Scenario(apps=1, replicas=2, nodes=50), seed)
        used = {start.pod.node for start in cast.starts}
        assert {cast.late_node, cast.lost_node} <= used


def test_phases_follow_from_what_is_asked() -> None:
    """Phases come in one order, and a node can only return after it was lost."""
    assert Scenario().phases == (scenario.START,)
    assert Scenario(node_return=True).phases == (scenario.START, scenario.NODE_LOSS, scenario.NODE_RETURN)
    everything = Scenario(late_node=True, rolling_restart=True, node_loss=True, quiet=1.0)
    assert everything.phases == (
        scenario.START,
        scenario.LATE_NODE,
        scenario.ROLLING_RESTART,
        scenario.NODE_LOSS,
        scenario.QUIET,
    )


def read(typed: str) -> Scenario:
    """Return what the command line makes of these options."""
    return ctl._scenario(ctl._parser().parse_args(["simulate", *typed.split()]))


@pytest.mark.parametrize(
    ("asked", "typed"),
    [
        (Scenario(), ""),
        (Scenario(apps=7, weights=(1, 4), node_return=True), "--apps 7 --weights 1,4 --node-return"),
        (Scenario(placement="restricted", restricted_to=2), "--placement restricted:2"),
        (
            Scenario(latency=(0.0001 / 1000, 30.5 / 1000), stragglers=0.3, ttl=12),
            "--stragglers 0.3 --latency 0.0001,30.5 --ttl 12s",
        ),
        (
            Scenario(mixed_starts=True, starts=0, settle=10, quiet=0.5, late_node=True, node_loss=True),
            "--starts 0 --mixed-starts --late-node --node-loss --settle 10 --quiet 0.5",
        ),
        (Scenario(replicas=3, nodes=9, ordered=True, rolling_restart=True, placement="random"), None),
    ],
)
def test_what_is_asked_for_can_be_typed(asked: Scenario, typed: str | None) -> None:
    """The options that are not as usual, and those alone, ask for the very same again; so none of them is forgotten."""
    assert typed is None or asked.asked_for == typed
    assert read(asked.asked_for) == asked


def test_every_field_can_be_asked_for() -> None:
    """A field that differs from the default shows among the options."""
    others: dict[str, Any] = {"placement": "random", "latency": (0.0, 0.0), "weights": (2,)}
    for field in fields(Scenario):
        if field.name == "restricted_to":
            continue  # a part of the placement
        other = others.get(field.name, True if isinstance(field.default, bool) else 1.5)
        assert Scenario(**{field.name: other}).asked_for, field.name


def test_the_command_line_is_there_at_once() -> None:
    """To read it takes neither the lab's dependencies nor those of the sidecar."""
    heavy = (
        "import sys; from sidecar import ctl; ctl._parser(); print({'rich', 'aiohttp', 'structlog'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
