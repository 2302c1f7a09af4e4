"""Where leaders end up: what chance gives, what is read from the bench's journal, and one election in pods."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import pytest

import sidecar
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from tests.bench.__main__ import INTERRUPTED, OK
from tests.bench.journal import Journal, fingerprint
from tests.bench.outcome import Run
from tests.paper import distribution
from tests.paper.data import OFF, OURS, PODS, PROCESSES, Election
from tests.paper.distribution import JournalError, Stores, election, evenly, placed, pods, processes, read
from tests.paper.waiting import StateError, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.testbed.cluster import Cluster

CONDITIONS = {
    "variables": {},
    "program": fingerprint(Path(sidecar.__file__).parent),
    "forked": True,
    "shape": "5x5x3",
    "starts": "1",
}
STOCK = {**CONDITIONS, "variables": {"ELECTION_BALANCE": "off"}}


def run(seed: int, *leaders: int, problem: str = "") -> Run:
    """Return a run of the bench that ended like that."""
    return Run(seed=seed, leaders=list(leaders), settled=0.5, problem=problem)


# -- What chance gives --


def test_chance_is_enumerated_over_all_that_can_come_out() -> None:
    """Five leaders, each on any of three nodes: the means and the balanced share are those of all 243 outcomes."""
    outcomes = [
        sorted((Counter(nodes)[node] for node in range(3)), reverse=True) for nodes in product(range(3), repeat=5)
    ]
    expected = evenly()
    assert expected.leaders == pytest.approx([fmean(rank) for rank in zip(*outcomes, strict=True)])
    assert expected.balanced == pytest.approx(outcomes.count([2, 2, 1]) / 243)
    assert [round(mean, 2) for mean in expected.leaders] == [2.78, 1.60, 0.62]


def test_chance_goes_by_where_the_replicas_are() -> None:
    """Every replica is equally likely: means are those of all 3125 outcomes, and every placement counts alike."""
    ones = ["n3", "n3", "n2", "n1", "n1"]
    here = {
        f"s{store}": {node: 1 if node == one else 2 for node in ("n1", "n2", "n3")} for store, one in enumerate(ones)
    }
    only = {f"s{store}": {"n1": 5, "n2": 0, "n3": 0} for store in range(5)}
    replicas = [[node for node, count in candidates.items() for _ in range(count)] for candidates in here.values()]
    outcomes = [sorted((list(nodes).count(node) for node in here["s0"]), reverse=True) for nodes in product(*replicas)]
    measured = Election(
        number=1, part=PODS, policy=OFF, leaders=[2, 2, 1], settled=0.0, candidates=here, started={}, leading={}
    )
    assert placed([measured]).leaders == pytest.approx([fmean(rank) for rank in zip(*outcomes, strict=True)])
    both = placed([measured, replace(measured, candidates=only)])
    assert both.leaders[0] == pytest.approx((placed([measured]).leaders[0] + 5) / 2)
    # Where all replicas are on one node, nothing is more even than all leaders there.
    assert both.balanced == pytest.approx((placed([measured]).balanced + 1) / 2)


# -- Processes --


def test_the_journal_is_read_by_policy(tmp_path: Path) -> None:
    """Runs of both policies are found, the last of each seed, placed as the bench placed them."""
    for conditions, one in ((CONDITIONS, run(1, 3, 2, 0)), (STOCK, run(1, 4, 1, 0)), (CONDITIONS, run(1, 2, 2, 1))):
        Journal(tmp_path / "journal", conditions).append(one)
    found = read(tmp_path / "journal")
    assert [(one.policy, one.number, one.leaders) for one in found] == [(OFF, 1, [4, 1, 0]), (OURS, 1, [2, 2, 1])]
    assert {one.part for one in found} == {PROCESSES}
    for candidates in found[0].candidates.values():
        assert sorted(candidates.values()) == [1, 2, 2]
    assert found[0].candidates == found[1].candidates


def test_what_is_not_comparable_is_left_out_of_the_journal(tmp_path: Path) -> None:
    """Runs of another program, of another shape or start, with other variables, or that failed, are not taken."""
    others: list[dict[str, Any]] = [{"program": "another"}, {"shape": "3x3x3"}, {"starts": "ordered"}]
    others += [{"variables": {"ELECTION_REBALANCE": "never"}}, {"forked": False}]
    for number, other in enumerate(others):
        Journal(tmp_path / "journal", {**CONDITIONS, **other}).append(run(number, 2, 2, 1))
    Journal(tmp_path / "journal", CONDITIONS).append(run(9, problem="no leader"))
    assert read(tmp_path / "journal") == []


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"conditions": {}, "run": {"seed": 1}}'])
def test_a_broken_journal_is_named(tmp_path: Path, text: str) -> None:
    """What is no journal is said in one line, with its path."""
    (tmp_path / "journal").write_text(text)
    with pytest.raises(JournalError, match=r"journal: not a journal of the bench \([^\n]*$"):
        read(tmp_path / "journal")


def test_the_policies_take_turns_as_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench is asked for some runs of one policy, then of the other, up to as many as were wanted."""
    asked: list[tuple[int, bool]] = []

    def bench(arguments: Sequence[str]) -> int:
        stock = "off" in arguments
        asked.append((count := int(arguments[arguments.index("--runs") + 1]), stock))
        journal = Journal(tmp_path / "journal", STOCK if stock else CONDITIONS)
        for seed in set(range(1, count + 1)) - set(journal.runs()):
            journal.append(run(seed, 2, 2, 1))
        return OK

    monkeypatch.setattr(distribution, "bench", bench)
    found = processes(tmp_path / "journal", 14)
    assert asked == [(10, False), (10, True), (14, False), (14, True)]
    assert sorted((one.policy, one.number) for one in found) == [
        (policy, n) for policy in (OFF, OURS) for n in range(1, 15)
    ]


