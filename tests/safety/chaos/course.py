"""The course of a run: burst after burst of faults, and after each the group comes to rest."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.safety.chaos.account import Account, Happened
from tests.safety.chaos.faults import MissedError
from tests.safety.chaos.kinds import FAULTS
from tests.testbed.connection import APIError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.safety.chaos.faults import Fault, Stage
    from tests.safety.chaos.polling import Poller
    from tests.safety.chaos.schedule import Burst, Planned

CALM_SECONDS = 90.0
"""Within which a group without faults has exactly one leader for each election, as well spread as can be.

Seconds by which this process itself was late do not count.
"""

FAULT_SECONDS = 60.0
"""That the begin of a fault, or its end, may take."""

JUDGE_EVERY = 1.0
"""Seconds between two verdicts while faults go on."""

UNTOUCHED_LEASES = 3.0
"""For how long an election that no fault touched may be without a leader, in leases: a hand-over that goes wrong."""


class ViolationError(Exception):
    """Something was found that must not be; the account says what."""


@dataclass(kw_only=True)
class Course:
    """Carries a plan out. `tell` hears what is going on, in a few words."""

    stage: Stage
    poller: Poller
    account: Account
    tell: Callable[[str], None]
    bursts: int = 0
    """That were carried out, the one that was broken off included."""
    calmed: list[float] = field(default_factory=list)
    """Seconds that the group took to come to rest, after each burst."""

    async def run(self, plan: Iterable[Burst], *, seconds: float) -> None:
        """Carry out burst after burst, until the plan is over or the time is up. Raises ViolationError, in a group."""
        async with asyncio.TaskGroup() as tasks:
            judging = tasks.create_task(self._keep_judging())
            began = time.monotonic()
            await self._calm("to begin with")
            for burst in plan:
                await self._burst(burst)
                if time.monotonic() - began > seconds:
                    break
            judging.cancel()
        self.judge()

    def judge(self) -> None:
        """Raise ViolationError when there is something that must not be."""
        self.poller.check()
        fleet = self.stage.fleet
        fleet.check()
        for problem in fleet.problems:
            self.account.problem(problem)
        fleet.problems.clear()
        if self.account.violations(self.poller.open_runs()):
            raise ViolationError

    async def _keep_judging(self) -> None:
        while True:
            await asyncio.sleep(JUDGE_EVERY)
            self.judge()

    async def _burst(self, burst: Burst) -> None:
        began, late = time.monotonic(), self.poller.late
        self.bursts += 1
        self.tell(", ".join(planned.kind for planned in burst))
        happened = [Happened(name=planned.kind, election="", target="", begin=began) for planned in burst]
        async with asyncio.TaskGroup() as tasks:
            for planned, one in zip(burst, happened, strict=True):
                tasks.create_task(self._carry_out(planned, one))
        await asyncio.to_thread(self.stage.server.restore)
        await self._calm("after " + ", ".join(planned.kind for planned in burst))
        self._check_untouched(happened, began, time.monotonic(), self.poller.late - late)

    async def _carry_out(self, planned: Planned, happened: Happened) -> None:
        fault = FAULTS[planned.kind](self.stage, planned)
        await fault.pause(planned.begin)
        happened.begin = time.monotonic()
        self.account.faults.append(happened)
        try:
            try:
                async with asyncio.timeout(FAULT_SECONDS):
                    await fault.begin()
            finally:
                happened.election = "" if fault.touches_all else fault.election
                happened.target = fault.target
            await fault.pause(planned.end - planned.begin)
        except (MissedError, APIError, OSError) as error:
            happened.missed = str(error) or type(error).__name__
        finally:
            await self._end(fault)
            happened.writes = fault.writes
            happened.end = time.monotonic()
            self.account.ended(happened)

    async def _end(self, fault: Fault) -> None:
        """End a fault; one that does not end because of another is ended once that is over."""
        deadline = asyncio.get_running_loop().time() + FAULT_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await fault.end()
            except (APIError, OSError):
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def _calm(self, when: str) -> None:
        """Wait until each election has one leader, whom all name, and leaders are spread. Raises ViolationError."""
        began, late = time.monotonic(), self.poller.late
        fleet = self.stage.fleet
        while True:
            led = all(fleet.agreed(election, since=began) for election in fleet.elections)
            if led and fleet.is_balanced():
                break
            if time.monotonic() - began - (self.poller.late - late) > CALM_SECONDS:
                missing = "leaders are not spread" if led else "not every election has one leader whom all name"
                self.account.problem(f"{missing} {CALM_SECONDS:g} s {when}: {fleet.placing()}")
                raise ViolationError
            await asyncio.sleep(0.05)
        self.calmed.append(time.monotonic() - began)
        self.judge()

    def _check_untouched(self, burst: list[Happened], begin: float, end: float, late: float) -> None:
        """See that an election that none of a burst's faults touched went on, but for hand-overs."""
        for election in self.stage.fleet.elections:
            # Of one that could not begin nobody knows for certain that it did nothing.
            if any(one.election in ("", election) for one in burst):
                continue
            seconds = self.account.leaderless(election, begin, end, still=self.poller.open_runs())
            if seconds - late > UNTOUCHED_LEASES * self.stage.fleet.shape.ttl:
                self.account.problem(f"nobody led {election} for {seconds:.1f} s, although no fault touched it")
                raise ViolationError
