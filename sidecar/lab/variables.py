"""Whether candidates are called as they should be: each by itself, and those of one election beside each other.

Pure: from what `sidecar.lab.podspec` read to findings. What the sidecar itself would refuse at its start is refused
here in the same words.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar import duration, settings
from sidecar.lab.findings import FINE, PROBLEM, WARNING, Finding
from sidecar.lab.podspec import ALL_OF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.lab.podspec import Call
    from sidecar.settings import Settings

AREA = "variables"

LONG_LEASE = 3600.0
"""Seconds from which on a lease is hardly meant: for so long nobody leads after a crash."""

DOWNWARD = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}
"""What each of these variables is to be set to, from the downward API."""

_VARIABLES = {option.variable for option in settings.TABLE if option.variable}

_NAMED = 4
"""Pods that a finding names."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A container that would start, and what it would be told."""

    call: Call
    settings: Settings

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name of its election's lock object."""
        return self.settings.namespace, self.settings.election


def judged(call: Call) -> tuple[Candidate | None, list[Finding]]:
    """Return what one container would be told, `None` when that is not known or refused, and what there is to say."""

    def finding(level: str, what: str, remedy: str = "") -> Finding:
        return Finding(level=level, area=AREA, where=call.where, what=what, remedy=remedy)

    unknown = [one for one in call.unknown if not _is_of_others(one)]
    found = [finding(WARNING, f"{one}: not checked") for one in unknown]
    if call.is_opaque:
        return None, [*found, finding(WARNING, "its command is none of ours: flags and variables are not checked")]
    try:
        told = settings.load(call.argv, call.environ, call.host_name)
    except settings.HelpRequested:
        return None, [*found, finding(PROBLEM, "is called with --help: it prints that and ends", "remove the flag")]
    except settings.UsageError as error:
        level = WARNING if unknown else PROBLEM
        return None, [*found, finding(level, f"does not start: {error}", "correct it in the pod's template")]
    candidate = Candidate(call, told)
    found += [finding(WARNING, text, "correct or remove it") for text in told.warnings]
    found += [finding(level, what, remedy) for level, what, remedy in (*_who(candidate), *_how(candidate))]
    if not found:
        found = [finding(FINE, f"candidate {told.identity} of {told.namespace}/{told.election}: all is set")]
    return candidate, found


def _is_of_others(unknown: str) -> bool:
    """Tell whether it is a variable that no candidate reads."""
    return unknown.partition(" ")[0] not in {"argument", *_VARIABLES} and not unknown.startswith(ALL_OF)


def _who(candidate: Candidate) -> Iterable[tuple[str, str, str]]:
    """Say what is wrong with what it is told of itself: level, what, and what to do."""
    call, told = candidate.call, candidate.settings
    unknown = {one.partition(" ")[0] for one in call.unknown}
    if any(one.startswith(ALL_OF) for one in call.unknown):
        unknown |= set(DOWNWARD)
    for name, is_, what in (
        ("POD_NAME", call.pod, "the pod is called"),
        ("POD_UID", call.pod_uid, "the pod's UID is"),
        ("NODE_NAME", call.node, "the pod is on"),
    ):
        value = call.environ.get(name, "")
        if value and is_ and value != is_:
            yield PROBLEM, f"{name} is {value!r}, and {what} {is_!r}", _from_downward(name)
    if not told.node_name and told.balance and "NODE_NAME" not in unknown:
        yield WARNING, "NODE_NAME is not set: nodes do not matter to this candidate", _from_downward("NODE_NAME")
    if not told.pod_uid and "POD_UID" not in unknown:
        yield (
            WARNING,
            "POD_UID is not set: restarted, it waits for its own lease to run out before it leads again",
            _from_downward("POD_UID"),
        )
    if not told.pod_name and told.identity == call.host_name and call.host_name != call.pod:
        what = f"POD_NAME is not set, and its identity is its host name, {told.identity!r}"
        yield WARNING, what, _from_downward("POD_NAME")
    if told.pod_label is not None:
        yield from _what_the_label_needs(candidate, unknown)


