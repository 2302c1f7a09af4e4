"""The driver: turns answers and watch events into the election's events, and its actions into requests.

Three tasks and no more: one goes round the loop of `sidecar.election`, one keeps the watch on the lock object alive,
and, where leaders are spread over nodes, one goes round `sidecar.settling`. What is known lives in one immutable state,
which they replace without an await in between; there is no queue, and nothing that is shown waits for a request that
hangs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar import balance, settling
from sidecar.census import CensusTaker
from sidecar.election import (
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
    State,
    Wait,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
    apply,
    next_action,
)
from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, NotFoundError, Permission
from sidecar.locks import Bookmark
from sidecar.record import Record, UnreadableRecord, format_time
from sidecar.registration import registration_key, registrations
from sidecar.settling import Advise, Look, Pause, Register, Settling
from sidecar.troubles import Troubles

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.balance import LockSeen
    from sidecar.census import Taken
    from sidecar.group import Group
    from sidecar.locks import Lock, LockEvent
    from sidecar.record import Snapshot
    from sidecar.registration import Registration

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

WITHDRAW_LIMIT = 1.0
"""Seconds that it may take to withdraw the registration of somebody who leaves."""

LONGEST_WAIT = 5.0
"""Seconds after which the loop goes round although nothing happened, so that one that is stuck can be told from it."""

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
    ) -> None:
        self._lock = lock
        self._clock = clock
        self._random = random
        self._request_timeout = request_timeout
        self._log = log
        self._state = State(candidacy=candidacy)
        self._woken = asyncio.Event()
        self._news = asyncio.Event()
        self._round_began = clock.now()
        self._troubles = Troubles(log, resource=lock.resource, wall=clock.wall)
        self._group = group
        self._census: CensusTaker | None = None
        self._settling: Settling | None = None
        if group is not None and candidacy.balance is not None:
            self._census = CensusTaker(group, now=clock.now, wall=clock.wall, troubles=self._troubles)
            if candidacy.registers:
                self._settling = Settling(candidacy=candidacy, lock=lock.name)
        self._placing = ""
        self._patching = Permission(clock.now)
        self._nudging = Permission(clock.now)
        self._stirred = asyncio.Event()
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
        return self._census is not None

    def status(self) -> Status:
        """Return what there is to tell."""
        state, now = self._state, self._clock.now()
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
            placing=self._placing,
            census=self._census.last if self._census else None,
        )

    # -- Taking part --

    async def run(self) -> None:
        """Take part in the election until `leave` was called and what was held is released, or that took too long."""
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._keep_watching())]
            if self._settling is not None:
                others.append(tasks.create_task(self._settle(self._settling)))
            try:
                async with asyncio.timeout(None) as self._release_limit:
                    await self._go_round()
            except TimeoutError:
                self._log.warning("could not release the lock in time; the others wait for its lease to run out")
            for task in others:
                task.cancel()
        await self._withdraw()

    def leave(self) -> None:
        """Stop leading at once; then release the lock, for at most `RELEASE_LIMIT` seconds, and let `run` end."""
        if self._state.leaving:
            return
        self._happened(Leaving())
        now = asyncio.get_running_loop().time()
        if self._release_limit is not None:
            self._release_limit.reschedule(now + min(2 * self._request_timeout, RELEASE_LIMIT))
        if self._read_limit is not None:
            # Whether to release is decided on what is read from now on, and there may be nothing to release.
            self._read_limit.reschedule(now)

    async def _go_round(self) -> None:
        while True:
            self._round_began = self._clock.now()
            self._woken.clear()
            state, action = next_action(self._state, self._moment())
            self._replace(state)
            self._tell(action)
            match action:
                case Wait(until):
                    await self._wait(until - self._clock.now())
                case Read():
                    if (event := await self._read()) is not None:
                        self._happened(event)
                case Write():
                    self._happened(await self._write(action))
                case Count():
                    self._happened(await self._count())
                case Leave():
                    return

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
        if snapshot is not None:
            self._expect(snapshot.version)
        return Fetched(snapshot, asked_at)

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

    # -- The balance --

    async def _count(self) -> Counted:
        """Take the census for a bid; whoever leaves meanwhile needs none."""
        census = None
        try:
            async with asyncio.timeout(None) as self._read_limit:
                census = await self._census.take(cached=True) if self._census else None
        except TimeoutError:
            pass
        finally:
            self._read_limit = None
        me, observed = self._state.candidacy, self._state.observed
        if census is None or me.balance is None or observed is None:
            return Counted(None)
        known = dict(registrations(observed.snapshot.annotations) if observed.snapshot else {})
        if gone := observed.missed:
            # Whoever let the lease run out, or does not take what it was named successor for, is no rival.
            known.pop(registration_key(gone), None)
        rivals = frozenset(registration.node for registration in known.values())
        seconds = balance.delay(census, election=self._lock.name, node=me.node, rivals=rivals, slot=me.balance.slot)
        carries = census.loads(without=self._lock.name).get(me.node, 0)
        self._place(
            f"held the bid back for {seconds:g} s: {me.node} carries {carries}, others less"
            if seconds
            else f"bid at once: {me.node} carries {carries}, and nobody less"
        )
        return Counted(seconds)

    async def _settle(self, state: Settling) -> None:
        told = state.why
        try:
            while True:
                self._stirred.clear()
                state = settling.observe(state, self._state, self._moment())
                state, step = settling.next_step(state, self._moment())
                match step:
                    case Pause(until):
                        await self._rest(until - self._clock.now())
                    case Register(registration):
                        await self._register(registration)
                    case Advise(advice):
                        for event in advice:
                            self._happened(event)
                    case Look():
                        state = await self._look(state)
                if state.why != told:
                    told = state.why
                    self._place(told)
        except Exception:  # noqa: BLE001 - the election has to go on; who was checking leads after a while all the same
            self._log.critical("leaders are no longer spread over nodes, because of a defect", exc_info=True)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LONGEST_WAIT)):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _look(self, state: Settling) -> Settling:
        taker, group = self._census, self._group
        census = await taker.take(cached=False) if taker else None
        state, verdict = settling.looked(settling.observe(state, self._state, self._moment()), census, self._moment())
        for event in verdict.advice:
            self._happened(event)
        if group is not None and taker is not None and taker.last is not None:
            for name in verdict.nudges:
                await self._nudge(group, taker.last.locks[name])
        return state

    async def _nudge(self, group: Group, lock: LockSeen) -> None:
        if self._nudging.denied:
            return
        try:
            await group.nudge(lock)
        except ForbiddenError as error:
            self._nudging.deny()
            self._log.info("other leaders cannot be nudged; they look by themselves, later", error=str(error))
        except ApiError as error:
            self._log.debug("a nudge failed", lock=lock.name, error=str(error))

    async def _register(self, registration: Registration | None) -> None:
        key = registration_key(self._state.candidacy.identity)
        await self._annotate({key: registration.encode() if registration else None})

    async def _annotate(self, annotations: Mapping[str, str | None]) -> None:
        try:
            if not self._patching.denied:
                try:
                    snapshot = await self._lock.annotate(annotations)
                except ForbiddenError as error:
                    self._patch_failed(error)
                else:
                    self._troubles.ended("patch")
                    self._annotated(snapshot)
                    return
            # Without a census there is no balance, and no need to say where one runs.
            if self._census is not None and await self._census.take(cached=True) is not None:
                self._annotated(await self._lock.swap(annotations))
        except (ConflictError, NotFoundError):
            self._log.debug("the lock object changed before it was annotated")
        except ApiError as error:
            self._patch_failed(error)

    def _annotated(self, snapshot: Snapshot) -> None:
        self._expect(snapshot.version)
        self._happened(Changed(snapshot))

    def _patch_failed(self, error: ApiError) -> None:
        if isinstance(error, ForbiddenError):
            self._patching.deny()
        self._troubles.met("patch", error)

    async def _withdraw(self) -> None:
        """Take this candidate's registration off the lock object; who released the lock has done so already."""
        key = registration_key(self._state.candidacy.identity)
        observed = self._state.observed
        if observed is None or observed.snapshot is None or self._settling is None:
            return
        registered = registrations(observed.snapshot.annotations).get(key)
        if registered is None or registered.pod_uid != self._state.candidacy.pod_uid:
            return
        try:
            async with asyncio.timeout(WITHDRAW_LIMIT):
                await self._annotate({key: None})
        except TimeoutError:
            self._log.debug("the registration was not withdrawn in time; the leader strikes it out later")

    def _place(self, why: str) -> None:
        if why != self._placing:
            self._placing = why
            self._log.info(why)

    # -- The watch --

    async def _keep_watching(self) -> None:
        failures = forgotten = 0
        first, longest = WATCH_BACKOFF
        while True:
            version = await self._version_to_watch_from(forgotten)
            started = self._clock.now()
            pause = 0.0
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

    def _replace(self, state: State) -> None:
        before, self._state = self._state, state
        self._stirred.set()
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
