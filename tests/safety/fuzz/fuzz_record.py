"""The leader election record: whatever stands in the annotation is read, and what is written is what Go writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from sidecar.record import (
    LONGEST_IDENTITY,
    LONGEST_LEASE_SECONDS,
    Record,
    UnreadableRecord,
    format_time,
    go_json,
    parse_record,
)
from tests.safety.fuzz.choices import Choices
from tests.safety.fuzz.gojson import marshal

TOKENS = (
    "holderIdentity",
    "leaseDurationSeconds",
    "acquireTime",
    "renewTime",
    "leaderTransitions",
    "2024-05-01T10:00:42Z",
    "\\ud800",
    "\\udc00",
    "NaN",
    "Infinity",
    "1e999",
    "null",
    "86400",
    "2147483647",
)

_WORDS = (*TOKENS[:5], "holderidentity", "HOLDERIDENTITY", "a", "", "2024-05-01T10:00:42Z")

_NAME = re.compile("holderIdentity", re.IGNORECASE)
"""Go finds keys whatever their case; of several the last one counts, but null changes nothing."""


def check(data: bytes) -> None:
    """Fail unless the text is understood or refused in one line, without a doubt who holds the lock."""
    choices = Choices(data)
    is_text = choices.number() % 2 == 0
    text = choices.rest().decode("utf-8", "surrogateescape") if is_text else json.dumps(choices.fields(_WORDS))
    record = parse_record(text)
    if isinstance(record, UnreadableRecord):
        assert record.reason
        assert len(record.reason.splitlines()) == 1
        assert len(record.reason) < 300
    else:
        _check_readable(record, text)
    choices = Choices(data)
    stamp, name = choices.number(8), choices.rest().decode("utf-8", "replace")[:LONGEST_IDENTITY]
    _check_written(Record(holder=name, lease_seconds=10, acquire_time="", renew_time=format_time(stamp), transitions=0))


def _check_readable(record: Record, text: str) -> None:
    assert len(record.holder) <= LONGEST_IDENTITY
    assert 0 <= record.transitions < 2**31 - 1
    if record.holder:
        assert 1 <= record.lease_seconds <= LONGEST_LEASE_SECONDS
    else:
        _check_released(text)
    # What a candidate makes of it: it replaces the holder and the lease, or keeps them.
    _check_written(record)
    _check_written(replace(record, holder="", lease_seconds=1))


def _check_released(text: str) -> None:
    """Nobody holds the lock where the name is empty or not there at all. A name that is no name is damage."""
    pairs = json.loads(text, object_pairs_hook=list)
    names = [value for key, value in pairs if _NAME.fullmatch(key) and value is not None]
    assert not names or (isinstance(names[-1], str) and not names[-1])


def _check_written(record: Record) -> None:
    written = record.encode()
    written.encode()  # it can be sent
    assert parse_record(written) == record
    expected = {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease_seconds,
        "acquireTime": record.acquire_time,
        "renewTime": record.renew_time,
        "leaderTransitions": record.transitions,
    }
    assert written == marshal(expected) == go_json(expected)