def _what_the_label_needs(candidate: Candidate, unknown: set[str]) -> Iterable[tuple[str, str, str]]:
    call, told = candidate.call, candidate.settings
    for name, value in (("POD_NAME", told.pod_name), ("POD_UID", told.pod_uid)):
        if not value and name not in unknown:
            yield PROBLEM, f"{name} is not set, and ELECTION_POD_LABEL needs it", _from_downward(name)
    if told.pod_namespace != call.namespace and "POD_NAMESPACE" not in unknown:
        what = f"the pod would be labelled in namespace {told.pod_namespace}, and is in {call.namespace}"
        yield PROBLEM, what, "set POD_NAMESPACE from metadata.namespace"


def _how(candidate: Candidate) -> Iterable[tuple[str, str, str]]:
    """Say what is hardly meant so."""
    call, told = candidate.call, candidate.settings
    if told.namespace != call.namespace:
        yield (
            WARNING,
            f"its election is in namespace {told.namespace}, and the pod in {call.namespace}",
            "set ELECTION_NAMESPACE from metadata.namespace, unless that is meant",
        )
    if told.ttl >= LONG_LEASE:
        lease = duration.render(told.ttl)
        yield WARNING, f"a lease of {lease}: after a crash nobody leads for so long", "shorten ELECTION_TTL or --ttl"
    if told.release_delay >= call.grace_seconds:
        delay, grace = duration.render(told.release_delay), call.grace_seconds
        what = f"ELECTION_RELEASE_DELAY is {delay}, and the pod is killed after {grace} s: it never releases"
        yield WARNING, what, "lengthen terminationGracePeriodSeconds"


def _from_downward(name: str) -> str:
    return f"set it from the downward API, {DOWNWARD[name]}"


def compared(candidates: Sequence[Candidate]) -> list[Finding]:
    """Say where candidates of one election do not fit together."""
    elections: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for one in candidates:
        elections[one.key].append(one)
    found: list[Finding] = []
    for (namespace, election), members in sorted(elections.items()):
        where = f"{namespace}/{election}"
        for identity, alike in _by(members, lambda one: one.settings.identity).items():
            if len(alike) > 1:
                found.append(
                    Finding(
                        level=PROBLEM,
                        area=AREA,
                        where=where,
                        what=f"{len(alike)} candidates are called {identity!r}: {_pods(alike)}",
                        remedy="each needs an identity of its own: --id=$(POD_NAME), POD_NAME from metadata.name",
                    )
                )
        found += [
            Finding(level=level, area=AREA, where=where, what=what, remedy=remedy)
            for level, what, remedy in _differing(members)
        ]
    return found


def _differing(members: Sequence[Candidate]) -> Iterable[tuple[str, str, str]]:
    locks = _by(members, lambda one: one.settings.lock)
    if {"endpoints", "leases"} <= set(locks):
        yield (
            PROBLEM,
            f"lock objects of kinds that do not know of each other, so that two may lead: {_spread(locks)}",
            "go through ELECTION_LOCK=endpointsleases everywhere before the last step",
        )
    elif len(locks) > 1:
        yield WARNING, f"kinds of lock objects differ: {_spread(locks)}", "finish the migration"
    for what, differing in (
        ("leases (--ttl, ELECTION_TTL)", _by(members, lambda one: duration.render(one.settings.ttl))),
        ("groups (ELECTION_GROUP)", _by(members, lambda one: one.settings.group)),
        ("weights (ELECTION_WEIGHT)", _by(members, lambda one: str(one.settings.weight))),
        ("scopes (ELECTION_BALANCE_SCOPE)", _by(members, lambda one: one.settings.balance_scope)),
        ("balancing (ELECTION_BALANCE)", _by(members, lambda one: "auto" if one.settings.balance else "off")),
    ):
        if len(differing) > 1:
            yield WARNING, f"{what} differ: {_spread(differing)}", "give all candidates of an election the same"


def _by(members: Iterable[Candidate], key: Callable[[Candidate], str]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = defaultdict(list)
    for one in members:
        found[key(one)].append(one)
    return dict(sorted(found.items()))


def _spread(values: dict[str, list[Candidate]]) -> str:
    return ", ".join(f"{value} ({_pods(members)})" for value, members in values.items())


def _pods(members: Sequence[Candidate]) -> str:
    names = [one.call.pod for one in members]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
