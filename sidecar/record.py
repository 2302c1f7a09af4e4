"""The leader election record and the claim: wire format, strict to write, tolerant to read.

The *record* is client-go's `LeaderElectionRecord`: JSON in an annotation of the lock object. Stock candidates,
client-go's and ours share it, so its bytes are a contract: the order of the keys, whole seconds, Go's escapes.

The *claim* stands beside it in an annotation of our own and says who in particular wrote the record: names come
back (a StatefulSet's pod keeps its name when it is made again), the UID of a pod does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
CLAIM_ANNOTATION = "leader-elector/claim"

LONGEST_LEASE_SECONDS = 24 * 60 * 60
"""A record that asks for more is taken for damaged: nobody could ever take over from it."""

LONGEST_IDENTITY = 1024
"""Characters of a holder's name that are believed. A pod name has at most 253."""

_INT32_MAX = 2**31 - 1
_LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Who holds the lock and for how long. `holder == ""` says that the last holder gave it up."""

    holder: str
    lease_seconds: int
    acquire_time: str
    renew_time: str
    transitions: int

    def encode(self) -> str:
        """Return the annotation's text, byte for byte what client-go would write for the same values."""
        return go_json(
            {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.lease_seconds,
                "acquireTime": self.acquire_time,
                "renewTime": self.renew_time,
                "leaderTransitions": self.transitions,
            }
        )


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """An annotation that is there and cannot be understood. Somebody may hold the lock under it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which pod, on which node, wrote the record that it stands beside.

    It counts only while its `holder` is the record's: candidates that know nothing of claims leave a stale one.
    """

    holder: str
    node: str
    pod_uid: str

    def encode(self) -> str:
        """Return the annotation's text."""
        return go_json({"holder": self.holder, "node": self.node, "pod_uid": self.pod_uid})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The lock object as one answer or one watch event showed it.

    `version` is its resourceVersion. `text` is the record's annotation as it stands, `None` when there is none;
    whether a record changed is asked of the text, so that no reader's idea of equality comes into it. `body` is the
    whole object as the API server sent it; a write sends it back, so that nothing that others put there is lost.
    """

    version: int
    text: str | None
    record: Record | UnreadableRecord | None
    claim: Claim | None
    body: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def holder(self) -> str:
        """The name in the record; `""` when there is no record, an unreadable one, or one that was released."""
        return self.record.holder if isinstance(self.record, Record) else ""

    @property
    def valid_claim(self) -> Claim | None:
        """The claim, when it is the record's holder's; one that another holder left behind does not count."""
        return self.claim if self.claim is not None and self.claim.holder == self.holder else None


def parse_record(text: str) -> Record | UnreadableRecord:
    """Read a record. Unknown keys and missing times are forgiven; what decides who leads must be there and sane."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return UnreadableRecord(f"not JSON: {error}")
    if not isinstance(fields, dict):
        return UnreadableRecord("not a JSON object")
    holder = fields.get("holderIdentity") or ""
    if not isinstance(holder, str) or len(holder) > LONGEST_IDENTITY:
        return UnreadableRecord(f"holderIdentity is not a string of at most {LONGEST_IDENTITY} characters")
    lease = fields.get("leaseDurationSeconds", 0)
    if holder and not (_is_integer(lease) and 1 <= lease <= LONGEST_LEASE_SECONDS):
        return UnreadableRecord(f"leaseDurationSeconds is not a whole number from 1 to {LONGEST_LEASE_SECONDS}")
    transitions = fields.get("leaderTransitions", 0)
    return Record(
        holder=_well_formed(holder),
        lease_seconds=lease if _is_integer(lease) else 0,
        acquire_time=_text_or_empty(fields.get("acquireTime")),
        renew_time=_text_or_empty(fields.get("renewTime")),
        # A count that cannot be continued starts anew; nothing is decided by it.
        transitions=transitions if _is_integer(transitions) and 0 <= transitions < _INT32_MAX else 0,
    )


def parse_claim(text: str | None) -> Claim | None:
    """Read a claim; anything that is not one counts as none, because a claim only ever adds to a record."""
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    holder, node, pod_uid = (_text_or_empty(fields.get(key)) for key in ("holder", "node", "pod_uid"))
    return Claim(holder=holder, node=node, pod_uid=pod_uid) if holder else None


def format_time(epoch_seconds: int) -> str:
    """Return RFC 3339 in UTC and whole seconds, as Kubernetes' `metav1.Time` writes it."""
    return datetime.fromtimestamp(min(epoch_seconds, _LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def go_json(value: Mapping[str, Any]) -> str:
    """Return JSON as Go's `json.Marshal` writes it: compact, UTF-8, with `<`, `>`, `&` and U+2028/9 escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES)


_GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_or_empty(value: object) -> str:
    return _well_formed(value) if isinstance(value, str) and len(value) <= LONGEST_IDENTITY else ""


def _well_formed(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and UTF-8 cannot carry, as Go does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
