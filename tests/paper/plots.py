"""The pictures of the report. The same figures give the same bytes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from tests.paper.data import BALANCED, CONCENTRATED, OFF, OURS, PODS, PROCESSES
from tests.paper.report_figures import PLACEMENTS, POLICIES, capacity, elections, losses, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.paper.data import CpuRun, Election, FailureRun, Recorded, ThroughputRun
    from tests.paper.distribution import Expected
    from tests.paper.report_figures import Elections, Loss, Writing

WIDTH, HEIGHT = 9.0, 3.6
"""Inches."""

PAPER_LEADERS: Final = (2.78, 1.52, 0.70)
"""Leaders of each node, the most loaded first, that the paper found."""

PAPER_SHARES: Final = ((0.8, 0.2), (0.6,))
"""Shares of a node's processor that the paper names, of concentrated and of balanced leaders."""

# Okabe and Ito's colours, which the colour-blind can tell apart; each thing has a form of its own besides.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#999999"

COLOURS: Final = {CONCENTRATED: ORANGE, BALANCED: BLUE, OFF: ORANGE, OURS: BLUE}
POLICY_NAMES: Final = {OFF: "stock policy", OURS: "this project's policy"}
SHORT_NAMES: Final = {OFF: "stock", OURS: "this project's"}
PART_NAMES: Final = {PROCESSES: "processes", PODS: "pods"}

_BAR: Final = 0.84
"""The part of a node's place that its bars take."""
_LEVEL: Final = 4
"""Bars of a node whose figures have room beside one another."""


