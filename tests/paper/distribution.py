"""The first experiment: on which nodes the leaders end up, by either policy, as processes and in pods.

Processes: the cold starts of `make bench`. Candidates are told nodes that do not exist, and elect on a real API server.
Pods: stores that were deployed before. One election begins without any pod and without any lock object, and ends when
all replicas are ready and no leader has changed for a while.

Beside them, what chance alone gives, enumerated: nothing of that is drawn at random.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sidecar
from sidecar.lab.chance import chance
from sidecar.lab.placement import candidates_per_node, spread
from tests.bench.__main__ import INTERRUPTED
from tests.bench.__main__ import main as bench
from tests.bench.journal import fingerprint
from tests.bench.outcome import Run
from tests.cluster.manifests import SIDECAR
from tests.cluster.terms import version_of
from tests.paper.data import NODES, OFF, OURS, PODS, PROCESSES, REPLICAS, STORES, Election
from tests.paper.waiting import StateError, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.testbed.cluster import Cluster

VARIABLES: Mapping[str, Mapping[str, str]] = {OURS: {}, OFF: {"ELECTION_BALANCE": "off"}}
"""What the sidecar is told, by policy, in the bench."""

POLICY_VARIABLE = {OURS: "auto", OFF: "off"}
"""The values of `ELECTION_BALANCE`, by policy, in pods."""

TURN = 10
"""Runs of one policy until it is the other's turn: an API server is started for each turn."""

GONE_SECONDS = 180.0
"""Within which all pods have to be gone: their grace period, many times, for a machine that is busy."""
READY_SECONDS = 600.0
"""Within which all replicas have to be ready: 25 pods start at once on what the nodes are allowed."""
QUIET_SECONDS = 8.0
"""Without a change of a leader after which an election is over: two looks of every leader."""
SETTLED_SECONDS = 90.0
"""Within which it has to be over once all replicas are ready."""


class JournalError(Exception):
    """The journal of the elections of processes cannot be read, or lacks some; the message is one line."""


