"""The runs of an ablation: arms x seeds x shares of the labels, which differ in nothing but the backbone's weights.

    recipe, arms, seeds, fractions -> trials: a learning rate for each arm, on training images held out
                                   -> runs:   each arm and seed on each share, at its arm's learning rate

A run is a command line of `detect train`; its name says what it is, so that a second call finds what is there. A seed
sets the head's initial weights, the order of the data, the augmentation and the choice of labels of all arms alike.
Every run of an arm takes the same number of steps: with a tenth of the labels it has ten times the epochs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shared.errors import UsageError

SCRATCH, LONGER = "scratch", "scratch+"
HELD_OUT = 0.2  # of the training images, for the trials


class Study(NamedTuple):
    """What is asked.

    Args:
        recipe: a recipe file with every value that the runs share.
        epochs, lr: of the recipe, with all labels.
        longer: epochs of `scratch+`, as a multiple; None for what pretraining and training cost together.
    """

    out: Path
    recipe: Path
    weights_dir: Path
    epochs: float
    lr: float
    train: tuple[Path, Path]  # images, annotations
    val: tuple[Path, Path]
    arms: tuple[str, ...]
    seeds: int
    fractions: tuple[float, ...]
    grid: tuple[float, ...]  # factors of the learning rate that are tried for each arm
    longer: float | None


class Run(NamedTuple):
    """One training run.

    Args:
        factor: of the learning rate; in a trial, the one that is tried.
    """

    arm: str
    seed: int
    fraction: float
    factor: float
    trial: bool

    @property
    def name(self) -> str:
        arm = re.sub(r"[^A-Za-z0-9._-]", "_", self.arm.replace("+", "-longer"))
        share = f"{100 * self.fraction:g}pct".replace(".", "_")
        if self.trial:
            return f"trial-{arm}-{share}-lr{self.factor:g}"
        return f"{arm}-{share}-seed{self.seed}"


def check_study(study: Study) -> None:
    """Raise UsageError for what no number of runs could answer."""
    if SCRATCH not in study.arms:
        raise UsageError("an ablation compares with training from scratch; add `scratch` to --arms")
    if len(set(study.arms)) < len(study.arms) or len(study.arms) < 2:
        raise UsageError(f"--arms {' '.join(study.arms)} needs scratch and at least one other, each once")
    if study.seeds < 2:
        raise UsageError("one seed cannot tell a difference from chance; give --seeds 2 or more, 5 if you can")
    if len(set(study.fractions)) < len(study.fractions):
        raise UsageError("--fractions has one twice; give each once, such as 0.1 0.3 1")


def trials(study: Study) -> list[Run]:
    """The runs that find each arm's learning rate, at the smallest share of the labels; none for a grid of one."""
    if len(study.grid) < 2:
        return []
    arms = [arm for arm in study.arms if arm != LONGER]  # it has scratch's
    return [Run(arm, 0, min(study.fractions), factor, True) for arm in arms for factor in study.grid]


def runs(study: Study, factors: dict[str, float]) -> list[Run]:
    """All runs, pairs of one seed next to each other.

    Args:
        factors: of the learning rate, by arm.
    """
    return [
        Run(arm, seed, fraction, factors[SCRATCH if arm == LONGER else arm], False)
        for fraction in sorted(study.fractions)
        for seed in range(study.seeds)
        for arm in study.arms
    ]


def part_of(listed: Sequence[Run], part: tuple[int, int]) -> list[Run]:
    """The runs of one of several machines, `(3, 8)` for the third of eight."""
    return [run for number, run in enumerate(listed) if number % part[1] == part[0] - 1]


def labels_file(study: Study, run: Run) -> Path:
    """The training annotations of a run."""
    if run.trial:
        return study.out / "labels" / "trial.json"
    if run.fraction == 1:
        return study.train[1]
    return study.out / "labels" / f"{100 * run.fraction:g}pct-seed{run.seed}.json"


def words(study: Study, run: Run, share: float) -> list[str]:
    """The command line of `detect train` of a run.

    Args:
        share: training images of the run, as a share of all.
    """
    held = (study.train[0], study.out / "labels" / "trial-val.json") if run.trial else study.val
    epochs = study.epochs / share * ((study.longer or 1) if run.arm == LONGER else 1)
    tag = f"{study.out.name}-{run.name}"
    start = ["--no-backbone-pretrained"] if run.arm in (SCRATCH, LONGER) else ["--backbone-tag", run.arm]
    return [
        *("--recipe", str(study.recipe), *start),
        *("--data-path", str(study.train[0]), "--coco-json-path", str(labels_file(study, run))),
        *("--val-path", str(held[0]), "--coco-val-json-path", str(held[1])),
        *("--epochs", str(max(1, round(epochs))), "--lr", repr(study.lr * run.factor), "--seed", str(run.seed)),
        *("--output-dir", str(study.out / "runs"), "--weights-dir", str(study.weights_dir)),
        *("--name", run.name, "--tag", tag, "--resume"),
    ]