@contextmanager
def _picture(path: Path, *, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """Give a figure to draw on, and write it to `path`, a .png or .svg file. Raises OSError."""
    style: Any = {  # the stubs name every key that there is
        "svg.hashsalt": "leader-elector",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#e4e4e4",
        "axes.axisbelow": True,
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(style):
        picture = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(picture)
        yield picture
        # No date in it, and no version of the library.
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def distribution(recorded: Recorded[Election], analytic: Expected, path: Path) -> None:
    """Draw leaders per node: the paper's, by chance, and what was measured."""
    with _picture(path) as picture:
        _draw_leaders(picture.subplots(), elections(recorded), analytic)


def cpu(recorded: Recorded[CpuRun], path: Path) -> None:
    """Draw each node's use of the processor over time, concentrated beside balanced."""
    found = writing(recorded)
    with _picture(path) as picture:
        axes = picture.subplots(1, 2, sharey=True)
        for one, placement in zip(axes, PLACEMENTS, strict=True):
            some = [found[placement][clients] for clients in sorted(found[placement])]
            _draw_use(one, some[0] if some else None)
            one.set_title(f"{placement} leaders", loc="left", fontsize="medium")
        limit = recorded.about.node_cpus
        axes[0].set_ylabel(f"CPU of a node, of {'its' if limit else 'all'} {capacity(recorded.about):g} cores")
        for one, shares in zip(axes, PAPER_SHARES, strict=True):
            for share in shares:
                # At the edge, where no line is.
                one.plot(1.012, share, "<", color=GREY, transform=one.get_yaxis_transform(), clip_on=False)
                one.annotate(
                    "paper",
                    (1.012, share),
                    (6, 0),
                    xycoords=one.get_yaxis_transform(),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color="#666666",
                )


def throughput(recorded: Recorded[ThroughputRun], path: Path) -> None:
    """Draw writes a second over clients a store, both placements."""
    with _picture(path, width=WIDTH * 0.75) as picture:
        _draw_throughput(picture.subplots(), writing(recorded))


def node_failure(recorded: Recorded[FailureRun], path: Path) -> None:
    """Draw what the loss of a node does: leaders per node, the time without writes, and the throughput."""
    found = losses(recorded)
    with _picture(path) as picture:
        leaders, gaps, rates = picture.subplots(1, 3, width_ratios=(2.2, 1, 1.4))
        _draw_lost_leaders(leaders, found)
        _draw_gaps(gaps, recorded)
        _draw_rates(rates, found)


def overview(
    distribution_data: Recorded[Election] | None,
    throughput_data: Recorded[ThroughputRun] | None,
    analytic: Expected,
    path: Path,
) -> None:
    """Draw the picture of the project's README: where leaders end up, and what that is worth; what there is of both."""
    drawn = [one for one in (distribution_data, throughput_data) if one is not None]
    with _picture(path) as picture:
        axes = picture.subplots(1, len(drawn), squeeze=False)[0]
        for one, recorded in zip(axes, drawn, strict=True):
            if recorded is distribution_data and distribution_data is not None:
                found = elections(distribution_data)
                part = found[-1].part
                _draw_leaders(one, [each for each in found if each.part == part], analytic)
                one.set_title("5 leaders on 3 nodes after a cold start", loc="left", fontsize="medium")
            elif throughput_data is not None:
                _draw_throughput(one, writing(throughput_data))
                one.set_title("What that is worth: writes of 5 stores", loc="left", fontsize="medium")


# -- Parts of them --


def _draw_leaders(axes: Axes, found: Sequence[Elections], analytic: Expected) -> None:
    columns: list[tuple[str, Sequence[float], Sequence[float] | None, dict[str, Any]]] = [
        ("the paper", PAPER_LEADERS, None, {"color": GREY}),
        ("by chance, exact", analytic.leaders, None, {"color": "white", "edgecolor": "#555555"}),
    ]
    for policy in POLICIES:
        for one in found:
            if one.policy == policy:
                style: dict[str, Any] = {"color": COLOURS[policy]}
                if one.part == PODS:
                    style = {"facecolor": COLOURS[policy], "edgecolor": "white", "hatch": "///"}
                label = f"{POLICY_NAMES[policy]}, {PART_NAMES[one.part]} (n = {one.count})"
                columns.append((label, one.leaders, one.errors, style))
    width = _BAR / len(columns)
    for index, (label, leaders, errors, style) in enumerate(columns):
        places = [rank + 1 - _BAR / 2 + width * (index + 0.5) for rank in range(len(leaders))]
        axes.bar(places, leaders, width * 0.94, label=label, **style)
        around = [0.0] * len(leaders) if errors is None else errors
        if any(around):
            axes.errorbar(places, leaders, yerr=around, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        for place, value, error in zip(places, leaders, around, strict=True):
            _label(axes, f"{value:.2f}", place, value + error, rotation=90 if len(columns) > _LEVEL else 0)
    axes.set_xticks(range(1, len(analytic.leaders) + 1), ["most loaded", "second", "least loaded"])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("node, by rank")
    axes.set_ylabel("leaders, mean")
    # Above the highest bar there is room for its error and its figure.
    highest = max(
        mean + error
        for _, means, errors, _ in columns
        for mean, error in zip(means, errors or [0.0] * len(means), strict=True)
    )
    axes.set_ylim(0, max(3.6, 1.12 * highest))
    axes.legend(frameon=False, fontsize="small", loc="upper right")


def _draw_use(axes: Axes, run: Writing | None) -> None:
    styles = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":")]
    if run is None:
        _say_nothing(axes)
    else:
        for node, (colour, line) in zip(run.nodes, styles, strict=False):
            times, middle, low, high = zip(*node.series, strict=True) if node.series else ((), (), (), ())
            label = f"{node.leaders} leader{'' if node.leaders == 1 else 's'}"
            axes.plot(times, middle, line, color=colour, label=label, linewidth=1.6)
            if run.count > 1:
                axes.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.legend(frameon=False, fontsize="small", loc="upper right", ncols=3, columnspacing=1.2, handlelength=2.4)
        axes.set_xlabel(f"seconds under load (n = {run.count}, {run.clients} clients a store)")
    axes.set_ylim(0, 1.25)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _draw_throughput(axes: Axes, found: Mapping[str, Mapping[int, Writing]]) -> None:
    styles = {CONCENTRATED: "s--", BALANCED: "o-"}
    clients = sorted({count for some in found.values() for count in some})
    for placement, some in found.items():
        if some:
            runs = [some[count] for count in sorted(some)]
            middle = [run.throughput.median for run in runs]
            around = [
                [run.throughput.median - run.throughput.low for run in runs],
                [run.throughput.high - run.throughput.median for run in runs],
            ]
            counts = sorted({run.count for run in runs})
            told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            axes.errorbar(
                [run.clients for run in runs],
                middle,
                yerr=around,
                fmt=styles[placement],
                color=COLOURS[placement],
                label=f"{placement} leaders (n = {told})",
                capsize=3,
                markersize=5,
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(clients))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(clients, [str(count) for count in clients])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients of each store")
    axes.set_ylabel("acknowledged writes a second")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_lost_leaders(axes: Axes, found: Sequence[Loss]) -> None:
    axes.set_title("leaders of each node, mean", loc="left", fontsize="medium")
    phases = (("before", ""), ("lost", "///"), ("back", "\\\\"))
    width = _BAR / 3
    ticks: list[float] = []
    names: list[str] = []
    for index, loss in enumerate(found):
        seen = (loss.before, loss.after, loss.returned)
        for phase, (loads, (name, hatch)) in enumerate(zip(seen, phases, strict=True)):
            first = index * 3.6 + phase * 1.1
            bars = [first + width * rank for rank in range(len(loads))]
            axes.bar(bars, loads, width * 0.9, color=COLOURS[loss.policy], edgecolor="white", hatch=hatch)
            for place, load in zip(bars, loads, strict=True):
                _label(axes, f"{round(load, 1):g}", place, load)
            ticks.append(first + width)
            # Below the one in the middle, which policy that is.
            names.append(name if phase != 1 else f"{name}\n{POLICY_NAMES[loss.policy]}")
    axes.set_xticks(ticks, names, fontsize="small")
    axes.tick_params(axis="x", length=0)


def _draw_gaps(axes: Axes, recorded: Recorded[FailureRun]) -> None:
    axes.set_title("seconds without writes", loc="left", fontsize="medium")
    for index, policy in enumerate(POLICIES):
        runs = [run for run in recorded.runs if run.policy == policy and not run.void]
        gaps = sorted(gap for run in runs for store, gap in run.gaps.items() if store in run.lost)
        # Side by side, so that none hides another; by rank, so that the same data give the same picture.
        places = [index + 0.3 * (rank / max(1, len(gaps) - 1) - 0.5) for rank in range(len(gaps))]
        axes.plot(places, gaps, "s" if policy == OFF else "o", color=COLOURS[policy], markersize=4, alpha=0.8)
    axes.set_xticks(range(len(POLICIES)), [f"\n{SHORT_NAMES[policy]}" for policy in POLICIES], fontsize="small")
    axes.set_xlim(-0.5, len(POLICIES) - 0.5)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)


def _draw_rates(axes: Axes, found: Sequence[Loss]) -> None:
    axes.set_title("writes a second, all stores", loc="left", fontsize="medium")
    for index, loss in enumerate(found):
        for phase, (rate, hatch) in enumerate(((loss.throughput_before, ""), (loss.throughput_after, "///"))):
            place = index * 1.0 + phase * 0.4
            around = [[rate.median - rate.low], [rate.high - rate.median]]
            axes.bar(place, rate.median, 0.36, color=COLOURS[loss.policy], edgecolor="white", hatch=hatch)
            axes.errorbar(place, rate.median, yerr=around, fmt="none", ecolor="#333333", elinewidth=1, capsize=3)
    ticks = [index + place for index in range(len(found)) for place in (0.0, 0.2, 0.4)]
    names = [name for loss in found for name in ("before", f"\n{SHORT_NAMES[loss.policy]}", "lost")]
    axes.set_xticks(ticks, names, fontsize="small")
    axes.tick_params(axis="x", length=0)


def _label(axes: Axes, text: str, place: float, height: float, *, rotation: int = 0) -> None:
    axes.annotate(text, (place, height), (0, 3), textcoords="offset points", ha="center", fontsize=7, rotation=rotation)


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="#777777")
