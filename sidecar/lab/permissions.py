"""Which permission is for what, and who has it: asked of the API server, which decides.

Of one's own permissions everybody may ask; of somebody else's, who may create SubjectAccessReviews.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.kube import ApiError, ForbiddenError, NotFoundError
from sidecar.lab.findings import FINE, PROBLEM, WARNING, Finding
from sidecar.lab.lockkinds import API_GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.kube import KubeClient

AREA = "permissions"

ELECTIONS_ASKED = 20
"""Elections whose lock objects are asked for by name, where a Role names them."""

_REVIEWS = "/apis/authorization.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose permissions."""

    user: str
    groups: tuple[str, ...] = ()
    asks: bool = False
    """Whether this is whoever asks, which everybody may."""

    def __str__(self) -> str:
        return self.user or "the credentials in use"


async def asker(kube: KubeClient) -> Subject:
    """Return whose credentials are in use; older API servers do not tell the name."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    try:
        status = (await kube.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", body)).get("status")
    except ApiError:
        return Subject(user="", asks=True)
    info = status.get("userInfo") if isinstance(status, dict) else None
    name = info.get("username") if isinstance(info, dict) else None
    return Subject(user=name if isinstance(name, str) else "", asks=True)


def service_account(name: str, namespace: str) -> Subject:
    """Return a service account as the API server knows it."""
    return Subject(
        user=f"system:serviceaccount:{namespace}:{name}",
        groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A permission, and what is missing without it."""

    verb: str
    resource: str
    group: str = ""
    level: str = WARNING
    without: str
    is_named: bool = False
    """Whether a Role may narrow it to the lock object's name."""
    is_cluster_wide: bool = False
    manifest: str
    """The folder of k8s/rbac that allows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What the candidates want to do."""

    locks: tuple[str, ...] = ("endpoints",)
    balance: bool = True
    cluster: bool = False
    pod_label: bool = False


def needs(wants: Wants) -> list[Need]:
    """Return what that takes, and what else there is to be had."""
    found: list[Need] = []
    for resource in wants.locks:
        group = API_GROUPS[resource]
        leases = "leases" if resource == "leases" else ""
        spread = leases or ("cluster" if wants.cluster else "recommended")
        found += [
            Need(
                verb=verb,
                resource=resource,
                group=group,
                level=PROBLEM,
                is_named=verb != "create",
                without="it cannot take part in the election",
                manifest=leases or "stock",
            )
            for verb in ("get", "create", "update")
        ]
        found.append(
            Need(
                verb="watch",
                resource=resource,
                group=group,
                is_named=True,
                without="followers poll, changes are seen late, and nobody hands over",
                manifest=leases or "recommended",
            )
        )
        if wants.balance:
            found.append(
                Need(
                    verb="list",
                    resource=resource,
                    group=group,
                    is_cluster_wide=wants.cluster,
                    without="nodes do not matter: leaders are not spread over them",
                    manifest=spread,
                )
            )
            found.append(
                Need(
                    verb="patch",
                    resource=resource,
                    group=group,
                    is_named=not wants.cluster,
                    is_cluster_wide=wants.cluster,
                    without="registering takes two requests, and settled leaders are not asked to look again",
                    manifest=spread,
                )
            )
    found.append(
        Need(
            verb="get",
            resource="pods",
            level=FINE,
            is_cluster_wide=wants.cluster,
            without="the nodes of the stock image's leaders are not known (optional)",
            manifest="cluster" if wants.cluster else "recommended",
        )
    )
    label = "no pod is labelled as the leader's"
    found += [
        Need(
            verb=verb,
            resource="pods",
            level=PROBLEM if wants.pod_label else FINE,
            without=f"{label}, though ELECTION_POD_LABEL asks for it" if wants.pod_label else f"{label} (optional)",
            manifest="optional",
        )
        for verb in ("patch", "list")
    ]
    found.append(
        Need(
            verb="create",
            resource="events",
            level=FINE,
            without="no Kubernetes Events are written (optional)",
            manifest="optional",
        )
    )
    found.append(
        Need(
            verb="watch",
            resource="nodes",
            level=FINE,
            is_cluster_wide=True,
            without="leaders stay on a node that is cordoned (optional)",
            manifest="optional",
        )
    )
    return found


async def check(
    kube: KubeClient, subject: Subject, wants: Wants, *, namespace: str, elections: Sequence[str]
) -> list[Finding]:
    """Return what the subject may do and may not. Raises `ApiError`.

    `elections` are asked for by name where the permission is not there for all: Roles may name lock objects.
    """
    where = str(subject)
    allowed: list[Need] = []
    found: list[Finding] = []
    try:
        for need in needs(wants):
            scope = "" if need.is_cluster_wide else namespace
            refused = await _refused(kube, subject, need, namespace=scope, elections=elections)
            if refused is None:
                allowed.append(need)
                continue
            place = f"in namespace {scope}" if scope else "in all namespaces"
            of = f" named {refused}" if refused else ""
            role = "Role" if scope else "ClusterRole"
            remedy = f"a {role} with {need.verb} on {_qualified(need)} allows it: k8s/rbac/{need.manifest}"
            found.append(
                Finding(
                    level=need.level,
                    area=AREA,
                    where=where,
                    what=f"may not {need.verb} {need.resource}{of} {place}: {need.without}",
                    remedy="" if need.level == FINE else remedy,
                )
            )
    except (ForbiddenError, NotFoundError) as error:
        remedy = "run it as somebody who may create subjectaccessreviews, or with the pod's own credentials"
        remedy = "" if subject.asks else remedy
        return [Finding(level=WARNING, area=AREA, where=where, what=f"not checked: {error}", remedy=remedy)]
    return [*_summaries(where, allowed), *found]


def _qualified(need: Need) -> str:
    return f"{need.resource} (apiGroup {need.group})" if need.group else need.resource


def _summaries(where: str, allowed: Iterable[Need]) -> list[Finding]:
    verbs: dict[str, list[str]] = {}
    for need in allowed:
        verbs.setdefault(need.resource, []).append(need.verb)
    return [
        Finding(level=FINE, area=AREA, where=where, what=f"may {', '.join(may)} {resource}")
        for resource, may in verbs.items()
    ]


async def _refused(
    kube: KubeClient, subject: Subject, need: Need, *, namespace: str, elections: Sequence[str]
) -> str | None:
    """Return `None` for what is allowed; else of which lock object it is not, `""` where it is of none."""
    if await _may(kube, subject, need, namespace=namespace, name=""):
        return None
    if not need.is_named or not elections:
        return ""
    for index, name in enumerate(elections[:ELECTIONS_ASKED]):
        if not await _may(kube, subject, need, namespace=namespace, name=name):
            return name if index else ""
    return None


async def _may(kube: KubeClient, subject: Subject, need: Need, *, namespace: str, name: str) -> bool:
    attributes = {
        "namespace": namespace,
        "verb": need.verb,
        "group": need.group,
        "resource": need.resource,
        "name": name,
    }
    spec: dict[str, object] = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
    kind = "SelfSubjectAccessReview"
    if not subject.asks:
        kind = "SubjectAccessReview"
        spec |= {"user": subject.user, "groups": list(subject.groups)}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {}, "spec": spec}
    answer = await kube.create(f"{_REVIEWS}/{kind.lower()}s", body)
    status = answer.get("status")
    if not isinstance(status, dict):
        raise ApiError(f"POST {_REVIEWS}/{kind.lower()}s: the answer has no status")
    return status.get("allowed") is True
