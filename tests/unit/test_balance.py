"""Spreading leaders: what is counted on which node, how long a bid holds back, and where elections should move."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import balance
from sidecar.balance import DELAY_CAP, MOVE_LIMIT, PLANNED_MOVES, Census, Election, LockSeen, delay, plan, take_census
from sidecar.lab.optimum import Contest, is_balanced, least_cost
from sidecar.record import CLAIM_ANNOTATION, HEAVIEST, LONGEST_CLAIM, RECORD_ANNOTATION, Claim
from sidecar.registration import REGISTRATION_LIMIT, Registration, registration_key
from tests.unit.player import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    TraceFunction = Callable[[FrameType, str, object], "TraceFunction | None"]

LOCK = "apps/e"
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A loaded machine is no defect."""

UINT64 = 2**64 - 1


# -- The census --------------------------------------------------------------------------------------------------------


def claim(holder: str = "a", node: str = "n1", uid: str = "uid-a", **changes: object) -> str:
    """Return a claim's text, with these fields put in place of the usual ones."""
    fields = json.loads(
        Claim(holder=holder, node=node, pod_uid=uid, term=7, renewed=record(holder).renew_time).encode()
    )
    return json.dumps({**fields, **changes})


def registered(**nodes: str) -> dict[str, str]:
    """Return the registrations of these candidates, each on its node."""
    return {
        registration_key(name): Registration(identity=name, node=node, pod_uid=f"uid-{name}").encode()
        for name, node in nodes.items()
    }


def seen(holder: str | None = "a", claimed: str | None = None, **others: str) -> LockSeen:
    """Return a lock object as a list shows it, at version 9: held by `holder` under `claimed`, and with `others`."""
    annotations = {} if holder is None else {RECORD_ANNOTATION: record(holder).encode()}
    if claimed is not None:
        annotations[CLAIM_ANNOTATION] = claimed
    return LockSeen(name=LOCK, version=9, annotations={**annotations, **others})


def counted(lock: LockSeen, **nodes_of_holders: str) -> Election:
    """Return what a census makes of one lock object; `pod` is the node of a holder that made no claim."""
    (election,) = take_census([lock], {LOCK: nodes_of_holders["pod"]} if nodes_of_holders else {}).elections
    return election


def test_a_leader_counts_on_the_node_that_it_claims() -> None:
    """A claim says where its holder is, what the election weighs and since when; registrations, where it could be."""
    election = counted(seen("a", claim(weight=3), **registered(a="n1", b="n2", c="n2")))
    nodes = frozenset({"n1", "n2"})
    assert election == Election(name=LOCK, node="n1", weight=3, term=7, nodes=nodes, movable=True)


@pytest.mark.parametrize(
    ("lock", "node", "weight"),
    [
        pytest.param(seen("a", **registered(b="n1", c="n2")), "", 1, id="stock-leader"),
        pytest.param(seen(None, **registered(b="n1", c="n2")), "", 1, id="no-record"),
        pytest.param(
            seen("", claim("", node="n2", successor="c", weight=3), **registered(b="n1", c="n2")),
            "n2",
            3,
            id="in-flight",
        ),
    ],
)
def test_whoever_leads_it_an_election_could_be_led_elsewhere(lock: LockSeen, node: str, weight: int) -> None:
    """Where an election has candidates is known without its leader; what is in flight weighs as much as before."""
    election = counted(lock)
    assert (election.node, election.weight, election.nodes) == (node, weight, frozenset({"n1", "n2"}))


@pytest.mark.parametrize(
    ("lock", "node"),
    [
        pytest.param(seen("a"), "", id="no-claim"),
        pytest.param(seen("a", claim("b")), "", id="another-holder-s-claim"),
        pytest.param(seen("a", claim("", successor="b")), "", id="claim-of-a-release-that-is-over"),
        pytest.param(seen("", claim("a")), "", id="released-by-somebody-who-knows-no-claims"),
        pytest.param(seen("", claim("")), "", id="released-without-successor"),
        pytest.param(seen(""), "", id="released"),
        pytest.param(seen(None), "", id="no-record"),
        pytest.param(seen(None, claim()), "", id="claim-without-record"),
        pytest.param(replace(seen(), annotations={RECORD_ANNOTATION: "x", CLAIM_ANNOTATION: claim()}), "", id="bad"),
        pytest.param(seen("a", claim()), "n1", id="claimed"),
        pytest.param(seen("a", claim(node="")), "", id="claimed-without-node"),
        pytest.param(seen("", claim("", node="n2", successor="b")), "n2", id="released-in-favour-of-a-successor"),
        pytest.param(seen("a", claim(state="checking")), "n1", id="checking"),
    ],
)
def test_where_an_election_counts(lock: LockSeen, node: str) -> None:
    """Only the record's own claim counts; a move in flight counts where it lands, a check where it takes place."""
    assert counted(lock).node == node


