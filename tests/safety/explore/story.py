"""A counter-example as a story: when, who, what, why, and what everybody believes."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.election import Abstain, Deleted, Fetched, HandOver, Nominate, Stand, State, Write, Written
from sidecar.record import Record
from sidecar.settling import Look
from tests.safety.explore.calm import calm
from tests.safety.explore.core import BreachError
from tests.safety.explore.rules import Rules
from tests.safety.explore.stock import Attempt

if TYPE_CHECKING:
    from sidecar.record import Snapshot
    from tests.safety.explore.scenarios import Scenario, Timing
    from tests.safety.explore.search import Found
    from tests.safety.explore.world import Move, Process, Request, World

RECOVERY_TOLD = 12
"""Steps that are told of a world that nobody is elected in."""


def story(scenario: Scenario, found: Found) -> list[str]:
    """Return what led to the breach, a line for each move, and a line of beliefs wherever they changed."""
    rules = Rules(scenario)
    lines = [f"scenario {scenario.name}: {scenario.about}", ""]
    try:
        world = rules.first()
    except BreachError:
        return [*lines, f"breach: {found.breach}"]
    lines += [*_cast(rules, world), ""]
    beliefs = _beliefs(rules, world)
    lines.append(f"{'':>10}  {beliefs}")
    try:
        for chosen in found.path:
            move, after = next(islice(rules.successors(world), chosen, None))
            lines.append(_line(rules, world, after, move))
            world = after
            if (told := _beliefs(rules, world)) != beliefs:
                beliefs = told
                lines.append(f"{'':>10}  {beliefs}")
        if found.stranded:
            lines += _afterwards(rules, world)
    except BreachError as error:
        lines.append(f"{_when(rules, world)}  then: {error}")
    return [*lines, "", f"breach: {found.breach}"]


def described(timing: Timing) -> str:
    """Return a candidate's timing, for people."""
    return f"lease {timing.lease} s, renew deadline {timing.deadline:g} s, retry period {timing.retry:g} s"


def _cast(rules: Rules, world: World) -> list[str]:
    scenario = rules.scenario
    rates = ", ".join(
        f"{rules.called(world, number)} at {scenario.rates[number]:g}" for number in range(len(world.processes))
    )
    timing = "; ".join(dict.fromkeys(map(described, scenario.timings[: len(world.processes)])))
    return [f"{timing}; clocks run: {rates}"]


def _afterwards(rules: Rules, world: World) -> list[str]:
    lines = ["", "from here on nothing goes wrong:"]
    for _ in range(RECOVERY_TOLD):
        lines.append(f"{_when(rules, world)}  {_beliefs(rules, world)}")
        world = calm(rules, world)
    return lines


def _when(rules: Rules, world: World) -> str:
    return f"{world.tick * rules.scenario.step:8.2f} s"


def _line(rules: Rules, world: World, after: World, move: Move) -> str:
    return f"{_when(rules, after)}  {_told(rules, world, after, move)}"