# -- What chance gives --


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What elections by chance come to, exactly."""

    leaders: tuple[float, ...]
    """Leaders per node, the most loaded node first, the mean of all that can come out."""
    balanced: float
    """The share of what can come out that is as even as can be."""


def evenly(stores: int = STORES, nodes: int = NODES) -> Expected:
    """Return what comes out where every node is equally likely for every leader."""
    names = [f"n{number}" for number in range(nodes)]
    found = chance([dict.fromkeys(names, 1)] * stores, names)
    return Expected(leaders=found.mean, balanced=found.balanced)


def placed(elections: Sequence[Election]) -> Expected:
    """Return what comes out where every replica is equally likely to lead, placed as in these elections, at least one.

    Each election counts as much as any other.
    """
    found: Counter[tuple[tuple[tuple[str, int], ...], ...]] = Counter(
        tuple(tuple(sorted(candidates.items())) for candidates in election.candidates.values())
        for election in elections
    )
    leaders = [0.0] * NODES
    balanced = 0.0
    for placement, count in found.items():
        nodes = sorted({node for candidates in placement for node, _ in candidates})
        outcome = chance([dict(candidates) for candidates in placement], nodes)
        share = count / len(elections)
        balanced += share * outcome.balanced
        for rank, load in enumerate(outcome.mean):
            leaders[rank] += share * load
    return Expected(leaders=tuple(leaders), balanced=balanced)


# -- Processes --


def processes(journal: Path, runs: int) -> list[Election]:
    """Return so many elections of each policy as processes; carry out those that the bench's journal does not have.

    The journal is added to after every run, so that a series that was interrupted goes on. Raises JournalError,
    and KeyboardInterrupt.
    """
    for last in [*range(TURN, runs, TURN), runs]:
        # Both in turn, so that what else the machine does hits both alike.
        _bench(journal, last, [])
        _bench(journal, last, ["--compare", "off"])
    found = read(journal)
    complete = {(one.policy, one.number) for one in found}
    missing = [number for number in range(1, runs + 1) if not {(OURS, number), (OFF, number)} <= complete]
    if missing:
        raise JournalError(
            f"{journal}: no runs of seeds {', '.join(map(str, missing))}; do it again, or see what the bench said"
        )
    return [one for one in found if one.number <= runs]


def read(journal: Path) -> list[Election]:
    """Return the elections of the present program in a journal of the bench, in the order in which they were held.

    Of a seed that was repeated, the last one. Raises JournalError.
    """
    program = fingerprint(Path(sidecar.__file__).parent)
    wanted = {"program": program, "forked": True, "shape": f"{STORES}x{REPLICAS}x{NODES}", "starts": "1"}
    found: dict[tuple[str, int], Election] = {}
    try:
        for line in journal.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            conditions, run = entry["conditions"], Run(**entry["run"])
            policy = next((name for name, variables in VARIABLES.items() if variables == conditions["variables"]), None)
            if policy and not run.problem and wanted.items() <= conditions.items():
                found.pop((policy, run.seed), None)
                found[policy, run.seed] = _election(policy, run)
    except OSError as error:
        raise JournalError(f"{journal}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{journal}: not a journal of the bench ({error!r})") from error
    return list(found.values())


def _bench(journal: Path, runs: int, options: Sequence[str]) -> None:
    shape = f"{STORES}x{REPLICAS}x{NODES}"
    arguments = ["--balance", shape, "--runs", str(runs), "--out", str(journal), *options]
    with redirect_stdout(io.StringIO()):
        status = bench(arguments)
    if status == INTERRUPTED:
        raise KeyboardInterrupt


def _election(policy: str, run: Run) -> Election:
    # As the bench places them, from the same seed.
    nodes = [f"node-{number}" for number in range(1, NODES + 1)]
    pods = spread(STORES, REPLICAS, nodes, random.Random(run.seed))  # noqa: S311 - protects nothing
    return Election(
        number=run.seed,
        part=PROCESSES,
        policy=policy,
        leaders=run.leaders,
        settled=run.settled,
        candidates={name: dict(sorted(found.items())) for name, found in candidates_per_node(pods).items()},
        started={},
        leading={},
    )


# -- Pods --


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Stores that are deployed in a namespace: StatefulSets, and the lock object that each one's sidecars elect on."""

    cluster: Cluster
    namespace: str
    locks: Mapping[str, str]
    """The name of the lock object, an Endpoints object, by that of the StatefulSet."""
    replicas: int = REPLICAS

    def kubectl(self, *arguments: str) -> str:
        """Run a kubectl command in the namespace; return what it prints. Raises ClusterError."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments)

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the pods of the stores by name. Raises ClusterError."""
        listed = json.loads(self.kubectl("get", "pods", "--output=json"))["items"]
        return {pod["metadata"]["name"]: pod for pod in listed if _owner(pod) in self.locks}

    def lead(self) -> dict[str, str]:
        """Return which pod leads, by StatefulSet; none is named that is still checking. Raises ClusterError."""
        found = json.loads(self.kubectl("get", "endpoints", "--output=json"))["items"]
        versions = {body["metadata"]["name"]: version_of(body, at=0.0) for body in found}
        named = {name: versions.get(lock) for name, lock in self.locks.items()}
        return {name: one.holder for name, one in named.items() if one is not None and one.leading}


