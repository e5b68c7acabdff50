"""Doing what is missing of an ablation: label files, trials of learning rates, runs, and their detections.

    study -> labels/*.json -> runs/NAME of each run -> results/NAME.json on the validation set

Each run is a process of its own, as if `detect train` had been typed, so that it can be stopped, continued, replayed
and reported like any other. What is there and whole is not done again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.ablation.cost import Cost, read_cost, times_longer
from detection.ablation.labels import nested_order, read_labels, write_part
from detection.ablation.plan import HELD_OUT, LONGER, SCRATCH, Run, Study, labels_file, part_of, runs, trials, words
from shared.errors import UsageError, plural
from shared.runs.subprocesses import run_logged
from shared.text import say


class Ended(UsageError):
    """A run ended with an exit code of its own."""

    def __init__(self, run: Run, code: int, folder: Path) -> None:
        super().__init__(f"{run.name} ended with exit code {code}, see {folder}; repeat the command to go on")
        self.exit_code = code


def write_labels(study: Study) -> dict[str, float]:
    """Write the label files that are missing -> share of the training images of each file by its name."""
    content = read_labels(study.train[1])
    total, shares = len(content["images"]), {}
    for seed in range(study.seeds):
        order = nested_order(content, seed)
        for fraction in study.fractions:
            run = Run(SCRATCH, seed, fraction, 1, False)
            count = total if fraction == 1 else max(1, round(fraction * total))
            shares[labels_file(study, run).name] = count / total
            if fraction != 1:
                write_part(content, order[:count], labels_file(study, run))
        if seed == 0 and trials(study):
            held = order[total - max(1, round(HELD_OUT * total)) :]
            rest = order[: total - len(held)]
            least = rest[: max(1, round(min(study.fractions) * total))]
            trial = labels_file(study, trials(study)[0])
            shares[trial.name] = len(least) / total
            write_part(content, least, trial)
            write_part(content, held, trial.with_name("trial-val.json"))
    return shares


def do_missing(
    study: Study, part: tuple[int, int], extra: list[str], before: Mapping[str, list[Cost] | None]
) -> dict[str, float]:
    """Train and evaluate what is missing of this machine's part -> the factor of the learning rate of each arm.

    Args:
        before: the cost of each arm's pretraining.
        extra: flags of where and how the runs run, such as --device.

    Raises:
        Ended: a run was stopped, or refused.
        UsageError: trials of another machine are not finished, or the length of scratch+ is not known.
    """
    shares = write_labels(study)
    listed = trials(study)
    for number, run in enumerate(mine := part_of(listed, part), 1):
        do(study, run, shares[labels_file(study, run).name], extra, f"trial {number} of {len(mine)}")
    left = [run for run in listed if not is_done(study, run)]
    if left:
        raise UsageError(
            f"{plural(len(left), 'trial')} of learning rates, such as {left[0].name}, are another machine's and not "
            "finished; start this part again when they are"
        )
    factors = best_factors(study)
    todo = sorted(
        part_of(runs(study, factors), part), key=lambda run: run.arm == LONGER
    )  # its length is told by others
    for number, run in enumerate(todo, 1):
        do(
            with_length(study, before) if run.arm == LONGER else study,
            run,
            shares[labels_file(study, run).name],
            extra,
            f"run {number} of {len(todo)}",
        )
        detections(study, run, extra)
    return factors


def with_length(study: Study, before: Mapping[str, list[Cost] | None]) -> Study:
    """The study with the length of `scratch+`: what pretraining and training cost together, over the cost of the first
    run from scratch.

    Raises:
        UsageError: that run is not finished, or a cost is not known.
    """
    if LONGER not in study.arms or study.longer is not None:
        return study
    first = Run(SCRATCH, 0, min(study.fractions), 1, False)
    if not is_done(study, first):
        raise UsageError(
            f"the length of scratch+ follows from {first.name}, which is another machine's and not finished; start "
            "this part again when it is"
        )
    return study._replace(longer=times_longer(before, read_cost(result_of(study, first).get("cost"))))


def do(study: Study, run: Run, share: float, extra: list[str], which: str) -> None:
    """Train one run, or go on with it."""
    if is_done(study, run):
        return
    say(f"{which}: {run.name}")
    called([sys.executable, "-m", "detection", "train", *words(study, run, share), *extra], study, run)


def detections(study: Study, run: Run, extra: list[str]) -> None:
    """Write the run's detections on the validation set."""
    path = results_file(study, run)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    told = ["--weights", str(run_folder(study, run)), "--weights-dir", str(study.weights_dir), "--draws", "0"]
    told += ["--val-path", str(study.val[0]), "--coco-val-json-path", str(study.val[1]), "--save", str(path)]
    told += [word for flag in ("--device",) if flag in extra for word in (flag, extra[extra.index(flag) + 1])]
    called([sys.executable, "-m", "detection", "eval", *told], study, run)


def called(command: list[str], study: Study, run: Run) -> None:
    """Run a command, its output in the study's log of the run."""
    log = study.out / "logs" / f"{run.name}.log"
    if code := run_logged(command, log):
        raise Ended(run, code, log)


def run_folder(study: Study, run: Run) -> Path:
    return study.out / "runs" / run.name


def results_file(study: Study, run: Run) -> Path:
    return study.out / "results" / f"{run.name}.json"


def result_of(study: Study, run: Run) -> dict[str, Any]:
    """The run's result; empty if there is none."""
    try:
        found = json.loads((run_folder(study, run) / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_done(study: Study, run: Run) -> bool:
    return bool(result_of(study, run).get("finished"))


def best_factors(study: Study) -> dict[str, float]:
    """The factor of the learning rate of each arm: that of its best trial, by the first metric; 1 without trials.

    Of equal trials, as of those that found nothing, the one that is nearest to 1.
    """
    factors = dict.fromkeys(study.arms, study.grid[0] if len(study.grid) == 1 else 1.0)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for run in trials(study):
        metrics = result_of(study, run).get("metrics") or {}
        value = next(iter(metrics.values()), None)
        scores.setdefault(run.arm, []).append(
            (-math.inf if value is None else float(value), -abs(math.log(run.factor)), run.factor)
        )
    return factors | {arm: max(found)[2] for arm, found in scores.items()}


def edges(study: Study, factors: Mapping[str, float]) -> list[str]:
    """A sentence for the learning rates that are the largest or smallest tried: the best one may lie beyond."""
    if not trials(study):
        return []
    said, arms = [], [arm for arm in study.arms if arm != LONGER]
    for factor, word in ((max(study.grid), "largest"), (min(study.grid), "smallest")):
        if mine := [arm for arm in arms if factors[arm] == factor]:
            names = " and ".join([", ".join(mine[:-1]), mine[-1]] if mine[1:] else mine)
            said.append(
                f"The best learning rate of {names} is the {word} that was tried, {study.lr * factor:g}; "
                "a wider --lr-grid, with another --output, may find a better one"
            )
    return said
