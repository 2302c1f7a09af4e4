"""A candidate of the stock image, as client-go's leader election of 2016 had it, with its quirks.

It knows no claims and leaves them standing; it sets `leaderTransitions` back to 0 when it renews; it waits out its own
ttl, also after a release, and not the lease in the record; a lock in its name is its own, whoever wrote it. It polls.

One goes round the loop as `tryAcquireOrRenew` does: get, compare with the observed record, update on the version that
was got. What it does wrong among its own kind (it answers its name until somebody else's record is read) is not judged
here: it counts as leading for as long as a renew deadline from when its last successful write was sent, which is what
it may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar.record import RECORD_ANNOTATION, Record, format_time

if TYPE_CHECKING:
    from sidecar.record import Snapshot


class Stock(NamedTuple):
    """What one such candidate knows."""

    identity: str
    text: str | None = None
    """The observed record."""
    seen_at: float = 0.0
    next_at: float = float("-inf")
    """When it goes round again."""
    valid_until: float = float("-inf")
    base: Snapshot | None = None
    """What was just read, and is to be updated."""
    writes: bool = False
    """Whether the next request is the update; else it is the read."""

    def is_leading(self, now: float) -> bool:
        """Tell whether it may rely on leading."""
        return now < self.valid_until


class Attempt(NamedTuple):
    """A request of a stock candidate: a read, or the update (with `base` `None`, the creation) that follows it."""

    base: Snapshot | None
    changes: tuple[tuple[str, str], ...] | None
    """`None` for a read."""


def attempt(stock: Stock, wall: int, lease_seconds: int) -> Attempt:
    """Return the request that is due."""
    if not stock.writes:
        return Attempt(None, None)
    now = format_time(wall)
    old = stock.base.record if stock.base is not None else None
    held = isinstance(old, Record)
    mine = isinstance(old, Record) and old.holder == stock.identity
    record = Record(
        holder=stock.identity,
        lease_seconds=lease_seconds,
        acquire_time=old.acquire_time if mine and isinstance(old, Record) else now,
        renew_time=now,
        transitions=old.transitions + 1 if held and not mine and isinstance(old, Record) else 0,
    )
    return Attempt(stock.base, ((RECORD_ANNOTATION, record.encode()),))


def read(stock: Stock, snapshot: Snapshot | None, now: float, lease_seconds: int, retry: float) -> Stock:
    """Return what it knows after a read: whether the update follows, or the next round after a retry period."""
    if snapshot is None or snapshot.text is None:
        return stock._replace(base=snapshot, writes=True)
    if snapshot.text != stock.text:
        stock = stock._replace(text=snapshot.text, seen_at=now)
    record = snapshot.record
    if not isinstance(record, Record):
        # It cannot read it, and tries again.
        return stock._replace(next_at=now + retry)
    if stock.seen_at + lease_seconds > now and record.holder != stock.identity:
        return stock._replace(next_at=now + retry, valid_until=float("-inf"))
    return stock._replace(base=snapshot, writes=True)


def written(stock: Stock, snapshot: Snapshot, now: float, *, until: float, retry: float) -> Stock:
    """Return what it knows after its update succeeded; `until` is a renew deadline from when that was sent."""
    return Stock(stock.identity, snapshot.text, now, now + retry, until)


def failed(stock: Stock, now: float, retry: float) -> Stock:
    """Return what it knows after a request failed, in whatever way."""
    return stock._replace(next_at=now + retry, base=None, writes=False)
