"""Breadth first through all worlds of a scenario, so that the first counter-example is a shortest one."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from tests.safety.explore.core import BreachError
from tests.safety.explore.key import Keys
from tests.safety.explore.recovery import Recovery
from tests.safety.explore.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.safety.explore.scenarios import Scenario
    from tests.safety.explore.world import World

TOLD_EVERY = 20_000
"""Worlds between two reports of progress."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the exploration of one scenario came to."""

    scenario: str
    states: int
    edges: int
    depth: int
    complete: bool
    """Whether there was no state left that had not been gone on from."""
    seconds: float
    breach: str = ""
    path: tuple[int, ...] = ()
    """Which move was made in each world, from the first one to the breach."""
    stranded: bool = False
    """Whether the breach is that, from the end of that path, no leader is elected although nothing goes wrong."""
    asked: int = 0
    """States of which it was asked whether a leader is elected when faults end."""
    recovery: int = 0
    """Steps that it took, at most."""
    met: dict[str, int] = field(default_factory=dict)
    """How often each kind of event, action, step and note was met, of those that had not been met in the same place."""


class Search:
    """One exploration. The worlds that were reached are kept as keys; how each was reached first, as two numbers."""

    def __init__(self, scenario: Scenario, *, states: int = 0, told: Callable[[], None] | None = None) -> None:
        self._scenario = scenario
        self._limit = states
        self._told = told
        self._rules = Rules(scenario)
        self._keys = Keys(self._rules)
        self._recovery = Recovery(self._rules, self._keys)
        self._reached: set[bytes] = set()
        self._parents = array("q")
        self._moves = array("H")
        self._edges = 0
        self._asked = 0

    def run(self) -> Found:
        """Explore until everything was reached, something is wrong, or there are as many states as were asked for."""
        began = time.monotonic()
        path: tuple[int, ...] = ()
        breach, stranded, depth, complete = "", False, 0, False
        try:
            self._add(first := self._begun(), -1, 0)
            self._judge(first, 0)
            layer = [(0, first)]
            while layer and not complete:
                following = self._next_layer(layer)
                complete = not following
                depth += not complete
                layer = following
                if self._limit and len(self._parents) >= self._limit:
                    break
        except _Violation as violation:
            breach, path, stranded = violation.what, self._path(violation.index, violation.move), violation.stranded
            depth = len(path)
        return Found(
            scenario=self._scenario.name,
            states=len(self._parents),
            edges=self._edges,
            depth=depth,
            complete=complete,
            seconds=time.monotonic() - began,
            breach=breach,
            path=path,
            stranded=stranded,
            asked=self._asked,
            recovery=self._recovery.longest,
            met=self._rules.core.met,
        )

    def _begun(self) -> World:
        try:
            return self._rules.first()
        except BreachError as error:
            raise _Violation(str(error), -1) from error

    def _add(self, world: World, parent: int, move: int) -> bool:
        key = self._keys.key(world)
        if key in self._reached:
            return False
        self._reached.add(key)
        self._parents.append(parent)
        self._moves.append(move)
        return True

    def _next_layer(self, layer: list[tuple[int, World]]) -> list[tuple[int, World]]:
        following: list[tuple[int, World]] = []
        for index, world in layer:
            number = 0
            successors = self._rules.successors(world)
            while True:
                try:
                    _, after = next(successors)
                except StopIteration:
                    break
                except BreachError as error:
                    raise _Violation(str(error), index, number) from error
                self._edges += 1
                if self._add(after, index, number):
                    reached = len(self._parents) - 1
                    self._judge(after, reached)
                    following.append((reached, after))
                    if self._told is not None and reached % TOLD_EVERY == 0:
                        self._told()
                    if self._limit and reached + 1 >= self._limit:
                        return following
                number += 1
        return following

    def _judge(self, world: World, index: int) -> None:
        if what := self._rules.breach(world):
            raise _Violation(what, index)
        if self._scenario.sampled and index % self._scenario.sampled == 0:
            self._asked += 1
            if what := self._recovery.problem(world):
                raise _Violation(what, index, stranded=True)

    def _path(self, index: int, move: int | None) -> tuple[int, ...]:
        path = [] if move is None else [move]
        while index >= 0 and self._parents[index] >= 0:
            path.append(self._moves[index])
            index = self._parents[index]
        return tuple(reversed(path))


def replayed(scenario: Scenario, path: tuple[int, ...]) -> Found:
    """Return what one path leads to, for its story. Raises ValueError where there is no such path."""
    rules = Rules(scenario)
    world = rules.first()
    breach, stranded = "", False
    try:
        for chosen in path:
            following = next(islice(rules.successors(world), chosen, None), None)
            if following is None:
                raise ValueError(f"{scenario.name}: there is no move {chosen} there; the code has changed since")
            world = following[1]
        breach = rules.breach(world)
        if not breach:
            breach = Recovery(rules, Keys(rules)).problem(world)
            stranded = bool(breach)
    except BreachError as error:
        breach = str(error)
    return Found(
        scenario=scenario.name,
        states=0,
        edges=len(path),
        depth=len(path),
        complete=False,
        seconds=0.0,
        breach=breach,
        path=path,
        stranded=stranded,
    )


class _Violation(Exception):  # noqa: N818 - it is no error of the program, but what it looks for
    def __init__(self, what: str, index: int, move: int | None = None, *, stranded: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.index = index
        self.move = move
        self.stranded = stranded
