"""The registration: what a candidate writes on the lock object to say that it is there, and on which node.

One annotation a candidate, so that no two candidates ever write the same one. Everybody can read there on which nodes
the election can be led; the leader strikes out whoever has gone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.record import go_json, json_object, number_of, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTRATION_PREFIX = "leader-elector/candidate."

REGISTRATION_LIMIT = 500
"""Registrations of one election that are read, the first ones by name."""

LONGEST_REGISTRATION = 5120
"""Characters of a registration that are read; one of the longest names fits, escapes included."""

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LONGEST_NAME = 63
"""Characters after the slash of an annotation's key (Kubernetes, labels and annotations: syntax)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One candidate, as it describes itself."""

    identity: str
    node: str
    pod_uid: str
    seen: int = 0
    """A counter that grows as long as the candidate lives. No time: everybody judges by when *they* saw it change."""
    accepted: int = 0
    """The resourceVersion of the lock object in which the candidate saw itself nominated, and accepted."""

    def encode(self) -> str:
        """Return the annotation's text."""
        return go_json(asdict(self))


def registration_key(identity: str) -> str:
    """Return the annotation that a candidate registers under; a hash stands in for what cannot be in a key."""
    key = f"{REGISTRATION_PREFIX}{identity}"
    name = key.partition("/")[2]
    if _NAME.fullmatch(name) and len(name) <= _LONGEST_NAME:
        return key
    return f"{REGISTRATION_PREFIX}{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:16]}"


def registrations(annotations: Mapping[str, str]) -> dict[str, Registration]:
    """Return who is registered, by annotation key. What is no registration, or stands under another's key, is not."""
    keys = sorted(key for key in annotations if key.startswith(REGISTRATION_PREFIX))
    found = {}
    for key in keys[:REGISTRATION_LIMIT]:
        text = annotations[key]
        if len(text) > LONGEST_REGISTRATION:
            # Nor is it remembered.
            continue
        registration = _parse(text)
        if registration.identity and registration.node and registration_key(registration.identity) == key:
            found[key] = registration
    return found


# They are read again with every change of the lock object, and hardly ever change themselves.
@lru_cache(maxsize=4096)
def _parse(text: str) -> Registration:
    fields = json_object(text, LONGEST_REGISTRATION)
    return Registration(
        identity=text_of(fields, "identity"),
        node=text_of(fields, "node"),
        pod_uid=text_of(fields, "pod_uid"),
        seen=number_of(fields, "seen"),
        accepted=number_of(fields, "accepted"),
    )
