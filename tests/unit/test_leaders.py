"""Who leads what: what is read in lock objects, what is concluded from having looked on, and how it is shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from sidecar.kubeconfig import ConfigError
from sidecar.lab import board, context
from sidecar.lab.standings import (
    ADDED,
    BOTH,
    CHANGED,
    DIVIDED,
    ENDPOINTS,
    HANDING_OVER,
    LEASES,
    RAN_OUT,
    REMOVED,
    UNREADABLE,
    VACANT,
    Change,
    Load,
    Observed,
    Standing,
    by_group,
    combined,
    loads,
    standing_of,
    standing_of_lease,
    time_of,
)
from sidecar.record import CHECKING, CLAIM_ANNOTATION, GROUP_LABEL, LEADING, RECORD_ANNOTATION, Claim, Record
from sidecar.registration import Registration, registration_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def record(holder: str, *, acquired: str = "2026-05-04T11:58:40Z", renewed: str = "2026-05-04T11:59:58Z") -> str:
    """Return a record's text, for a lease of 10 s."""
    return Record(holder=holder, lease_seconds=10, acquire_time=acquired, renew_time=renewed, transitions=1).encode()


def claim(holder: str, node: str, **more: Any) -> str:  # noqa: ANN401 - fields of a claim
    """Return a claim's text, as it is written with `record`'s usual renew time."""
    more = {"renewed": "2026-05-04T11:59:58Z", **more}
    return Claim(holder=holder, node=node, pod_uid="u", **more).encode()


def lock(
    name: str = "app",
    *,
    recorded: str | None = None,
    claimed: str | None = None,
    group: str = "",
    nodes: Iterable[str] = (),
    namespace: str = "shop",
) -> dict[str, Any]:
    """Return an Endpoints object's metadata; `nodes` have a candidate each."""
    annotations = {RECORD_ANNOTATION: recorded, CLAIM_ANNOTATION: claimed}
    for node in nodes:
        registration = Registration(identity=f"on-{node}", node=node, pod_uid="u")
        annotations[registration_key(registration.identity)] = registration.encode()
    metadata = {
        "name": name,
        "namespace": namespace,
        "annotations": {key: text for key, text in annotations.items() if text is not None},
        "labels": {GROUP_LABEL: group} if group else {},
    }
    return {"kind": "PartialObjectMetadata", "metadata": metadata}


def lease(
    holder: str | None,
    *,
    renewed: str = "2026-05-04T11:59:58",
    claimed: str | None = None,
    group: str = "",
    nodes: Iterable[str] = (),
    **spec: Any,  # noqa: ANN401 - fields of a Lease's spec
) -> dict[str, Any]:
    """Return a Lease of the same election, whose record is that of `record`; `None` for one that was never held."""
    body = lock(claimed=claimed, group=group, nodes=nodes)
    if holder is None:
        return {**body, "spec": spec}
    held = {"holderIdentity": holder, "leaseDurationSeconds": 10, "leaseTransitions": 1}
    times = {"acquireTime": "2026-05-04T11:58:40.000000Z", "renewTime": f"{renewed}.000000Z"}
    return {**body, "spec": {**held, **times, **spec}}


def read(**how: Any) -> Standing:  # noqa: ANN401 - arguments of `lock`
    """Return what `lock` makes stands for."""
    standing = standing_of(lock(**how))
    assert standing is not None
    return standing