@pytest.mark.parametrize(
    ("lock", "node"),
    [
        pytest.param(seen("a"), "n9", id="stock-leader"),
        pytest.param(seen("a", claim("b")), "n9", id="stock-leader-beside-a-stale-claim"),
        pytest.param(seen(""), "", id="released"),
        pytest.param(seen(None), "", id="no-record"),
        pytest.param(seen("a", claim()), "n1", id="claimed"),
    ],
)
def test_a_holder_without_claim_counts_where_its_pod_is(lock: LockSeen, node: str) -> None:
    """A stock peer's node is its pod's; where nobody holds the lock, or somebody claims it, no pod is asked for."""
    assert counted(lock, pod="n9").node == node


@pytest.mark.parametrize(
    ("lock", "movable"),
    [
        pytest.param(seen("a", claim(), **registered(a="n1")), True, id="registered-leader"),
        pytest.param(seen("a", claim(state="checking"), **registered(a="n1")), True, id="checking"),
        pytest.param(seen("a", claim(moves=MOVE_LIMIT - 1), **registered(a="n1")), True, id="one-move-left"),
        pytest.param(seen("a", claim(moves=MOVE_LIMIT), **registered(a="n1")), False, id="moved-often-enough"),
        pytest.param(seen("a", claim()), False, id="does-not-take-part"),
        pytest.param(seen("a", claim(uid="another"), **registered(a="n1")), False, id="registered-by-another-pod"),
        pytest.param(seen("a", claim(node=""), **registered(a="n1")), False, id="nobody-knows-where"),
        pytest.param(seen("a", **registered(a="n1")), False, id="stock-leader"),
        pytest.param(seen("", claim("", successor="b"), **registered(a="n1", b="n2")), False, id="in-flight"),
    ],
)
def test_which_elections_can_be_moved(lock: LockSeen, movable: bool) -> None:  # noqa: FBT001 - a table's column
    """A leader can be asked to move that takes part itself, and was not moved too often of late."""
    assert counted(lock).movable is movable


@pytest.mark.parametrize(
    ("lock", "moves"),
    [
        (seen("a", claim()), False),
        (seen("a", claim(successor="b")), True),
        (seen("a", claim(state="checking")), True),
        (seen("", claim("", successor="b")), True),
        (seen("a"), False),
        (seen(""), False),
    ],
)
def test_which_elections_are_about_to_move(lock: LockSeen, moves: bool) -> None:  # noqa: FBT001 - a table's column
    """Whoever nominated, checks or released in somebody's favour needs no nudge."""
    assert counted(lock).moves is moves


@pytest.mark.parametrize(("term", "expected"), [(7, 7), (0, 9), (-1, 9), (UINT64, UINT64), (UINT64 + 1, 9), ("7", 9)])
def test_the_age_of_a_term(term: object, expected: int) -> None:
    """A term is as old as it says; the write that began it could not say, and was the last one then."""
    assert counted(seen("a", claim(term=term))).term == expected


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(1, 1), (4, 4), (0, 1), (-5, 1), (10**30, 1), (UINT64, HEAVIEST), (1.5, 1), (True, 1), ("9", 1), (None, 1)],
)
def test_weights_are_bounded(weight: object, expected: int) -> None:
    """Nobody weighs nothing, or so much that all others have to make way."""
    assert counted(seen("a", claim(weight=weight))).weight == expected


