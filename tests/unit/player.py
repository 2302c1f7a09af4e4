"""One candidate of the pure election, moved by hand: what a test says happens, happens, at the instant it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sidecar.election import (
    Action,
    Candidacy,
    Changed,
    Event,
    Fetched,
    Leave,
    Moment,
    Read,
    State,
    Wait,
    WatchStarted,
    Write,
    Written,
    apply,
    next_action,
)
from sidecar.record import (
    CLAIM_ANNOTATION,
    RECORD_ANNOTATION,
    Claim,
    Record,
    Snapshot,
    format_time,
    parse_claim,
    parse_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LEASE = 10
DEADLINE = 6.0
RETRY = 2.0
EPOCH = 1_700_000_000
"""What the wall clock shows at second 0 of a test."""

A = TypeVar("A", Read, Write, Wait, Leave)


def candidacy(identity: str = "a", *, pod_uid: str = "", lease: int = LEASE) -> Candidacy:
    """Return a candidate's terms: a lease of 10 s, a renew deadline of 6 s, a retry period of 2 s."""
    return Candidacy(
        identity=identity,
        pod_uid=pod_uid or f"uid-{identity}",
        node=f"node-{identity}",
        lease_seconds=lease,
        renew_deadline=DEADLINE,
        retry_period=RETRY,
    )


def lock(
    version: int, text: str | None, claim: str | None = None, others: Mapping[str, str | None] | None = None
) -> Snapshot:
    """Return the lock object with these annotations, as an answer of the API server shows it."""
    annotations = {RECORD_ANNOTATION: text, CLAIM_ANNOTATION: claim, **(others or {})}
    return Snapshot(
        version=version,
        text=text,
        record=None if text is None else parse_record(text),
        claim=parse_claim(claim),
        body={"metadata": {"annotations": {key: value for key, value in annotations.items() if value is not None}}},
    )


def record(holder: str = "b", *, lease: int = LEASE, renewed: int = 0, transitions: int = 0) -> Record:
    """Return a record; `renewed` is the second of its renewal."""
    return Record(
        holder=holder,
        lease_seconds=lease,
        acquire_time=format_time(EPOCH),
        renew_time=format_time(EPOCH + renewed),
        transitions=transitions,
    )


def held(
    version: int,
    holder: str = "b",
    *,
    uid: str | None = None,
    lease: int = LEASE,
    renewed: int = 0,
    transitions: int = 0,
) -> Snapshot:
    """Return the lock object held by `holder`; with a claim when `uid` is given."""
    text = record(holder, lease=lease, renewed=renewed, transitions=transitions).encode()
    claim = None if uid is None else Claim(holder=holder, node=f"node-{uid}", pod_uid=uid).encode()
    return lock(version, text, claim)


def released(version: int, *, transitions: int = 0) -> Snapshot:
    """Return the lock object after its holder gave it up, as client-go writes it."""
    return lock(version, record("", lease=1, transitions=transitions).encode())


def result(write: Write, version: int) -> Snapshot:
    """Return the lock object after `write` was applied."""
    base = write.base.body["metadata"]["annotations"] if write.base else {}
    others = {key: value for key, value in base.items() if key not in (RECORD_ANNOTATION, CLAIM_ANNOTATION)}
    return lock(
        version, write.record.encode(), write.claim.encode() if write.claim else None, {**others, **write.others}
    )


class Player:
    """One candidate: `now` is its clock, `wall` the time of day, `luck` its randomness; a test sets all three."""

    def __init__(self, identity: str = "a", *, pod_uid: str = "", lease: int = LEASE) -> None:
        self.state = State(candidacy=candidacy(identity, pod_uid=pod_uid, lease=lease))
        self.now = 0.0
        self.luck = 0.5
        self.wall: int | None = None
        self.actions: list[Action] = []

    def moment(self) -> Moment:
        """Return what the outside world reads now."""
        return Moment(now=self.now, wall=EPOCH + int(self.now) if self.wall is None else self.wall, luck=self.luck)

    def happens(self, event: Event, at: float | None = None) -> None:
        """Let `event` happen, at `at` if given."""
        if at is not None:
            self.now = at
        self.state = apply(self.state, event, self.moment())

    def does(self, kind: type[A], at: float | None = None) -> A:
        """Return the next action, which must be of this kind."""
        if at is not None:
            self.now = at
        self.state, action = next_action(self.state, self.moment())
        self.actions.append(action)
        assert isinstance(action, kind), f"expected {kind.__name__}, not {action}"
        return action

    def reads(self, snapshot: Snapshot | None, at: float | None = None) -> None:
        """Ask for a read, and have it answered in the same instant."""
        self.does(Read, at)
        self.happens(Fetched(snapshot, self.now))

    def writes(self, version: int, at: float | None = None) -> Snapshot:
        """Ask for a write, have it applied and answered in the same instant; return the lock object after it."""
        write = self.does(Write, at)
        snapshot = result(write, version)
        self.happens(Written(snapshot, self.now))
        return snapshot

    def sees(self, snapshot: Snapshot, at: float | None = None) -> None:
        """Have the watch show the lock object."""
        self.happens(Changed(snapshot), at)

    @property
    def leads(self) -> bool:
        """Tell whether it leads now."""
        return self.state.is_leading(self.now)

    @property
    def names(self) -> str:
        """What it answers now."""
        return self.state.leader_name(self.now)

    def waits(self) -> Iterator[float]:
        """Go from wait to wait while nothing happens; yields each instant, ends at the first action."""
        while True:
            self.state, action = next_action(self.state, self.moment())
            if not isinstance(action, Wait):
                self.actions.append(action)
                return
            assert action.until > self.now, "a wait that is over already is a busy loop"
            self.now = action.until
            yield self.now


def leader(identity: str = "a", *, pod_uid: str = "") -> Player:
    """Return a candidate that created the lock object at second 0, at version 1, leads and watches."""
    player = Player(identity, pod_uid=pod_uid)
    player.reads(None)
    player.writes(1)
    player.happens(WatchStarted())
    assert player.leads
    return player


def follower(snapshot: Snapshot, *, watching: bool = True, identity: str = "a") -> Player:
    """Return a candidate that saw `snapshot` at second 0 and, unless told otherwise, watches."""
    player = Player(identity)
    player.reads(snapshot)
    if watching:
        player.happens(WatchStarted())
    return player