# -- What lock objects say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "claimed", "expected"),
    [
        (None, None, {"state": VACANT}),
        (record(""), None, {"state": VACANT, "holder": "", "acquired": ""}),
        (record("a"), claim("a", "n1"), {"state": LEADING, "holder": "a", "node": "n1", "claimed": True}),
        (record("a"), claim("a", "n1", state="checking"), {"state": CHECKING, "holder": "a", "node": "n1"}),
        (record("a"), claim("a", "n1", successor="b"), {"state": LEADING, "holder": "a", "successor": "b"}),
        (record("a"), claim("a", "n1", weight=4), {"state": LEADING, "weight": 4}),
        (record(""), claim("", "n2", successor="b"), {"state": HANDING_OVER, "successor": "b", "node": "n2"}),
        (record("a"), None, {"state": LEADING, "holder": "a", "node": "", "claimed": False}),
        (record("a"), claim("b", "n1", state="checking"), {"state": LEADING, "holder": "a", "node": ""}),
        (record(""), claim("b", "n1"), {"state": VACANT, "node": ""}),
        (record("a"), "garbage", {"state": LEADING, "holder": "a", "node": ""}),
        ("garbage", claim("a", "n1"), {"state": UNREADABLE, "holder": "", "node": ""}),
        ('{"holderIdentity":"a"}', None, {"state": UNREADABLE, "holder": ""}),
    ],
)
def test_what_a_lock_object_says(recorded: str | None, claimed: str | None, expected: Mapping[str, object]) -> None:
    """State, holder, node and successor by record and claim; a claim that is not the holder's says nothing."""
    standing = read(recorded=recorded, claimed=claimed, group="g")
    assert {name: getattr(standing, name) for name in expected} == expected
    assert bool(standing.problem) == (standing.state == UNREADABLE)
    assert (standing.key, standing.group) == (("shop", "app"), "g")


@pytest.mark.parametrize(
    "body",
    [
        lock(),
        {},
        {"metadata": []},
        {"metadata": {"name": "x", "annotations": {RECORD_ANNOTATION: 3}}},
        {"metadata": {"name": "x", "annotations": "none", "labels": ["none"]}},
    ],
)
def test_what_no_election_has_to_do_with(body: Mapping[str, Any]) -> None:
    """A Service's own Endpoints, and whatever is no object, stand for no election."""
    assert standing_of(body) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lease(None), None),
        (lease(""), None),
        (lease("a"), {"state": LEADING, "holder": "a", "claimed": False}),
        (lease(None, group="g"), {"state": VACANT, "group": "g"}),
        (lease("", claimed=claim("", "n2", successor="b")), {"state": HANDING_OVER, "successor": "b", "node": "n2"}),
        (lease("", nodes=["n1"]), {"state": VACANT, "candidate_nodes": frozenset({"n1"})}),
        (lease("a", claimed=claim("a", "n1", weight=3)), {"state": LEADING, "node": "n1", "weight": 3}),
        (lease("a", claimed=claim("a", "n1", state="checking")), {"state": CHECKING, "claimed": True}),
        (lease("a", claimed=claim("b", "n1")), {"state": LEADING, "node": "", "claimed": False}),
        (lease("a", group="g", leaseDurationSeconds=None), {"state": UNREADABLE, "holder": ""}),
        (lease("a", strategy="OldestEmulationVersion", preferredHolder="b"), {"state": LEADING, "holder": "a"}),
        ({**lease("a"), "spec": []}, None),
        ({"metadata": []}, None),
    ],
)
def test_what_a_lease_says(body: Mapping[str, Any], expected: Mapping[str, object] | None) -> None:
    """The same as Endpoints, with the spec for a record. One that nobody of ours wrote to counts if it has a holder."""
    standing = standing_of_lease(body, others=True)
    if expected is None:
        assert standing is None
        return
    assert standing is not None
    assert {name: getattr(standing, name) for name in expected} == expected
    assert (standing.key, standing.lock) == (("shop", "app"), LEASES)
    if standing.holder:
        assert (standing.acquired, standing.lease_seconds) == ("2026-05-04T11:58:40Z", 10)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        (lease("node-1"), False),
        (lease(""), False),
        (lease("a", group="g"), True),
        (lease("a", claimed=claim("a", "n1")), True),
        (lease("a", claimed="garbage"), True),
        (lease("", nodes=["n1"]), True),
    ],
)
def test_leases_that_are_no_elections(body: Mapping[str, Any], *, counts: bool) -> None:
    """Where many Leases are read that serve something else, only those count that have a mark of ours."""
    assert (standing_of_lease(body, others=False) is not None) is counts


# -- Two lock objects --------------------------------------------------------------------------------------------------

EARLIER, LONG_AGO = "2026-05-04T11:59:50", "2026-05-04T11:58:00"
"""Within a lease of when records are usually renewed, and longer ago."""


