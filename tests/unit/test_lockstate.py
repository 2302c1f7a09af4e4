"""What is found of lock objects: each row of a table is one thing that can be the matter with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.lab.lockstate import Sight, is_doubtful, judged
from sidecar.record import Claim, Record, Snapshot, UnreadableRecord, format_time

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def held(
    holder: str = "a", *, ago: float | None = 1, lease: int = 10, claim: str | None = None, node: str = "n1"
) -> Snapshot:
    """Return a lock object renewed so many seconds ago, by the clock of whoever holds it; `None` names no time."""
    renewed = "" if ago is None else format_time(int((NOW - timedelta(seconds=ago)).timestamp()))
    record = Record(holder=holder, lease_seconds=lease, acquire_time=renewed, renew_time=renewed, transitions=0)
    claimed = Claim(holder=holder if claim is None else claim, node=node, pod_uid="u", renewed=renewed)
    return Snapshot(version=1, text=record.encode(), record=record, claim=claimed, body={"metadata": {}})


def unreadable() -> Snapshot:
    """Return a lock object whose record is not one."""
    return Snapshot(version=1, text="{", record=UnreadableRecord("not JSON"), claim=None, body={"metadata": {}})


def sight(endpoints: Snapshot | None = None, leases: Snapshot | None = None, **more: Any) -> Sight:  # noqa: ANN401 - fields
    """Return what was seen of an election."""
    found = {"endpoints": endpoints, "leases": leases}
    return Sight(
        namespace="shop",
        election="store",
        found={kind: snapshot for kind, snapshot in found.items() if snapshot is not None},
        **{"now": NOW, **more},
    )


ROWS: list[tuple[str, Sight, list[tuple[str, str]]]] = [
    ("none", sight(), [("warning", "there is no lock object")]),
    ("held", sight(held()), [("ok", "held by a on n1, 0 candidates registered")]),
    ("no-node", sight(held(node="")), [("ok", "held by a, 0 candidates registered")]),
    ("vacant", sight(held("")), [("ok", "vacant")]),
    ("unreadable", sight(unreadable()), [("problem", "the record cannot be read: not JSON")]),
    ("long", sight(held(lease=3600)), [("warning", "for a lease of 1h0m0s")]),
    ("unclaimed", sight(held(claim="b")), [("warning", "a claim of b: the stock image")]),
    ("stranger", sight(held(), holders=frozenset({"b"})), [("warning", "no candidate's pod in namespace shop")]),
    ("known", sight(held(), holders=frozenset({"a"})), [("ok", "held by a")]),
    ("gone", sight(held(ago=600), watched_for=11), [("problem", "for 11 s, nor for 600 s by its own times")]),
    ("not-waited-for", sight(held(ago=600)), [("ok", "held by a")]),
    ("no-clock", sight(held(ago=600), now=None, watched_for=11), [("ok", "held by a")]),
    ("no-times", sight(held(ago=None)), [("warning", "a writes no time at which it renewed")]),
    ("ahead", sight(held(ago=-60)), [("warning", "the clock of node n1 is 60 s ahead of the API server's")]),
    (
        "behind",
        sight(held(ago=600), changed={"endpoints": (held(ago=590), NOW)}),
        [("warning", "the clock of node n1 is 590 s behind the API server's")],
    ),
    ("a-little-behind", sight(held(ago=9), changed={"endpoints": (held(ago=4), NOW)}), [("ok", "held by a")]),
    ("pair", sight(held(), held()), [("ok", "both endpoints and leases are held by a"), ("ok", ""), ("ok", "")]),
    ("left-vacant", sight(held(), held("")), [("ok", "or one of them was left behind"), ("ok", ""), ("ok", "")]),
    (
        "two",
        sight(held(), held("b")),
        [("problem", "two candidates may lead: a by its endpoints, b by its leases")] + [("ok", "")] * 2,
    ),
    (
        "left-held",
        sight(held(), held("b", ago=600), watched_for=11),
        [("warning", "the one of the endpoints is renewed; delete the other"), ("ok", ""), ("problem", "")],
    ),
]


@pytest.mark.parametrize(("seen", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_findings(seen: Sight, expected: list[tuple[str, str]]) -> None:
    """These are found, of these levels, and nothing else."""
    found = judged(seen)
    assert [one.level for one in found] == [level for level, _ in expected], found
    for one, (_, text) in zip(found, expected, strict=True):
        assert text in str(one)
        assert "shop/store" in one.where


@pytest.mark.parametrize(
    ("snapshot", "doubtful"),
    [
        (held(ago=1), False),
        (held(ago=5), False),
        (held(ago=6), True),
        (held(ago=-1), False),
        (held(ago=-5), True),
        (held(ago=None), True),
        (held("", ago=60), False),
        (unreadable(), False),
    ],
)
def test_which_holders_are_doubtful(snapshot: Snapshot, doubtful: bool) -> None:  # noqa: FBT001 - a column of a table
    """Those that seem not to have renewed for half their lease, or to have renewed in the future."""
    assert is_doubtful(snapshot, NOW) is doubtful
