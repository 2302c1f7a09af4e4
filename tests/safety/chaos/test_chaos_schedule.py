"""What a plan promises."""

from __future__ import annotations

from itertools import chain, combinations, islice

import pytest

from tests.safety.chaos.kinds import FAULTS, kinds
from tests.safety.chaos.schedule import LATEST, MOST_AT_ONCE, Burst, bursts, clash, deal

ALL = kinds(FAULTS)
BY_NAME = {kind.name: kind for kind in ALL}
SEEDS = range(200)


def plan(seed: int, *, count: int = 40, elections: int = 3) -> list[Burst]:
    """Return the first bursts of a plan."""
    return list(islice(bursts(seed, ALL, elections=elections), count))


def test_the_same_seed_gives_the_same_plan() -> None:
    """A plan follows from its seed, its kinds and the number of elections alone; another seed gives another one."""
    assert plan(7) == plan(7)
    assert plan(7) != plan(8)
    assert plan(7)[:5] == plan(7, count=5)
    assert kinds(reversed(FAULTS)) == ALL


def test_every_kind_comes_up_once_in_a_deal() -> None:
    """No kind is left out, and none comes up again before all have."""
    for seed in SEEDS:
        dealt = [planned.kind for planned in chain.from_iterable(deal(str(seed), ALL, elections=3))]
        assert sorted(dealt) == sorted(FAULTS)
        whole = [planned.kind for planned in chain.from_iterable(plan(seed, count=60))]
        for begin in (0, len(FAULTS)):
            assert set(whole[begin : begin + len(FAULTS)]) == set(FAULTS)


def test_what_clashes_is_never_in_one_burst() -> None:
    """At most so many at once, of which no two have traits that go badly together; and some bursts have several."""
    sizes = set()
    for burst in chain.from_iterable(map(plan, SEEDS)):
        sizes.add(len(burst))
        assert not any(clash(BY_NAME[one.kind], BY_NAME[other.kind]) for one, other in combinations(burst, 2))
    assert sizes == set(range(1, MOST_AT_ONCE + 1))


def test_clashes_are_mutual_and_meant() -> None:
    """Two faults of the server, a new pod beside a lock that is gone, a peer beside what it cannot stand."""
    for one, other, expected in (
        ("etcd-paused", "apiserver-killed", True),
        ("etcd-paused", "etcd-paused", True),
        ("object-deleted", "replaced", True),
        ("object-deleted", "cut-off", False),
        ("client-go-joins", "cpu-loaded", True),
        ("client-go-joins", "stopped", False),
        ("stopped", "cut-off", False),
    ):
        assert clash(BY_NAME[one], BY_NAME[other]) is expected
        assert clash(BY_NAME[other], BY_NAME[one]) is expected


def test_each_fault_lasts_as_long_as_its_kind_may() -> None:
    """All begin within a lease of the burst, last within their bounds, and are aimed at an election that there is."""
    aims = set()
    for planned in chain.from_iterable(chain.from_iterable(map(plan, SEEDS))):
        shortest, longest = BY_NAME[planned.kind].leases
        assert 0 <= planned.begin <= LATEST
        assert shortest - 0.002 <= planned.end - planned.begin <= longest + 0.002  # they are rounded
        assert 0 <= planned.luck < 1
        aims.add((planned.election, planned.at_leader))
    assert aims == {(election, at_leader) for election in range(3) for at_leader in (True, False)}


@pytest.mark.parametrize(("names", "elections", "at_once"), [((), 3, 4), (("killed",), 0, 4), (("killed",), 1, 0)])
def test_a_plan_of_nothing_is_refused(names: tuple[str, ...], elections: int, at_once: int) -> None:
    """Without kinds, elections or room for a fault there is no plan, and no endless loop."""
    with pytest.raises(ValueError, match="a plan needs"):
        list(deal("1", kinds(names), elections=elections, at_once=at_once))