def test_registrations_are_bounded() -> None:
    """However many are registered, only so many nodes come from one election."""
    others = registered(**{f"c-{number:04}": f"n-{number}" for number in range(2 * REGISTRATION_LIMIT)})
    assert len(counted(seen("a", claim(), **others)).nodes) == REGISTRATION_LIMIT


def test_a_census_is_sorted_by_name() -> None:
    """Whatever order a list has, the census is the same."""
    locks = [replace(seen("a", claim()), name=f"apps/{name}") for name in "cab"]
    assert take_census(locks, {}) == take_census(sorted(locks, key=lambda lock: lock.name), {})
    assert [election.name for election in take_census(locks, {}).elections] == ["apps/a", "apps/b", "apps/c"]


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)
HUGE = st.sampled_from(
    ["[" * 100_000, '{"a":' * 50_000, "9" * 5000, '{"holder":' + "9" * 5000 + "}", "x" * (LONGEST_CLAIM + 1)]
)


def annotation(*fields: str) -> st.SearchStrategy[str]:
    """Return texts of an annotation: garbage of every kind, and JSON objects with any value in these fields."""
    known = st.dictionaries(st.sampled_from(fields), ANY_JSON | st.sampled_from(["a", "n1", "uid-a", "checking"]))
    return ANY_TEXT | HUGE | (ANY_JSON | known).map(json.dumps)


GARBAGE = st.fixed_dictionaries(
    {},
    optional={
        RECORD_ANNOTATION: st.just(record("a").encode())
        | st.just(record("").encode())
        | annotation("holderIdentity", "leaseDurationSeconds", "leaderTransitions"),
        CLAIM_ANNOTATION: annotation(
            "holder", "node", "pod_uid", "weight", "state", "successor", "term", "moves", "renewed"
        ),
        registration_key("a"): annotation("identity", "node", "pod_uid", "seen", "accepted"),
        registration_key("b"): annotation("identity", "node", "pod_uid", "seen", "accepted"),
    },
)


@PATIENT
@given(st.lists(GARBAGE, max_size=4), st.integers(0, 2))
def test_no_lock_object_is_too_much(garbage: list[dict[str, str]], pods: int) -> None:
    """Whatever others write, counting raises nothing, everything is within its bounds, and the plan can be made."""
    locks = [
        LockSeen(name=f"apps/{number}", version=number + 1, annotations=each) for number, each in enumerate(garbage)
    ]
    census = take_census(locks, {f"apps/{number}": "n1" for number in range(pods)})
    assert [election.name for election in census.elections] == [lock.name for lock in locks]
    for election in census.elections:
        assert 1 <= election.weight <= HEAVIEST
        assert 0 <= election.term <= UINT64
        assert len(election.nodes) <= REGISTRATION_LIMIT
        assert not (election.movable and not election.node)
    check_plan(census)
    assert delay(census, election="apps/0", node="n1", rivals=frozenset(), slot=0.5) <= DELAY_CAP * 0.5


# -- Loads -------------------------------------------------------------------------------------------------------------


def election(name: str, node: str, nodes: str = "", *, weight: int = 1, term: int = 0) -> Election:
    """Return a movable election that is led on `node`, with candidates there and on `nodes`, divided by blanks."""
    there = frozenset({node, *nodes.split()} - {""})
    return Election(name=name, node=node, nodes=there, movable=bool(node), weight=weight, term=term)


def census_of(*elections: Election) -> Census:
    """Return the census of these."""
    return Census(tuple(elections))


GROUP = census_of(
    election("a", "x", "y", weight=2),
    election("b", "x"),
    election("c", "y", "z"),
    election("d", "", "w x"),
    Election(name="e", node="v"),
)
"""Three nodes that carry something, one that somebody leads on without being registered, and one that could."""


@pytest.mark.parametrize(
    ("without", "loads"),
    [
        ("", {"v": 1, "w": 0, "x": 3, "y": 1, "z": 0}),
        ("a", {"v": 1, "w": 0, "x": 1, "y": 1, "z": 0}),
        ("d", {"v": 1, "w": 0, "x": 3, "y": 1, "z": 0}),
        ("e", {"v": 0, "w": 0, "x": 3, "y": 1, "z": 0}),
        ("nobody", {"v": 1, "w": 0, "x": 3, "y": 1, "z": 0}),
    ],
)
def test_loads(without: str, loads: dict[str, int]) -> None:
    """Each node of the group carries what is led there; those where something only could be led carry nothing."""
    assert GROUP.loads(without=without) == loads
    assert list(GROUP.loads(without=without)) == sorted(loads)


