"""Equal keys, equal futures; and nothing of the core that the keys do not know."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from sidecar import election, settling
from tests.safety.explore import key
from tests.safety.explore.calm import calm
from tests.safety.explore.key import Keys
from tests.safety.explore.rules import Rules
from tests.safety.explore.scenarios import BY_NAME

if TYPE_CHECKING:
    from tests.safety.explore.world import World

PAIRS = 250
"""Pairs of worlds with one key, of each scenario, whose futures are compared."""

GOING = 40
"""Moves of one walk."""


def pairs(rules: Rules, keys: Keys, draw: random.Random) -> list[tuple[World, World]]:
    """Return worlds that have the same key and are not the same, met on random walks."""
    met: dict[bytes, World] = {}
    found = []
    first = rules.first()
    for _ in range(2_000):
        world = first
        for _ in range(GOING):
            following = [after for _, after in rules.successors(world)]
            if not following:
                break
            world = draw.choice(following)
            known = met.setdefault(keys.key(world), world)
            if known != world:
                found.append((known, world))
                if len(found) >= PAIRS:
                    return found
    return found


@pytest.mark.parametrize("name", BY_NAME)
def test_equal_keys_have_equal_futures(name: str) -> None:
    """Of two worlds with one key, every move of the one is a move of the other, and leads to worlds with one key."""
    # Time without end, so that worlds of different times have one key.
    rules = Rules(replace(BY_NAME[name], steps=None))
    keys = Keys(rules)
    compared = pairs(rules, keys, random.Random(7))  # noqa: S311 - the same walks in each run
    assert compared
    for one, other in compared:
        futures = [
            [(move.kind, move.number, keys.key(after), rules.breach(after)) for move, after in rules.successors(world)]
            for world in (one, other)
        ]
        assert futures[0] == futures[1]
        assert rules.leaders(one) == rules.leaders(other)
        afterwards = [keys.key(calm(rules, world), spent=False) for world in (one, other)]
        assert afterwards[0] == afterwards[1]


KNOWN = {
    election.State: key._KNOWN_OF_STATE,
    election.Observed: key._KNOWN_OF_OBSERVED,
    election.Term: key._KNOWN_OF_TERM,
    settling.Settling: key._KNOWN_OF_SETTLING,
    settling.Holding: key._KNOWN_OF_HOLDING,
}


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_every_field_is_known(kind: type) -> None:
    """A field that is new in the core has to be thought about here: as it is, it keeps equal worlds apart."""
    assert {part.name for part in fields(kind)} == KNOWN[kind]
