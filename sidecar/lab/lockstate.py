"""Whether the lock objects of an election are as they should be. Pure: from what was read to findings.

A record's times are by the clock of the machine that wrote it, and nothing depends on them but people who read them.
They are compared with the API server's clock, which writes nothing here either but is everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar import duration
from sidecar.lab.findings import FINE, PROBLEM, WARNING, Finding
from sidecar.lab.standings import time_of
from sidecar.lab.variables import LONG_LEASE
from sidecar.record import Record, UnreadableRecord
from sidecar.registration import registrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sidecar.record import Snapshot

AREA, CLOCK = "lock", "clock"

CLOCK_TOLERANCE = 5.0
"""Seconds that a clock may be off before it is worth telling."""

_EARLY = 2.0
"""Seconds by which a fresh renewal may seem to come from the future: whole seconds, and two clocks that agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen of one election.

    `found` are the lock objects by kind; `changed` says when a record was seen to change, by the API server's clock,
    and holds for no object whose record did not. `holders` are the identities that its pods can have, `None` when they
    are not known.
    """

    namespace: str
    election: str
    found: Mapping[str, Snapshot]
    now: datetime | None
    """The API server's time at which they were read; `None` when that is not known."""
    changed: Mapping[str, tuple[Snapshot, datetime]] = field(default_factory=dict)
    watched_for: float = 0.0
    """Seconds for which it was waited for a change; 0 when nobody waited."""
    holders: frozenset[str] | None = None

    @property
    def where(self) -> str:
        """Which election."""
        return f"{self.namespace}/{self.election}"


def is_doubtful(snapshot: Snapshot, now: datetime | None) -> bool:
    """Tell whether a record's times raise the question whether its holder lives: whether it changes answers that."""
    record = snapshot.record
    if not isinstance(record, Record) or not record.holder:
        return False
    age = _age(record, now)
    return age is None or age < -_EARLY or age > max(record.lease_seconds / 2, _EARLY)


def _age(record: Record, now: datetime | None) -> float | None:
    renewed = time_of(record.renew_time)
    return None if renewed is None or now is None else (now - renewed).total_seconds()


def judged(sight: Sight) -> list[Finding]:
    """Say what there is to say of one election's lock objects."""
    if not sight.found:
        return [
            Finding(
                level=WARNING,
                area=AREA,
                where=sight.where,
                what="there is no lock object: nobody has led yet, or it was deleted",
                remedy="look at the candidates' logs, unless there are none yet",
            )
        ]
    found = list(_between(sight))
    for kind, snapshot in sight.found.items():
        where = f"{sight.where} ({kind})" if len(sight.found) > 1 else sight.where
        own = [
            Finding(level=level, area=area, where=where, what=what, remedy=remedy)
            for level, area, what, remedy in (*_record(sight, snapshot), *_times(sight, kind, snapshot))
        ]
        found += own or [Finding(level=FINE, area=AREA, where=where, what=_told(snapshot))]
    return found


def _told(snapshot: Snapshot) -> str:
    if not snapshot.holder:
        return "vacant"
    claim = snapshot.valid_claim
    where = f" on {claim.node}" if claim is not None and claim.node else ""
    count = len(registrations(snapshot.annotations))
    return f"held by {snapshot.holder}{where}, {count} candidate{'' if count == 1 else 's'} registered"


_Row = tuple[str, str, str, str]
"""Level, area, what, and what to do."""


def _record(sight: Sight, snapshot: Snapshot) -> Iterable[_Row]:
    record = snapshot.record
    if isinstance(record, UnreadableRecord):
        yield (
            PROBLEM,
            AREA,
            f"the record cannot be read: {record.reason}",
            "find out who writes it; after one lease a candidate writes its own over it",
        )
        return
    if record is None or not record.holder:
        return
    if record.lease_seconds >= LONG_LEASE:
        lease = duration.render(record.lease_seconds)
        what = f"{record.holder} holds it for a lease of {lease}: if it crashes, nobody leads for so long"
        yield WARNING, AREA, what, "shorten ELECTION_TTL or --ttl"
    if snapshot.valid_claim is None:
        left = (
            f", and beside its record stands a claim of {snapshot.claim.holder or 'nobody'}" if snapshot.claim else ""
        )
        yield (
            WARNING,
            AREA,
            f"{record.holder} holds it and makes no claim{left}: the stock image or another elector",
            "its node is not known, and it cannot be asked to step down; replace its image",
        )
    if sight.holders is not None and record.holder not in sight.holders:
        yield (
            WARNING,
            AREA,
            f"{record.holder} holds it, and no candidate's pod in namespace {sight.namespace} has that identity",
            "find out who that is: another workload with the same election, or a pod that is gone",
        )