def test_only_so_many_nodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit nodes are as if nobody knew them: where something is led comes first, the others by name."""
    monkeypatch.setattr(balance, "NODES", 3)
    first = replace(seen(None, **registered(a="n8", b="n7", c="n9")), name="apps/first")
    led = replace(seen("a", claim(node="n1"), **registered(a="n1", b="n2")), name="apps/led")
    census = take_census([led, first], {})
    assert census.loads() == {"n1": 1, "n7": 0, "n8": 0}
    assert [election.nodes for election in census.elections] == [frozenset({"n7", "n8"}), frozenset({"n1"})]
    monkeypatch.setattr(balance, "NODES", 0)
    assert take_census([led], {}).elections == (Election(name="apps/led", node="", term=7),)


@pytest.mark.timeout(60)
def test_made_up_nodes_cost_little() -> None:
    """Many lock objects on which many candidates are registered, each on a node that nobody else knows, are no burden.

    Work that grew with the square of the number of nodes would take minutes here.
    """
    fake = [election(f"z{lock}", "", " ".join(f"z{lock}-{node}" for node in range(500))) for lock in range(100)]
    assert plan(census_of(*fake, *(election(name, "x", "y") for name in "ab"))) == {"a": "y"}


def test_an_empty_group_has_no_loads() -> None:
    """Where there is nobody there is nothing to carry, and nothing to move."""
    assert Census(()).loads() == {}
    assert plan(Census(())) == {}


# -- The delay ---------------------------------------------------------------------------------------------------------


def crowd(*, weight: int = 1, **leaders: int) -> Census:
    """Return a census with so many elections led on each node."""
    return census_of(
        *(election(f"{node}-{n}", node, weight=weight) for node, count in leaders.items() for n in range(count)),
        *(election(f"{node}-vacant", "", node) for node in leaders),
    )


@pytest.mark.parametrize(
    ("census", "node", "rivals", "slots"),
    [
        pytest.param(crowd(x=0, y=0), "x", "y", 0, id="nobody-carries-anything"),
        pytest.param(crowd(x=0, y=3), "x", "y", 0, id="least-loaded"),
        pytest.param(crowd(x=2, y=2), "x", "y", 0, id="as-loaded-as-others"),
        pytest.param(crowd(x=2, y=1), "x", "y", 1, id="one-more"),
        pytest.param(crowd(x=3, y=0), "x", "y", 3, id="three-more"),
        pytest.param(crowd(x=4, y=0), "x", "y", DELAY_CAP, id="at-the-cap"),
        pytest.param(crowd(x=9, y=0), "x", "y", DELAY_CAP, id="beyond-the-cap"),
        pytest.param(crowd(x=2, y=1, z=0), "x", "y", 1, id="only-rivals-are-compared"),
        pytest.param(crowd(x=2, y=1, z=0), "x", "y z", 2, id="the-least-loaded-rival"),
        pytest.param(crowd(x=2, y=1, z=0), "x", "x", 0, id="rivals-on-the-same-node-only"),
        pytest.param(crowd(x=2, y=1, z=0), "x", "", 2, id="without-rivals-all-nodes-are"),
        pytest.param(crowd(x=2), "x", "new", 2, id="a-rival-s-node-carries-nothing"),
        pytest.param(crowd(y=2), "new", "y", 0, id="a-node-that-carries-nothing"),
        pytest.param(crowd(y=2), "new", "", 0, id="a-new-node-among-all"),
        pytest.param(crowd(x=1, y=0, weight=3), "x", "y", 3, id="weights-count"),
        pytest.param(crowd(x=1, y=0, weight=HEAVIEST), "x", "y", DELAY_CAP, id="weights-are-capped-as-well"),
        pytest.param(Census(()), "x", "", 0, id="empty-group"),
        pytest.param(Census(()), "x", "y", 0, id="empty-group-with-rivals"),
    ],
)
def test_delay(census: Census, node: str, rivals: str, slots: int) -> None:
    """A bid holds back a slot for each leader more than on the least loaded of the rivals' nodes, up to the cap."""
    seconds = delay(census, election="new", node=node, rivals=frozenset(rivals.split()), slot=0.25)
    assert seconds == slots * 0.25


