"""What is done to a group of elections and when: a plan that follows from a seed alone.

A plan is bursts of faults that overlap; after each burst everything ends and the group has to come to rest. The same
seed and kinds give the same plan. They do not give the same course: who leads when a fault begins, and what processes,
kernel and network make of it, is different every time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_AT_ONCE = 4
"""Faults of one burst, where nothing else is said."""

LATEST = 1.0
"""Leases after the begin of a burst by which each of its faults begins, so that they overlap."""

LEADER_AIMED = 0.7
"""The part of faults that are aimed at a leader; the others at a follower. Leaders are what matters."""

CLASHES = frozenset(
    {
        # There is one server, and its faults say how it is.
        ("server", "server"),
        # Who is new has not seen that a lock which is gone, or has no record, was held.
        ("starts", "vacates"),
        # client-go names a leader whose lease it cannot know valid; it is a fair peer where it is not harmed itself.
        ("peer", "server"),
        ("peer", "machine"),
        ("peer", "lock"),
        ("peer", "peer"),
    }
)
"""Traits of which a burst does not have both, with the reasons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault, as far as the plan goes."""

    name: str
    traits: frozenset[str]
    """What decides which others it may share a burst with."""
    leases: tuple[float, float]
    """How long it lasts, at least and at most, in lease durations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One fault of a plan. Instants are in lease durations from the begin of its burst."""

    kind: str
    election: int
    """Which of the elections, where it is aimed at one."""
    at_leader: bool
    """Whom it is aimed at: whoever leads that election then, or somebody who does not."""
    begin: float
    end: float
    luck: float
    """From [0, 1): whatever else is left to chance."""


Burst = tuple[Planned, ...]


def bursts(seed: int, kinds: Sequence[Kind], *, elections: int) -> Iterator[Burst]:
    """Yield the plan of a seed, burst by burst, without end: one deal after the other."""
    for number in count():
        yield from deal(f"{seed}/{number}", kinds, elections=elections)


def deal(seed: str, kinds: Sequence[Kind], *, elections: int, at_once: int = MOST_AT_ONCE) -> Iterator[Burst]:
    """Yield bursts of at most `at_once` faults, in which each kind comes up once.

    Raises ValueError without kinds, elections, or room for a fault.
    """
    if not kinds or elections < 1 or at_once < 1:
        raise ValueError("a plan needs kinds of faults, elections, and room for a fault")
    chance = random.Random(seed)  # noqa: S311 - a plan, no secret
    left = [*kinds]
    chance.shuffle(left)
    while left:
        # Some alone, or what they do would never be seen by itself.
        most = chance.randint(1, at_once)
        chosen: list[Kind] = []
        for kind in left:
            if len(chosen) < most and not any(clash(kind, other) for other in chosen):
                chosen.append(kind)
        left = [kind for kind in left if kind not in chosen]
        yield tuple(_planned(kind, chance, elections) for kind in chosen)


def clash(one: Kind, other: Kind) -> bool:
    """Tell whether two kinds do not share a burst."""
    return any((a, b) in CLASHES or (b, a) in CLASHES for a in one.traits for b in other.traits)


def _planned(kind: Kind, chance: random.Random, elections: int) -> Planned:
    begin = chance.uniform(0, LATEST)
    return Planned(
        kind=kind.name,
        election=chance.randrange(elections),
        at_leader=chance.random() < LEADER_AIMED,
        begin=round(begin, 3),
        end=round(begin + chance.uniform(*kind.leases), 3),
        luck=chance.random(),
    )