def both(endpoints: str | None, spec: dict[str, Any], *, newer: str, **how: Any) -> Standing:  # noqa: ANN401 - of `lock`
    """Return what Endpoints with this record and a Lease come to, of which the `newer` was written last."""
    versions = {ENDPOINTS: "7", LEASES: "7", newer: "8"}
    one, another = lock(recorded=endpoints, **how), {**spec}
    one["metadata"] = {**one["metadata"], "resourceVersion": versions[ENDPOINTS]}
    another["metadata"] = {**another["metadata"], "resourceVersion": versions[LEASES]}
    found = combined(standing_of(one), standing_of_lease(another, others=True))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("endpoints", "spec", "newer", "expected"),
    [
        # Before and after a candidate of both: what one of them says is all there is, or is from long ago.
        (record("a"), lease(None, group="g"), ENDPOINTS, (ENDPOINTS, LEADING, "a")),
        (record("old", renewed=f"{LONG_AGO}Z"), lease("a"), LEASES, (LEASES, LEADING, "a")),
        (record("", renewed=f"{LONG_AGO}Z"), lease("a"), LEASES, (LEASES, LEADING, "a")),
        (record("a"), lease("old", renewed=LONG_AGO), ENDPOINTS, (ENDPOINTS, LEADING, "a")),
        ("garbage", lease("a"), LEASES, (LEASES, LEADING, "a")),
        # One of both renews, releases, and is followed.
        (record("a"), lease("a"), LEASES, (BOTH, LEADING, "a")),
        (record("a"), lease("a", renewed=EARLIER), ENDPOINTS, (BOTH, LEADING, "a")),
        (record(""), lease("a", renewed=EARLIER), ENDPOINTS, (BOTH, VACANT, "")),
        (record(""), lease("", group="g"), LEASES, (BOTH, VACANT, "")),
        (record("b"), lease("", group="g", renewed=EARLIER), ENDPOINTS, (BOTH, LEADING, "b")),
        # Two that should not be in one election, whichever of them renewed last.
        (record("a"), lease("b", renewed=EARLIER), ENDPOINTS, (BOTH, DIVIDED, "a")),
        (record("a", renewed=f"{EARLIER}Z"), lease("b"), LEASES, (BOTH, DIVIDED, "a")),
    ],
)
def test_an_election_on_both(
    endpoints: str | None, spec: dict[str, Any], newer: str, expected: tuple[str, str, str]
) -> None:
    """What was written last says who leads; both count that were renewed together, and they divide what they differ in.

    A candidate that is still registered on what an update has left behind is not there any more.
    """
    found = both(endpoints, spec, newer=newer, nodes=["n1"], group="g")
    assert (found.lock, found.state, found.holder) == expected
    assert found.group == "g"
    assert found.candidate_nodes == (frozenset() if found.lock == LEASES else {"n1"})
    assert bool(found.problem) == (found.state == DIVIDED)


def test_one_object_alone() -> None:
    """An election that has one lock object is on that."""
    assert combined(read(recorded=record("a")), None) == read(recorded=record("a"))
    held = standing_of_lease(lease("a"), others=True)
    assert combined(None, held) == held
    assert combined(None, None) is None


def test_news_of_both() -> None:
    """The second write of a candidate of both is no news, nor is who renewed last where two divide an election."""
    observed = Observed()
    first = both(record("a"), lease("a", renewed=EARLIER), newer=ENDPOINTS)
    assert observed.see(first, 0.0).kind == ADDED
    assert not observed.see(both(record("a"), lease("a"), newer=LEASES), 1.0).is_news
    assert observed.changed_at(first.key) == 1.0

    assert observed.see(both(record("a"), lease("b", renewed=EARLIER), newer=ENDPOINTS), 2.0).is_news
    assert not observed.see(both(record("a"), lease("b"), newer=LEASES), 3.0).is_news
    assert observed.see(both(record("a", renewed=f"{LONG_AGO}Z"), lease("b"), newer=LEASES), 4.0).is_news


@pytest.mark.parametrize("text", ["", "yesterday", "2026-05-04", "2026-05-04T11:59:58", "0001-01-01T00:00:00"])
def test_times_that_say_nothing(text: str) -> None:
    """What is no time, or in an unknown time zone, is not taken for one."""
    assert time_of(text) is None


