"""The claim beside the record: any text is a claim or none, and a claim that is written is read as the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.record import CHECKING, HEAVIEST, LEADING, LONGEST_IDENTITY, Claim, Record, Snapshot, parse_claim
from tests.safety.fuzz.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = (
    "holder",
    "node",
    "pod_uid",
    "weight",
    "state",
    "checking",
    "leading",
    "successor",
    "term",
    "moves",
    "renewed",
    "18446744073709551615",
    "\\ud800",
    "null",
)

_LONGEST_GIVEN = 253
"""Characters of the names that a candidate can be given (settings.MAX_NAME)."""


def check(data: bytes) -> None:
    """Fail unless every field of what was read is in its range, and what is written is read back."""
    choices = Choices(data)
    is_text = choices.number() % 2 == 0
    text = choices.rest().decode("utf-8", "surrogateescape") if is_text else json.dumps(choices.fields(TOKENS[:11]))
    claim = parse_claim(text)
    if claim is not None:
        _check_read(claim)
    _check_written(Choices(data))


def _check_read(claim: Claim) -> None:
    assert claim.holder or claim.successor
    for name in (claim.holder, claim.node, claim.pod_uid, claim.successor):
        assert len(name) <= LONGEST_IDENTITY
        name.encode()
    assert 1 <= claim.weight <= HEAVIEST
    assert claim.state in (CHECKING, LEADING)
    for number in (claim.term, claim.moves):
        assert 0 <= number < 2**64
    # It counts beside the very record that it was written with, and beside no other holder's.
    record = Record(holder=claim.holder, lease_seconds=10, acquire_time="", renew_time=claim.renewed, transitions=0)
    for beside, counts in ((record, True), (replace(record, holder=claim.holder + "x"), False)):
        snapshot = Snapshot(version=1, text=beside.encode(), record=beside, claim=claim)
        assert (snapshot.valid_claim is claim) == counts


def _check_written(choices: Choices) -> None:
    name: Callable[[], str] = lambda: "".join(filter(str.isprintable, _plain(choices)))[:_LONGEST_GIVEN]  # noqa: E731
    claim = Claim(
        holder=name() or "a",
        node=name(),
        pod_uid=name(),
        weight=choices.number(2) % HEAVIEST + 1,
        state=choices.pick((LEADING, CHECKING)),
        successor=name(),
        term=choices.number(8),
        moves=choices.number(8),
    )
    assert parse_claim(claim.encode()) == claim


def _plain(choices: Choices) -> str:
    return choices.text().encode("utf-8", "replace").decode()