def test_the_election_itself_does_not_count() -> None:
    """Whoever led the election until now carries it no longer: its node is as good as it was before."""
    census = crowd(x=2, y=1)
    assert delay(census, election="x-0", node="x", rivals=frozenset({"y"}), slot=1.0) == 0
    assert delay(census, election="y-0", node="x", rivals=frozenset({"y"}), slot=1.0) == 2


# -- The plan: what it is ----------------------------------------------------------------------------------------------


def cost(census: Census) -> int:
    """Return the sum of the squared loads."""
    return sum(load * load for load in census.loads().values())


def moved(census: Census, moves: Mapping[str, str]) -> Census:
    """Return the census after these moves."""
    return Census(tuple(replace(each, node=moves.get(each.name, each.node)) for each in census.elections))


def check_plan(census: Census) -> Mapping[str, str]:
    """Return the moves that may be made now, which must be possible, and must not make anything worse."""
    moves = plan(census)
    elections = {each.name: each for each in census.elections}
    loads = census.loads()
    for name, node in moves.items():
        assert elections[name].movable
        assert node in elections[name].nodes - {elections[name].node}
        assert loads[elections[name].node] - loads[node] >= elections[name].weight
    assert cost(moved(census, moves)) <= cost(census)
    return moves


@pytest.mark.parametrize(
    ("census", "moves"),
    [
        pytest.param(census_of(election("a", "x", "y")), {}, id="one"),
        pytest.param(census_of(election("a", "x", "y"), election("b", "x", "y")), {"a": "y"}, id="two"),
        pytest.param(census_of(election("a", "x", "y"), election("b", "y", "x")), {}, id="even"),
        pytest.param(
            census_of(election("a", "x", "y", term=1), election("b", "x", "y", term=2)), {"b": "y"}, id="youngest"
        ),
        pytest.param(
            census_of(election("a", "x"), election("b", "x", "y", term=1), election("c", "x", term=9)),
            {"b": "y"},
            id="the-one-that-can",
        ),
        pytest.param(
            census_of(election("a", "x", "y"), election("b", "x", "y"), election("c", "y")), {}, id="two-to-one"
        ),
        pytest.param(census_of(election("a", "x", "z y"), election("b", "x")), {"a": "y"}, id="ties-go-by-name"),
        pytest.param(
            census_of(*(election(f"e{n}", "x", "y z") for n in range(6))),
            {"e0": "y", "e1": "z", "e2": "y", "e3": "z"},
            id="all-on-one-node",
        ),
        pytest.param(
            census_of(replace(election("a", "x", "y"), movable=False), replace(election("b", "x", "y"), movable=False)),
            {},
            id="immovable",
        ),
        pytest.param(
            census_of(replace(election("a", "x", "y"), movable=False), election("b", "x", "y")),
            {"b": "y"},
            id="one-of",
        ),
        pytest.param(
            census_of(election("a", "x", "y"), election("b", "x", "y"), election("c", "", "y")),
            {"a": "y"},
            id="vacant",
        ),
        # What only b makes room for.
        pytest.param(
            census_of(election("a1", "x", "y"), election("a2", "x", "y"), election("b", "y", "z")),
            {"b": "z"},
            id="path",
        ),
        pytest.param(
            census_of(election("a", "x", "y", weight=4), election("b", "x", "y", weight=1)), {"b": "y"}, id="weights"
        ),
        pytest.param(
            census_of(election("a", "x", "y", weight=4), election("b", "y", "x", weight=1)), {}, id="weights-even"
        ),
        pytest.param(
            census_of(*(election(name, "x", "y", weight=3) for name in "abcd")), {"a": "y", "b": "y"}, id="all-heavy"
        ),
    ],
)
def test_plan(census: Census, moves: dict[str, str]) -> None:
    """The plan has the moves that even the loads out, the youngest first and ties by name, and no others."""
    assert plan(census) == moves