def test_groups_in_order() -> None:
    """Groups come by name, their elections by namespace and name; elections without a group come last."""
    found = by_group(
        [
            read(name="b", recorded=record("")),
            read(name="z", group="g", namespace="a"),
            read(name="a", group="g"),
            read(name="c", group="f"),
        ]
    )
    assert {group: [one.key for one in members] for group, members in found.items()} == {
        "f": [("shop", "c")],
        "g": [("a", "z"), ("shop", "a")],
        "": [("shop", "b")],
    }
    assert list(found) == ["f", "g", ""]


def test_loads_by_node() -> None:
    """Leaders count where they lead; who checks, and who is named to follow, is about to; nodes without any are there.

    A holder on an unknown node is counted as such, last; a lease that has run out is not counted.
    """
    found = loads(
        [
            read(recorded=record("a"), claimed=claim("a", "n1", weight=3), nodes=["n1", "n4"]),
            read(recorded=record("b"), claimed=claim("b", "n1", state="checking", weight=2)),
            read(recorded=record(""), claimed=claim("", "n2", successor="c")),
            read(recorded=record("stock")),
            read(recorded=record("")),
            replace(read(recorded=record("d"), claimed=claim("d", "n2")), state=RAN_OUT),
        ]
    )
    assert found == {
        "n1": Load(leading=1, arriving=1, weight=5, arriving_weight=2),
        "n2": Load(arriving=1, weight=1, arriving_weight=1),
        "n4": Load(),
        "": Load(leading=1, weight=1),
    }
    assert list(found)[-1] == ""


# -- Looking on --------------------------------------------------------------------------------------------------------


def test_news_and_no_news() -> None:
    """A renewal and a registration are no news; another holder, a nomination and a deletion are."""
    observed = Observed()
    first = read(recorded=record("a"), claimed=claim("a", "n1"))
    assert observed.see(first, 0.0) == Change(ADDED, first)
    later = "2026-05-04T12:00:00Z"
    renewed = read(recorded=record("a", renewed=later), claimed=claim("a", "n1", renewed=later), nodes=["n3"])
    assert observed.see(renewed, 1.0) == Change(CHANGED, renewed, is_news=False)
    nominating = read(recorded=record("a"), claimed=claim("a", "n1", successor="b"))
    assert observed.see(nominating, 2.0).is_news
    other = read(recorded=record("b"), claimed=claim("b", "n2"))
    assert observed.see(other, 3.0) == Change(CHANGED, other)
    assert observed.lose(other.key) == Change(REMOVED, other)
    assert observed.lose(other.key) is None
    assert observed.standings == []


def test_a_lease_runs_out_only_after_a_fresh_look() -> None:
    """A holder is marked once its record has not changed for its lease, as a look asked for after that still shows.

    The lease counts from when the change was seen, and a change, also by the same holder, makes it a leader again.
    """
    observed = Observed()
    held = read(recorded=record("a"), claimed=claim("a", "n1"))
    observed.see_all([held], asked_at=-1.0, now=0.0)
    assert not observed.is_due(9.9)
    assert observed.is_due(10.0)
    assert observed.changed_at(held.key) is None

    (change,) = observed.see_all([held], asked_at=9.9, now=12.0)
    assert change == Change(CHANGED, held, is_news=False)
    (change,) = observed.see_all([held], asked_at=10.0, now=12.0)
    assert change == Change(CHANGED, replace(held, state=RAN_OUT))
    assert observed.standings == [replace(held, state=RAN_OUT)]
    assert not observed.is_due(30.0)

    registered = replace(held, candidate_nodes=frozenset({"n3"}))
    assert observed.see(registered, 31.0) == Change(CHANGED, replace(registered, state=RAN_OUT), is_news=False)
    back = read(recorded=record("a", renewed="2026-05-04T12:00:00Z"), claimed=claim("a", "n1"))
    assert observed.see(back, 40.0) == Change(CHANGED, back)
    assert observed.changed_at(back.key) == 40.0
    assert not observed.is_due(49.9)
    assert observed.is_due(50.0)


