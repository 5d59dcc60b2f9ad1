"""One SVG a measure: bars against the row they are compared with, or lines where a series has an x axis."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import report
from harness import Measure, Row

OURS, OTHERS, FLOOR, SPREAD = "#1565c0", "#90a4ae", "#cfd8dc", "#37474f"
LINES = ["#ef6c00", "#2e7d32", "#8e24aa", "#546e7a", "#c62828"]

mpl.use("Agg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "libshellflip",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw(measures: list[Measure], folder: Path) -> None:
    for measure in measures:
        if measure.plot and measure.rows:
            save(bars(measure) if measure.plot == "bars" else lines(measure), folder / f"{measure.name}.svg")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)


def colour(row: Row) -> str:
    if row.who.startswith("floor"):
        return FLOOR
    return OURS if row.who.startswith("libshellflip") else OTHERS


def bars(measure: Measure) -> Figure:
    """Medians as bars, where nine tenths of the samples lie as a line."""
    rows = measure.rows[::-1]
    figure, axes = plt.subplots(figsize=(7.2, 0.6 + 0.34 * len(rows)), layout="constrained")
    for at, row in enumerate(rows):
        axes.barh(at, row.median, color=colour(row), height=0.7)
        low, high = row.spread()
        if low != high:
            axes.plot([low, high], [at, at], color=SPREAD, linewidth=1.2)
        axes.annotate(f" {report.figure(row.median)}", (max(high, row.median), at), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.who for row in rows])
    medians = [row.median for row in rows]
    if min(medians) > 0 and max(medians) / min(medians) > 30:
        axes.set_xscale("log")
    label(measure, axes, rows[0].unit)
    return figure


def lines(measure: Measure) -> Figure:
    """Each series over x, on logarithmic axes."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    names = list(dict.fromkeys(row.series or "" for row in measure.rows if row.x is not None))
    further = iter(LINES * len(names))
    for name in names:
        shade = OURS if name.startswith("libshellflip") else OTHERS if name.startswith("floor") else next(further)
        rows = sorted((row for row in measure.rows if (row.series or "") == name and row.x is not None), key=at)
        xs, medians = [at(row) for row in rows], [row.median for row in rows]
        axes.plot(xs, medians, marker="o", markersize=3.5, color=shade, label=name)
        axes.fill_between(
            xs,
            [row.spread()[0] for row in rows],
            [row.spread()[1] for row in rows],
            color=shade,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", color="#eceff1")
    axes.set_ylabel(measure.rows[0].unit)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(measure.title, loc="left", fontsize=10)
    axes.set_xlabel(measure.x_label)
    return figure


def at(row: Row) -> float:
    assert row.x is not None
    return row.x


def label(measure: Measure, axes: Axes, unit: str) -> None:
    axes.set_title(measure.title, loc="left", fontsize=10)
    axes.set_xlabel(unit)
