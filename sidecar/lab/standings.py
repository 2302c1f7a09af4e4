"""Who leads what, as far as the lock objects tell: pure, from the metadata of Endpoints to standings.

One look shows what is written, and that may be stale. Whether a holder is still there is told by its record, which
must change within the lease's duration: `Observed` is for who looks on, and judges that by the reader's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sidecar.record import (
    CHECKING,
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    LEADING,
    RECORD_ANNOTATION,
    Claim,
    Record,
    parse_claim,
    parse_record,
)
from sidecar.registration import registrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VACANT, HANDING_OVER, RAN_OUT, UNREADABLE = "vacant", "handing over", "ran out", "unreadable"
"""What an election can be beside `LEADING` and `CHECKING`, the states of a claim."""

Key = tuple[str, str]
"""Namespace and name of a lock object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one lock object says of its election.

    A holder that makes no claim, a stock candidate, is `leading`: such a one leads as soon as it holds the lock.
    """

    namespace: str
    election: str
    group: str = ""
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
    """Why the record cannot be read."""
    candidate_nodes: frozenset[str] = frozenset()
    """Where candidates are registered."""
    record: str | None = None
    """The record's text."""

    @property
    def key(self) -> Key:
        """Namespace and name of the lock object."""
        return self.namespace, self.election


def _essence(standing: Standing) -> Standing:
    """Leave out what changes all the time."""
    return replace(standing, renewed="", candidate_nodes=frozenset(), record=None)


def key_of(body: Mapping[str, Any]) -> Key:
    """Return the namespace and name of an object."""
    metadata = body.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    return str(told.get("namespace", "")), str(told.get("name", ""))


def standing_of(body: Mapping[str, Any]) -> Standing | None:
    """Read an object's metadata; `None` when it is no election's lock object."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return None
    annotations, labels = _texts(metadata.get("annotations")), _texts(metadata.get("labels"))
    text = annotations.get(RECORD_ANNOTATION)
    if text is None and GROUP_LABEL not in labels:
        return None
    namespace, name = key_of(body)
    found = Standing(
        namespace=namespace,
        election=name,
        group=labels.get(GROUP_LABEL, ""),
        candidate_nodes=frozenset(one.node for one in registrations(annotations).values()),
        record=text,
    )
    record = None if text is None else parse_record(text)
    if record is None:
        return found
    if not isinstance(record, Record):
        return replace(found, state=UNREADABLE, problem=record.reason)
    claim = parse_claim(annotations.get(CLAIM_ANNOTATION))
    return _read(found, record, claim if claim is not None and claim.belongs_to(record) else None)


def _texts(annotations: object) -> dict[str, str]:
    """Return annotations or labels, without whatever is none."""
    if not isinstance(annotations, dict):
        return {}
    return {key: value for key, value in annotations.items() if isinstance(value, str)}


def _read(found: Standing, record: Record, claim: Claim | None) -> Standing:
    found = replace(found, renewed=record.renew_time)
    if claim is not None:
        found = replace(found, node=claim.node, weight=claim.weight, successor=claim.successor)
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
