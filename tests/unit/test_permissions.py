"""The permissions that `electionctl check` asks for are those that the manifests in k8s/rbac grant, each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sidecar.lab.findings import FINE, PROBLEM, WARNING
from sidecar.lab.permissions import Need, Wants, needs

RBAC = Path(__file__).parents[2] / "k8s" / "rbac"
BOTH = ("endpoints", "leases")

Permission = tuple[str, str, str, bool]
"""API group, resource, verb, and whether it is asked for in all namespaces."""


def granted(folder: str) -> set[Permission]:
    """Return what a folder's manifests grant."""
    documents = yaml.safe_load_all((RBAC / folder / "rbac.yaml").read_text(encoding="utf-8"))
    return {
        (group, resource, verb, document["kind"] == "ClusterRole")
        for document in documents
        for one in document.get("rules", [])
        for group in one["apiGroups"]
        for resource in one["resources"]
        for verb in one["verbs"]
    }


def permission(need: Need) -> Permission:
    """Return what has to be granted."""
    return need.group, need.resource, need.verb, need.is_cluster_wide


@pytest.mark.parametrize(
    ("wants", "folders"),
    [
        (Wants(), ("recommended", "optional")),
        (Wants(locks=("leases",)), ("leases", "optional")),
        (Wants(locks=BOTH), ("recommended", "leases", "optional")),
        (Wants(cluster=True), ("cluster", "optional")),
        (Wants(balance=False), ("recommended", "optional")),
    ],
    ids=str,
)
def test_what_is_asked_for_is_granted(wants: Wants, folders: tuple[str, ...]) -> None:
    """Every permission is granted by the manifest that is named for it, and with balancing none of these is left."""
    asked = needs(wants)
    for need in asked:
        assert permission(need) in granted(need.manifest), need
    if wants.balance:
        everything = set().union(*map(granted, folders))
        if wants.locks == ("leases",):
            everything.add(("", "pods", "get", False))  # which k8s/rbac/leases leaves to the step below it
        assert everything == {permission(need) for need in asked}


def test_what_elects_is_required() -> None:
    """Get, create and update on the lock objects are, as k8s/rbac/stock has them; what spreads leaders is advised."""
    levels: dict[str, set[Permission]] = {PROBLEM: set(), WARNING: set(), FINE: set()}
    for need in needs(Wants()):
        levels[need.level].add(permission(need))
    assert levels[PROBLEM] == granted("stock")
    assert {verb for _, resource, verb, _ in levels[WARNING] if resource == "endpoints"} == {"watch", "list", "patch"}
    assert levels[FINE] == granted("optional") | {("", "pods", "get", False)}


def test_what_is_asked_for_is_needed() -> None:
    """What a candidate was told to do it needs: a pod's label takes two more permissions."""
    problems = {permission(need) for need in needs(Wants(pod_label=True)) if need.level == PROBLEM}
    assert problems - granted("stock") == {("", "pods", "patch", False), ("", "pods", "list", False)}
