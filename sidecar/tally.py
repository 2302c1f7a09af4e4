"""The tally: what one candidate counts from its start on, for whoever asks what it has been doing.

Plain numbers and no library, so that a process that is never asked pays next to nothing. Whatever is counted follows
from what the election did anyway: nothing here asks, waits or decides.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sidecar.election import Write, Written
from sidecar.record import CHECKING, Record

if TYPE_CHECKING:
    from sidecar.election import Action, Event, State

RENEWAL_BUCKETS = (0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0)
"""Seconds that a renewal takes: of an API server at rest, of a busy one, and up to the time-out of a request, which is
2.1 s with a ttl of 10 s and never more than 10 s."""

LATE = 2 / 3
"""Part of the renew deadline after which a renewal is late: with the defaults, one that succeeds at the second try."""

LAPSED, LOST, HANDED_OVER, STEPPED_DOWN, LEFT = "lapse", "loss", "hand_over", "step_down", "exit"
REASONS = (LAPSED, LOST, HANDED_OVER, STEPPED_DOWN, LEFT)
"""What terms end by: the renew deadline, somebody else's write, a hand-over, the order to step down or not to stand,
the end of the process."""

NO_CODE = "none"
"""The code of a request that got no answer."""

_CODES = frozenset({200, 201, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504})
"""Statuses that are told apart. Others go by their class, so that no server decides how much is counted here."""


class Tally:
    """What was counted since the process began."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests to the API server, by verb and code."""
        self.renewals = [0] * (len(RENEWAL_BUCKETS) + 1)
        """Renewals, whatever became of them, by the bucket of the seconds until the answer or the failure; the last one
        has those beyond all buckets."""
        self.renewal_seconds = 0.0
        """All their seconds."""
        self.late_renewals = 0
        """Renewals that succeeded when `LATE` of the renew deadline was over."""
        self.slow_paths = 0
        """Renewals that had to be preceded by a read, as client-go counts them."""
        self.bids = 0
        """Writes that tried to take a vacant lock."""
        self.terms = 0
        """Terms that this candidate began to lead."""
        self.ended: Counter[str] = Counter()
        """Those that ended, by reason."""
        self.transitions = 0
        """How often somebody's leadership was seen to begin, after the first one that was seen."""
        self.watch_restarts = 0
        """Watches of the lock object after the first one."""
        self._watched = False
        self._has_read = False
        self._is_renewing = False
        self._seen: tuple[str, str] | None = None
        """Holder and beginning of the last leadership that was seen."""

    # -- What the candidate tells --

    def act(self, action: Action, state: State) -> None:
        """Take note of what is about to be done, with what is known."""
        if not isinstance(action, Write):
            return
        keeps = bool(action.record.holder)
        self._is_renewing = keeps and state.observed is not None and state.observed.mine
        if self._is_renewing:
            self.slow_paths += self._has_read
        elif keeps:
            self.bids += 1
        self._has_read = False

    def read(self) -> None:
        """Take note of a read that was answered."""
        self._has_read = True

    def wrote(self, event: Event, state: State, *, now: float, seconds: float) -> None:
        """Take note of what became of the write that was told last, before the state takes it in."""
        if not self._is_renewing:
            return
        self.renewals[sum(limit < seconds for limit in RENEWAL_BUCKETS)] += 1
        self.renewal_seconds += seconds
        term = state.term
        if isinstance(event, Written) and term is not None:
            late = term.renewed_at + LATE * state.candidacy.renew_deadline
            self.late_renewals += late <= now < term.valid_until

    def change(self, before: State, after: State, now: float) -> None:
        """Take note of what is known now, and was not."""
        old = before.term if before.term is not None and before.term.confirmed else None
        new = after.term if after.term is not None and after.term.confirmed else None
        if old is not None and (new is None or new.token != old.token):
            self.ended[_reason(after, lapsed=now >= old.valid_until)] += 1
        if new is not None and (old is None or new.token != old.token):
            self.terms += 1
        if before.observed is not after.observed and (seen := _leadership(after)) is not None and seen != self._seen:
            self.transitions += self._seen is not None
            self._seen = seen

    def watch(self) -> None:
        """Take note that a watch begins."""
        self.watch_restarts += self._watched
        self._watched = True

    # -- What the client tells --

    def request(self, verb: str, status: int | None) -> None:
        """Take note of a request with this RBAC verb, and the status of its answer; `None` when none came."""
        code = NO_CODE if status is None else str(status) if status in _CODES else f"{status // 100}xx"
        self.requests[verb, code] += 1


def _reason(state: State, *, lapsed: bool) -> str:
    if lapsed:
        return LAPSED
    if state.leaving:
        return LEFT
    if state.yielding:
        return STEPPED_DOWN
    return HANDED_OVER if state.handing_to is not None else LOST


def _leadership(state: State) -> tuple[str, str] | None:
    """Return whose leadership the lock object shows, and since when; one that is being checked has not begun."""
    observed = state.observed
    record = observed.snapshot.record if observed and observed.snapshot else None
    if observed is None or not isinstance(record, Record) or not record.holder:
        return None
    if observed.claim is not None and observed.claim.state == CHECKING:
        return None
    return record.holder, record.acquire_time
