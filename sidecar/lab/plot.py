"""A picture of a simulation's result: leaders per node and balanced trials, policy beside policy."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from sidecar.lab.figures import Result

WIDTH, HEIGHT = 9.0, 3.2
"""Inches; the height is that of each phase."""

TITLE_COLUMNS = 110
"""Characters that fit into the width."""

_BAR: Final = 0.8
"""The part of a node's place that its bars take."""


def draw(result: Result, path: Path) -> None:
    """Write the picture to `path`, a .png or .svg file; the same result gives the same bytes.

    Raises OSError when it cannot be written.
    """
    phases = result.scenario.phases
    with mpl.rc_context({"svg.hashsalt": "leader-elector"}):
        picture = Figure(figsize=(WIDTH, HEIGHT * len(phases)), layout="constrained")
        FigureCanvasAgg(picture)
        picture.suptitle(_wrapped(result.simulated), fontsize="medium")
        rows = picture.subplots(len(phases), 2, squeeze=False, width_ratios=(2, 1))
        for (loads, shares), phase in zip(rows, phases, strict=True):
            _draw_loads(loads, result, phase)
            _draw_shares(shares, result, phase)
            loads.set_title(f"{phase}: {result.loads_are}, heaviest first", loc="left", fontsize="medium")
            shares.set_title("balanced trials", loc="left", fontsize="medium")
        # No date in it, and no version of the library.
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def _wrapped(text: str) -> str:
    # An option has hyphens in it, and is not to be broken there.
    return textwrap.fill(text, TITLE_COLUMNS, break_on_hyphens=False)


def _draw_loads(axes: Axes, result: Result, phase: str) -> None:
    of_phase = result.of_phase(phase)
    width = _BAR / len(of_phase)
    for index, figures in enumerate(of_phase):
        first = 1 - _BAR / 2 + width / 2 + index * width
        places = [first + place for place in range(len(figures.leaders_per_node))]
        axes.bar(places, figures.leaders_per_node, width, label=figures.policy)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("node, by rank")
    axes.set_ylabel("weight led, mean" if result.scenario.is_weighted else "leaders, mean")
    axes.legend(frameon=False)


def _draw_shares(axes: Axes, result: Result, phase: str) -> None:
    for figures in result.of_phase(phase):
        bar = axes.bar(figures.policy, figures.balanced)
        axes.bar_label(bar, labels=[result.balanced(figures)], fontsize="small")
    axes.set_ylim(0, 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
