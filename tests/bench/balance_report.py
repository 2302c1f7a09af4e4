"""How cold starts are told: as a table, as Markdown, as JSON, and against the goals. No I/O here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.bench import report
from tests.bench.table import aligned
from tests.bench.table import markdown as table_in_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.outcome import Crash, Range, Run, Summary

SETTLED_LIMIT = 5.0
"""Seconds after the last start within which nothing changes any more."""
GAP_P50, GAP_P90 = 0.2, 0.5
"""Seconds without a leader in a hand-over."""
MOST_HAND_OVERS = 4
"""Of one election."""
MOST_LISTS = 12
"""Of one election."""
LIGHT_LIMIT, LOADED_LIMIT = 0.5, 2.5
"""Seconds beyond the lease after a crash, where the bidder's node is the least loaded, and where it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One command's cold starts."""

    summary: Summary
    runs: Sequence[Run]
    crashes: Sequence[Crash]


def cells(summaries: Sequence[Summary]) -> list[list[str]]:
    """Return the table: a heading, then a line for each figure; a figure that nobody has, has no line."""
    lines = [(title, [tell(one) for one in summaries]) for title, tell in _figures(summaries)]
    return [
        ["", *(one.name for one in summaries)],
        *([title, *told] for title, told in lines if any(told)),
    ]


def table(heading: str, summaries: Sequence[Summary]) -> str:
    """Return the table for people."""
    return "\n".join([heading, *aligned(cells(summaries))])


def markdown(heading: str, summaries: Sequence[Summary]) -> str:
    """Return the table in Markdown."""
    return "\n".join([heading, "", *table_in_markdown(cells(summaries))])


def document(heading: str, measured: Sequence[Measured], goals: Sequence[report.Goal], machine: report.Machine) -> str:
    """Return everything as JSON, every run included."""
    content = {
        "machine": asdict(machine),
        "workload": heading,
        "commands": [
            {
                **asdict(one.summary),
                "each": [asdict(run) for run in one.runs],
                "crashes": [asdict(crash) for crash in one.crashes],
            }
            for one in measured
        ],
        "goals": [asdict(goal) for goal in goals],
    }
    return json.dumps(content, indent=2)


def compare_with_goals(one: Summary) -> list[report.Goal]:
    """Compare a summary with what must hold, of runs, of hand-overs and of crashes, where there were any."""

    def at_most(name: str, limit: float, value: float | None, unit: str = " s") -> report.Goal:
        told = "not measured" if value is None else f"{value:.3g}{unit}"
        return report.Goal(
            name=f"{name}: at most {limit:g}{unit}", measured=told, met=value is not None and value <= limit
        )

    goals: list[report.Goal] = []
    if one.runs:
        goals += [
            report.Goal(
                name="every run ends balanced", measured=f"{one.balanced} of {one.runs}", met=one.balanced == one.runs
            ),
            at_most(
                "last start to the last change of a leader", SETTLED_LIMIT, one.settled.most if one.settled else None
            ),
            at_most("hand-overs of one election", MOST_HAND_OVERS, one.hand_overs.most if one.hand_overs else None, ""),
            at_most("LISTs of one election", MOST_LISTS, one.lists.most if one.lists else None, ""),
        ]
    if one.gap:
        goals += [
            at_most("without a leader in a hand-over, p50", GAP_P50, one.gap.p50),
            at_most("without a leader in a hand-over, p90", GAP_P90, one.gap.p90),
        ]
    if one.light and one.loaded:
        goals += [
            at_most("crash, heir on the least loaded node: beyond the lease", LIGHT_LIMIT, one.light.most),
            at_most("crash, heir on the most loaded node: beyond the lease", LOADED_LIMIT, one.loaded.most),
        ]
    return goals


def not_judged(one: Summary) -> str:
    """Return a line on what the goals of these runs leave out; nothing when they leave out nothing."""
    return "no leader changed: the time without a leader is not judged" if _changes(one) == "0" else ""


def _figures(summaries: Sequence[Summary]) -> list[tuple[str, Callable[[Summary], str]]]:
    verbs = sorted({verb for one in summaries for verb in one.requests})
    return [
        ("balanced runs", lambda one: f"{one.balanced} of {one.runs}" if one.runs else ""),
        ("  runs in which something went wrong", lambda one: str(one.problems) if one.problems else ""),
        (
            "leaders per node, heaviest first, mean",
            lambda one: " : ".join(f"{count:.2f}" for count in one.leaders),
        ),
        ("first to last start, s, p50", lambda one: _of(one.spread, "p50", 2)),
        ("  max", lambda one: _of(one.spread, "most", 2)),
        ("last start to last change of a leader, s, p50", lambda one: _of(one.settled, "p50", 2)),
        ("  p90", lambda one: _of(one.settled, "p90", 2)),
        ("  max", lambda one: _of(one.settled, "most", 2)),
        ("leaders seen by one election, mean", lambda one: _number(one.leaders_seen_mean, 2)),
        ("  max", lambda one: _of(one.leaders_seen, "most", 0)),
        ("hand-overs of one election, mean", lambda one: _number(one.hand_overs_mean, 2)),
        ("  max", lambda one: _of(one.hand_overs, "most", 0)),
        ("changes of a leader in all", _changes),
        ("  of these, timed by the leaders' logs", lambda one: str(one.told) if one.gap else ""),
        ("  s without one, p50", lambda one: _of(one.gap, "p50", 3)),
        ("  p90", lambda one: _of(one.gap, "p90", 3)),
        ("  max", lambda one: _of(one.gap, "most", 3)),
        ("requests of one election in a run", lambda one: _number(sum(one.requests.values()) or None, 1)),
        *((f"  {verb}", _requests_of(verb)) for verb in verbs),
        ("  list, max", lambda one: _of(one.lists, "most", 0)),
        ("leaders killed, heir on the least loaded node", lambda one: str(one.light.count) if one.light else ""),
        ("  SIGKILL to the next, s, p50", lambda one: _of(one.light_vacancy, "p50", 2)),
        ("  max", lambda one: _of(one.light_vacancy, "most", 2)),
        ("  beyond the lease, p50", lambda one: _of(one.light, "p50", 2)),
        ("  max", lambda one: _of(one.light, "most", 2)),
        ("leaders killed, heir on the most loaded node", lambda one: str(one.loaded.count) if one.loaded else ""),
        ("  SIGKILL to the next, s, p50", lambda one: _of(one.loaded_vacancy, "p50", 2)),
        ("  max", lambda one: _of(one.loaded_vacancy, "most", 2)),
        ("  beyond the lease, p50", lambda one: _of(one.loaded, "p50", 2)),
        ("  max", lambda one: _of(one.loaded, "most", 2)),
    ]


def _changes(one: Summary) -> str:
    if one.gap:
        return str(one.gap.count)
    return "0" if one.runs > one.problems else ""


def _requests_of(verb: str) -> Callable[[Summary], str]:
    return lambda one: _number(one.requests.get(verb, 0.0), 1)


def _of(values: Range | None, which: str, places: int) -> str:
    return "" if values is None else _number(getattr(values, which), places)


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"
