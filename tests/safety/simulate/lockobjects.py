"""The record and the claim in a lock object of either kind, as the API server keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.locks import record_of_lease
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, Record, parse_claim, parse_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.record import Claim, UnreadableRecord


def record_in(body: Mapping[str, Any]) -> tuple[str | None, Record | UnreadableRecord | None]:
    """Return the text of a record and the record, `None` where there is none."""
    if body["kind"] == "Lease":
        return record_of_lease(body.get("spec"))
    text = (body["metadata"].get("annotations") or {}).get(RECORD_ANNOTATION)
    return text, None if text is None else parse_record(text)


def claim_in(body: Mapping[str, Any]) -> Claim | None:
    """Return the claim, whosever it is."""
    return parse_claim((body["metadata"].get("annotations") or {}).get(CLAIM_ANNOTATION))
