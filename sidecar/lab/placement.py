"""Where the pods of several applications run: on the nodes that the scheduler would pick."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica of an application: a candidate of the election of that name."""

    election: str
    identity: str
    node: str


def spread(applications: int, replicas: int, nodes: Sequence[str], random: Random) -> list[Pod]:
    """Place pods one after the other, application by application.

    Each goes to a node that has the fewest pods of its application; among these, of all; among these, to any
    (kube-scheduler's default constraints: PodTopologySpread, then NodeResourcesFit).
    """
    placed: Counter[str] = Counter()
    pods = []
    for application in range(1, applications + 1):
        siblings: Counter[str] = Counter()
        for replica in range(replicas):
            node = min(nodes, key=lambda node: (siblings[node], placed[node], random.random()))
            siblings[node] += 1
            placed[node] += 1
            pods.append(Pod(f"app-{application}", f"app-{application}-{replica}", node))
    return pods


def candidates_per_node(pods: Iterable[Pod]) -> dict[str, Counter[str]]:
    """Return, for every election, on which nodes it has how many candidates."""
    found: dict[str, Counter[str]] = {}
    for pod in pods:
        found.setdefault(pod.election, Counter())[pod.node] += 1
    return found
