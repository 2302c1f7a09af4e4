"""No dead ends: from wherever faults have left it, an election has a leader again within bounded time.

Once nothing goes wrong any more (every request is served and answered, every watch shows what there is, everybody goes
on), what happens next is determined, up to who is quicker; `Rules.calm` is a fair course of it. So from a world it is
one line of worlds, and lines that have met stay together: what was found of one is not worked out again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.election import State
from tests.safety.explore.calm import calm
from tests.safety.explore.core import BreachError

if TYPE_CHECKING:
    from tests.safety.explore.key import Keys
    from tests.safety.explore.rules import Rules
    from tests.safety.explore.world import World

LONGEST = 200
"""Steps after which nobody waits for a leader any longer."""


class Recovery:
    """Asks worlds of one scenario; `longest` is how many steps it took at most."""

    def __init__(self, rules: Rules, keys: Keys) -> None:
        self._rules = rules
        self._keys = keys
        self._steps: dict[bytes, int] = {}
        """Steps until there is a leader who stays, and whom everybody knows, by key."""
        self.longest = 0

    def problem(self, world: World) -> str:
        """Return what is wrong with what comes after `world`, `""` when a leader is elected in time, and stays."""
        line: list[bytes] = []
        steps = 0
        while True:
            key = self._keys.key(world, spent=False)
            known = self._steps.get(key)
            if known is not None:
                break
            if len(line) >= LONGEST or key in line:
                return f"nobody is elected within {len(line)} steps, although nothing goes wrong any more"
            if self._is_settled(world) and self._lasts(world):
                known = 0
                self._steps[key] = 0
                break
            line.append(key)
            try:
                world = calm(self._rules, world)
            except BreachError as error:
                return str(error)
            if what := self._rules.breach(world):
                return f"{what}, when faults had ended"
        for steps, key in enumerate(reversed(line), start=known + 1):
            self._steps[key] = steps
        self.longest = max(self.longest, steps, known)
        if max(steps, known) > (bound := self._rules.scenario.recovery):
            return f"a leader is elected only {max(steps, known)} steps after faults ended, not within {bound}"
        return ""

    def _is_settled(self, world: World) -> bool:
        """Tell whether exactly one leads, and everybody else says so; or whether nobody is left to lead."""
        leaders = self._rules.leaders(world)
        alive = [
            process.state
            for process in world.processes
            if not process.gone and not (isinstance(process.state, State) and process.state.leaving)
        ]
        if not alive:
            return all(process.gone for process in world.processes)
        if len(leaders) != 1:
            return False
        state = world.processes[leaders[0]].state
        name = state.candidacy.identity if isinstance(state, State) else state.identity
        return all(self._agrees(world, number, name) for number in range(len(world.processes)))

    def _agrees(self, world: World, number: int, name: str) -> bool:
        process = world.processes[number]
        state = process.state
        if process.gone or not isinstance(state, State) or state.leaving:
            return True
        # Whoever has the leader's name, in another pod, names nobody.
        named = self._rules.core.believes(number, state, world.tick).name
        return named == name or (not named and state.candidacy.identity == name)

    def _lasts(self, world: World) -> bool:
        """Tell whether who leads goes on for a lease without a gap."""
        if self._rules.scenario.settles:
            # There a leadership may end for the balance.
            return True
        leaders = self._rules.leaders(world)
        for _ in range(self._rules.scenario.timings[0].lease):
            world = calm(self._rules, world)
            if self._rules.leaders(world) != leaders:
                return False
        return True
