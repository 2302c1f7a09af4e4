"""Who leads what, as far as the lock objects tell: pure, from Endpoints and Leases to standings.

An election on both, as candidates with `ELECTION_LOCK=endpointsleases` have it, is one standing. One look shows what is
written, and that may be stale. Whether a holder is still there is told by its record, which must change within the
lease's duration: `Observed` is for who looks on, and judges that by the reader's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sidecar.locks import record_of_lease
from sidecar.record import (
    CHECKING,
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    LEADING,
    RECORD_ANNOTATION,
    Claim,
    Record,
    UnreadableRecord,
    decimal,
    parse_claim,
    parse_record,
)
from sidecar.registration import registrations
from sidecar.settings import LOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VACANT, HANDING_OVER, RAN_OUT, UNREADABLE = "vacant", "handing over", "ran out", "unreadable"
"""What an election can be beside `LEADING` and `CHECKING`, the states of a claim."""

DIVIDED = "divided"
"""An election whose Endpoints and Lease are held by two candidates, and both are renewed."""

ENDPOINTS, LEASES, BOTH = LOCKS
"""What an election can be on, as its candidates' `ELECTION_LOCK` says it."""

Key = tuple[str, str]
"""Namespace and name of an election, and of its lock objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the lock object of an election says of it, or both of them.

    A holder that makes no claim, a stock candidate, is `leading`: such a one leads as soon as it holds the lock.
    """

    namespace: str
    election: str
    group: str = ""
    lock: str = ENDPOINTS
    """`ENDPOINTS`, `LEASES` or `BOTH`: what the election is on."""
    state: str = VACANT
    holder: str = ""
    successor: str = ""
    """Whom the holder has nominated, or has released the lock for."""
    node: str = ""
    """The holder's, or the successor's after a release; `""` where it is not known."""
    weight: int = 1
    claimed: bool = False
    """Whether the holder makes a claim."""
    acquired: str = ""
    """The record's acquireTime, as it is written there."""
    renewed: str = ""
    """The record's renewTime, likewise: by the clock of whoever wrote it."""
    lease_seconds: int = 0
    problem: str = ""
    """Why the record cannot be read, or who divides the election."""
    candidate_nodes: frozenset[str] = frozenset()
    """Where candidates are registered."""
    record: str | None = None
    """The record's text."""
    version: int = 0
    """The lock object's resourceVersion; of two the greater."""
    term: int = 0
    """What the claim says of the term: from its first renewal on the fencing token, before that an earlier version."""

    @property
    def key(self) -> Key:
        """Namespace and name of the election."""
        return self.namespace, self.election


def _essence(standing: Standing) -> Standing:
    """Leave out what changes all the time."""
    return replace(standing, renewed="", candidate_nodes=frozenset(), record=None, version=0, term=0)


def key_of(body: Mapping[str, Any]) -> Key:
    """Return the namespace and name of an object."""
    metadata = body.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    return str(told.get("namespace", "")), str(told.get("name", ""))


def standing_of(body: Mapping[str, Any]) -> Standing | None:
    """Read the metadata of Endpoints; `None` when they are no election's lock object."""
    found = _found(body, ENDPOINTS)
    annotations = _annotations(body)
    text = annotations.get(RECORD_ANNOTATION)
    if found is None or (text is None and GROUP_LABEL not in _texts(body["metadata"].get("labels"))):
        return None
    return _read(found, text, None if text is None else parse_record(text), annotations.get(CLAIM_ANNOTATION))


def standing_of_lease(body: Mapping[str, Any], *, others: bool, known: bool = False) -> Standing | None:
    """Read a Lease; `None` when it is no election's, as far as can be told, unless it is `known` to be one.

    Leases serve much else: nodes and API servers have one each. Those of candidates that know nothing of groups and
    claims are told from these by nothing but that they have a holder; they are read where `others`.
    """
    found = _found(body, LEASES)
    if found is None:
        return None
    annotations = _annotations(body)
    spec = body.get("spec")
    text, record = record_of_lease(spec if isinstance(spec, dict) else None)
    known = known or bool(found.group) or CLAIM_ANNOTATION in annotations or bool(found.candidate_nodes)
    standing = _read(found, text, record, annotations.get(CLAIM_ANNOTATION))
    return standing if known or (others and standing.holder) else None