def _times(sight: Sight, kind: str, snapshot: Snapshot) -> Iterable[_Row]:
    record = snapshot.record
    if not isinstance(record, Record) or not record.holder or sight.now is None:
        return
    who = f"the clock of {_machine(snapshot)}"
    if kind in sight.changed:
        fresh, seen_at = sight.changed[kind]
        behind = _age(fresh.record, seen_at) if isinstance(fresh.record, Record) else None
        if behind is not None and abs(behind) > CLOCK_TOLERANCE:
            yield WARNING, CLOCK, f"{who} is {_apart(behind)} the API server's", _SYNCHRONISE
        return
    age = _age(record, sight.now)
    if age is None:
        yield WARNING, CLOCK, f"{record.holder} writes no time at which it renewed", ""
    elif sight.watched_for and age > record.lease_seconds:
        waited = f"{sight.watched_for:.0f} s"
        what = (
            f"{record.holder} has not renewed its lease of {record.lease_seconds} s for {waited}, nor for {age:.0f} s"
        )
        yield PROBLEM, AREA, f"{what} by its own times: it is gone, and nobody takes over", _NOBODY
    elif age < -CLOCK_TOLERANCE:
        yield WARNING, CLOCK, f"{who} is {_apart(age)} the API server's", _SYNCHRONISE


_SYNCHRONISE = "synchronise it; nobody's leadership depends on it, but people read these times"
_NOBODY = "look at the candidates: are there any, and what do they log?"


def _machine(snapshot: Snapshot) -> str:
    claim = snapshot.valid_claim
    return f"node {claim.node}" if claim is not None and claim.node else f"{snapshot.holder}'s machine"


def _apart(behind: float) -> str:
    """Say how far apart two clocks are."""
    return f"{abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'}"


def _between(sight: Sight) -> Iterable[Finding]:
    """Say how the lock objects of one election are to each other."""

    def finding(level: str, what: str, remedy: str = "") -> Finding:
        return Finding(level=level, area=AREA, where=sight.where, what=what, remedy=remedy)

    if len(sight.found) < 2:  # noqa: PLR2004 - it takes two
        return
    holders = {kind: snapshot.holder for kind, snapshot in sight.found.items() if snapshot.holder}
    kinds = " and ".join(sight.found)
    if len(set(holders.values())) > 1:
        told = ", ".join(f"{holder} by its {kind}" for kind, holder in holders.items())
        alive = [kind for kind, snapshot in sight.found.items() if kind in holders and _is_fresh(sight, kind, snapshot)]
        if len(alive) > 1:
            what = f"two candidates may lead: {told}"
            yield finding(PROBLEM, what, "give all candidates ELECTION_LOCK=endpointsleases, then the same kind")
        else:
            yield finding(WARNING, f"two lock objects name two holders: {told}", _remedy(alive))
    elif len(holders) == len(sight.found):
        yield finding(FINE, f"both {kinds} are held by {next(iter(holders.values()))}: a migration is under way")
    else:
        yield finding(FINE, f"there are both {kinds}: a migration is under way, or one of them was left behind")


def _remedy(alive: Sequence[str]) -> str:
    kept = f"the one of the {alive[0]} is renewed; " if alive else ""
    return f"{kept}delete the other once no candidate uses it any more"


def _is_fresh(sight: Sight, kind: str, snapshot: Snapshot) -> bool:
    return kind in sight.changed or not is_doubtful(snapshot, sight.now)
