"""Curves of training and validation: charts of the report, and pictures of their own.

runs -> draw_curves    -> an SVG a metric, a line a run, for the report
        write_pictures -> a PNG a run, its training loss
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import UsageError
from shared.files import written_aside
from shared.runs.folders import ROW_KEYS, Run, is_number

log = logging.getLogger(__name__)

INK = "#010203"  # placeholder for the page's text color, dark or light
SETTINGS = ("lr",)  # drawn in their own chart
SELF_SUPERVISED = ("knn", "rank", "std", "covariance", "embedding_std")  # of the probe
NOT_CURVES = (
    "loss",
    "images_per_s",
    "seconds_per_step",
    "wait_share",
    "memory_gb",
)  # the total comes first, the others are in the log
NOT_LOSSES = ("lr", "grad_norm", "images_per_s", "seconds_per_step", "wait_share", "seconds", "memory_gb")
MOST_PARTS = 6
LONG = 40  # points from which a curve is smoothed by itself


class Panel(NamedTuple):
    """One chart: a curve per run that has it, as an inline SVG."""

    title: str
    svg: str


class Line(NamedTuple):
    """One curve."""

    color: str
    epochs: list[float]
    values: list[float]


def draw_curves(runs: Sequence[Run], smooth: float | None = None, skip_first_above: float | None = None) -> list[Panel]:
    """Charts of total loss and headline metric, then of their parts; none without matplotlib.

    Args:
        smooth: weight of the past in the exponential moving average that training curves get; None for a running mean
            of long ones.
        skip_first_above: the first point of a training curve is left out if it is larger.
    """
    wanted = [("loss", "train")]
    wanted += [(name, "val") for name in dict.fromkeys(run.headline() for run in runs) if name]
    headlines = {name for name, _ in wanted}
    measured = {name for run in runs for row in run.rows if row.get("kind") == "val" for name in row}
    wanted += [(name, "val") for name in SELF_SUPERVISED if name in measured - headlines]
    totals = [with_total(run) for run in runs]
    names = dict.fromkeys(name for run in runs for row in run.rows if row.get("kind") == "train" for name in row)
    parts = [name for name in names if name not in (*ROW_KEYS, *SETTINGS, *NOT_CURVES)]
    if len(parts) > 1:  # the only part of a total is the total
        wanted += [(name, "train") for name in parts[:MOST_PARTS]]
    wanted += [(name, "train") for name in SETTINGS if name in names]
    panels = []
    try:
        for name, kind in wanted:
            of_training = kind == "train"
            is_loss = of_training and name not in SETTINGS
            lines = [line_of(run, name, kind, skip_first_above if is_loss else None) for run in totals]
            if any(line.epochs for line in lines):
                title = {"train": "training", "val": "validation"}[kind]
                figure, key = draw_chart(lines, smooth if is_loss else None, calm=is_loss), f"{kind}-{len(panels)}"
                panels.append(Panel(f"{name} ({title})", as_svg(figure, key)))
    except ImportError:
        log.warning("the report has no curves because matplotlib is not installed; pip install matplotlib")
    return panels


def with_total(run: Run) -> Run:
    """The run with a total `loss` in every training row: the sum of the logged losses, unless it was logged."""
    rows = []
    for row in run.rows:
        parts = [v for k, v in row.items() if k not in (*ROW_KEYS, *NOT_LOSSES) and is_number(v)]
        missing = row.get("kind") == "train" and "loss" not in row and parts
        rows.append({**row, "loss": sum(parts)} if missing else row)
    return Run(**{**run.__dict__, "rows": rows})


def line_of(run: Run, name: str, kind: str, skip_first_above: float | None) -> Line:
    """The curve of a run."""
    epochs, values = run.series(name, kind)
    if skip_first_above is not None and values and values[0] > skip_first_above:
        epochs, values = epochs[1:], values[1:]
    return Line(run.color, epochs, values)


def draw_chart(lines: Sequence[Line], smooth: float | None = None, *, calm: bool = True) -> Any:
    """Curves -> a matplotlib figure in the page's text color; where `calm`, a smoothed curve over the light one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, epochs, values in lines:
        calmer = None
        if calm and (smooth or len(values) > LONG):
            calmer = moving_average(values, smooth) if smooth else running_mean(values)
        axes.plot(epochs, values, color=color, linewidth=1.6, alpha=0.25 if calmer else 1, marker=marker(values))
        if calmer:
            axes.plot(epochs, calmer, color=color, linewidth=1.8)
    axes.set_xlabel("epoch", color=INK)
    axes.tick_params(colors=INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    return figure


def as_svg(figure: Any, key: str) -> str:
    """A figure as an SVG to stand in a page. `key` makes its ids unique."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "text.parse_math": False}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    return svg.replace(INK, "currentColor")


def write_pictures(
    runs: Sequence[Run], folder: Path, smooth: float | None = None, skip_first_above: float | None = None
) -> list[Path]:
    """Write the curve of each run's total training loss as FOLDER/NAME.png; the paths.

    Raises:
        UsageError: a run has no losses, or a file is already there.
    """
    written = []
    for run in runs:
        line = line_of(with_total(run), "loss", "train", skip_first_above)
        path = folder / f"{run.name.replace('/', '_')}.png"
        if not line.epochs:
            raise UsageError(f"{run.name} has no training losses yet; train it first, or leave it out")
        if path.exists():
            raise UsageError(f"{path} exists, and nothing is overwritten; give another --png folder")
        figure = draw_chart([line], smooth)
        figure.suptitle(f"{run.name}: training loss", parse_math=False)
        folder.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            figure.savefig(partial, format="png", dpi=150)
        written.append(path)
    return written


def marker(values: Sequence[float]) -> str:
    return "o" if len(values) <= 3 else ""


def running_mean(values: Sequence[float]) -> list[float]:
    """Running mean over about 1/20 of the curve; the window shrinks at the ends."""
    reach = max(1, len(values) // 40)
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def moving_average(values: Sequence[float], keep: float) -> list[float]:
    """Exponential moving average that starts at the first value: `keep` of the past, the rest of the present."""
    averages: list[float] = []
    for value in values:
        averages.append(value if not averages else keep * averages[-1] + (1 - keep) * value)
    return averages
