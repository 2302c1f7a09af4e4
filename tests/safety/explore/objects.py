"""The lock object of an explored world: one snapshot for each version and content, and compare-and-swap on it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, Snapshot, parse_claim, parse_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.election import Write

Annotations = tuple[tuple[str, str], ...]
"""Sorted, so that equal ones are equal."""


@lru_cache(maxsize=1 << 18)
def lock_object(version: int, annotations: Annotations) -> Snapshot:
    """Return the lock object as every answer and every watch event shows this version of it: the same one each time."""
    held = dict(annotations)
    text = held.get(RECORD_ANNOTATION)
    return Snapshot(
        version=version,
        text=text,
        record=None if text is None else parse_record(text),
        claim=parse_claim(held.get(CLAIM_ANNOTATION)),
        body={"metadata": {"annotations": held}},
    )


def changed(base: Snapshot | None, version: int, changes: Mapping[str, str | None]) -> Snapshot:
    """Return `base` at a new version with these annotations set, and those that are `None` gone."""
    merged = {**(base.annotations if base is not None else {}), **changes}
    return lock_object(version, tuple(sorted((key, text) for key, text in merged.items() if text is not None)))


def changes_of(write: Write) -> dict[str, str | None]:
    """Return what a candidate's write sets, and removes, as `EndpointsLock.write` sends it."""
    return {
        **write.others,
        RECORD_ANNOTATION: write.record.encode(),
        CLAIM_ANNOTATION: write.claim.encode() if write.claim is not None else None,
    }
