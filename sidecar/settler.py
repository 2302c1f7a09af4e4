"""The settler: plays one candidate's part in spreading leaders over nodes, as `sidecar.settling` decides it.

It takes censuses, writes the registration, and nudges. What it finds out it tells the election as events; it never
holds one up, and whatever fails here fails without the election.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar import balance, settling
from sidecar.election import Counted
from sidecar.kube import ApiError, ConflictError, ForbiddenError, NotFoundError, Permission
from sidecar.registration import registration_key, registrations
from sidecar.settling import Advise, Look, Pause, Register, Settling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.census import CensusTaker, Taken
    from sidecar.election import Candidacy, Event, Moment, State
    from sidecar.group import Group
    from sidecar.locks import Lock
    from sidecar.record import Snapshot
    from sidecar.troubles import Troubles

LONGEST_REST = 5.0
"""Seconds after which it looks what there is to do although nothing happened."""

WITHDRAW_LIMIT = 1.0
"""Seconds that it may take to withdraw the registration of somebody who leaves."""


class Settler:
    """Works for one candidate: `count` for its bids, `run` all the while, `withdraw` at its end.

    `now` returns seconds, `state` what the election knows, `moment` what the outside world reads. `tell` is told
    events, and `show` the lock object after it was annotated. `why` says in a sentence what was done last.
    """

    def __init__(
        self,
        candidacy: Candidacy,
        lock: Lock,
        group: Group,
        taker: CensusTaker,
        *,
        now: Callable[[], float],
        state: Callable[[], State],
        moment: Callable[[], Moment],
        tell: Callable[[Event], None],
        show: Callable[[Snapshot], None],
        troubles: Troubles,
        log: FilteringBoundLogger,
    ) -> None:
        self._candidacy = candidacy
        self._lock = lock
        self._group = group
        self._now = now
        self._state = state
        self._moment = moment
        self._tell = tell
        self._show = show
        self._troubles = troubles
        self._log = log
        self._key = registration_key(candidacy.identity)
        self._taker = taker
        self._patching = Permission(now)
        self._nudging = Permission(now)
        self._stirred = asyncio.Event()
        self.why = ""

    @property
    def census(self) -> Taken | None:
        """The last census that was taken."""
        return self._taker.last

    def stir(self) -> None:
        """Say that the election knows something new."""
        self._stirred.set()

    # -- Before a bid --

    async def count(self) -> Counted:
        """Take the census for a bid, and return for how long to hold it back."""
        try:
            return await self._count()
        except Exception:  # noqa: BLE001 - the election has to go on, as if there were no census to be had
            self._log.critical("a bid does not mind nodes, because of a defect", exc_info=True)
            return Counted(None)

    async def _count(self) -> Counted:
        census = await self._taker.take(cached=True)
        me, observed = self._candidacy, self._state().observed
        if census is None or me.balance is None or observed is None:
            return Counted(None)
        known = dict(registrations(observed.snapshot.annotations) if observed.snapshot else {})
        if gone := observed.missed:
            # Whoever let the lease run out, or does not take what it was named successor for, is no rival.
            known.pop(registration_key(gone), None)
        rivals = frozenset(registration.node for registration in known.values())
        seconds = balance.delay(census, election=self._lock.name, node=me.node, rivals=rivals, slot=me.balance.slot)
        carries = census.loads(without=self._lock.name).get(me.node, 0)
        self._say(
            f"held the bid back for {seconds:g} s: {me.node} carries {carries}, others less"
            if seconds
            else f"bid at once: {me.node} carries {carries}, and nobody less"
        )
        return Counted(seconds)

    # -- All the while --

    async def run(self) -> None:
        """Settle until cancelled. Returns at once for a candidate that does not register."""
        if not self._candidacy.registers:
            return
        try:
            await self._go_round(Settling(candidacy=self._candidacy, lock=self._lock.name))
        except Exception:  # noqa: BLE001 - the election has to go on; who was checking leads after a while all the same
            self._log.critical("leaders are no longer spread over nodes, because of a defect", exc_info=True)

    async def _go_round(self, state: Settling) -> None:
        while True:
            self._stirred.clear()
            told = state.why
            state = settling.observe(state, self._state(), self._moment())
            state, step = settling.next_step(state, self._moment())
            match step:
                case Pause(until):
                    await self._rest(until - self._now())
                case Register(registration):
                    await self._annotate({self._key: registration.encode() if registration else None})
                case Advise(advice):
                    for event in advice:
                        self._tell(event)
                case Look():
                    state = await self._look(state)
            if state.why != told:
                self._say(state.why)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, LONGEST_REST)):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _look(self, state: Settling) -> Settling:
        census = await self._taker.take(cached=False)
        state, verdict = settling.looked(settling.observe(state, self._state(), self._moment()), census, self._moment())
        for event in verdict.advice:
            self._tell(event)
        if (taken := self._taker.last) is not None:
            for name in verdict.nudges:
                await self._nudge(name, taken.nudges.get(name, ""))
        return state

    async def _nudge(self, lock: str, counter: str) -> None:
        if self._nudging.denied:
            return
        try:
            await self._group.nudge(lock, counter)
        except ForbiddenError as error:
            if self._nudging.deny():
                self._log.info("other leaders cannot be nudged; they look by themselves, later", error=str(error))
        except ApiError as error:
            self._log.debug("a nudge failed", lock=lock, error=str(error))
        else:
            if self._nudging.allow():
                self._log.info("other leaders can be nudged again")

    async def _annotate(self, annotations: Mapping[str, str | None]) -> None:
        try:
            if not self._patching.denied:
                try:
                    snapshot = await self._lock.annotate(annotations)
                except ForbiddenError as error:
                    self._patching.deny()
                    self._troubles.met("patch", error)
                else:
                    self._troubles.ended("patch")
                    self._show(snapshot)
                    return
            # Without a census there is no balance, and no need to say where one runs.
            if await self._taker.take(cached=True) is not None:
                self._show(await self._lock.swap(annotations))
        except (ConflictError, NotFoundError):
            self._log.debug("the lock object changed before it was annotated")
        except ApiError as error:
            self._troubles.met("patch", error)

    # -- At the end --

    async def withdraw(self) -> None:
        """Take the registration off the lock object; whoever released the lock has done so already."""
        observed = self._state().observed
        if observed is None or observed.snapshot is None:
            return
        registered = registrations(observed.snapshot.annotations).get(self._key)
        if registered is None or registered.pod_uid != self._candidacy.pod_uid:
            return
        try:
            async with asyncio.timeout(WITHDRAW_LIMIT):
                await self._annotate({self._key: None})
        except TimeoutError:
            self._log.debug("the registration was not withdrawn in time; the leader strikes it out later")

    # -- Small matters --

    def _say(self, why: str) -> None:
        if why != self.why:
            self.why = why
            self._log.info(why)
