"""What the versions of a lock object say of who led, and for how long nobody did. No I/O here.

Whatever program takes part, its elections are held on Endpoints or Leases of their names, with client-go's record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sidecar.record import CHECKING, CLAIM_ANNOTATION, RECORD_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.bench.figures import Request

WRITES = {"update", "patch"}

LEADING, STOPPED = "leading", "stopped leading"
"""What this project's own program logs when it has confirmed that it leads, and, at first, when it revokes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a lock object, when it was seen: a moment after it was written."""

    at: float
    """Seconds since the epoch."""
    election: str
    holder: str
    """`""` for nobody: there is no record, or it was released."""
    leading: bool
    """Whether the holder leads: one that says of itself that it still checks does not."""
    record: str
    """The record as it is written, so that a renewal can be told from any other change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A line in the log of a candidate: it leads, or it stopped. Seconds since the epoch."""

    at: float
    identity: str
    leading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The time without a leader between two that led one after the other."""

    seconds: float
    told: bool
    """Whether both told in their logs when it was."""


@dataclass(slots=True, kw_only=True)
class Holding:
    """One candidate's uninterrupted hold on a lock. Seconds since the epoch."""

    holder: str
    led_from: float | None = None
    """None as long as it has not confirmed that it leads."""
    renewed: float
    """The last change of the record while it held the lock."""
    left: float | None = None
    """When the lock was first seen to be another's, or nobody's; None when that was not seen."""


def version_of(body: Mapping[str, Any], *, at: float, deleted: bool = False) -> Version:
    """Read a lock object, an Endpoints or a Lease; what cannot be read is held by nobody."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    if body.get("kind") == "Lease":
        record = dict(body.get("spec") or {})
        text = json.dumps(record, sort_keys=True)
    else:
        text = annotations.get(RECORD_ANNOTATION, "")
        record = _object(text)
    holder = "" if deleted else str(record.get("holderIdentity") or "")
    claim = _object(annotations.get(CLAIM_ANNOTATION, ""))
    belongs = (claim.get("holder"), claim.get("renewed")) == (holder, record.get("renewTime"))
    checking = belongs and claim.get("state") == CHECKING
    return Version(at=at, election=metadata["name"], holder=holder, leading=bool(holder) and not checking, record=text)


def holdings(versions: Iterable[Version]) -> list[Holding]:
    """Return who held the lock of one election, one after the other."""
    found: list[Holding] = []
    record = ""
    for version in versions:
        current = found[-1] if found and found[-1].left is None else None
        if current is not None and current.holder != version.holder:
            current.left = version.at
            current = None
        if current is None and version.holder:
            current = Holding(holder=version.holder, renewed=version.at)
            found.append(current)
        if current is not None:
            if version.record != record:
                current.renewed = version.at
            if version.leading and current.led_from is None:
                current.led_from = version.at
        record = version.record
    return found


def leader(held: Sequence[Holding]) -> Holding | None:
    """Return the present leader's holding."""
    return held[-1] if held and held[-1].left is None and held[-1].led_from is not None else None


def parse_log(identity: str, text: str) -> list[Said]:
    """Read when a candidate said that it leads, or no longer does; what other programs log says nothing here."""
    found = []
    for line in text.splitlines():
        entry = _object(line)
        event = str(entry.get("event"))
        if event == LEADING or event.startswith(STOPPED):
            with suppress(ValueError):
                at = datetime.fromisoformat(str(entry.get("time"))).timestamp()
                found.append(Said(at=at, identity=identity, leading=event == LEADING))
    return found


def gaps(held: Iterable[Holding], requests: Iterable[Request], said: Iterable[Said]) -> list[Gap]:
    """Return the times without a leader between each two that led one after the other.

    They begin when the API server received the write by which the old leader gave up, before which it must have
    revoked, or, where it is told in its log, when it revoked. They end when the successor's confirmation was seen on
    the lock object, or, where it is told in its log and later, when it began to lead.
    """
    written = _times((one.identity, one.at) for one in requests if one.verb in WRITES)
    stopped = _times((one.identity, one.at) for one in said if not one.leading)
    began = _times((one.identity, one.at) for one in said if one.leading)
    found = []
    for earlier, later in pairwise(one for one in held if one.led_from is not None):
        left = earlier.left or 0.0
        first, last = earlier.led_from or 0.0, later.led_from or 0.0
        stops = [at for at in stopped[earlier.holder] if first <= at <= left]
        # The log may be ahead of what was seen, so that the line of this very term is the one that is nearest.
        begins = sorted((at for at in began[later.holder] if at >= first), key=lambda at: abs(at - last))
        given_up = max((at for at in written[earlier.holder] if at <= left), default=left)
        found.append(Gap(seconds=max([last, *begins[:1]]) - min([given_up, *stops[-1:]]), told=bool(stops and begins)))
    return found


def _times(found: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for identity, at in found:
        times[identity].append(at)
    return times


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
