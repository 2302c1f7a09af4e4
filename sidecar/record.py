"""The leader election record and the claim: wire format, strict to write, tolerant to read.

The *record* is client-go's `LeaderElectionRecord`: JSON in an annotation of the lock object. Stock candidates,
client-go's and ours share it, so its bytes are a contract: the order of the keys, whole seconds, Go's escapes.

The *claim* stands beside it in an annotation of our own. It says who in particular wrote the record, because names
come back (a StatefulSet's pod keeps its name when it is made again) and the UID of a pod does not; on which node that
is; and whether the holder leads already, or still checks whether its node is the right one. It repeats what makes the
record this very one, because candidates that know nothing of claims leave it standing when they write the record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeGuard

RECORD_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
CLAIM_ANNOTATION = "leader-elector/claim"

LOOK_ANNOTATION = "leader-elector/look"
"""A counter on the lock object: whoever raises it asks the leader to look whether its election should move."""

STEP_DOWN_ANNOTATION = "leader-elector/step-down"
"""What asks the leader to end its term: the text of `step_down_request` for the record that it wrote."""

GROUP_LABEL = "leader-elector/group"
"""The label of a lock object that names the group of its election."""

LEADING, CHECKING = "leading", "checking"
"""The states of a claim. A holder that is `checking` does not lead: it may hand over before it ever does."""

LONGEST_LEASE_SECONDS = 24 * 60 * 60
"""A record that asks for more is taken for damaged: nobody could ever take over from it."""

LONGEST_IDENTITY = 1024
"""Characters of a holder's name that are believed. A pod name has at most 253."""

HEAVIEST = 1000
"""The greatest weight of an election. A claim that asks for more is cut to it, or one would move all the others."""

LONGEST_CLAIM = 32_768
"""Characters of a claim that are read; one of the longest names that are believed fits, however much is escaped."""

_DIGITS = 20
"""Of the greatest version or counter that is believed, a 64-bit number without sign."""

_INT32_MAX = 2**31 - 1
_UINT64_MAX = 2**64 - 1
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

    It counts only beside the record that it was written with (`belongs_to`). Beside one that was released in favour of
    a successor, `holder` is empty; `node` and `pod_uid` are the successor's.
    """

    holder: str
    node: str
    pod_uid: str
    weight: int = 1
    """How much this election counts when leaders are spread."""
    state: str = LEADING
    successor: str = ""
    """The identity of the candidate that is to lead next: nominated by the holder, or named by its release."""
    term: int = 0
    """The resourceVersion of the write that began the term, as far as known: 0 in that write itself."""
    moves: int = 0
    """How often the election was handed over since it was last quiet."""
    renewed: str = ""
    """The renew time of the record that it was written with."""

    def encode(self) -> str:
        """Return the annotation's text."""
        return go_json(asdict(self))

    def belongs_to(self, record: Record) -> bool:
        """Tell whether it was written with this record.

        The holder alone does not tell: another pod of that name, which knows nothing of claims, may have renewed the
        record since, or it may have been released by somebody like that.
        """
        return (self.holder, self.renewed) == (record.holder, record.renew_time)


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
    parts: tuple[int, ...] = ()
    """Of a lock that is several objects, the resourceVersion of each; `version` is the greatest."""

    @property
    def holder(self) -> str:
        """The name in the record; `""` when there is no record, an unreadable one, or one that was released."""
        return self.record.holder if isinstance(self.record, Record) else ""

    @property
    def annotations(self) -> Mapping[str, str]:
        """All annotations of the lock object."""
        return self.body.get("metadata", {}).get("annotations") or {}

    @property
    def valid_claim(self) -> Claim | None:
        """The claim, when it is the record's; one that was left behind does not count."""
        record, claim = self.record, self.claim
        return claim if isinstance(record, Record) and claim is not None and claim.belongs_to(record) else None