def test_what_is_not_found_any_more_is_gone() -> None:
    """What a later look does not show is removed; whatever is vacant or unreadable has no lease that could run out."""
    observed = Observed()
    a, b, c = read(name="a", recorded=record("x")), read(name="b", recorded=record("")), read(name="c", recorded="?")
    observed.see_all([a, b, c], asked_at=0.0, now=0.0)
    changes = observed.see_all([b, c], asked_at=1.0, now=1.0)
    assert [(change.kind, change.standing.election, change.is_news) for change in changes] == [
        (REMOVED, "a", True),
        (CHANGED, "b", False),
        (CHANGED, "c", False),
    ]
    assert not observed.is_due(1e9)


# -- How it looks ------------------------------------------------------------------------------------------------------


def drawn(standings: Iterable[Standing], *, width: int = 200, encoding: str = "utf-8", **how: Any) -> list[str]:  # noqa: ANN401 - arguments of `picture`
    """Return the lines of a picture."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    console = Console(file=stream, width=width)
    console.print(board.picture(standings, console=console, scope="in namespace shop", now=NOW, **how))
    stream.seek(0)
    return [line.rstrip() for line in stream.read().splitlines()]


EXAMPLE = [
    read(name="cart", recorded=record("cart-0"), claimed=claim("cart-0", "n1"), group="g", nodes=["n1", "n2", "n3"]),
    read(name="mail", recorded=record("m-0"), claimed=claim("m-0", "n1", successor="m-1"), group="g"),
    read(name="news", recorded=record(""), claimed=claim("", "n2", successor="news-1"), group="g"),
    read(name="odd", recorded="?", group="g"),
    read(name="vault", recorded=record("vault-0")),
]


def test_the_tables() -> None:
    """A table for each group: holder, node, state, since when and for how long; below it a bar for each node."""
    assert drawn(EXAMPLE) == [
        "group g, namespace shop",
        "ELECTION  HOLDER     NODE  STATE         SINCE                 FOR    RENEWED",
        "cart      cart-0     n1    leading       2026-05-04T11:58:40Z  1m20s  2s ago",
        "mail      m-0 → m-1  n1    leading       2026-05-04T11:58:40Z  1m20s  2s ago",
        "news      → news-1   n2    handing over  -                     -      2s ago",
        "odd       -          -     unreadable    -                     -      -",
        "odd: unreadable record: not JSON: Expecting value: line 1 column 1 (char 0)",
        "",
        "n1  ██████ 2",
        "n2  ░░░ 0 + 1 arriving",
        "n3  0",
        "",
        "no group, namespace shop",
        "ELECTION  HOLDER   NODE  STATE              SINCE                 FOR    RENEWED",
        "vault     vault-0  ?     leading, no claim  2026-05-04T11:58:40Z  1m20s  2s ago",
        "",
        "unknown node  ███ 1",
        "",
    ]


def test_locks_that_are_not_endpoints() -> None:
    """As soon as an election is on a Lease, the tables say what each is on."""
    held = standing_of_lease(lease("app-0"), others=True)
    assert held is not None
    divided = replace(both(record("x-0"), lease("x-1"), newer=LEASES), election="x")
    assert drawn([EXAMPLE[0], held, divided]) == [
        "group g, namespace shop",
        "ELECTION  HOLDER  NODE  LOCK       STATE    SINCE                 FOR    RENEWED",
        "cart      cart-0  n1    endpoints  leading  2026-05-04T11:58:40Z  1m20s  2s ago",
        "",
        "n1  ███ 1",
        "n2  0",
        "n3  0",
        "",
        "no group, namespace shop",
        "ELECTION  HOLDER  NODE  LOCK             STATE              SINCE                 FOR    RENEWED",
        "app       app-0   ?     leases           leading, no claim  2026-05-04T11:58:40Z  1m20s  2s ago",
        "x         x-0     ?     endpointsleases  divided, no claim  2026-05-04T11:58:40Z  1m20s  2s ago",
        "x: divided: x-0 holds the Endpoints, x-1 the Lease (endpointsleases)",
        "",
        "unknown node  ███ 1",
        "",
    ]


def test_a_narrow_terminal() -> None:
    """Where the times do not fit they are left out, and how long remains."""
    lines = drawn(EXAMPLE, width=70)
    assert lines[1:3] == [
        "ELECTION  HOLDER     NODE  STATE         FOR    RENEWED",
        "cart      cart-0     n1    leading       1m20s  2s ago",
    ]


def test_plain_characters_where_there_are_no_others() -> None:
    """On a terminal that shows ASCII only, bars and arrows are made of it."""
    text = "\n".join(drawn(EXAMPLE, encoding="ascii"))
    assert text.isascii()
    assert "m-0 -> m-1" in text
    assert "n1  ###### 2" in text
    assert "n2  --- 0 + 1 arriving" in text
    assert "\\u" not in text


def test_looking_on_shows_when_records_were_seen_to_change() -> None:
    """Who looks on is told by their own clock when a record changed, and of leases that ran out."""
    gone = replace(EXAMPLE[1], state=RAN_OUT)
    lines = drawn([EXAMPLE[0], gone], unchanged={EXAMPLE[0].key: 3.2, gone.key: None}, everywhere=True)
    assert lines[:4] == [
        "group g",
        "NAMESPACE  ELECTION  HOLDER     NODE  STATE          SINCE                 FOR    RENEWED",
        "shop       cart      cart-0     n1    leading        2026-05-04T11:58:40Z  1m20s  3s ago",
        "shop       mail      m-0 → m-1  n1    lease ran out  2026-05-04T11:58:40Z  1m20s  not yet",
    ]
    assert "n1  ███ 1" in lines


def test_what_does_not_fit_is_counted() -> None:
    """A picture of so many lines keeps to them, and keeps the elections that are not led."""
    crowd = [read(name=f"e{n:02}", recorded=record("x"), claimed=claim("x", "n1"), group="g") for n in range(50)]
    lines = drawn([*crowd, read(name="z", recorded=record(""), group="g")], lines=20)
    assert len(lines) <= 20
    assert any(line.startswith("z ") for line in lines)
    assert any(line.startswith("and 3") and line.endswith(" more") for line in lines)


def test_bars_have_a_greatest_length() -> None:
    """With many leaders, and with weights, bars are scaled to fit; none that is there is too short to be seen."""
    many = [read(name=f"e{n}", recorded=record("x"), claimed=claim("x", "n1"), group="g") for n in range(400)]
    heavy = read(name="h", recorded=record("x"), claimed=claim("x", "n3", weight=4), group="h")
    lines = drawn([*many, read(name="one", recorded=record("x"), claimed=claim("x", "n2"), group="g"), heavy])
    assert f"n1  {'█' * board.BAR_CELLS} 400" in lines
    assert "n2  █ 1" in lines
    assert "n3  ████████████ 1 (weight 4)" in lines


def test_no_elections() -> None:
    """Where there are none, that is said, and of what."""
    assert drawn([]) == ["no elections in namespace shop"]


HOSTILE = read(recorded=record("\x1b[2J[red]\u202e"), claimed=claim("\x1b[2J[red]\u202e", "no\nde"))


def test_names_are_shown_and_not_obeyed() -> None:
    """Control characters in what others wrote reach neither the terminal nor a line as such."""
    for text in ["\n".join(drawn([HOSTILE])), board.line(Change(ADDED, HOSTILE))]:
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[2J[red]\u202e" in text
        assert r"no\nde" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m20s"), (3605, "1h"), (200_000, "2d7h"), (-3, "-3s")],
)
def test_ages(seconds: float, text: str) -> None:
    """Ages have their two greatest units; a clock behind the record's shows."""
    assert board.age(seconds) == text


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (EXAMPLE[0], "leading: cart-0 on n1"),
        (EXAMPLE[1], "leading: m-0 on n1, nominates m-1"),
        (EXAMPLE[2], "handing over to news-1 on n2"),
        (EXAMPLE[4], "leading: vault-0, node unknown, no claim"),
        (replace(EXAMPLE[0], state=RAN_OUT), "lease ran out: cart-0 on n1"),
        (replace(EXAMPLE[0], state=CHECKING), "checking: cart-0 on n1"),
        (read(recorded=record("")), "vacant"),
        (EXAMPLE[3], "unreadable record: not JSON: Expecting value: line 1 column 1 (char 0)"),
        (replace(EXAMPLE[0], lock=LEASES), "leading: cart-0 on n1 (leases)"),
        (replace(EXAMPLE[0], state=VACANT, lock=BOTH), "vacant (endpointsleases)"),
    ],
)
def test_lines(standing: Standing, said: str) -> None:
    """A line names the election and says what it has come to."""
    assert board.line(Change(CHANGED, standing)) == f"shop/{standing.election}  {said}"


