"""The driver: turns answers and watch events into the election's events, and its actions into requests.

Three tasks and no more: one goes round the loop of `sidecar.election`, one keeps the watch on the lock object alive,
and, where leaders are spread over nodes, one is the settler's. What is known lives in one immutable state, which they
replace without an await in between; there is no queue, and nothing that is shown waits for a request that hangs.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.census import CensusTaker
from sidecar.election import (
    Abstain,
    Action,
    Candidacy,
    Changed,
    Conflicted,
    Count,
    Counted,
    Deleted,
    Event,
    Failed,
    Fetched,
    Leave,
    Leaving,
    Moment,
    Read,
    Stand,
    State,
    Wait,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
    apply,
    lapse,
    next_action,
    step_down,
)
from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, NotFoundError
from sidecar.locks import Bookmark
from sidecar.record import Record, UnreadableRecord, format_time
from sidecar.settler import Settler
from sidecar.tally import Tally
from sidecar.troubles import Troubles

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.census import Taken
    from sidecar.group import Group
    from sidecar.locks import Lock, LockEvent
    from sidecar.record import Snapshot

WATCH_SECONDS = (3000, 4200)
"""How long the API server is asked to keep one watch, drawn from this range. Long, because each end costs a request a
candidate; not for ever, because load balancers and API servers come and go."""

WATCH_GRACE = 30
"""Seconds beyond that in which the API server should have ended the watch."""

SHORT_WATCH = 5.0
"""Seconds. A watch that ended sooner counts as failed: something between us and the API server does not let it be."""

WATCH_BACKOFF = (0.5, 15.0)
"""Seconds between attempts to watch, after the first failure and at most."""

WATCH_FORBIDDEN_PAUSE = 600.0
"""Seconds until a watch that was not allowed is tried again; somebody may have granted it."""

RELEASE_LIMIT = 5.0
"""Seconds that the release may take at most: well within the grace that a pod, or a container, is given to end."""

LONGEST_WAIT = 5.0
"""Seconds after which the loop goes round although nothing happened, so that one that is stuck can be told from it."""

FAREWELL_LIMIT = 1.0
"""Seconds that what has to be undone before a release may take; the others wait for it."""

STALLED = 30.0
"""Seconds without a round of the loop after which it counts as stalled. Each wait and each request is shorter."""


class Clock(Protocol):
    """The clocks of a candidate."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back and runs on while the machine sleeps."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Return CLOCK_BOOTTIME: CLOCK_MONOTONIC stands still while a machine is suspended, and leases do not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """Return the system's time."""
        return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a candidate can tell about itself and its election at one instant."""

    identity: str
    node: str
    role: str
    leader: str
    leader_node: str
    fencing_token: int | None
    since: str
    valid_for: float
    transitions: int | None
    why: str
    last_error: str
    placing: str
    """What was done last for the balance of leaders over nodes, and why."""
    census: Taken | None
    """The group, as this candidate last saw it."""


class Candidate:
    """One participant in one election.

    `run` takes part until `leave` is called; everything else may be asked at any time and never waits. Without a
    `group`, or without `candidacy.balance`, nodes do not matter.
    """

    def __init__(
        self,
        candidacy: Candidacy,
        lock: Lock,
        *,
        group: Group | None = None,
        clock: Clock,
        random: random.Random,
        request_timeout: float,
        log: FilteringBoundLogger,
        tally: Tally | None = None,
    ) -> None:
        self._lock = lock
        self._clock = clock
        self._random = random
        self._request_timeout = request_timeout
        self._log = log
        self._tally = tally if tally is not None else Tally()
        self._state = State(candidacy=candidacy)
        self._woken = asyncio.Event()
        self._news = asyncio.Event()
        self._round_began = clock.now()
        self._troubles = Troubles(log, resource=lock.resource, wall=clock.wall)
        self._settler: Settler | None = None
        if group is not None and candidacy.balance is not None:
            self._settler = Settler(
                candidacy,
                lock,
                group,
                CensusTaker(group, now=clock.now, wall=clock.wall, troubles=self._troubles),
                now=clock.now,
                state=lambda: self._state,
                moment=self._moment,
                tell=self._happened,
                show=self._annotated,
                troubles=self._troubles,
                log=log,
            )
        self._listeners: list[Callable[[], None]] = []
        self._farewell: Callable[[], Awaitable[None]] | None = None
        self._watch_version = 0
        self._watch_limit: asyncio.Timeout | None = None
        self._release_limit: asyncio.Timeout | None = None
        self._read_limit: asyncio.Timeout | None = None

    # -- What may be asked --

    def is_leading(self) -> bool:
        """Tell whether this candidate leads, now."""
        return self._state.is_leading(self._clock.now())

    def leader_name(self) -> str:
        """Return the identity of the current leader, `""` when nobody's lease is known to be valid, now."""
        return self._state.leader_name(self._clock.now())

    def is_ready(self) -> bool:
        """Tell whether the lock was observed."""
        return self._state.observed is not None

    def is_alive(self) -> bool:
        """Tell whether the loop goes round, whoever leads and whatever the API server does."""
        return self._clock.now() - self._round_began < STALLED

    def is_balanced(self) -> bool:
        """Tell whether nodes matter to this candidate."""
        return self._settler is not None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, soon, whenever something may have changed; it must neither wait nor raise.

        Time alone changes answers as well: `same_until` says when.
        """
        self._listeners.append(listener)

    def same_until(self) -> float:
        """Return the instant, on the candidate's clock, up to which answers stay the same if nothing happens."""
        now = self._clock.now()
        ends = [self._state.term.valid_until] if self._state.term is not None else []
        ends += [self._state.observed.held_until] if self._state.observed is not None else []
        return min((end for end in ends if end > now), default=math.inf)

    def status(self) -> Status:
        """Return what there is to tell."""
        now = self._clock.now()
        # A process that was stopped has not noticed yet that its term is over.
        state = lapse(self._state, now)
        me, observed = state.candidacy, state.observed
        leading = state.is_leading(now)
        term = state.term if leading else None
        name = state.leader_name(now)
        claim = observed.claim if observed and name else None
        record = observed.snapshot.record if observed and observed.snapshot else None
        return Status(
            identity=me.identity,
            node=me.node,
            role=_role(state, leading=leading),
            leader=name,
            leader_node=claim.node if claim else "",
            fencing_token=term.token if term else None,
            since=format_time(term.since) if term else "",
            valid_for=round(term.valid_until - now, 3) if term else 0.0,
            transitions=record.transitions if isinstance(record, Record) else None,
            why=state.note,
            last_error=self._troubles.last,
            placing=self._settler.why if self._settler else "",
            census=self._settler.census if self._settler else None,
        )

    # -- Taking part --

    async def run(self) -> None:
        """Take part in the election until `leave` was called and what was held is released, or that took too long."""
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._keep_watching())]
            if self._settler is not None:
                others.append(tasks.create_task(self._settler.run()))
            try:
                async with asyncio.timeout(None) as self._release_limit:
                    await self._go_round()
            except TimeoutError:
                self._log.warning("could not release the lock in time; the others wait for its lease to run out")
            for task in others:
                task.cancel()
        if self._settler is not None:
            await self._settler.withdraw()

    def before_release(self, farewell: Callable[[], Awaitable[None]]) -> None:
        """Have `farewell` awaited before the lock is released, for at most `FAREWELL_LIMIT` seconds.

        By then leadership is revoked. What it fails with is told, and the lock released all the same.
        """
        self._farewell = farewell

    def abstain(self, why: str, *, until: float = math.inf, patience: float = math.inf) -> None:
        """Give up what is held, and do not stand for election; see `sidecar.election.Abstain`."""
        self._happened(Abstain(why, until, patience))

    def stand(self, why: str) -> None:
        """Stand for election again, as far as this reason goes."""
        self._happened(Stand(why))

    def step_down(self, why: str) -> bool:
        """Stop leading at once, release the lock, and leave it to others for two leases; return whether this led.

        Whoever holds nothing is not kept from the lock, or there would be no leader once everybody was asked.
        """
        if not self._state.may_hold:
            return False
        led = self.is_leading()
        self._happened(step_down(self._state.candidacy, self._clock.now(), why))
        return led

    def leave(self) -> None:
        """Stop leading at once; then release the lock, for at most `RELEASE_LIMIT` seconds, and let `run` end.

        A release that is to be delayed is given that time as well.
        """
        if self._state.leaving:
            return
        self._happened(Leaving())
        now = asyncio.get_running_loop().time()
        if self._release_limit is not None:
            limit = min(2 * self._request_timeout, RELEASE_LIMIT)
            if self._state.may_hold:
                limit += self._state.candidacy.release_delay + (FAREWELL_LIMIT if self._farewell is not None else 0.0)
            self._release_limit.reschedule(now + limit)
        if self._read_limit is not None:
            # No bid is wanted any more; whether to release is decided on what is read from now on.
            self._read_limit.reschedule(now)

    async def _go_round(self) -> None:
        while True:
            self._round_began = self._clock.now()
            self._woken.clear()
            state, action = next_action(self._state, self._moment())
            self._replace(state)
            self._tally.act(action, state)
            self._tell(action)
            match action:
                case Wait(until):
                    await self._wait(until - self._clock.now())
                case Read():
                    if (event := await self._read()) is not None:
                        self._happened(event)
                case Write():
                    if not action.record.holder:
                        await self._part()
                    asked_at = self._clock.now()
                    event = await self._write(action)
                    now = self._clock.now()
                    self._tally.wrote(event, self._state, now=now, seconds=now - asked_at)
                    self._happened(event)
                case Count():
                    self._happened(await self._count())
                case Leave():
                    return

    async def _part(self) -> None:
        if self._farewell is None:
            return
        try:
            async with asyncio.timeout(FAREWELL_LIMIT):
                await self._farewell()
        except TimeoutError:
            self._log.warning("what belongs to the leader was not undone in time; the lock is released all the same")
        except Exception:  # noqa: BLE001 - the others wait for the lock
            self._log.critical("the lock is released without a farewell, because of a defect", exc_info=True)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LONGEST_WAIT)):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _read(self) -> Event | None:
        """Return what was answered, `None` when `leave` interrupted."""
        asked_at = self._clock.now()
        try:
            async with asyncio.timeout(None) as self._read_limit:
                snapshot = await self._lock.fetch()
        except TimeoutError:
            return None
        except ApiError as error:
            self._troubles.met("get", error)
            return Failed(refused=error.refused, retry_after=error.retry_after)
        finally:
            self._read_limit = None
        self._troubles.ended("get")
        self._tally.read()
        if snapshot is not None:
            self._expect(snapshot.version)
        return Fetched(snapshot, asked_at)

    async def _count(self) -> Counted:
        """Return what a census says of the bid; there is none for somebody who leaves meanwhile."""
        if self._settler is None:
            return Counted(None)
        try:
            async with asyncio.timeout(None) as self._read_limit:
                return await self._settler.count()
        except TimeoutError:
            return Counted(None)
        finally:
            self._read_limit = None

    async def _write(self, write: Write) -> Event:
        verb = "create" if write.base is None else "update"
        asked_at = self._clock.now()
        try:
            snapshot = await self._lock.write(write.base, write.record, write.claim, write.others)
        except ConflictError:
            self._troubles.ended(verb)
            return Conflicted()
        except ApiError as error:
            if write.base is not None and isinstance(error, NotFoundError):
                # The lock object was deleted. On a create it would be the namespace that is missing.
                return Conflicted()
            self._troubles.met(verb, error)
            return Failed(write=True, refused=error.refused, retry_after=error.retry_after)
        self._troubles.ended(verb)
        self._expect(snapshot.version)
        return Written(snapshot, asked_at)

    # -- The watch --

    async def _keep_watching(self) -> None:
        failures = forgotten = 0
        first, longest = WATCH_BACKOFF
        while True:
            version = await self._version_to_watch_from(forgotten)
            started = self._clock.now()
            pause = 0.0
            self._tally.watch()
            try:
                await self._watch(version)
                forgotten = 0
            except GoneError:
                # An API server that has just started remembers nothing before its start: that can be the very version
                # of a lock object that did not change since. Polling goes on until it does.
                forgotten = version
                self._happened(WatchStopped(gap=True))
            except ForbiddenError as error:
                self._troubles.met("watch", error)
                self._happened(WatchStopped())
                pause = WATCH_FORBIDDEN_PAUSE
            except ApiError as error:
                self._troubles.met("watch", error)
                self._happened(WatchStopped())
                pause = min(error.retry_after, longest)
            except TimeoutError:
                self._troubles.met("watch", ApiError("the watch has fallen silent"))
                self._happened(WatchStopped())
            failures = failures + 1 if self._clock.now() - started < SHORT_WATCH else 0
            if failures:
                pause = max(pause, min(longest, first * 2 ** min(failures - 1, 8)) * (0.5 + self._random.random() / 2))
            await asyncio.sleep(pause)

    async def _version_to_watch_from(self, forgotten: int) -> int:
        """Wait until the lock object was seen at a later version than `forgotten`, with nothing missed since."""
        while (observed := self._state.observed) is None or observed.version <= forgotten or self._state.must_read:
            self._news.clear()
            await self._news.wait()
        return observed.version

    async def _watch(self, version: int) -> None:
        """Watch until the API server ends it. Raises `ApiError`, or `TimeoutError` when the watch fell silent."""
        seconds = self._random.randint(*WATCH_SECONDS)
        async with asyncio.timeout(seconds + WATCH_GRACE) as limit, self._lock.watch(version, seconds) as events:
            self._watch_version = version
            self._watch_limit = limit
            try:
                await self._show(events)
            finally:
                self._watch_limit = None
        self._happened(WatchStopped())

    async def _show(self, events: AsyncIterator[LockEvent]) -> None:
        async for event in events:
            # Not before: something in between may accept a watch and then show nothing.
            self._troubles.ended("watch")
            if not self._state.watching:
                self._happened(WatchStarted())
            match event:
                case Changed(snapshot):
                    self._watch_version = max(self._watch_version, snapshot.version)
                    self._happened(event)
                case Deleted(version):
                    self._watch_version = max(self._watch_version, version)
                    self._happened(event)
                case Bookmark(version):
                    self._watch_version = max(self._watch_version, version)

    def _expect(self, version: int) -> None:
        """Give the watch one request time-out to show what an answer showed; a half-open connection never will."""
        if self._watch_limit is not None:
            asyncio.get_running_loop().call_later(self._request_timeout, self._check_watch, version, self._watch_limit)

    def _check_watch(self, version: int, limit: asyncio.Timeout) -> None:
        if self._watch_limit is limit and self._watch_version < version:
            self._watch_limit = None
            limit.reschedule(asyncio.get_running_loop().time())

    # -- What is known, and what is said about it --

    def _moment(self) -> Moment:
        return Moment(now=self._clock.now(), wall=int(self._clock.wall()), luck=self._random.random())

    def _happened(self, event: Event) -> None:
        self._replace(apply(self._state, event, self._moment()))
        self._woken.set()
        self._news.set()

    def _annotated(self, snapshot: Snapshot) -> None:
        self._expect(snapshot.version)
        self._happened(Changed(snapshot))

    def _replace(self, state: State) -> None:
        before, self._state = self._state, state
        self._tally.change(before, state, self._clock.now())
        if self._settler is not None:
            self._settler.stir()
        for listener in self._listeners:
            listener()
        if before.note != state.note:
            self._say(state)

    def _say(self, state: State) -> None:
        record = state.observed.snapshot.record if state.observed and state.observed.snapshot else None
        if state.term is not None and state.term.confirmed:
            self._log.info(state.note, fencing_token=state.term.token)
        elif isinstance(record, UnreadableRecord):
            self._log.warning(state.note)
        else:
            self._log.info(state.note)

    def _tell(self, action: Action) -> None:
        self._log.debug(action.why, action=type(action).__name__.lower())


def _role(state: State, *, leading: bool) -> str:
    if state.is_giving_up:
        return "releasing"
    if leading:
        return "leading"
    if state.term is not None:
        return "checking"
    return "following" if state.observed else "starting"