def _found(body: Mapping[str, Any], lock: str) -> Standing | None:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return None
    namespace, name = key_of(body)
    return Standing(
        namespace=namespace,
        election=name,
        group=_texts(metadata.get("labels")).get(GROUP_LABEL, ""),
        lock=lock,
        candidate_nodes=frozenset(one.node for one in registrations(_annotations(body)).values()),
        version=decimal(metadata.get("resourceVersion")) or 0,
    )


def _annotations(body: Mapping[str, Any]) -> dict[str, str]:
    metadata = body.get("metadata")
    return _texts(metadata.get("annotations")) if isinstance(metadata, dict) else {}


def _texts(annotations: object) -> dict[str, str]:
    """Return annotations or labels, without whatever is none."""
    if not isinstance(annotations, dict):
        return {}
    return {key: value for key, value in annotations.items() if isinstance(value, str)}


def _read(found: Standing, text: str | None, record: Record | UnreadableRecord | None, claimed: str | None) -> Standing:
    found = replace(found, record=text)
    if record is None:
        return found
    if not isinstance(record, Record):
        return replace(found, state=UNREADABLE, problem=record.reason)
    claim = parse_claim(claimed)
    return _held(found, record, claim if claim is not None and claim.belongs_to(record) else None)


def _held(found: Standing, record: Record, claim: Claim | None) -> Standing:
    found = replace(found, renewed=record.renew_time)
    if claim is not None:
        found = replace(found, node=claim.node, weight=claim.weight, successor=claim.successor, term=claim.term)
    if not record.holder:
        return found if claim is None else replace(found, state=HANDING_OVER)
    return replace(
        found,
        state=LEADING if claim is None else claim.state,
        holder=record.holder,
        claimed=claim is not None,
        acquired=record.acquire_time,
        lease_seconds=record.lease_seconds,
    )


def combined(endpoints: Standing | None, lease: Standing | None) -> Standing | None:
    """Return what the two lock objects of an election come to.

    The one that was written last says who leads. The other one is what an update has left behind, unless it was renewed
    within a lease of it.
    """
    if endpoints is None or lease is None:
        return endpoints or lease
    older, newer = sorted((endpoints, lease), key=lambda one: one.version)
    newer = replace(newer, group=newer.group or older.group, record=f"{endpoints.record}\n{lease.record}")
    if not _renewed_together(older, newer):
        return newer
    if older.holder and newer.holder and older.holder != newer.holder:
        # Whichever was renewed last, it is the same news.
        newer = replace(
            newer,
            state=DIVIDED,
            holder=endpoints.holder,
            successor=endpoints.successor,
            node=endpoints.node,
            weight=endpoints.weight,
            claimed=endpoints.claimed,
            acquired=endpoints.acquired,
            lease_seconds=max(older.lease_seconds, newer.lease_seconds),
            problem=f"{endpoints.holder} holds the Endpoints, {lease.holder} the Lease",
        )
    return replace(newer, lock=BOTH, candidate_nodes=older.candidate_nodes | newer.candidate_nodes)


def _renewed_together(one: Standing, another: Standing) -> bool:
    if one.record == another.record:
        return True
    times = time_of(one.renewed), time_of(another.renewed)
    if times[0] is None or times[1] is None:
        return False
    return abs((times[0] - times[1]).total_seconds()) <= max(one.lease_seconds, another.lease_seconds)


def time_of(text: str) -> datetime | None:
    """Read a record's time; `None` for what is none, or does not say in which time zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


# -- Groups and nodes --------------------------------------------------------------------------------------------------


def by_group(standings: Iterable[Standing]) -> dict[str, list[Standing]]:
    """Return the standings by group, each group's by namespace and election; those without a group come last."""
    groups: dict[str, list[Standing]] = {}
    for standing in sorted(standings, key=lambda one: (not one.group, one.group, one.key)):
        groups.setdefault(standing.group, []).append(standing)
    return groups