def test_a_line_for_what_is_gone() -> None:
    """A lock object that is gone is said to be."""
    assert board.line(Change(REMOVED, EXAMPLE[0])) == "shop/cart  no lock object any more"


def test_the_document() -> None:
    """Programs get the same: elections in the order of groups, what is unknown as null, and the loads of nodes."""
    told = json.loads(json.dumps(board.document(EXAMPLE, now=NOW)))
    assert told["time"] == "2026-05-04T12:00:00+00:00"
    assert told["elections"][0] == {
        "namespace": "shop",
        "election": "cart",
        "group": "g",
        "lock": "endpoints",
        "state": "leading",
        "holder": "cart-0",
        "successor": None,
        "node": "n1",
        "weight": 1,
        "claimed": True,
        "acquired": "2026-05-04T11:58:40Z",
        "renewed": "2026-05-04T11:59:58Z",
        "lease_seconds": 10,
        "problem": None,
        "candidate_nodes": ["n1", "n2", "n3"],
    }
    assert [one["election"] for one in told["elections"]] == ["cart", "mail", "news", "odd", "vault"]
    assert told["groups"] == [
        {
            "group": "g",
            "nodes": [
                {"node": "n1", "leading": 2, "arriving": 0, "weight": 2},
                {"node": "n2", "leading": 0, "arriving": 1, "weight": 1},
                {"node": "n3", "leading": 0, "arriving": 0, "weight": 0},
            ],
        },
        {"group": None, "nodes": [{"node": None, "leading": 1, "arriving": 0, "weight": 1}]},
    ]


