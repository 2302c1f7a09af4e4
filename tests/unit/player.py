"""One candidate of the pure election, moved by hand: what a test says happens, happens, at the instant it says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sidecar.election import (
    Action,
    Balance,
    Candidacy,
    Changed,
    Count,
    Counted,
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
    LEADING,
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

A = TypeVar("A", Read, Write, Wait, Count, Leave)


def candidacy(
    identity: str = "a", *, pod_uid: str = "", lease: int = LEASE, balance: Balance | None = None
) -> Candidacy:
    """Return a candidate's terms: a lease of 10 s, a renew deadline of 6 s, a retry period of 2 s."""
    return Candidacy(
        identity=identity,
        pod_uid=pod_uid or f"uid-{identity}",
        node=f"node-{identity}",
        lease_seconds=lease,
        renew_deadline=DEADLINE,
        retry_period=RETRY,
        balance=balance,
    )


def lock(
    version: int, text: str | None, claim: Claim | str | None = None, others: Mapping[str, str | None] | None = None
) -> Snapshot:
    """Return the lock object with these annotations, as an answer of the API server shows it.

    A `Claim` is written with the record; a claim's text stands there as it is.
    """
    if isinstance(claim, Claim):
        claim = belonging(claim, text).encode()
    annotations = {RECORD_ANNOTATION: text, CLAIM_ANNOTATION: claim, **(others or {})}
    return Snapshot(
        version=version,
        text=text,
        record=None if text is None else parse_record(text),
        claim=parse_claim(claim),
        body={"metadata": {"annotations": {key: value for key, value in annotations.items() if value is not None}}},
    )


def belonging(claim: Claim, text: str | None) -> Claim:
    """Return the claim as it is written with the record of this text."""
    written = parse_record(text or "")
    return replace(claim, renewed=written.renew_time) if isinstance(written, Record) else claim


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
    state: str = LEADING,
) -> Snapshot:
    """Return the lock object held by `holder`; with a claim of that state when `uid` is given."""
    text = record(holder, lease=lease, renewed=renewed, transitions=transitions).encode()
    claim = None if uid is None else Claim(holder=holder, node=f"node-{uid}", pod_uid=uid, state=state)
    return lock(version, text, claim)


def released(version: int, *, transitions: int = 0) -> Snapshot:
    """Return the lock object after its holder gave it up, as client-go writes it."""
    return lock(version, record("", lease=1, transitions=transitions).encode())


def handed(version: int, successor: str, *, uid: str = "", moves: int = 1) -> Snapshot:
    """Return the lock object after its holder released it in favour of `successor`."""
    claim = Claim(
        holder="", node=f"node-{successor}", pod_uid=uid or f"uid-{successor}", successor=successor, moves=moves
    )
    return lock(version, record("", lease=1).encode(), claim)


def result(write: Write, version: int) -> Snapshot:
    """Return the lock object after `write` was applied."""
    base = write.base.body["metadata"]["annotations"] if write.base else {}
    others = {key: value for key, value in base.items() if key not in (RECORD_ANNOTATION, CLAIM_ANNOTATION)}
    return lock(
        version, write.record.encode(), write.claim.encode() if write.claim else None, {**others, **write.others}
    )


class Player:
    """One candidate: `now` is its clock, `wall` the time of day, `luck` its randomness; a test sets all three."""

    def __init__(
        self, identity: str = "a", *, pod_uid: str = "", lease: int = LEASE, balance: Balance | None = None
    ) -> None:
        self.state = State(candidacy=candidacy(identity, pod_uid=pod_uid, lease=lease, balance=balance))
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

    def counts(self, delay: float | None = 0.0, at: float | None = None) -> None:
        """Ask for a census, and be told in the same instant by how much to hold the bid back."""
        self.does(Count, at)
        self.happens(Counted(delay))

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


def checker(identity: str = "a", *, pod_uid: str = "") -> Player:
    """Return a candidate that created the lock object at second 0, at version 1, watches, and still checks."""
    player = Player(identity, pod_uid=pod_uid, balance=Balance())
    player.luck = 0.0
    player.reads(None)
    player.counts()
    player.writes(1)
    player.happens(WatchStarted())
    assert not player.leads
    return player


def follower(
    snapshot: Snapshot,
    *,
    watching: bool = True,
    identity: str = "a",
    balance: Balance | None = None,
    luck: float = 0.5,
) -> Player:
    """Return a candidate that saw `snapshot` at second 0 and, unless told otherwise, watches."""
    player = Player(identity, balance=balance)
    player.luck = luck
    player.reads(snapshot)
    if watching:
        player.happens(WatchStarted())
    return player