def _told(rules: Rules, world: World, after: World, move: Move) -> str:  # noqa: C901, PLR0911, PLR0912 - one row a move
    number = move.number
    who = rules.called(world, number) if number >= 0 else ""
    process = world.processes[number]
    request = process.request
    match move.kind:
        case "time":
            return "time passes"
        case "act" | "stall":
            now = after.processes[number]
            sends = (
                _asks(now) if move.kind == "act" else f"decides on: {_asks(now)}; and stands still before it is sent"
            )
            return f"{who} {sends}" + (f"  ({move.detail})" if move.detail else "")
        case "send":
            return f"{who} goes on, and sends it"
        case "serve":
            return f"the API server serves {who}: {_served(after.processes[number])}"
        case "answer" | "count":
            return f"{who} is answered{_answered(request)}"
        case "lose":
            late = ", and may still be applied" if len(after.late) > len(world.late) else ""
            return f"{who} gets no answer: {_asks(process)} is lost{late}"
        case "drop":
            return f"{who} gets no answer: {_served(process)}, and that is lost"
        case "refuse":
            return f"{who} is refused"
        case "uncounted":
            return f"{who} gets no census"
        case "show":
            return f"the watch shows {who}: {_entry(process)}"
        case "watch":
            return f"{who} watches"
        case "break" | "gap":
            return f"the watch of {who} ends" + (", and something may be missed" if move.kind == "gap" else "")
        case "settle":
            return f"the settler of {who} goes on{_side(after.processes[number])}"
        case "settler served":
            return f"the API server serves the settler of {who}{_side(process)}"
        case "settler answered":
            return f"the settler of {who} is answered{_side(process)}"
        case "settler unserved":
            return f"what the settler of {who} asked is lost"
        case "crash" | "replace" | "swap" | "start":
            became = {
                "crash": "starts again in the same pod",
                "replace": f"comes back in another pod: {rules.called(after, number)}",
                "swap": "a stock candidate starts under its name",
                "start": "starts again in the same pod",
            }
            killed = "" if move.kind == "start" else "is killed" + (", its request still under way" if request else "")
            return f"{who} {killed}{', and ' if killed else ''}{became[move.kind]}"
        case "leave":
            return f"{who} is told to end"
        case "order":
            return f"{who} is told: {_order(move.detail)}"
        case "advise":
            return f"the balance tells {who}: {_advice(move.detail)}"
        case "arrive":
            applied = "is applied" if after.stored is not world.stored else "does not fit any more"
            return f"a write that was given up arrives, and {applied}: {_lock(after.stored)}"
        case "delete":
            return "somebody deletes the lock object"
        case "edit":
            return f"somebody edits the record ({move.detail}): {_lock(after.stored)}"
        case "shift":
            return "other elections of the group are led elsewhere"
    return f"{move.kind} {who}"


def _asks(process: Process) -> str:
    if process.gone:
        return "goes"
    request = process.request
    action = request.action if request is not None else None
    if isinstance(action, Write):
        return f"asks to write {_record(action.record)}"
    if isinstance(action, Attempt) and action.changes is not None:
        return "asks to write its record"
    return f"asks to {type(action).__name__.lower()}" if not isinstance(action, Attempt) else "asks to read"


def _served(process: Process) -> str:
    return _said(process.request.answer if process.request is not None else None)


def _said(answer: object) -> str:
    if isinstance(answer, Fetched | Written):
        return ("read " if isinstance(answer, Fetched) else "written ") + _lock(answer.snapshot)
    return type(answer).__name__.lower() if answer is not None else "ended"


def _answered(request: Request | None) -> str:
    return f": {_said(request.answer)}" if request is not None and request.answer is not None else ""


def _side(process: Process) -> str:
    if process.side is None:
        return ""
    return ": look" if isinstance(process.side.action, Look) else ": registration"


def _entry(process: Process) -> str:
    entry = process.behind[0]
    return "deleted" if isinstance(entry, Deleted) else _lock(entry.snapshot)


def _advice(advice: object) -> str:
    if isinstance(advice, Nominate):
        return f"nominate {advice.successor}" if advice.successor else "nominate nobody"
    if isinstance(advice, HandOver):
        return f"hand over to {advice.successor.identity} ({advice.successor.pod_uid})"
    return type(advice).__name__.lower()


def _order(order: object) -> str:
    if isinstance(order, Abstain):
        until = f" before {order.until:g} s" if order.until < math.inf else ""
        patience = f", unless the lock is vacant for {order.patience:g} s" if order.patience < math.inf else ""
        return f"do not lead{until} ({order.why}){patience}"
    return f"lead if you can ({order.why})" if isinstance(order, Stand) else type(order).__name__.lower()


def _record(record: object) -> str:
    if not isinstance(record, Record):
        return "no record" if record is None else "a damaged record"
    return f"{record.holder or 'nobody'} at {record.renew_time[14:19]}"


def _lock(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "no lock object"
    claim = snapshot.valid_claim
    told = f", {claim.state}" if claim is not None and claim.holder else ""
    told += f", successor {claim.successor}" if claim is not None and claim.successor else ""
    return f"version {snapshot.version}: {_record(snapshot.record)}{told}"


def _beliefs(rules: Rules, world: World) -> str:
    return "; ".join(_belief(rules, world, number) for number in range(len(world.processes)))


def _belief(rules: Rules, world: World, number: int) -> str:
    process = world.processes[number]
    who = rules.called(world, number)
    if process.gone:
        return f"{who} is gone"
    if rules.leads(world, number):
        return f"{who} LEADS"
    if not isinstance(process.state, State):
        return f"{who} follows"
    name = rules.core.believes(number, process.state, world.tick).name
    return f"{who} names {name or 'nobody'}"
