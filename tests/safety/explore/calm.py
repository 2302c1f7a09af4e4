"""What comes when nothing goes wrong any more: one fair course of things, from any world.

Every request is served and answered, every watch runs and shows all there is, everybody goes on as far as it can, and
only then time passes. What was late has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.election import State, Wait
from tests.safety.explore.core import BreachError

if TYPE_CHECKING:
    from tests.safety.explore.rules import Rules
    from tests.safety.explore.world import World

ROUNDS = 40
"""Within one step of time, after which something goes round in circles."""


def calm(rules: Rules, world: World) -> World:
    """Return the world one step of time later, in which all that could be done at once was done."""
    while world.late:
        world = rules.arrive(world, 0)
    for _ in range(ROUNDS):
        before = world
        for number in range(len(world.processes)):
            world = _goes_on(rules, world, number)
        if world is before:
            return world._replace(tick=world.tick + 1)
    raise BreachError("nobody comes to rest, although nothing goes wrong")


def _goes_on(rules: Rules, world: World, number: int) -> World:
    process = world.processes[number]
    if process.gone:
        return rules.restarted(world, number) if rules.is_swapped_out(world, number) else world
    if process.request is not None:
        if process.request.asked_at is None:
            world = rules.send(world, number)
        if process.request.answer is None:
            world = rules.serve(world, number)
        # A stock candidate may have ended with the write that was just served.
        if world.processes[number].request is not None:
            world = rules.answer(world, number, rules.scenario.lucks[0])
    elif rules.stock_is_due(world, number):
        world = rules.stock_acts(world, number)
    elif isinstance(process.state, State):
        action = rules.core.acts(number, process.state, world.tick)[1]
        world = world if isinstance(action, Wait) else rules.act(world, number)
    return world if world.processes[number].gone else _catches_up(rules, world, number)


def _catches_up(rules: Rules, world: World, number: int) -> World:
    """Let a candidate's watch and its settler go on."""
    luck = rules.scenario.lucks[0]
    process = world.processes[number]
    state = process.state
    if not isinstance(state, State):
        return world
    if state.watching:
        if process.behind:
            world = rules.show(world, number, luck)
        elif process.gap:
            world = rules.forget(world, number)
    elif rules.may_watch(process):
        world = rules.watch(world, number)
    process = world.processes[number]
    if process.side is not None:
        if process.side.answer is None:
            world = rules.serve_settler(world, number)
        return rules.answer_settler(world, number, luck)
    return rules.settle(world, number, luck)
