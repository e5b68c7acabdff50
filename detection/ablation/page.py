"""The page about an ablation: verdicts, AP over labels, differences with their intervals, curves, cost, every run.

Outcome -> ablation.html, one file without scripts or external resources
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.ablation.cost import Cost, time_of
from detection.ablation.outcome import AP, Outcome, costs_of
from detection.ablation.plan import LONGER, SCRATCH, Study
from detection.ablation.running import edges, run_folder
from detection.ablation.verdict import LEVEL
from detection.statistics.errors import KINDS
from shared.errors import plural
from shared.files import write_aside
from shared.logs.metrics import read_metrics
from shared.runs.charts import canvas, name_axes, short
from shared.runs.curves import INK, as_svg
from shared.runs.folders import COLOURS
from shared.runs.report import page_style


def write_page(
    study: Study,
    outcome: Outcome,
    path: Path,
    command: Sequence[str],
    starts: Mapping[str, Any],
    before: Mapping[str, list[Cost] | None],
) -> None:
    """Write the page.

    Args:
        command: what was typed.
        starts: the exports that arms start from, by arm.
        before: the cost of their pretraining.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    colors = {arm: COLOURS[number % len(COLOURS)] for number, arm in enumerate(study.arms)}
    figures = [
        ("AP over labels", "lines: means of seeds; bands: 95 % by validation images; dots: seeds", labels_chart),
        ("Differences to scratch", "95 % by seeds and validation images", forest_chart),
        ("Validation AP during training", "means of seeds, at the most labels", curves_chart),
    ]
    page = template.render(
        title="Does the pretraining help?",
        style=page_style(),
        comparisons=outcome.comparisons,
        edges=edges(study, outcome.factors),
        charts=[
            (t, note, Markup(as_svg(draw(study, outcome, colors), f"a{n}")))
            for n, (t, note, draw) in enumerate(figures)
        ],
        arms=[about(study, outcome, arm, starts.get(arm), before.get(arm, [])) for arm in study.arms],
        kinds=KINDS,
        errors=kinds_table(outcome),
        pictures=outcome.why.pictures,
        share="all labels" if max(study.fractions) == 1 else f"{100 * max(study.fractions):g} % of the labels",
        runs=[
            {
                "name": one.run.name,
                "labels": f"{100 * one.run.fraction:g} %",
                "seed": one.run.seed,
                "ap": f"{one.ap[0]:.4f}",
            }
            for one in outcome.measured
        ],
        command=shlex.join(command),
    )
    write_aside(path, page)


def about(study: Study, outcome: Outcome, arm: str, start: Any, before: list[Cost] | None) -> dict[str, str]:
    """The line of an arm in the table of costs."""
    own = costs_of(outcome, arm)
    name = "random weights" + (f", {study.longer:.3g} times the epochs" if arm == LONGER and study.longer else "")
    devices = dict.fromkeys(on(cost) for cost in [*(before or []), *(own or [])])
    return {
        "name": arm,
        "start": str(start) if start is not None else name,
        "lr": f"{study.lr * outcome.factors[SCRATCH if arm == LONGER else arm]:g}",
        "pretraining": "none" if start is None else time_of(before),
        "training": time_of(own, len(own or [0])),
        "shared": "not recorded" if own is None or before is None else time_of([*before, *own], len(own)),
        "devices": ", ".join(devices) or "not recorded",
    }


def on(cost: Cost) -> str:
    """'Intel(R) Xeon(R) Processor, 2 threads'"""
    more = [plural(count, noun) for count, noun in ((cost.processes, "process"), (cost.threads, "thread")) if count > 1]
    return ", ".join([cost.device, *more])


def kinds_table(outcome: Outcome) -> list[tuple[str, list[str]]]:
    """(arm, mean count and cost of each kind of error)."""
    return [
        (arm, [f"{count:,.4g} ({cost:.3f})" for count, cost in zip(*map(np.ndarray.tolist, own), strict=True)])
        for arm, own in outcome.why.errors.items()
    ]


# --- charts -------------------------------------------------------------------------------------


def labels_chart(study: Study, outcome: Outcome, colors: dict[str, str]) -> Any:
    """AP of each arm over the share of the labels."""
    figure, axes = canvas(3.6)
    for arm in study.arms:
        fractions, means = sorted(study.fractions), []
        for fraction in fractions:
            own = [one for one in outcome.measured if (one.run.arm, one.run.fraction) == (arm, fraction)]
            means.append(np.mean([one.ap for one in own], 0))
            axes.scatter([100 * fraction] * len(own), [one.ap[0] for one in own], color=colors[arm], s=12, alpha=0.7)
        at = [100 * fraction for fraction in fractions]
        low, high = np.quantile(np.stack(means)[:, 1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        axes.fill_between(at, low, high, color=colors[arm], alpha=0.15, linewidth=0)
        axes.plot(at, [mean[0] for mean in means], color=colors[arm], linewidth=1.8, marker="o", label=short(arm))
    axes.set_xscale("log")
    axes.set_xticks([100 * fraction for fraction in study.fractions], [f"{100 * f:g}" for f in study.fractions])
    axes.minorticks_off()
    name_axes(axes, {"xlabel": "% of the labels", "ylabel": "box AP"})
    key(axes)
    return figure


def forest_chart(study: Study, outcome: Outcome, colors: dict[str, str]) -> Any:
    """Every difference to scratch with its interval."""
    figure, axes = canvas(1.2 + 0.5 * len(outcome.comparisons))
    for place, one in enumerate(outcome.comparisons):
        difference = one.verdict.difference
        axes.plot([100 * difference.low, 100 * difference.high], [place, place], color=colors[one.arm], linewidth=2)
        axes.plot([100 * difference.mean], [place], color=colors[one.arm], marker="D", markersize=6)
        axes.plot(
            100 * difference.seeds, [place] * len(difference.seeds), color=INK, marker=".", linestyle="", alpha=0.5
        )
    axes.axvline(0, color=INK, linewidth=1)
    labels = [f"{short(one.arm)}, {100 * one.fraction:g} %" for one in outcome.comparisons]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    name_axes(axes, {"xlabel": "box AP, in points, minus that of scratch"})
    return figure


def curves_chart(study: Study, outcome: Outcome, colors: dict[str, str]) -> Any:
    """Validation AP over the epochs at the largest share of the labels."""
    figure, axes = canvas(3.6)
    most = max(study.fractions)
    for arm in study.arms:
        own = [one.run for one in outcome.measured if (one.run.arm, one.run.fraction) == (arm, most)]
        series = [curve(run_folder(study, run)) for run in own]
        shortest = min(len(values) for _, values in series)
        if shortest:
            mean = np.mean([values[:shortest] for _, values in series], 0)
            marked = "o" if shortest <= 3 else ""
            axes.plot(series[0][0][:shortest], mean, color=colors[arm], linewidth=1.8, marker=marked, label=short(arm))
    name_axes(axes, {"xlabel": "epoch", "ylabel": "box AP"})
    key(axes)
    return figure


def curve(folder: Path) -> tuple[list[float], list[float]]:
    """Epochs and AP of a run."""
    rows = [row for row in read_metrics(folder) if row.get("kind") == "val" and row.get(AP) is not None]
    return [row["epoch"] for row in rows], [row[AP] for row in rows]


def key(axes: Any) -> None:
    """The legend, in the page's color; names of tags are no formulas."""
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_color(INK)
            text.set_parse_math(False)