def test_missing_processes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the bench did not do what it was asked for, the error says which runs are missing."""
    Journal(tmp_path / "journal", CONDITIONS).append(run(1, 2, 2, 1))
    monkeypatch.setattr(distribution, "bench", lambda _: OK)
    with pytest.raises(JournalError, match="no runs of seeds 1, 2"):
        processes(tmp_path / "journal", 2)


def test_an_interrupted_bench_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the bench is not taken for the end of it."""
    monkeypatch.setattr(distribution, "bench", lambda _: INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):
        processes(tmp_path / "journal", 2)


# -- Pods --


class FakeCluster:
    """Two stores of three replicas on three nodes; whoever is scaled up is ready at once, and `leaders` lead."""

    def __init__(self, *leaders: dict[str, str]) -> None:
        self.asked: list[str] = []
        self._leaders = list(leaders)
        self._running = True
        self._locks = True

    def kubectl(self, *arguments: str) -> str:
        """Do what these tests need of it."""
        assert arguments[:2] == ("--namespace", "here")
        match arguments[2:]:
            case ("scale", "statefulset", "a", "b", replicas):
                self._running = replicas != "--replicas=0"
                if self._running:
                    assert not self._locks, "lock objects of the election before are still there"
                    self._locks = True
            case ("delete", "endpoints", "a-leader", "b-leader", "--ignore-not-found"):
                assert not self._running, "pods still run when the lock objects are deleted"
                self._locks = False
            case ("patch", "statefulset", _, "--type=strategic", _):
                assert not self._running, "a template is changed under pods that run"
            case ("get", "pods", *_):
                return json.dumps({"items": self._pods() if self._running else []})
            case ("get", "statefulset", *_):
                return json.dumps({"items": [{"status": {"readyReplicas": 3}}] * 2})
            case ("get", "endpoints", *_):
                lead = self._leaders.pop(0) if len(self._leaders) > 1 else self._leaders[0]
                return json.dumps({"items": [lock(name, holder) for name, holder in lead.items()]})
            case other:
                raise AssertionError(other)
        self.asked.append(" ".join(arguments[2:]))
        return ""

    def _pods(self) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {"name": f"{store}-{number}", "ownerReferences": [{"name": store}]},
                "spec": {"nodeName": f"n{number + 1}"},
                "status": {
                    "containerStatuses": [{"state": {"running": {"startedAt": f"2026-01-02T03:04:0{number}Z"}}}]
                    if store == "a"
                    else [{"state": {"waiting": {}}}]
                },
            }
            for store in "abc"  # one more than there are stores
            for number in range(3)
        ]