def test_a_chain_unwinds_from_its_end() -> None:
    """Of a path of several moves only the last acts, and then the one before it: each lands on a node made free."""
    census = census_of(
        election("a1", "n1", "n2"),
        election("a2", "n1", "n2"),
        election("b", "n2", "n3"),
        election("c", "n3", "n4"),
        election("d", "n4", "n5"),
    )
    chain = []
    while moves := check_plan(census):
        chain.append(dict(moves))
        census = moved(census, moves)
    assert [list(moves.items()) for moves in chain] == [[("d", "n5")], [("c", "n4")], [("b", "n3")], [("a1", "n2")]]
    assert set(census.loads().values()) == {1}


@pytest.mark.parametrize("weights", [(1, 1), (1, 2)], ids=["equal", "different"])
def test_a_long_plan_is_made_in_parts(weights: tuple[int, int]) -> None:
    """One plan has so many moves at most; the next one goes on, to the same end."""
    elections = (election(f"e{each:04}", "x", "y", weight=weights[each % 2]) for each in range(4 * PLANNED_MOVES))
    census = census_of(*elections)
    first = check_plan(census)
    assert len(first) == PLANNED_MOVES
    census = moved(census, first)
    census = moved(census, check_plan(census))
    assert check_plan(census) == {}
    assert abs(census.loads()["x"] - census.loads()["y"]) <= 1


# -- The plan: what it leads to ----------------------------------------------------------------------------------------


NAMES = [f"n{number}" for number in range(6)]


@st.composite
def groups(draw: st.DrawFn, *, weights: tuple[int, ...] = (1,), elections: int = 8, nodes: int = 4) -> Census:
    """Draw groups: leaders anywhere among the candidates, some that cannot be moved, some that nobody leads."""
    drawn = []
    for number in range(draw(st.integers(0, elections))):
        there = draw(st.sets(st.sampled_from(NAMES[:nodes]), min_size=1))
        led = draw(st.integers(0, 9)) > 0
        drawn.append(
            Election(
                name=f"e{number:02}",
                node=draw(st.sampled_from(sorted(there))) if led else "",
                weight=draw(st.sampled_from(weights)),
                term=draw(st.integers(1, 5)),
                nodes=frozenset(there),
                movable=led and draw(st.integers(0, 9)) > 0,
            )
        )
    return Census(tuple(drawn))


def settle(census: Census) -> tuple[Census, Counter[str]]:
    """Make the moves that may be made, all of them, until there are none; return how often each election moved."""
    times: Counter[str] = Counter()
    for _ in range(100):
        moves = check_plan(census)
        if not moves:
            return census, times
        times.update(moves.keys())
        census = moved(census, moves)
    pytest.fail("the moves go on for ever")


def least_possible(census: Census) -> int:
    """Return the least cost there is, by trying every assignment."""
    led = [each for each in census.elections if each.node]
    choices = [sorted(each.nodes) if each.movable else [each.node] for each in led]
    names = [each.name for each in led]
    return min(cost(moved(census, dict(zip(names, nodes, strict=True)))) for nodes in product(*choices))


def single_moves_better(census: Census) -> list[tuple[str, str]]:
    """Return the single moves that would better something."""
    return [
        (each.name, node)
        for each in census.elections
        if each.movable
        for node in each.nodes
        if cost(moved(census, {each.name: node})) < cost(census)
    ]


@PATIENT
@given(groups(elections=6, nodes=3))
def test_small_groups_end_with_the_least_cost_there_is(census: Census) -> None:
    """By acting moves alone every small group gets to where no assignment is better."""
    end, _ = settle(census)
    assert cost(end) == least_possible(end) == least_possible(census)


@PATIENT
@given(groups(elections=40, nodes=6))
def test_groups_end_where_the_judge_finds_no_path(census: Census) -> None:
    """Larger groups do as well, by the word of a judge that shares no code with the plan."""
    end, times = settle(census)
    contests = {
        each.name: Contest(1, tuple(sorted(each.nodes)) if each.movable else (each.node,))
        for each in end.elections
        if each.node
    }
    assignment = {each.name: each.node for each in end.elections if each.node}
    assert is_balanced(contests, assignment)
    assert cost(end) == least_cost(contests, assignment)
    assert max(times.values(), default=0) <= MOVE_LIMIT, "nobody is moved so often that it would be left where it is"


