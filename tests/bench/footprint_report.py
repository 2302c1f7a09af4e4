"""How the footprint of a container is told: as a table, as Markdown, as JSON, and against its limits. No I/O here."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.bench.report import Goal
from tests.bench.table import aligned
from tests.bench.table import markdown as table_in_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.report import Machine

RESIDENT_LIMIT, ANONYMOUS_LIMIT, ADDED_LIMIT = 45.0, 27.0, 40.0
"""MiB; the last one is of the image, on top of its base."""
FIRST_ANSWER_LIMIT = 0.5
"""Seconds."""
FOLLOWER_CPU_LIMIT = 1.0
"""Millicores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupied:
    """What one container occupies."""

    resident: float
    """MiB, as the next two; what they mean: figures.Memory."""
    anonymous: float
    proportional: float
    cpu: float
    """Millicores."""
    first_answer: float | None
    """Seconds from the start of its process; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """All that was measured of one image."""

    image: str
    ttl: str
    window: float
    """Seconds in which the processor time was counted."""
    added: float | None
    """MiB that the image adds to its base; None where that is not known."""
    leader: Occupied
    followers: Sequence[Occupied]


STOCK = Occupied(resident=17.8, anonymous=5.1, proportional=5.6, cpu=0.25, first_answer=None)
"""The stock image 0.5, the average of 5 elections x 5 candidates: measured once, on another day."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """One line of the table."""

    title: str
    of: Callable[[Occupied], float | None]
    places: int
    limit: float | None = None


_FIGURES = (
    _Figure("RSS, MiB", lambda one: one.resident, 1, RESIDENT_LIMIT),
    _Figure("anonymous memory, MiB", lambda one: one.anonymous, 1, ANONYMOUS_LIMIT),
    _Figure("PSS, MiB", lambda one: one.proportional, 1),
    _Figure("CPU, millicores", lambda one: one.cpu, 2),
    _Figure("start to first answer, s", lambda one: one.first_answer, 2, FIRST_ANSWER_LIMIT),
)


def follower(measured: Footprint) -> Occupied:
    """Return what a follower occupies: the median of each figure."""
    answers = [one.first_answer for one in measured.followers if one.first_answer is not None]
    return Occupied(
        resident=statistics.median(one.resident for one in measured.followers),
        anonymous=statistics.median(one.anonymous for one in measured.followers),
        proportional=statistics.median(one.proportional for one in measured.followers),
        cpu=statistics.median(one.cpu for one in measured.followers),
        first_answer=statistics.median(answers) if answers else None,
    )


def cells(measured: Footprint) -> list[list[str]]:
    """Return the table: a heading, then a line for each figure, beside the stock image's."""
    columns = (measured.leader, follower(measured), STOCK)
    return [
        ["", "leader", "follower", "stock image 0.5"],
        *([figure.title, *(_number(figure.of(one), figure.places) for one in columns)] for figure in _FIGURES),
    ]


def table(measured: Footprint) -> str:
    """Return the table for people, headed by what was measured."""
    return "\n".join([_heading(measured), *aligned(cells(measured))])


def markdown(measured: Footprint) -> str:
    """Return the table in Markdown."""
    return "\n".join([_heading(measured), "", *table_in_markdown(cells(measured))])


def document(measured: Footprint, goals: Sequence[Goal], machine: Machine) -> str:
    """Return everything as JSON, every follower included."""
    content = {
        "machine": asdict(machine),
        **asdict(measured),
        "follower": asdict(follower(measured)),
        "stock": asdict(STOCK),
        "goals": [asdict(goal) for goal in goals],
    }
    return json.dumps(content, indent=2)


def compare_with_limits(measured: Footprint) -> list[Goal]:
    """Compare what a leader and a follower occupy with what is allowed."""
    both = (measured.leader, follower(measured))
    goals = [
        Goal(
            name=f"{figure.title}: at most {figure.limit:g}",
            measured=" and ".join(_number(value, figure.places) for value in values),
            met=all(value <= figure.limit for value in values),
        )
        for figure in _FIGURES
        if figure.limit is not None and (values := [value for one in both if (value := figure.of(one)) is not None])
    ]
    goals.append(
        Goal(
            name=f"CPU of a follower, millicores: at most {FOLLOWER_CPU_LIMIT:g}",
            measured=_number(both[1].cpu, 2),
            met=both[1].cpu <= FOLLOWER_CPU_LIMIT,
        )
    )
    goals.append(
        Goal(
            name=f"image on top of its base, MiB: at most {ADDED_LIMIT:g}",
            measured="not known: the engine does not have its base"
            if measured.added is None
            else f"{measured.added:.1f}",
            met=measured.added is not None and measured.added <= ADDED_LIMIT,
        )
    )
    return goals


def _heading(measured: Footprint) -> str:
    added = "" if measured.added is None else f", {measured.added:.1f} MiB on top of its base"
    count = len(measured.followers)
    followers = f"{count} follower{'s' if count > 1 else ''}"
    return f"{measured.image}{added}: 1 leader and {followers}, ttl {measured.ttl}, window {measured.window:g} s"


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"