def lock(name: str, holder: str) -> dict[str, Any]:
    """Return a lock object; a holder with a question mark is still checking."""
    renewed = "2026-01-02T03:04:05Z"
    record = {"holderIdentity": holder.rstrip("?"), "renewTime": renewed}
    claim = {"holder": holder.rstrip("?"), "renewed": renewed, "state": "checking" if "?" in holder else "leading"}
    annotations = {RECORD_ANNOTATION: json.dumps(record), CLAIM_ANNOTATION: json.dumps(claim)}
    return {"metadata": {"name": name, "annotations": annotations}}


def fake(*leaders: dict[str, str]) -> tuple[FakeCluster, Stores]:
    """Return a cluster whose leaders are these, one look after the other."""
    cluster = FakeCluster(*leaders)
    locks = {"a": "a-leader", "b": "b-leader"}
    return cluster, Stores(cluster=cast("Cluster", cluster), namespace="here", locks=locks, replicas=3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an election a matter of moments."""
    monkeypatch.setattr(distribution, "until", partial(until, every=0.001))
    monkeypatch.setattr(distribution, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(distribution, "SETTLED_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_an_election_in_pods_begins_from_nothing() -> None:
    """All pods go, then the policy is set and the locks are deleted, then all pods come; the last leaders count."""
    checking = {"a-leader": "a-0", "b-leader": "b-0?"}
    cluster, stores = fake({}, checking, {"a-leader": "a-0", "b-leader": "b-0"}, {"a-leader": "a-0", "b-leader": "b-2"})
    found = election(stores, OFF, 7)
    assert [asked.split()[0] for asked in cluster.asked] == ["scale", "patch", "patch", "delete", "scale"]
    assert '"name": "ELECTION_BALANCE", "value": "off"' in cluster.asked[1]
    assert (found.number, found.part, found.policy, found.leaders) == (7, PODS, OFF, [1, 1, 0])
    assert found.settled > 0
    assert found.leading == {"a": "a-0", "b": "b-2"}
    assert found.started == {"a-0": 0.0, "a-1": 1.0, "a-2": 2.0}
    assert found.candidates == {"a": {"n1": 1, "n2": 1, "n3": 1}, "b": {"n1": 1, "n2": 1, "n3": 1}}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lead", [{"a-leader": "a-0"}, {"a-leader": "a-0", "b-leader": "b-0?"}])
def test_an_election_without_a_leader_is_an_error(lead: dict[str, str]) -> None:
    """A store that nobody leads in time, or only somebody who still checks, is no result."""
    _, stores = fake(lead)
    with pytest.raises(StateError, match=r"not within 0\.2 s: every store is led"):
        election(stores, OFF, 1)


@pytest.mark.usefixtures("quick")
def test_a_leader_that_is_no_pod_is_an_error() -> None:
    """What an earlier pod left on the lock object is not counted as a leader."""
    _, stores = fake({"a-leader": "a-0", "b-leader": "b-9"})
    with pytest.raises(StateError, match="b-9 lead and are no pods"):
        election(stores, OFF, 1)


@pytest.mark.usefixtures("quick")
def test_elections_in_pods_take_turns_and_go_on() -> None:
    """The policies take turns, each first in every other trial; what was held before is kept and not held again."""
    _, stores = fake({"a-leader": "a-0", "b-leader": "b-1"})
    before = Election(
        number=1, part=PODS, policy=OURS, leaders=[2, 2, 1], settled=0.0, candidates={}, started={}, leading={}
    )
    told: list[Election] = []
    found = pods(stores, 2, done=[before, replace(before, part=PROCESSES, policy=OFF)], each=told.append)
    assert [(one.policy, one.number) for one in told] == [(OFF, 1), (OURS, 2), (OFF, 2)]
    assert found == [before, *told]