@pytest.mark.parametrize("weights", [(1, 4), (1, 2, 3, 5), (1, 10, 100, 1000)])
def test_groups_with_weights_end_where_no_single_move_helps(weights: tuple[int, ...]) -> None:
    """With weights the acting moves end where no single move makes anything better."""

    @PATIENT
    @given(groups(weights=weights, elections=20, nodes=5))
    def ends_well(census: Census) -> None:
        end, _ = settle(census)
        assert single_moves_better(end) == []

    ends_well()


@PATIENT
@given(groups(weights=(1, 4), elections=12) | groups(elections=12), st.randoms(use_true_random=False))
def test_any_part_of_the_acting_moves_does_no_harm(census: Census, chance: random.Random) -> None:
    """Whichever of the leaders that may move do move, in whichever order, no step makes anything worse."""
    moves = list(check_plan(census).items())
    chance.shuffle(moves)
    for name, node in moves[: chance.randint(0, len(moves))]:
        before, census = cost(census), moved(census, {name: node})
        assert cost(census) <= before


@PATIENT
@given(groups(weights=(1, 4), elections=12) | groups(elections=12), st.randoms(use_true_random=False))
def test_a_few_of_the_acting_moves_at_a_time_lead_there_too(census: Census, chance: random.Random) -> None:
    """Leaders act when they come to it: any one of the moves at a time ends where all of them together do."""
    for _ in range(500):
        moves = sorted(check_plan(census).items())
        if not moves:
            break
        census = moved(census, dict([chance.choice(moves)]))
    else:
        pytest.fail("the moves go on for ever")
    if len({each.weight for each in census.elections}) <= 1:
        assert cost(census) == cost(settle(census)[0])
    assert single_moves_better(census) == []


@PATIENT
@given(groups(weights=(1, 1, 1, 4), elections=12), st.randoms(use_true_random=False))
def test_everybody_makes_the_same_plan(census: Census, chance: random.Random) -> None:
    """The plan follows from what is in the census, whatever order it is in."""
    shuffled = list(census.elections)
    chance.shuffle(shuffled)
    # A set that was filled in another order is gone through in another order.
    shuffled = [replace(each, nodes=frozenset(chance.sample(sorted(each.nodes), len(each.nodes)))) for each in shuffled]
    assert plan(Census(tuple(shuffled))) == plan(census)


# -- The plan: what it costs -------------------------------------------------------------------------------------------


def large_group(*, nodes: int, everything_on: str = "", weights: tuple[int, ...] = (1,)) -> Census:
    """Return 1,000 elections with 5 candidates each, led anywhere or all on one node."""
    chance = random.Random(nodes)  # noqa: S311 - the same group each time, not a secret
    names = [f"n{number:03}" for number in range(nodes)]
    elections = []
    for number in range(1000):
        there = set(chance.sample(names, 5))
        if everything_on and everything_on not in there:
            there = {everything_on, *sorted(there)[1:]}
        elections.append(
            Election(
                name=f"e{number:04}",
                node=everything_on or chance.choice(sorted(there)),
                weight=chance.choice(weights),
                term=number,
                nodes=frozenset(there),
                movable=True,
            )
        )
    return Census(tuple(elections))


def lines_run(census: Census) -> int:
    """Return how many lines of the balance a plan takes: a measure of work that no load of the machine changes."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal lines
        lines += event == "line"
        return trace if frame.f_code.co_filename == balance.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        plan(census)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("weights", [(1,), (1, 4), (1, 10, 100, 1000)], ids=["alike", "weights", "many-weights"])
@pytest.mark.parametrize("everything_on", ["", "n000"], ids=["anywhere", "on-one-node"])
@pytest.mark.parametrize("nodes", [20, 50, 200])
def test_the_work_of_a_plan_is_bounded(nodes: int, everything_on: str, weights: tuple[int, ...]) -> None:
    """A thousand elections take no more than two thousand lines each, wherever they are led."""
    census = large_group(nodes=nodes, everything_on=everything_on, weights=weights)
    assert lines_run(census) < 1000 * 2000
