"""The exploration in short: nothing is wrong, everything that matters was met, and the explorer can be trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from sidecar import election, settling
from tests.safety.explore.__main__ import main
from tests.safety.explore.rules import Rules
from tests.safety.explore.scenarios import BY_NAME, FAULTS, SCENARIOS, Scenario
from tests.safety.explore.search import Search, replayed
from tests.safety.explore.story import story

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.safety.explore.world import World

STATES = 4_000
"""Distinct states of each scenario, at most; `make explore` goes through all of them."""

SHORTER = {
    "hand-over": {"faults": {"shifted": 1}},
    "mad-balance": {"faults": {"advised": 1}},
    "answers": {"faults": {"unanswered": 1}},
    "deletion": {"faults": {"deleted": 1}},
    "stock": {"faults": {}},
    "polling": {"faults": {}},
}
"""What is left out here, so that what a scenario is about comes within reach of so few states."""

MET = {
    "start": ["Fetched", "Written", "Conflicted", "why: take the vacant lock", "Wait"],
    "drift": ["why: renew", "why: take over"],
    "answers": ["Failed", "why: find out what became of the lock", "why: take over"],
    "watches": ["Changed", "WatchStarted", "WatchStopped"],
    "polling": ["why: poll: changes are not shown by a watch", "why: take over"],
    "restarts": ["why: resume: the lock is held in my name by this very pod", "why: find out what the lock is"],
    "namesakes": ["note: somebody else holds the lock under my name"],
    "ttls": ["why: take over", "why: look once more before taking over"],
    "endings": ["Leaving", "Leave", "why: release", "why: see whether the lock is still mine before releasing it"],
    "late-endings": ["why: keep the lock", "why: release"],
    "silent-endings": ["Leave"],
    "orders": ["Abstain", "Stand", "why: release", "note: stopped leading: unhealthy", "why: take over"],
    "step-down": ["note: stopped leading: was asked to step down", "why: release"],
    "deletion": ["Deleted", "note: the lock object was deleted", "why: take the vacant lock"],
    "editing": ["note: x holds the lock", "note: the lock object has no record"],
    "mad-balance": ["Confirm", "Nominate", "HandOver", "Strike", "Calm", "why: nominate", "why: hand over to b"],
    "checking": ["Count", "Counted", "note: checking whether this is the right node", "why: confirm"],
    "hand-over": [
        *("Pause", "Register", "Look", "Advise", "placing: nominated b", "placing: handed over to b"),
        *("why: nominate", "why: hand over to b", "note: the lock was released in favour of b"),
        "note: stopped leading: handing over to b on node-b",
    ],
    "stock": ["note: b holds the lock", "why: take over"],
    "stock-namesake": ["note: somebody else holds the lock under my name"],
}
"""What has to come up in a scenario, or it explores something else than it says."""


def shortened(name: str) -> Scenario:
    """Return a scenario as it is explored here."""
    return replace(BY_NAME[name], **SHORTER.get(name, {}))  # type: ignore[arg-type] # checked by the dataclass's users


@pytest.mark.parametrize("name", BY_NAME)
def test_nothing_is_wrong(name: str) -> None:
    """No state within reach has two leaders, breaks another rule, or is one from which nobody gets elected."""
    scenario = shortened(name)
    found = Search(scenario, states=STATES).run()
    assert not found.breach, "\n".join(story(scenario, found))
    assert found.complete or found.states == STATES
    assert found.asked >= found.states // scenario.sampled
    missing = [what for what in MET.get(name, ()) if not any(met.startswith(what) for met in found.met)]
    assert not missing, f"{name} met only {sorted(found.met)}"


def test_everything_is_met_somewhere() -> None:
    """Between them, the scenarios are held to meet every kind of event, action and step that there is."""
    met = {what for several in MET.values() for what in several}
    kinds = (*get_args(election.Event), *get_args(election.Action), *get_args(settling.Step))
    known = {"Read": "why: find out", "Write": "why: renew"}
    assert not [
        kind for kind in kinds if not any(each.startswith(known.get(kind.__name__, kind.__name__)) for each in met)
    ]


def test_every_fault_is_explored() -> None:
    """There is no kind of fault that no scenario allows."""
    assert FAULTS.keys() == {kind for scenario in SCENARIOS for kind in scenario.faults}


# -- The explorer itself -----------------------------------------------------------------------------------------------


def test_one_candidate_alone() -> None:
    """One that starts alone, in no time, goes through seven states.

    Counted by hand: the first one, read asked, served, answered, write asked, served, answered.
    """
    scenario = Scenario(name="alone", about="one candidate", identities=("a",), watches=False, steps=0)
    found = Search(scenario).run()
    assert (found.states, found.edges, found.depth, found.complete) == (7, 6, 6, True)


def test_two_that_cannot_meet() -> None:
    """Two who are asked nothing but to read once go through each pair of their states: it is every order."""
    scenario = Scenario(name="pair", about="two candidates", watches=False, steps=0)
    rules = Rules(scenario)
    layers, seen = [rules.first()], set()
    while layers:
        world = layers.pop()
        stages = tuple(_stage(world, number) for number in (0, 1))
        if "written" in stages or stages in seen:
            continue
        seen.add(stages)
        layers += [after for _, after in rules.successors(world)]
    assert seen == {(one, other) for one in STAGES for other in STAGES}


STAGES = ("new", "asked", "served", "read", "writing")


def _stage(world: World, number: int) -> str:
    process = world.processes[number]
    assert isinstance(process.state, election.State)
    if process.request is not None and isinstance(process.request.action, election.Write):
        return "writing" if process.request.answer is None else "written"
    if process.request is not None:
        return "asked" if process.request.answer is None else "served"
    if process.state.term is not None:
        return "written"
    return "new" if process.state.observed is None else "read"


REACHED: dict[str, tuple[str, Callable[[Rules, World], bool]]] = {
    "a take-over": ("answers", lambda rules, world: rules.leaders(world) == [1]),
    "a hand-over": ("hand-over", lambda rules, world: rules.leaders(world) == [1]),
    "a resumption": (
        "restarts",
        lambda rules, world: rules.leaders(world) == [0] and "crash" in spent(rules, world),
    ),
    "a stock leader": ("stock", lambda rules, world: rules.leaders(world) == [1]),
    "the end of a leader": ("endings", lambda _rules, world: world.processes[0].gone),
}


def spent(rules: Rules, world: World) -> set[str]:
    """Return which kinds of faults there were."""
    return {kind for kind, left in zip(FAULTS, world.budget, strict=True) if left < rules.scenario.faults.get(kind, 0)}


@pytest.mark.parametrize("what", REACHED)
def test_is_reached(what: str) -> None:
    """What an election is for comes to pass in some explored state."""
    name, happened = REACHED[what]
    search = Search(shortened(name), states=STATES)
    judged: list[bool] = []
    judge = search._judge

    def watched(world: World, index: int) -> None:
        judge(world, index)
        judged.append(happened(search._rules, world))

    search._judge = watched  # type: ignore[method-assign] # to look on
    search.run()
    assert any(judged)


def test_a_path_is_told_again() -> None:
    """A path that was found leads to the same story when it is walked again."""
    scenario = replace(BY_NAME["drift"], rates=(1.0, 2.0), faults={})
    found = Search(scenario, states=STATES).run()
    assert found.breach
    again = replayed(scenario, found.path)
    assert again.breach == found.breach
    assert story(scenario, again) == story(scenario, found)


# -- The program -------------------------------------------------------------------------------------------------------


def test_program(capsys: pytest.CaptureFixture[str]) -> None:
    """It explores what is named, within the states that are given, and says so to people and to programs."""
    assert main(["answers", "stock", "--states", "300", "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["scenario"] for each in told] == ["answers", "stock"]
    assert sum(each["states"] for each in told) <= 300
    assert main(["answers", "--states", "100"]) == 0
    assert "100 distinct states" in capsys.readouterr().out
    assert main(["--list", "answers"]) == 0
    assert "may still be" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nobody"], ["--states", "0"], ["--path", "1.2"]])
def test_program_called_wrongly(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is none, no states, and a path without a scenario are refused with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err
