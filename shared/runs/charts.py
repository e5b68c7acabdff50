"""Charts of `explained.json`, which a task writes into its run folder and the report draws.

    {"sentence": ...,
     "charts":   [{"kind": "bars" | "lines" | "bins" | "matrix", "title": ..., "note": ..., and what the kind needs}],
     "pictures": [{"file": a path in the run folder, "name": ..., "caption": ...}]}

    bars      labels (N), values (N) from 0 to 1 or null, counts (N): a bar each, with its count beside its label
    lines     x (M), series {name: values (M)}, xlabel, ylabel; from 0 to 1 both
    bins      labels (N), counts (N), shares (N) from 0 to 1 or null: bars of counts, and a line of shares
    matrix    rows (R), columns (C), counts (R, C), ylabel, xlabel: colored by the share of the row

A chart that is damaged is left out with a warning: a report is written of what there is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.runs.curves import INK, as_svg
from shared.runs.folders import COLOURS

log = logging.getLogger(__name__)

WIDTH = 6.0  # inches
SMALL = 8  # columns of a matrix that needs no more width than other charts
BAR = "#5b8def"
SECOND = "#d08c3c"


class Drawn(NamedTuple):
    """A chart as an inline SVG."""

    title: str
    note: str
    svg: str
    wide: bool


def draw_charts(charts: Sequence[Mapping[str, Any]], key: str) -> list[Drawn]:
    """The charts of one run; none without matplotlib. `key` makes the ids of their parts unique in a page."""
    drawn = []
    for number, chart in enumerate(charts):
        try:
            figure = KINDS[chart["kind"]](chart)
            svg = as_svg(figure, f"{key}-{number}")
            drawn.append(
                Drawn(
                    str(chart["title"]),
                    str(chart.get("note", "")),
                    svg,
                    chart["kind"] == "matrix" and len(chart["columns"]) > SMALL,
                )
            )
        except ImportError:
            return []  # the curves have said so
        except (KeyError, TypeError, ValueError, IndexError) as error:
            log.warning("a chart of explained.json is not in the report: %s: %s", type(error).__name__, error)
    return drawn


def bars(chart: Mapping[str, Any]) -> Any:
    """Horizontal bars, the first on top."""
    labels, values, counts = chart["labels"], chart["values"], chart["counts"]
    figure, axes = canvas(0.8 + 0.24 * max(4, len(labels)))
    places = range(len(labels))
    axes.barh(places, [value or 0 for value in values], color=BAR, height=0.7)
    axes.set_yticks(places, [f"{short(label)}  ({count:,})" for label, count in zip(labels, counts, strict=True)])
    for place, value in zip(places, values, strict=True):
        text = "n/a" if value is None else f"{value:.3f}"
        axes.annotate(text, (value or 0, place), (3, 0), textcoords="offset points", va="center", color=INK, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(False, axis="y")
    return figure


def lines(chart: Mapping[str, Any]) -> Any:
    """Lines over one axis, the first one thicker."""
    figure, axes = canvas(3.4)
    for number, (name, values) in enumerate(chart["series"].items()):
        color, width = (INK, 2.4) if number == 0 else (COLOURS[(number - 1) % len(COLOURS)], 1.2)
        axes.plot(chart["x"], values, color=color, linewidth=width, label=short(name))
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    name_axes(axes, chart)
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
        text.set_color(INK)
        text.set_parse_math(False)
    return figure


def bins(chart: Mapping[str, Any]) -> Any:
    """Counts as bars on the left axis, shares as dots on the right one."""
    figure, axes = canvas(3.4)
    places = range(len(chart["labels"]))
    axes.bar(places, chart["counts"], color=BAR, alpha=0.55, width=0.9)
    axes.set_xticks(places, chart["labels"], fontsize=8, rotation=30, ha="right")
    axes.grid(False, axis="x")
    name_axes(axes, chart)
    right = axes.twinx()
    known = [(place, share) for place, share in zip(places, chart["shares"], strict=True) if share is not None]
    if known:
        right.plot(*zip(*known, strict=True), color=SECOND, marker="o", linewidth=1.6)
    right.set_ylim(0, 1.05)
    right.set_ylabel(chart.get("sharelabel", ""), color=SECOND)
    right.tick_params(colors=SECOND)
    right.spines[["top", "left", "bottom", "right"]].set_visible(False)
    return figure


def matrix(chart: Mapping[str, Any]) -> Any:
    """Counts in cells, colored by their share of the row."""
    rows, columns = chart["rows"], chart["columns"]
    counts = [
        [count for count, _ in zip(row, columns, strict=True)] for row, _ in zip(chart["counts"], rows, strict=True)
    ]
    totals = [max(1, sum(row)) for row in counts]
    shares = [[count / total for count in row] for row, total in zip(counts, totals, strict=True)]
    figure, axes = canvas(1.6 + 0.34 * len(rows), max(WIDTH, 2.6 + 0.5 * len(columns)))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count:
                ink = "white" if shares[y][x] > 0.55 else "#1c2430"
                axes.text(x, y, f"{count:,}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), [short(name) for name in columns], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), [short(name) for name in rows], fontsize=8)
    axes.grid(False)
    name_axes(axes, chart)
    return figure


KINDS = {"bars": bars, "lines": lines, "bins": bins, "matrix": matrix}


def canvas(height: float, width: float = WIDTH) -> tuple[Any, Any]:
    """An empty figure in the page's text color, and its axes. Names of people's classes are never read as formulas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    return figure, axes


def name_axes(axes: Any, chart: Mapping[str, Any]) -> None:
    axes.set_xlabel(chart.get("xlabel", ""), color=INK)
    axes.set_ylabel(chart.get("ylabel", ""), color=INK)


def short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 3] + "..."