@dataclass(slots=True)
class Load:
    """The elections of one node: those led there, and those that are about to be; `weight` is that of both."""

    leading: int = 0
    arriving: int = 0
    weight: int = 0
    arriving_weight: int = 0


def loads(standings: Iterable[Standing]) -> dict[str, Load]:
    """Return the load of every node that leads, or could: where a candidate is registered.

    What is led on a node that is not known stands under `""`, last.
    """
    counted: dict[str, Load] = {}
    for standing in standings:
        for node in standing.candidate_nodes:
            counted.setdefault(node, Load())
        if standing.state in (LEADING, CHECKING, HANDING_OVER):
            load = counted.setdefault(standing.node, Load())
            load.weight += standing.weight
            if standing.state == LEADING:
                load.leading += 1
            else:
                load.arriving += 1
                load.arriving_weight += standing.weight
    return {node: counted[node] for node in sorted(counted, key=lambda node: (not node, node))}


# -- Looking on --------------------------------------------------------------------------------------------------------


ADDED, CHANGED, REMOVED = "added", "changed", "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of an election. `standing` is as it now is, or last was when its lock object is gone."""

    kind: str
    standing: Standing
    is_news: bool = True
    """Whether more has happened than a renewal or a registration."""


@dataclass(slots=True)
class _Sight:
    standing: Standing
    changed_at: float
    """When the record was first seen, or last seen to change."""
    has_changed: bool = False
    ran_out: bool = False

    @property
    def shown(self) -> Standing:
        return replace(self.standing, state=RAN_OUT) if self.ran_out else self.standing

    def is_due(self, now: float) -> bool:
        return bool(self.standing.holder) and not self.ran_out and now - self.changed_at >= self.standing.lease_seconds


class Observed:
    """Lock objects as they are seen to change. `now` is the reader's own monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._sights: dict[Key, _Sight] = {}

    @property
    def standings(self) -> list[Standing]:
        """What is known."""
        return [sight.shown for sight in self._sights.values()]

    def changed_at(self, key: Key) -> float | None:
        """Return when the record was last seen to change; `None` as long as it is what was found at first."""
        sight = self._sights.get(key)
        return sight.changed_at if sight is not None and sight.has_changed else None

    def see(self, standing: Standing, now: float) -> Change:
        """Take in one lock object as it is now."""
        known = self._sights.get(standing.key)
        if known is None:
            self._sights[standing.key] = _Sight(standing, now)
            return Change(ADDED, standing)
        before = known.shown
        if standing.record != known.standing.record:
            known.changed_at, known.has_changed, known.ran_out = now, True, False
        known.standing = standing
        return Change(CHANGED, known.shown, is_news=_essence(known.shown) != _essence(before))

    def lose(self, key: Key) -> Change | None:
        """Take note that there is no such lock object any more; `None` when there was none."""
        sight = self._sights.pop(key, None)
        return None if sight is None else Change(REMOVED, sight.shown)

    def see_all(self, standings: Iterable[Standing], *, asked_at: float, now: float) -> list[Change]:
        """Take in all the lock objects that there are, asked for at `asked_at`.

        A holder is marked whose record had by then not changed for its lease's duration.
        """
        found = {standing.key: standing for standing in standings}
        gone = [self.lose(key) for key in sorted(self._sights.keys() - found.keys())]
        changes = [change for change in gone if change is not None]
        for key, standing in found.items():
            change, sight = self.see(standing, now), self._sights[key]
            if sight.is_due(asked_at):
                sight.ran_out = True
                change = Change(change.kind, sight.shown)
            changes.append(change)
        return changes

    def is_due(self, now: float) -> bool:
        """Tell whether some holder's lease has run out, unless its record changed unseen: all is to be seen afresh."""
        return any(sight.is_due(now) for sight in self._sights.values())