def test_an_event() -> None:
    """A change is one object: what kind of change, when by this machine's clock, and the election."""
    told = board.event(Change(REMOVED, EXAMPLE[0]), now=NOW + timedelta(milliseconds=5))
    assert (told["time"], told["change"], told["election"]) == ("2026-05-04T12:00:00.005+00:00", "removed", "cart")


# -- The namespace -----------------------------------------------------------------------------------------------------


def kubeconfig(path: Path, context: Mapping[str, object]) -> str:
    """Write a kubeconfig with this context and return its path."""
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "contexts": [{"name": "here", "context": {"cluster": "c", **context}}],
                "users": [],
                "current-context": "here",
            }
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("named", "expected"), [({"namespace": "shop"}, "shop"), ({}, "default"), ({"namespace": ""}, "default")]
)
def test_the_namespace_of_the_context(tmp_path: Path, named: Mapping[str, object], expected: str) -> None:
    """The current context's namespace, else `default`; a kubeconfig that was named, and else the one at home."""
    path = kubeconfig(tmp_path / "config", named)
    assert context.namespace(kubeconfig=path, environ={}, home=tmp_path / "nowhere") == expected
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube" / "config", named)
    assert context.namespace(kubeconfig=None, environ={"KUBERNETES_SERVICE_HOST": "x"}, home=tmp_path) == expected


def test_the_namespace_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig: a pod's own namespace, and `default` outside of pods or where it cannot be read."""
    mounted = tmp_path / "namespace"
    monkeypatch.setattr(context, "SERVICE_ACCOUNT_NAMESPACE", mounted)
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert context.namespace(kubeconfig=None, environ=pod, home=tmp_path) == "default"
    mounted.write_text("shop\n")
    assert context.namespace(kubeconfig=None, environ=pod, home=tmp_path) == "shop"
    assert context.namespace(kubeconfig=None, environ={}, home=tmp_path) == "default"


@pytest.mark.parametrize("named", ["..", "a/b", "X"])
def test_a_context_whose_namespace_is_none(tmp_path: Path, named: str) -> None:
    """What cannot be a namespace never becomes part of a path: one line names the kubeconfig and the value."""
    path = kubeconfig(tmp_path / "config", {"namespace": named})
    with pytest.raises(ConfigError, match="not a name that a namespace can have") as caught:
        context.namespace(kubeconfig=path, environ={}, home=tmp_path)
    assert path in str(caught.value)
    assert repr(named) in str(caught.value)
