"""Draw figures as SVG: ``python -m benchmarks.draw DIRECTORY`` reads those of `benchmarks.plots` from standard input.

Runs in the environment of ``requirements-plots.txt``. The same figures give the same bytes: no date, and identifiers
from a fixed salt. Colours are of middle lightness on no background, so that they show on white and on black pages.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib import pyplot
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

INK: Final = "#7d8590"
#: Who is always drawn in one colour; the others take the rest in turn.
COLOURS: Final = {"dispatcher": "#2f81f7", "bare": INK}
OTHERS: Final = (
    "#db6d28", "#3fb950", "#a371f7", "#e5534b", "#d29922", "#39c5cf", "#db61a2", "#8ddb8c", "#b08968",
)  # fmt: skip
STYLE: Final = {
    "svg.hashsalt": "benchmarks",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "grid.color": INK,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
COLUMNS: Final = 2
PANEL: Final = (5.2, 2.9)


def main(directory: Path) -> None:
    """Draw every figure."""
    figures = json.load(sys.stdin)
    names = {series["name"]: None for each in figures for panel in each["panels"] for series in panel["series"]}
    others = [name for name in names if name not in COLOURS]
    colours = COLOURS | {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}
    pyplot.switch_backend("svg")
    with matplotlib.rc_context(STYLE):
        for figure in figures:
            _draw(figure, colours, directory)


def _draw(figure: dict[str, Any], colours: dict[str, str], directory: Path) -> None:
    panels = figure["panels"]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = PANEL if len(panels) > 1 else (8.0, 3.8)
    canvas, grid = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            {"bars": _bars, "lines": _lines}[panels[number]["kind"]](axes, panels[number], colours)
        else:
            axes.set_visible(False)
    canvas.tight_layout()
    canvas.savefig(directory / f"{figure['name']}.svg", metadata={"Date": None})
    pyplot.close(canvas)


def _bars(axes: Any, panel: dict[str, Any], colours: dict[str, str]) -> None:
    series = panel["series"]
    values = [each["x"][0] for each in series]
    below = [value - each["low"][0] for value, each in zip(values, series, strict=True)]
    above = [each["high"][0] - value for value, each in zip(values, series, strict=True)]
    axes.barh(
        range(len(series)),
        values,
        xerr=(below, above),
        color=[colours[each["name"]] for each in series],
        ecolor=INK,
        capsize=2,
        height=0.7,
    )
    for place, each in enumerate(series):
        axes.annotate(
            _number(each["x"][0]), (each["high"][0], place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(series)), [each["name"] for each in series])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_title(textwrap.fill(panel["title"], 56))
    axes.set_xlabel(panel["x_label"])


def _lines(axes: Any, panel: dict[str, Any], colours: dict[str, str]) -> None:
    for each in panel["series"]:
        few = len(each["x"]) < 10
        emphasis = 2.2 if each["name"] == "dispatcher" else 1.2
        axes.plot(
            each["x"], each["y"], color=colours[each["name"]], label=each["name"], marker="o" if few else "",
            markersize=3.5, linewidth=emphasis,
        )  # fmt: skip
        if each["low"]:
            axes.fill_between(
                each["x"], each["low"], each["high"], color=colours[each["name"]], alpha=0.15, linewidth=0
            )
    _scale(axes, panel)
    axes.grid()
    axes.set_title(textwrap.fill(panel["title"], 56))
    axes.set_xlabel(panel["x_label"])
    axes.set_ylabel(panel["y_label"])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scale(axes: Any, panel: dict[str, Any]) -> None:
    for name in panel["log"]:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        values = [value for each in panel["series"] for value in each[name]]
        subs = (1, 2, 5) if max(values) < 200 * min(values) else (1,)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:,.10g}")
        axis.set_minor_formatter(NullFormatter())
    if "y" not in panel["log"]:
        axes.set_ylim(0, 1.1 * max(value for each in panel["series"] for value in each["y"]))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