def pods(
    stores: Stores,
    trials: int,
    *,
    done: Sequence[Election] = (),
    each: Callable[[Election], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Election]:
    """Return so many elections of each policy in pods, the policies in turn; those in `done` are not held again.

    `each` is told of every election when it is over, so that it can be kept. Raises StateError, ClusterError.
    """
    found = [one for one in done if one.part == PODS]
    held = {(one.policy, one.number) for one in found}
    for number in range(1, trials + 1):
        # The one that comes first in a trial comes second in the next.
        for policy in (OFF, OURS) if number % 2 else (OURS, OFF):
            if (policy, number) not in held:
                progress(f"election {number} of {trials} in pods, {policy}")
                found.append(one := election(stores, policy, number))
                each(one)
    return found


def election(stores: Stores, policy: str, number: int) -> Election:
    """Hold one election of every store at once, from nothing. Raises StateError, ClusterError."""
    empty(stores)
    set_policy(stores, policy)
    stores.kubectl("delete", "endpoints", *stores.locks.values(), "--ignore-not-found")
    stores.kubectl("scale", "statefulset", *stores.locks, f"--replicas={stores.replicas}")
    until(lambda: _are_ready(stores), READY_SECONDS, lambda: "all replicas are ready")
    began = time.monotonic()
    changed, lead = _settled(stores, began)
    present = stores.pods()
    node = {name: str(pod["spec"].get("nodeName")) for name, pod in present.items()}
    if strangers := sorted(set(lead.values()) - set(node)):
        raise StateError(f"namespace {stores.namespace}: {', '.join(strangers)} lead and are no pods")
    leaders = Counter(node[leader] for leader in lead.values())
    candidates = {name: Counter[str]() for name in sorted(stores.locks)}
    for name, pod in present.items():
        candidates[_owner(pod)][node[name]] += 1
    return Election(
        number=number,
        part=PODS,
        policy=policy,
        leaders=sorted((leaders[name] for name in set(node.values())), reverse=True),
        settled=max(0.0, changed - began),
        candidates={name: dict(sorted(found.items())) for name, found in candidates.items()},
        started=_started(present),
        leading=dict(sorted(lead.items())),
    )


def empty(stores: Stores) -> None:
    """End all pods of the stores and wait until they are gone; their volumes stay. Raises StateError, ClusterError."""
    # A pod that is deleted after the template has changed may come back from the old one. Without replicas there is
    # nothing to be rolled, and all come back at once.
    stores.kubectl("scale", "statefulset", *stores.locks, "--replicas=0")
    until(lambda: not stores.pods(), GONE_SECONDS, lambda: "all pods are gone")


def set_policy(stores: Stores, policy: str) -> None:
    """Set the policy of the stores' sidecars, for pods that are made from now on. Raises ClusterError."""
    variables = [{"name": "ELECTION_BALANCE", "value": POLICY_VARIABLE[policy]}]
    patch = {"spec": {"template": {"spec": {"initContainers": [{"name": SIDECAR, "env": variables}]}}}}
    for name in stores.locks:
        stores.kubectl("patch", "statefulset", name, "--type=strategic", f"--patch={json.dumps(patch)}")


def _are_ready(stores: Stores) -> bool:
    listed = json.loads(stores.kubectl("get", "statefulset", *stores.locks, "--output=json"))["items"]
    return all(one["status"].get("readyReplicas", 0) == stores.replicas for one in listed)


def _settled(stores: Stores, began: float) -> tuple[float, dict[str, str]]:
    """Wait until every store is led and no leader changes; return when one changed last, and which pods lead."""
    changed, lead = began, stores.lead()

    def is_over() -> bool:
        nonlocal changed, lead
        if (now := stores.lead()) != lead:
            changed, lead = time.monotonic(), now
        return len(lead) == len(stores.locks) and time.monotonic() >= changed + QUIET_SECONDS

    until(is_over, SETTLED_SECONDS, lambda: f"every store is led, and for {QUIET_SECONDS:g} s by the same")
    return changed, lead


def _started(present: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return when the last container of each pod was started, in seconds since the first pod's, of those that run."""
    found = {}
    for name, pod in sorted(present.items()):
        running = [one.get("state", {}).get("running") for one in pod.get("status", {}).get("containerStatuses", ())]
        if running and all(running):
            found[name] = max(datetime.fromisoformat(one["startedAt"]).timestamp() for one in running)
    return {name: at - min(found.values()) for name, at in found.items()}


def _owner(pod: Mapping[str, Any]) -> str:
    return next((str(one["name"]) for one in pod["metadata"].get("ownerReferences", ())), "")