def parse_record(text: str) -> Record | UnreadableRecord:
    """Read a record. Unknown keys and missing times are forgiven; what decides who leads must be there and sane.

    Whom client-go takes for the holder is the holder here: keys are found as Go's `encoding/json` finds them, whatever
    their case, and only a missing name or `null` is an empty one.
    """
    try:
        fields = json.loads(text, object_pairs_hook=_folded, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return UnreadableRecord(f"not JSON: {error}")
    if not isinstance(fields, dict):
        return UnreadableRecord("not a JSON object")
    holder = fields.get("holderidentity", "")
    if not isinstance(holder, str) or len(holder) > LONGEST_IDENTITY:
        return UnreadableRecord(f"holderIdentity is not a string of at most {LONGEST_IDENTITY} characters")
    lease = fields.get("leasedurationseconds", 0)
    if holder and not (_is_integer(lease) and 1 <= lease <= LONGEST_LEASE_SECONDS):
        return UnreadableRecord(f"leaseDurationSeconds is not a whole number from 1 to {LONGEST_LEASE_SECONDS}")
    transitions = fields.get("leadertransitions", 0)
    return Record(
        holder=_well_formed(holder),
        lease_seconds=lease if _is_integer(lease) else 0,
        acquire_time=_text_or_empty(fields.get("acquiretime")),
        renew_time=_text_or_empty(fields.get("renewtime")),
        # A count that cannot be continued starts anew; nothing is decided by it.
        transitions=transitions if _is_integer(transitions) and 0 <= transitions < _INT32_MAX else 0,
    )


def parse_claim(text: str | None) -> Claim | None:
    """Read a claim; anything that is not one counts as none, because a claim only ever adds to a record."""
    fields = json_object(text, LONGEST_CLAIM)
    claim = Claim(
        holder=text_of(fields, "holder"),
        node=text_of(fields, "node"),
        pod_uid=text_of(fields, "pod_uid"),
        weight=min(max(1, number_of(fields, "weight", default=1)), HEAVIEST),
        state=CHECKING if fields.get("state") == CHECKING else LEADING,
        successor=text_of(fields, "successor"),
        term=number_of(fields, "term"),
        moves=number_of(fields, "moves"),
        renewed=text_of(fields, "renewed"),
    )
    return claim if claim.holder or claim.successor else None


def step_down_request(record: Record) -> str:
    """Return the text that asks for the end of the term that this record is of, and of no later one."""
    return go_json({"holder": record.holder, "acquired": record.acquire_time})


def json_object(text: str | None, longest: int) -> Mapping[str, Any]:
    """Return the JSON object in an annotation that others may have written; an empty one for whatever is none."""
    if text is None or len(text) > longest:
        return {}
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def text_of(fields: Mapping[str, Any], key: str) -> str:
    """Return the text under `key`; `""` for whatever is none, or is too long to be a name."""
    return _text_or_empty(fields.get(key))


def number_of(fields: Mapping[str, Any], key: str, *, default: int = 0) -> int:
    """Return the whole number from 0 to 2^64 - 1 under `key`, `default` for whatever is none."""
    value = fields.get(key)
    return value if _is_integer(value) and 0 <= value <= _UINT64_MAX else default


def decimal(text: object) -> int | None:
    """Return the number that a text of at most 20 decimal digits is, as versions are; `None` for anything else."""
    if isinstance(text, str) and len(text) <= _DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return None


def format_time(epoch_seconds: int) -> str:
    """Return RFC 3339 in UTC and whole seconds, as Kubernetes' `metav1.Time` writes it."""
    return datetime.fromtimestamp(min(epoch_seconds, _LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int:
    """Return the whole seconds since the epoch of a time in RFC 3339; 0 for any other text."""
    try:
        when = datetime.fromisoformat(text)
        return int(when.timestamp()) if when.tzinfo else 0
    except (ValueError, OverflowError):
        return 0


def go_json(value: Mapping[str, Any]) -> str:
    """Return JSON as Go's `json.Marshal` writes it: compact, UTF-8, with `<`, `>`, `&` and U+2028/9 escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_GO_ESCAPES)


_GO_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def _folded(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    # To Go, null leaves what was there before.
    return {key.casefold(): value for key, value in pairs if value is not None}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_or_empty(value: object) -> str:
    return _well_formed(value) if isinstance(value, str) and len(value) <= LONGEST_IDENTITY else ""


def _well_formed(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and UTF-8 cannot carry, as Go does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
