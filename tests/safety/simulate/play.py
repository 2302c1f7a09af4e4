"""Playing a plan from its beginning to its end, the same way each time."""

from __future__ import annotations

import asyncio
import gc
import ssl
from contextlib import ExitStack, suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn
from unittest import mock

import aiohttp.client
import aiohttp.connector
import aiohttp.web_response

from sidecar.lab.virtualtime import DeadlockError
from tests.safety.simulate import afterwards, injection
from tests.safety.simulate.connections import BusyError, ConnectedLoop
from tests.safety.simulate.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.safety.simulate.injection import Undo
    from tests.safety.simulate.plan import Fault, Plan

LOOKED_EVERY: Final = 0.5
"""Seconds between two looks whether everything has recovered."""

STEADY: Final = 0.75
"""Leases for which it has to stay so."""

_UNUSED_TLS: Final = ssl.create_default_context()
"""Each client makes one, from all the certificates of the machine, and none is used: the server speaks plain HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a plan ended."""

    plan: Plan
    story: list[str]
    """What happened, line by line: the same for the same plan."""
    violations: list[str] = field(default_factory=list)
    """What must not have happened, in words."""
    excused: list[str] = field(default_factory=list)
    """Second leaders that a hand has made."""
    began: list[tuple[float, str]] = field(default_factory=list)
    """When a term of one of ours began, in seconds, and in which election."""
    recovered_after: float = 0.0
    """Seconds from the end of the faults until everything was as it has to be."""
    balances: bool = False
    """Whether leaders were to be spread over the nodes in the end."""
    requests: int = 0


def play(plan: Plan) -> Outcome:
    """Play a plan, to its end or to the first violation: whatever a candidate answers, raises or logs as an error."""
    story = plan.lines()
    # What is collected when would be different each time, and with it when a forgotten connection is closed.
    enabled = gc.isenabled()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=ConnectedLoop) as runner, _in_virtual_time(runner.get_loop().time):
            return runner.run(_play(plan, story))
    except (BusyError, DeadlockError) as error:
        return Outcome(plan=plan, story=story, violations=[str(error)])
    finally:
        if enabled:
            gc.enable()


def _in_virtual_time(clock: Callable[[], float]) -> ExitStack:
    """Let aiohttp, and kubernetes_asyncio, touch nothing of the outside world."""
    stack = ExitStack()
    for module, name, stand_in in (
        # How long a connection in the pool was not used is measured by a clock of its own, not by the loop's.
        (aiohttp.connector, "monotonic", clock),
        # The Date header of an answer.
        (aiohttp.web_response, "rfc822_formatted_time", lambda: "Tue, 14 Nov 2023 22:13:20 GMT"),
        # A proxy, or a password in ~/.netrc, is looked for with each request, and would be whatever the machine has.
        (aiohttp.client, "get_env_proxy_for_url", _no_proxy),
        (aiohttp.client, "netrc_from_env", lambda: None),
        (ssl, "create_default_context", lambda **_: _UNUSED_TLS),
    ):
        stack.enter_context(mock.patch.object(module, name, stand_in))
    return stack


def _no_proxy(_url: object) -> NoReturn:
    raise LookupError


async def _play(plan: Plan, story: list[str]) -> Outcome:
    stage = Stage(plan, story)
    serving = asyncio.create_task(stage.keep_serving())
    asking = asyncio.create_task(stage.ask_now_and_then())
    undone: dict[int, Undo] = {}
    try:
        _set_up(stage, undone)
        recovered_after = 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout_at(plan.ends_at):
                await stage.checker.broken.wait()
        if not stage.checker.violations:
            _put_right(stage, undone)
            recovered_after = await _recover(stage)
        stage.checker.judge()
        balances = afterwards.can_balance(stage)
    finally:
        asking.cancel()
        serving.cancel()
        await stage.clear()
    return Outcome(
        plan=plan,
        story=story,
        violations=stage.checker.violations,
        excused=stage.checker.excused,
        began=stage.checker.began,
        recovered_after=recovered_after,
        balances=balances,
        requests=sum(stage.server.requests.values()),
    )


def _set_up(stage: Stage, undone: dict[int, Undo]) -> None:
    """Have everybody start, and every fault begin and end, at its time."""
    for participant in stage.plan.participants:
        stage.start_later(participant.starts_at, participant)

    def begin(number: int, fault: Fault) -> None:
        undone[number] = injection.begin(stage, fault)
        if fault.lasts:
            stage.loop.call_later(fault.lasts, put_right, number, context=Context())

    def put_right(number: int) -> None:
        if (undo := undone.pop(number, None)) is not None:
            undo()

    for number, fault in enumerate(stage.plan.faults):
        if fault.at < stage.plan.ends_at:
            stage.loop.call_at(fault.at, begin, number, fault, context=Context())


def _put_right(stage: Stage, undone: dict[int, Undo]) -> None:
    """End every fault that is left: from here on nothing is wrong."""
    stage.tell("from here on nothing is wrong")
    while undone:
        undone.popitem()[1]()
    living: dict[str, str] = {}
    for process in stage.living():
        if stage.is_stopped(process):
            stage.loop.continue_process(process.name)
        # Of several pods of one name only the last one is wanted.
        if (older := living.get(process.identity)) is not None and not stage.processes[older].leaving:
            stage.leave(stage.processes[older])
        living[process.identity] = process.name


async def _recover(stage: Stage) -> float:
    """Wait until everything is as it has to be, and stays so; return after how long it was."""
    time, plan = stage.loop.time, stage.plan
    bound, steady = afterwards.bound(plan), STEADY * plan.longest_ttl
    since: float | None = None
    why = ""
    while time() < plan.ends_at + bound and not stage.checker.violations:
        if told := afterwards.unsettled(stage):
            since, why = None, told
        elif since is None:
            since = time()
        elif time() - since >= steady:
            return since - plan.ends_at
        await asyncio.sleep(LOOKED_EVERY)
    if not stage.checker.violations:
        stage.checker.violated(f"{bound:.0f} s after the last fault: {why}")
    return time() - plan.ends_at
