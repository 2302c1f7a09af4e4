"""What must come about once nothing is wrong any more: one leader everywhere, nobody left behind, loads balanced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.lab import optimum
from sidecar.lab.optimum import Contest
from tests.safety.simulate.plan import DRIFT, FULL, STOCK

if TYPE_CHECKING:
    from tests.safety.simulate.plan import Plan
    from tests.safety.simulate.stage import Process, Stage

HEARD_WITHIN: Final = 3.0
"""Retry periods within which everybody has to hear from the API server who does not watch."""


def bound(plan: Plan) -> float:
    """Return the seconds from the end of the faults within which everything has to have recovered.

    A lease that runs, and the stock peer's wait after it; back-off of watches (15 s) and of censuses (5 s); and for a
    group that spreads its leaders the growing intervals at which they look (1, 2, 4, 8, 16 s), twice.
    """
    return 2.0 * plan.longest_ttl + 60.0


def unsettled(stage: Stage) -> str:
    """Return what is still to come, `""` when everything is as it has to be."""
    if stage.starting:
        return "not everybody has started"
    living = [process for process in stage.living() if not _hangs(process)]
    # Stock peers alone need not find a leader: none of them takes over from a record that it cannot read.
    for election in dict.fromkeys(process.election for process in living if process.candidate is not None):
        there = [process for process in living if process.election == election]
        if why := _unsettled_election(stage, election, there):
            return why
    return "" if is_balanced(stage) else "leaders are not balanced over the nodes"


def _unsettled_election(stage: Stage, election: str, living: list[Process]) -> str:
    leaders = [process for process in living if _leads(stage, process)]
    if len(leaders) != 1:
        return f"{election} has {len(leaders)} leaders"
    for process in living:
        if process.leaving:
            return f"{process.name} has not left"
        if why := _left_behind(process, leaders[0]):
            return f"{process.name} {why}"
    return ""


def _leads(stage: Stage, process: Process) -> bool:
    if process.candidate is not None:
        return process.candidate.is_leading()
    record = stage.record(process.election)
    return record is not None and record.holder == process.identity


def _hangs(process: Process) -> bool:
    """Tell whether a stock peer waits for an answer that never comes: it does so for ever."""
    return process.peer is not None and process.clock.now() - process.peer.heard_at > 2 * process.participant.ttl


def _left_behind(process: Process, leader: Process) -> str:
    """Return in what a process falls short of taking part as it should."""
    if process.candidate is None:
        return ""
    state = process.candidate._state
    if process.candidate.leader_name() != leader.identity and not _polls_too_rarely(process, leader):
        return f"takes {process.candidate.leader_name() or 'nobody'} for the leader, which is {leader.name}"
    role = process.candidate.status().role
    if role not in {"leading", "following"}:
        return f"is {role}"
    heard_within = HEARD_WITHIN * process.participant.ttl / 4 * process.participant.rate
    if role == "following" and not state.watching and process.clock.now() - state.read_at > heard_within:
        return "neither watches nor polls"
    return ""


def _polls_too_rarely(process: Process, leader: Process) -> bool:
    """Tell whether a follower may forget who leads between two polls: ttls differ, and the leader's is very short."""
    if process.candidate is None or process.candidate._state.watching:
        return False
    return leader.participant.ttl / DRIFT < 1.2 * process.participant.ttl / 4


def can_balance(stage: Stage) -> bool:
    """Tell whether every leader can be moved, and has been allowed to see where the others are."""
    plan = stage.plan
    return (
        all(process.participant.balance == FULL and process.participant.kind != STOCK for process in stage.living())
        # In the middle of a migration not everybody sees what everybody writes: a hand-over may come to nothing.
        and all(len(participant.locks) == 1 for participant in plan.participants)
        and not plan.stock_permissions
        # A permission that was refused is not asked for again for ten minutes.
        and not any(fault.kind == "forbidden" for fault in plan.faults)
    )


def is_balanced(stage: Stage) -> bool:
    """Tell whether the leaders of the group are where they should be, as far as that is possible for all."""
    if not can_balance(stage):
        return True
    nodes: dict[str, set[str]] = {}
    assignment = {}
    for process in stage.living():
        nodes.setdefault(process.election, set()).add(process.node)
        if process.candidate is not None and process.candidate.is_leading():
            assignment[process.election] = process.node
    contests = {election: Contest(1, tuple(sorted(where))) for election, where in nodes.items()}
    return len(assignment) == len(contests) and optimum.is_balanced(contests, assignment)
