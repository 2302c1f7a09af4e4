"""A picture of a simulation's result: leaders per node and balanced runs, policy beside policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from sidecar.lab.simulate import Figures, Result

WIDTH, HEIGHT = 9.0, 3.2
"""Inches; the height is that of each phase."""

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
        rows = picture.subplots(len(phases), 2, squeeze=False, width_ratios=(2, 1))
        for (loads, shares), phase in zip(rows, phases, strict=True):
            of_phase = [figures for figures in result.figures if figures.phase == phase]
            _draw_loads(loads, of_phase)
            _draw_shares(shares, of_phase)
            loads.set_title(f"{phase}: leaders per node, heaviest first", loc="left", fontsize="medium")
            shares.set_title("balanced runs", loc="left", fontsize="medium")
        # No date in it, and no version of the library.
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})


def _draw_loads(axes: Axes, of_phase: list[Figures]) -> None:
    width = _BAR / len(of_phase)
    for index, figures in enumerate(of_phase):
        first = 1 - _BAR / 2 + width / 2 + index * width
        places = [first + place for place in range(len(figures.leaders_per_node))]
        axes.bar(places, figures.leaders_per_node, width, label=figures.policy)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("node, by rank")
    axes.set_ylabel("leaders, mean")
    axes.legend(frameon=False)


def _draw_shares(axes: Axes, of_phase: list[Figures]) -> None:
    for figures in of_phase:
        bar = axes.bar(figures.policy, figures.balanced)
        axes.bar_label(bar, labels=[f"{figures.balanced:.0%}"])
    axes.set_ylim(0, 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
