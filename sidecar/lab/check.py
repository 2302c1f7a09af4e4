"""Whether permissions, variables, clocks and lock objects of elections are as they should be: read, never written.

What may not be read is not checked, and said to be so. Candidates are found by their pods, and where pods may not be
listed, by who is registered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sidecar import settings
from sidecar.kube import ApiError, ForbiddenError, NotFoundError
from sidecar.lab import lockstate, permissions, podspec, variables
from sidecar.lab.commandline import CommandError
from sidecar.lab.findings import FINE, WARNING, Finding
from sidecar.lab.lockkinds import API_GROUPS, AUTO, locks_of
from sidecar.lab.standings import standing_of
from sidecar.record import Record
from sidecar.registration import registrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from sidecar.lab.permissions import Subject
    from sidecar.lab.podspec import Call, ConfigMaps
    from sidecar.lab.reach import OperatorClient
    from sidecar.lab.variables import Candidate
    from sidecar.locks import Lock
    from sidecar.record import Snapshot

MOST_PODS = 2000
"""Of a namespace that are looked at."""

MOST_ELECTIONS = 50
"""Of a namespace that are looked at: each takes two requests."""

MOST_ACCOUNTS = 5
"""Whose permissions are asked for: each takes some twenty requests."""

LONGEST_WATCH = 15.0
"""Seconds that it is waited for a record to change, which shows that its holder lives, and what its clock says."""

LOOK_SECONDS = 0.25
"""From one look at a record to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be checked. `election` is `""` for all of the namespace; `pods` are all where none is named."""

    namespace: str
    election: str = ""
    pods: tuple[str, ...] = ()
    lock: str = AUTO
    subject: Subject | None = None
    """Whose permissions; `None` for the candidates' service accounts where they are known, else whoever asks."""


@dataclass(slots=True)
class _Known:
    """What has been found out."""

    calls: list[Call] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    has_all_pods: bool = False

    def say(self, level: str, area: str, where: str, what: str, remedy: str = "") -> None:
        self.findings.append(Finding(level=level, area=area, where=where, what=what, remedy=remedy))


async def check(kube: OperatorClient, question: Question) -> list[Finding]:
    """Return all that was found. Raises `ApiError`, and `CommandError` when the question has no answer."""
    known = _Known()
    namespace = question.namespace
    pods = await _pods(kube, question, known)
    elections = await _elections(kube, question, known)
    found = await _locks(kube, question, elections, known)
    if pods is None:
        pods = await _pods_by_name(kube, namespace, _named(found), known)
    _judge_pods(question, [call for pod in pods for call in podspec.calls_of(pod, await _maps(kube, pod))], known)
    elections = sorted({*elections, *(one.settings.election for one in known.candidates if one.key[0] == namespace)})
    known.findings += await _permissions(kube, question, elections, found, known)
    ahead = await _clock(kube, known)
    for election in elections:
        known.findings += lockstate.judged(await _sight(question, election, found.get(election, {}), ahead, known))
    if not elections:
        known.say(WARNING, lockstate.AREA, namespace, "no elections in this namespace", "name another one with -n")
    return sorted(known.findings, key=lambda one: _AREAS.index(one.area))


_AREAS = (permissions.AREA, variables.AREA, lockstate.CLOCK, lockstate.AREA)


# -- Pods and what they are told ---------------------------------------------------------------------------------------


async def _pods(kube: OperatorClient, question: Question, known: _Known) -> Sequence[Mapping[str, Any]] | None:
    """Return the pods that may be candidates; `None` when they may not be listed."""
    path = f"/api/v1/namespaces/{question.namespace}/pods"
    if question.pods:
        return [await _pod(kube, path, name) for name in question.pods]
    try:
        pods = await kube.all_objects(path, most=MOST_PODS)
    except ForbiddenError:
        return None
    known.has_all_pods = len(pods) < MOST_PODS
    return pods


async def _pod(kube: OperatorClient, path: str, name: str) -> Mapping[str, Any]:
    try:
        return await kube.get(f"{path}/{name}")
    except NotFoundError as error:
        raise CommandError(f"there is no pod {name} ({error})") from error
    except ForbiddenError as error:
        raise CommandError(f"not allowed to get pods; a Role with get on pods allows it ({error})") from error


def _named(found: Mapping[str, Mapping[Lock, Snapshot]]) -> list[str]:
    """Return who is registered or holds a lock, as far as that is the name of a pod."""
    names = []
    for snapshots in found.values():
        for snapshot in snapshots.values():
            names += [one.identity for one in registrations(snapshot.annotations).values()]
            names.append(snapshot.holder)
    return [name for name in dict.fromkeys(names) if _is_name(name)]


