"""An ablation from the command line to its page: what is refused, what is run, what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from detection.ablation.cost import Cost, pretraining, times_longer
from detection.ablation.labels import read_labels
from detection.ablation.outcome import as_json, enough, outcome_of
from detection.ablation.page import write_page
from detection.ablation.plan import LONGER, SCRATCH, Study, check_study, runs
from detection.ablation.running import best_factors, do_missing, edges, is_done, with_length
from detection.recipe import DetectRecipe
from detection.training.datasets import places
from shared.devices.device import device_name, pick_device
from shared.errors import UsageError, plural
from shared.files import write_aside, write_json
from shared.recipes.recipe import Resolved, dump
from shared.runs.resume import changes, described, effective
from shared.weights.card import Exported
from shared.weights.store import Store


def run_ablation(
    resolved: Resolved, args: Any, part: tuple[int, int], extra: list[str], command: list[str]
) -> list[str]:
    """Do what is missing, and say what all runs together say.

    Raises:
        UsageError: the question cannot be answered by any number of runs, or a run was stopped.
        WeightsError: an arm is no tag.
    """
    recipe: DetectRecipe = resolved.recipe
    study = study_of(recipe, args)
    check_study(study)
    store = Store(recipe.runtime.weights_dir)
    arms = [arm for arm in study.arms if arm not in (SCRATCH, LONGER)]
    starts = {arm: store.find(recipe.model.backbone or "", arm) for arm in arms}
    check_images(study)
    said = check_seen(study, starts)
    before = {arm: pretraining(store, start) for arm, start in starts.items()}
    if LONGER in study.arms and study.longer is None:
        here = pick_device(recipe.runtime.device)
        times_longer(before, Cost(1, device_name(here), 1, 1, None))  # refuses now what it would after hours
    keep_study(study, recipe)
    factors = do_missing(study, part, extra, before)
    listed = runs(study, factors)
    left = [run for run in listed if not is_done(study, run)]
    if left:
        return [
            f"{plural(len(left), 'run')} of {len(listed)} are other parts'; the page is written by the last of them"
        ]
    study = with_length(study, before)
    outcome = outcome_of(study, best_factors(study), args.margin / 100, args.draws)
    page = study.out / "ablation.html"
    write_json(study.out / "ablation.json", as_json(outcome, before, study.longer))
    write_page(study, outcome, page, command, starts, before)
    told = [text for one in outcome.comparisons for text in (one.words, one.worth_words) if text]
    return [*said, *edges(study, outcome.factors), *told, f"page {page}"]


def study_of(recipe: DetectRecipe, args: Any) -> Study:
    """What is asked, with the paths of the data."""
    train, val = places(recipe.data)
    if val is None:
        raise UsageError("an ablation needs validation images; give --val-path and --coco-val-json-path")
    if train.annotations is None or val.annotations is None:
        raise UsageError(
            "an ablation needs COCO files, of which it takes parts; give a folder with COCO JSON, not shards"
        )
    if recipe.model.backbone is None:
        raise UsageError("all arms have one backbone; give --backbone")
    return Study(
        out=args.output,
        recipe=args.output / "recipe.yaml",
        weights_dir=recipe.runtime.weights_dir,
        epochs=recipe.schedule.epochs,
        lr=recipe.optim.lr,
        train=(train.images, train.annotations),
        val=(val.images, val.annotations),
        arms=tuple(args.arms),
        seeds=args.seeds,
        fractions=tuple(args.fractions),
        grid=tuple(args.lr_grid),
        longer=args.longer,
    )


def check_images(study: Study) -> None:
    """Raise UsageError for a validation set of which no difference could be told."""
    images = len(read_labels(study.val[1])["images"])
    if not enough(images):
        raise UsageError(f"{plural(images, 'validation image')} cannot tell arms apart; give at least 50")


def check_seen(study: Study, starts: dict[str, Exported]) -> list[str]:
    """What is known about validation images in each arm's pretraining. Raises UsageError if some were seen."""
    from detection.data.coco import CocoDetection
    from detection.inference.overlap import certificate

    lines, val = [], CocoDetection(study.val[0], study.val[1])
    for arm, export in starts.items():
        found = certificate(val, export)
        if not found.clean:
            raise UsageError(f"{arm}: {' '.join(found.lines())}; validate on other images, or leave this arm out")
        lines += [f"{arm}: {line}" for line in found.lines()]
    return lines


def keep_study(study: Study, recipe: DetectRecipe) -> None:
    """Write the recipe of all runs; raise UsageError if the folder is another ablation's.

    A later release of this program continues it: settings that it adds are left at what they are by default.
    """
    recipe = replace(recipe, runtime=replace(recipe.runtime, resume=None, name=None))
    asked = repr(study._replace(longer=study.longer or 1.0, seeds=0, fractions=(), arms=(), out=Path(), recipe=Path()))
    first, path = f"# of an ablation; its runs differ from it in what their own recipes say\n# {asked}\n", study.recipe
    if path.exists():
        changed = effective(changes(study.out, recipe))
        if changed or not path.read_text(encoding="utf-8").startswith(first):
            what = described(changed) or "data, learning rates that are tried, or length of scratch+"
            raise UsageError(
                f"{study.out} has an ablation with other settings ({what}); give another --output, or the same flags"
            )
        return
    study.out.mkdir(parents=True, exist_ok=True)
    write_aside(path, f"{first}{dump(recipe)}")
