"""What `electionctl watch` tells: an entry for each change of who leads, and the fencing token once it is certain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.lab.journal import Entry, Journal, Sights
from sidecar.lab.standings import (
    ADDED,
    BOTH,
    CHANGED,
    DIVIDED,
    HANDING_OVER,
    RAN_OUT,
    REMOVED,
    UNREADABLE,
    VACANT,
    Change,
    Standing,
)
from sidecar.record import CHECKING, LEADING

HELD = Standing(
    namespace="shop",
    election="store",
    state=LEADING,
    holder="a",
    node="n1",
    claimed=True,
    acquired="T",
    lease_seconds=10,
    record="1",
    version=20,
)


def told(*standings: Standing, journal: Journal | None = None, listed: bool = False) -> list[str]:
    """Return what is told of one election that comes to this, step by step."""
    journal = journal or Journal()
    return [
        str(entry).removeprefix("shop/store  ")
        for standing in standings
        for entry in journal.entries([Change(CHANGED, standing)], listed=listed)
    ]


@pytest.mark.parametrize(
    ("standing", "line"),
    [
        (HELD, "a on n1 leads since T, fencing token 20"),
        (replace(HELD, claimed=False, node=""), "a, node unknown leads since T"),
        (replace(HELD, successor="b"), "a on n1 leads since T, fencing token 20, nominates b"),
        (replace(HELD, state=CHECKING), "a on n1 holds the lock and checks whether it is to lead"),
        (replace(HELD, state=HANDING_OVER, holder="", successor="b"), "the leader hands over to b on n1"),
        (replace(HELD, state=VACANT, holder=""), "vacant"),
        (replace(HELD, state=RAN_OUT), "nobody leads: the lease of a on n1 ran out"),
        (replace(HELD, state=UNREADABLE, problem="not JSON"), "unreadable: not JSON"),
        (replace(HELD, state=DIVIDED, problem="x and y"), "divided: x and y"),
        (replace(HELD, holder="\x1b[31m"), "\\x1b[31m on n1 leads since T, fencing token 20"),
    ],
)
def test_lines(standing: Standing, line: str) -> None:
    """Each state of an election is told in a line, in which nothing is obeyed by a terminal."""
    assert told(standing) == [line]


def test_a_story() -> None:
    """Renewals are not told; who led before is remembered over a vacancy, and over a lock object that is deleted."""
    journal = Journal()
    assert told(HELD, replace(HELD, record="2"), replace(HELD, record="3", version=30), journal=journal) == [
        "a on n1 leads since T, fencing token 20"
    ]
    released = replace(HELD, state=VACANT, holder="", node="", claimed=False)
    checking = replace(HELD, state=CHECKING, holder="b", node="n2", acquired="U", record="5")
    leading = replace(checking, state=LEADING, record="6", term=40, version=41)
    assert told(released, checking, leading, replace(leading, record="7", term=41), journal=journal) == [
        "vacant: a gave it up",
        "b on n2 holds the lock and checks whether it is to lead, after a",
        "b on n2 leads since U, fencing token 41, after a",
    ]
    (gone,) = journal.entries([Change(REMOVED, leading)], listed=False)
    assert (gone.event, gone.before) == ("gone", "b")
    assert told(replace(HELD, record="9", version=50), journal=journal) == [
        "a on n1 leads since T, fencing token 50, after b"
    ]


def test_a_token_that_is_not_certain() -> None:
    """After a list, and with two lock objects, it is told with the first renewal: till then the claim has an older one.

    A registration in between is no renewal.
    """
    for listed, lock in ((True, "endpoints"), (False, BOTH)):
        journal = Journal()
        first = replace(HELD, lock=lock, term=19)
        assert told(first, journal=journal, listed=listed) == ["a on n1 leads since T"]
        registered = replace(first, version=25)
        assert told(registered, journal=journal) == []
        assert told(replace(registered, record="2", term=20), journal=journal) == [
            "a on n1 leads since T, fencing token 20"
        ]


def test_lists_are_told_from_events() -> None:
    """What is seen knows whether it was seen in a list."""
    sights = Sights()
    sights.see_all([HELD], asked_at=0.0, now=0.0)
    assert sights.listed
    assert sights.see(HELD, 1.0).kind == CHANGED
    assert not sights.listed
    sights.see_all([HELD], asked_at=1.0, now=1.0)
    sights.lose(HELD.key)
    assert not sights.listed
    assert sights.see(HELD, 2.0).kind == ADDED


def test_an_election_that_is_not_there() -> None:
    """It is told of as well."""
    assert str(Entry(namespace="shop", election="store", event="absent")) == "shop/store  no lock object yet"