def _is_name(text: str) -> bool:
    try:
        settings.ELECTION.parse(text)
    except ValueError:
        return False
    return True


async def _pods_by_name(
    kube: OperatorClient, namespace: str, names: Iterable[str], known: _Known
) -> Sequence[Mapping[str, Any]]:
    pods = []
    try:
        for name in names:
            try:
                pods.append(await kube.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
            except NotFoundError:
                continue
    except ForbiddenError as error:
        known.say(WARNING, variables.AREA, "", f"not checked: not allowed to list or get pods ({error})", _MAY_READ)
        return []
    known.say(
        WARNING, variables.AREA, "", "not allowed to list pods: only registered candidates are checked", _MAY_READ
    )
    return pods


_MAY_READ = "a Role with list and get on pods allows it"


async def _maps(kube: OperatorClient, pod: Mapping[str, Any]) -> ConfigMaps:
    namespace = pod["metadata"].get("namespace", "")
    maps: ConfigMaps = {}
    for name in podspec.config_maps_of(pod):
        try:
            data = (await kube.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")).get("data")
            maps[name] = data if isinstance(data, dict) else {}
        except (ForbiddenError, NotFoundError):
            maps[name] = None
    return maps


def _judge_pods(question: Question, calls: Sequence[Call], known: _Known) -> None:
    for call in calls:
        candidate, findings = variables.judged(call)
        if not question.pods and question.election and not _is_of(question, call, candidate):
            continue
        known.calls.append(call)
        known.findings += findings
        if candidate is not None:
            known.candidates.append(candidate)
    known.findings += variables.compared(known.candidates)
    if not known.calls and known.has_all_pods:
        known.say(WARNING, variables.AREA, question.namespace, "no pod here has a candidate", "name another namespace")


def _is_of(question: Question, call: Call, candidate: Candidate | None) -> bool:
    """Tell whether a container takes part in the election; of one that does not start, whether it was meant to."""
    if candidate is not None:
        return candidate.settings.election == question.election
    return any(question.election in text for text in (*call.argv, *call.environ.values()))


# -- Lock objects ------------------------------------------------------------------------------------------------------


async def _elections(kube: OperatorClient, question: Question, known: _Known) -> list[str]:
    """Return which elections there are, or the one that was named."""
    if question.election:
        return [question.election]
    names: set[str] = set()
    refused: list[ForbiddenError] = []
    kinds = [question.lock] if question.lock != AUTO else list(API_GROUPS)
    for kind in kinds:
        group = API_GROUPS[kind]
        root = f"/apis/{group}/v1" if group else "/api/v1"
        try:
            listed = await kube.list_metadata(f"{root}/namespaces/{question.namespace}/{kind}", label="", cached=False)
        except ForbiddenError as error:
            refused.append(error)
            continue
        # A Lease has its record elsewhere: what shows that it is a candidate's is what candidates write beside it.
        names |= {standing.election for standing in map(standing_of, listed) if standing is not None}
    if len(refused) == len(kinds):
        raise CommandError(f"not allowed to list {' or '.join(kinds)}: name an election ({refused[0]})")
    if len(names) > MOST_ELECTIONS:
        known.say(WARNING, lockstate.AREA, "", f"{MOST_ELECTIONS} of {len(names)} elections are checked", "name one")
    return sorted(names)[:MOST_ELECTIONS]


async def _locks(
    kube: OperatorClient, question: Question, elections: Sequence[str], known: _Known
) -> dict[str, dict[Lock, Snapshot]]:
    """Return the lock objects of each election."""
    found: dict[str, dict[Lock, Snapshot]] = {}
    denied: dict[str, str] = {}
    for election in elections:
        for lock in locks_of(kube, question.lock, namespace=question.namespace, election=election):
            try:
                snapshot = await lock.fetch()
            except ForbiddenError as error:
                denied[lock.resource] = str(error)
            else:
                if snapshot is not None:
                    found.setdefault(election, {})[lock] = snapshot
    for resource, why in denied.items():
        known.say(
            WARNING,
            lockstate.AREA,
            "",
            f"not allowed to get {resource}: those lock objects are not checked ({why})",
            f"a Role with get on {resource} allows it",
        )
    return found


async def _sight(
    question: Question, election: str, found: Mapping[Lock, Snapshot], ahead: timedelta | None, known: _Known
) -> lockstate.Sight:
    """Look at one election, and once more for as long as it takes to see whether a doubtful holder lives."""
    now = None if ahead is None else datetime.now(UTC) + ahead
    holders = None
    if known.has_all_pods and known.candidates:
        holders = frozenset(
            one.settings.identity for one in known.candidates if one.key == (question.namespace, election)
        )
    sight = lockstate.Sight(
        namespace=question.namespace,
        election=election,
        found={lock.resource: snapshot for lock, snapshot in found.items()},
        now=now,
        holders=holders or None,
    )
    doubtful = {lock: snapshot for lock, snapshot in found.items() if lockstate.is_doubtful(snapshot, now)}
    leases = [one.record.lease_seconds for one in doubtful.values() if isinstance(one.record, Record)]
    if ahead is None or not leases:
        return sight
    seconds = min(max(leases) + 1.0, LONGEST_WATCH)
    changed = await _changes(doubtful, seconds=seconds, ahead=ahead)
    return replace(
        sight,
        changed={lock.resource: seen for lock, seen in changed.items()},
        watched_for=seconds if seconds > max(leases) else 0.0,
    )


async def _changes(
    found: Mapping[Lock, Snapshot], *, seconds: float, ahead: timedelta
) -> dict[Lock, tuple[Snapshot, datetime]]:
    """Wait for records to change, and return those that did, as they then were, with the API server's time."""
    changed: dict[Lock, tuple[Snapshot, datetime]] = {}
    end = asyncio.get_running_loop().time() + seconds
    while len(changed) < len(found) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(LOOK_SECONDS)
        for lock, before in found.items():
            if lock in changed:
                continue
            snapshot = await lock.fetch()
            if snapshot is not None and snapshot.text != before.text and isinstance(snapshot.record, Record):
                changed[lock] = snapshot, datetime.now(UTC) + ahead
    return changed


# -- The rest ----------------------------------------------------------------------------------------------------------


async def _permissions(
    kube: OperatorClient,
    question: Question,
    elections: Sequence[str],
    found: Mapping[str, Mapping[Lock, Snapshot]],
    known: _Known,
) -> list[Finding]:
    told = [one.settings for one in known.candidates]
    kinds = {kind for one in told for kind in API_GROUPS if kind in one.lock}
    if question.lock != AUTO:
        kinds = {question.lock}
    elif not told:
        kinds = {lock.resource for snapshots in found.values() for lock in snapshots}
    wants = permissions.Wants(
        locks=tuple(kind for kind in API_GROUPS if kind in kinds) or permissions.Wants().locks,
        balance=not told or any(one.balance and one.node_name for one in told),
        cluster=any(one.balance_scope == "cluster" for one in told),
        pod_label=any(one.pod_label for one in told),
    )
    asker = await permissions.asker(kube)
    subjects = [question.subject] if question.subject is not None else _accounts(known) or [asker]
    findings: list[Finding] = []
    for subject in subjects:
        # Of themselves everybody may ask.
        asked = asker if subject.user == asker.user else subject
        findings += await permissions.check(kube, asked, wants, namespace=question.namespace, elections=elections)
    return findings


def _accounts(known: _Known) -> list[Subject]:
    accounts = dict.fromkeys((call.account, call.namespace) for call in known.calls)
    if len(accounts) > MOST_ACCOUNTS:
        what = f"{MOST_ACCOUNTS} of {len(accounts)} service accounts are checked"
        known.say(WARNING, permissions.AREA, "", what, "name one with --service-account")
    return [permissions.service_account(*one) for one in list(accounts)[:MOST_ACCOUNTS]]


async def _clock(kube: OperatorClient, known: _Known) -> timedelta | None:
    """Compare clocks; return how far the API server's is ahead of this one, `None` when that is not known."""
    try:
        reading = await kube.clock_reading()
    except ApiError as error:
        known.say(WARNING, lockstate.CLOCK, "", f"not checked: {error}")
        return None
    if reading is None:
        known.say(WARNING, lockstate.CLOCK, "", "not checked: the API server does not tell the time")
        return None
    apart = abs(reading.ahead)
    if apart - reading.doubt > lockstate.CLOCK_TOLERANCE:
        direction = "behind" if reading.ahead > 0 else "ahead of"
        what = f"the clock of this machine is {apart:.0f} s {direction} the API server's"
        known.say(
            WARNING, lockstate.CLOCK, "", what, "synchronise one of them; ages that are shown here are off by that"
        )
    else:
        known.say(
            FINE, lockstate.CLOCK, "", f"this machine's and the API server's agree within {apart + reading.doubt:.1f} s"
        )
    return timedelta(seconds=reading.ahead)
