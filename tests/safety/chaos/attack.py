"""One run from begin to end: a fleet is started, a plan carried out, and what came of it put together."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.safety.chaos.account import Account
from tests.safety.chaos.course import Course, ViolationError
from tests.safety.chaos.faults import Stage
from tests.safety.chaos.fleet import OWN_PROGRAM, Fleet, Shape
from tests.safety.chaos.polling import Poller
from tests.safety.chaos.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from tests.safety.chaos.schedule import Burst
    from tests.testbed.apiserver import RealAPIServer

HISTORY = "history.jsonl"
"""The name of the history file in a run's folder."""


class AttackError(Exception):
    """The run could not be carried out; that says nothing about the candidates. The message is one line."""


async def attack(
    server: RealAPIServer,
    folder: Path,
    *,
    plan: Iterable[Burst],
    seconds: float,
    tell: Callable[[str], None],
    shape: Shape | None = None,
    clientgo: Path | None = None,
    program: Sequence[str] = OWN_PROGRAM,
) -> Report:
    """Harm a fleet as planned, for so many seconds at most, and report; it stops at the first violation.

    `folder` is for logs and the history. Raises AttackError.
    """
    shape = shape or Shape()
    account = Account(file=folder / HISTORY)
    began = time.monotonic()
    try:
        async with Poller(account.said) as poller, Fleet(server, folder, poller, shape=shape, program=program) as fleet:
            stage = Stage(server=server, fleet=fleet, folder=folder, clientgo=clientgo)
            course = Course(stage=stage, poller=poller, account=account, tell=tell)
            await course.run(plan, seconds=seconds)
    except* ViolationError:
        pass  # the account tells what it was
    except* Exception as errors:
        raise AttackError("; ".join(_told(errors))) from errors
    return Report(
        elections=shape.elections,
        candidates=shape.candidates,
        ttl=shape.ttl,
        seconds=time.monotonic() - began,
        bursts=course.bursts,
        processes=len(fleet.processes),
        questions=poller.questions,
        rate=poller.rate,
        late=poller.late,
        terms=account.terms(),
        writes=sum(fault.writes for fault in account.faults),
        longest_calm=max(course.calmed, default=0.0),
        begun=account.begun(),
        missed=dict(Counter(fault.name for fault in account.faults if fault.missed)),
        without_leader=account.longest_without(fleet.elections),
        violations=tuple(account.violations()),
    )


def _told(errors: BaseExceptionGroup[BaseException]) -> list[str]:
    told: list[str] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            told += _told(error)
        else:
            told.append(f"{type(error).__name__}: {error}")
    return told
