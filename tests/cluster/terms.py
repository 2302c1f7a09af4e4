"""What the versions of a lock object say of who led, from when to when, and how each term ended. No I/O here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sidecar.record import CHECKING, CLAIM_ANNOTATION, RECORD_ANNOTATION
from sidecar.registration import REGISTRATION_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a lock object. `at`, as all times here, is of `time.monotonic`, when it was seen."""

    at: float
    record: str
    renew_time: float
    """When the holder says that it renewed the lock, see `instant`."""
    holder: str
    """`""` for nobody: there is no record, it was released, or the object was deleted."""
    pod_uid: str
    """The holder's; `""` where its claim does not say it."""
    node: str
    leading: bool
    """Whether the holder leads: one that says of itself that it still checks does not."""
    registered: frozenset[str]
    """UIDs of the pods whose registrations are on it."""


@dataclass(slots=True, kw_only=True)
class Term:
    """One candidate's uninterrupted leadership."""

    holder: str
    pod_uid: str
    node: str
    began: float
    """When the lock was first seen to name it as one that leads."""
    renewed: float
    """When its record was last seen to change."""
    renew_time: float
    """When it last renewed the lock, by its own clock, see `instant`."""
    ended: float | None = None
    """When the lock was first seen to be another's, or nobody's."""
    released: bool = False
    """Whether it ended because it was given up."""


def version_of(body: Mapping[str, Any], *, at: float, deleted: bool = False) -> Version:
    """Read a lock object; what cannot be read is held by nobody."""
    annotations = body["metadata"].get("annotations") or {}
    record = "" if deleted else annotations.get(RECORD_ANNOTATION, "")
    fields = _object(record)
    holder = str(fields.get("holderIdentity") or "")
    claim = _object(annotations.get(CLAIM_ANNOTATION, ""))
    claim = claim if (claim.get("holder"), claim.get("renewed")) == (holder, fields.get("renewTime")) else {}
    registrations = [_object(text) for name, text in annotations.items() if name.startswith(REGISTRATION_PREFIX)]
    return Version(
        at=at,
        record=record,
        renew_time=instant(fields.get("renewTime")),
        holder=holder,
        pod_uid=str(claim.get("pod_uid") or ""),
        node=str(claim.get("node") or ""),
        leading=bool(holder) and claim.get("state") != CHECKING,
        registered=frozenset(str(one["pod_uid"]) for one in registrations if "pod_uid" in one),
    )


def terms(versions: Iterable[Version]) -> list[Term]:
    """Return who led one election, one after the other."""
    found: list[Term] = []
    record = ""
    for version in versions:
        current = found[-1] if found and found[-1].ended is None else None
        if current is not None and (current.holder, current.pod_uid) != (version.holder, version.pod_uid):
            current.ended = version.at
            current.released = not version.holder
            current = None
        if current is None and version.leading:
            current = Term(
                holder=version.holder,
                pod_uid=version.pod_uid,
                node=version.node,
                began=version.at,
                renewed=version.at,
                renew_time=version.renew_time,
            )
            found.append(current)
        if current is not None and version.record != record:
            current.renewed, current.renew_time = version.at, version.renew_time
        record = version.record
    return found


def gaps(led: Sequence[Term]) -> list[float]:
    """Return the seconds without a leader between each two terms, by the lock object."""
    return [later.began - (earlier.ended or later.began) for earlier, later in pairwise(led)]


def instant(text: object) -> float:
    """Read a time as Kubernetes writes it, in seconds since 1970; NaN, which no bound holds for, where it is none.

    They are whole seconds, rounded down, but for a renewal within the same second as the write before it: that one is
    stamped a second later, so that the record changes.
    """
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return math.nan


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
