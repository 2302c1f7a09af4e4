"""A simulation's result for people: a table for each phase, with a column for each policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from sidecar.lab.output import output_console
from sidecar.lab.scenario import STOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.lab.figures import Figures, Range, Result

_NODES_SHOWN: Final = 6

_STOCK: Final = (
    f"{STOCK} is this program, blind to nodes: who leads is as with the stock image, the requests are not that image's."
)


def show(result: Result) -> None:
    """Print it on standard output."""
    console = output_console()
    for phase in result.scenario.phases:
        # In one line, however narrow the terminal: the options are there to be copied.
        console.print(Text(f"{phase}: {result.simulated}", style="italic"), soft_wrap=True)
        console.print(_table(result, result.of_phase(phase)))
    if STOCK in result.policies:
        console.print(Text(_STOCK, style="dim"))


def _table(result: Result, of_phase: Sequence[Figures]) -> Table:
    table = Table()
    table.add_column(overflow="fold")
    for figures in of_phase:
        table.add_column(figures.policy, justify="right", overflow="fold")
    verbs = sorted({verb for figures in of_phase for verb in figures.requests})
    for row in zip(*(_rows(result, figures, verbs) for figures in of_phase), strict=True):
        table.add_row(row[0][0], *(cell for _, cell in row))
    return table


def _rows(result: Result, figures: Figures, verbs: Sequence[str]) -> list[tuple[str, str]]:
    least = "best found" if len(set(result.scenario.weights)) > 1 else "least possible"
    return [
        (result.loads_are, _loads(figures.leaders_per_node)),
        ("balanced trials", result.balanced(figures)),
        ("worst spread", "-" if figures.spread_max is None else str(figures.spread_max)),
        ("coefficient of variation", "-" if figures.variation is None else f"{figures.variation:.3f}"),
        (f"sum of squared loads above the {least}", _shown(figures.distance, none="-")),
        ("all led (s after the end of the disturbance)", _shown(figures.led_after, none="never")),
        ("settled (s after the end of the disturbance)", _shown(figures.settled_after, none="never")),
        ("trials not settled in time", str(figures.unsettled)),
        ("leaderless elections", _leaderless(figures)),
        ("leaders an election", _shown(figures.leaders)),
        ("hand-overs an election", _shown(figures.handovers)),
        ("hand-overs when balanced", str(figures.restless)),
        ("LISTs an election", _shown(figures.lists)),
        ("requests counted for (s of virtual time)", _shown(figures.counted_for)),
        *((f"{verb}: all (an election)", _requests(figures, verb)) for verb in verbs),
    ]


def _loads(loads: Sequence[float]) -> str:
    if len(loads) <= _NODES_SHOWN:
        return ":".join(f"{load:.2f}" for load in loads)
    return f"{loads[0]:.2f}..{loads[-1]:.2f}"


def _shown(range_: Range, *, none: str = "-") -> str:
    if range_.mean is None or range_.max is None:
        return none
    most = str(range_.max) if isinstance(range_.max, int) else f"{range_.max:.2f}"
    return f"{range_.mean:.2f}, max {most}"


def _leaderless(figures: Figures) -> str:
    if not figures.leaderless:
        return "0"
    return f"{figures.leaderless}, in trials: {figures.leaderless_trials}"


def _requests(figures: Figures, verb: str) -> str:
    return f"{figures.requests.get(verb, 0)} ({figures.requests_per_election.get(verb, 0):.2f})"
