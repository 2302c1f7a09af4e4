"""How the figures are told: as a table, as Markdown, as JSON, and against the goals. No I/O here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.bench.table import aligned
from tests.bench.table import markdown as table_in_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.figures import Row, Spread

REQUEST_LIMIT, MANY_LIMIT = 0.43, 0.45
"""Requests a second for one election of few replicas, and of many: a renewal each quarter of a ttl of 10 s; the rest is
for registrations, and for watches that start anew."""
TERMINATED_P50, TERMINATED_P90 = 0.5, 1.0
KILLED_BEYOND_TTL = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when the figures were measured."""

    date: str
    cores: int
    memory_gib: float
    load: float
    """Processes that wanted to run before it began, the average of a minute: what else the machine was doing."""
    python: str

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.cores} cores, {self.memory_gib:.0f} GiB, Python {self.python}, "
            f"load average before: {self.load:.1f}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing that must hold, and whether it did."""

    name: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    title: str
    value: Callable[[Row], float | None]
    places: int


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Return the lines of a table of these rows: all that is always there, and a line for each verb that occurs."""
    verbs = sorted({verb for row in rows for verb in row.traffic.total})
    return [
        Figure("API requests/s, one election", lambda row: row.requests, 3),
        *(Figure(f"  {verb}", _rate_of(verb), 3) for verb in verbs),
        Figure("  by followers, watches aside", lambda row: row.follower_requests, 3),
        Figure("  by the server's metrics, watches aside", lambda row: row.counted_by_metrics, 3),
        Figure("open watches, one election", lambda row: row.open_watches, 1),
        Figure("API server CPU, millicores", lambda row: row.apiserver, 1),
        Figure("  idle, before", lambda row: row.apiserver_idle, 1),
        Figure("start to first answer, s, p50", lambda row: row.first_answer.p50, 2),
        Figure("  p90", lambda row: row.first_answer.p90, 2),
        Figure("start to first leader, s, p50", lambda row: row.first_leader.p50, 2),
        Figure("  p90", lambda row: row.first_leader.p90, 2),
        Figure("leader killed: s to the next, p50", lambda row: _p50(row.killed), 2),
        Figure("  p90", lambda row: _p90(row.killed), 2),
        Figure("leader terminated: s to the next, p50", lambda row: _p50(row.terminated), 2),
        Figure("  p90", lambda row: _p90(row.terminated), 2),
        Figure("RSS a candidate, MiB", lambda row: row.resident, 1),
        Figure("anonymous memory a candidate, MiB", lambda row: row.anonymous, 1),
        Figure("PSS a candidate, MiB", lambda row: row.proportional, 1),
        Figure("CPU a candidate, millicores", lambda row: row.cpu, 2),
    ]


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table: a heading, then a line for each figure; rows after the first have their ratios to it.

    A figure that no row has, has no line.
    """
    first, others = rows[0], rows[1:]
    heading = ["", *(row.name for row in rows), *(f"{row.name} / {first.name}" for row in others)]
    lines = [heading]
    for figure in figures(rows):
        values = [figure.value(row) for row in rows]
        if all(value is None for value in values):
            continue
        ratios = [_ratio(value, values[0]) for value in values[1:]]
        lines.append([figure.title, *(_number(value, figure.places) for value in values), *map(_times, ratios)])
    return lines


def table(rows: Sequence[Row]) -> str:
    """Return the table for people, headed by what was asked of everybody."""
    return "\n".join([_workload(rows[0]), *aligned(cells(rows))])


def markdown(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return "\n".join([_workload(rows[0]), "", *table_in_markdown(cells(rows))])


def document(groups: Sequence[Sequence[Row]], goals: Sequence[Goal], machine: Machine) -> str:
    """Return everything as JSON; in each group, the rows after the first have their ratios to it."""
    content = {
        "machine": asdict(machine),
        "workloads": [{"rows": [_plain(row) for row in rows], "ratios": _ratios(rows)} for rows in groups],
        "goals": [asdict(goal) for goal in goals],
    }
    return json.dumps(content, indent=2)


def compare_with_goals(row: Row, many: Row) -> list[Goal]:
    """Compare a row, and one of the same command with many replicas, with what must hold."""
    killed, terminated = row.killed, row.terminated
    limit = row.ttl + KILLED_BEYOND_TTL
    return [
        Goal(
            name=f"at most {REQUEST_LIMIT} requests/s for one election of {row.replicas}",
            measured=f"{row.requests:.3f}",
            met=row.requests <= REQUEST_LIMIT,
        ),
        Goal(
            name=f"at most {MANY_LIMIT} for one of {many.replicas}",
            measured=f"{many.requests:.3f}",
            met=many.requests <= MANY_LIMIT,
        ),
        Goal(
            name="followers send nothing but their watch and registrations",
            measured=f"{row.follower_polls:.3f} and {many.follower_polls:.3f} requests/s",
            met=not row.follower_polls and not many.follower_polls,
        ),
        Goal(
            name=f"leader terminated: another leads within {TERMINATED_P50} s, p50",
            measured=_seconds(_p50(terminated)),
            met=terminated is not None and terminated.p50 < TERMINATED_P50,
        ),
        Goal(
            name=f"leader terminated: another leads within {TERMINATED_P90} s, p90",
            measured=_seconds(_p90(terminated)),
            met=terminated is not None and terminated.p90 < TERMINATED_P90,
        ),
        Goal(
            name=f"leader killed: another leads within {limit:g} s, p50",
            measured=_seconds(_p50(killed)),
            met=killed is not None and killed.p50 <= limit,
        ),
    ]


def goal_lines(goals: Sequence[Goal]) -> str:
    """Return a line for each goal."""
    return "\n".join(f"{'met   ' if goal.met else 'MISSED'}  {goal.name}: {goal.measured}" for goal in goals)


def _workload(row: Row) -> str:
    trials = [
        f"{spread.trials} x {what}" for spread, what in ((row.killed, "SIGKILL"), (row.terminated, "SIGTERM")) if spread
    ]
    settled = f"{row.elections} elections x {row.replicas} replicas, ttl {row.ttl:g} s, window {row.window:g} s"
    changed = f"; the leader changed in {row.leader_changes} elections" if row.leader_changes else ""
    return ", ".join([settled, *trials]) + changed


def _plain(row: Row) -> dict[str, object]:
    return {**asdict(row), "requests": row.requests, "follower_requests": row.follower_requests}


def _ratios(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    first = rows[0]
    return {
        row.name: {name: _ratio(value, _flat(first).get(name)) for name, value in _flat(row).items()}
        for row in rows[1:]
    }


def _flat(row: Row) -> Mapping[str, float]:
    """Return the figures by name, `killed_p50` and the like included."""
    plain: dict[str, float] = {"requests": row.requests}
    for name in ("apiserver", "open_watches", "resident", "anonymous", "proportional", "cpu"):
        plain[name] = getattr(row, name)
    for name in ("first_answer", "first_leader", "killed", "terminated"):
        spread: Spread | None = getattr(row, name)
        if spread is not None:
            plain |= {f"{name}_p50": spread.p50, f"{name}_p90": spread.p90}
    return plain


def _rate_of(verb: str) -> Callable[[Row], float]:
    return lambda row: row.traffic.total.get(verb, 0.0)


def _p50(spread: Spread | None) -> float | None:
    return spread.p50 if spread else None


def _p90(spread: Spread | None) -> float | None:
    return spread.p90 if spread else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} s"
