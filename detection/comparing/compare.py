"""`detect compare`: two runs, tags or result files on one validation set -> table, JSON, page.

A, B -> weights or results, checked against one another -> an evaluator each -> Comparison -> text, JSON, page
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detection.comparing.differences import Comparison, Difference, as_json, compared
from detection.comparing.page import write_page
from detection.comparing.pictures import pictures
from detection.data.annotations.json_values import whole_number
from detection.eval.coco import CocoEvaluator
from detection.eval.recall import RecallEvaluator
from detection.inference import trained
from detection.inference.commands import open_weights
from detection.recipe import DataConfig
from shared.errors import DataError, UsageError, WeightsError, plural
from shared.files import file_digest, write_json
from shared.recipes.recipe import read_section
from shared.runs.resume import MACHINE
from shared.text import say

log = logging.getLogger(__name__)

PLACE = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "dataset")
UNTOLD = (*MACHINE, "tag", "seed", "weights_dir", "pictures", "keep_epochs", "eval_every", "resumed")
SHOWN_CLASSES = 20


class Side(NamedTuple):
    """A or B: weights, or a file of results."""

    name: str
    weights: trained.Trained | None
    results: str | None


def is_results(reference: str) -> bool:
    return reference.endswith((".json", ".json.gz"))


def opened(reference: str, weights_dir: Path, device: str, dataset: str) -> Side:
    """Raises WeightsError if there are no such weights."""
    if is_results(reference):
        if not Path(reference).is_file():
            raise DataError(f"there is no {reference}; give a result file that `detect eval --save` wrote")
        return Side(reference, None, reference)
    return Side(reference, open_weights(reference, weights_dir, device, dataset), None)


def compare(
    references: tuple[str, str],
    data: DataConfig | None,
    *,
    weights_dir: Path,
    device: str,
    batch_size: int,
    workers: int,
    draws: int,
    count: int,
    output: Path | None,
    json: Path | None,
) -> None:
    """Compare and tell.

    Args:
        data: the validation set; None for that of the weights' recipes.
        draws: of the bootstrap.
        count: photographs on the page.
        output, json: new files for the page and the numbers.

    Raises:
        UsageError: a file exists, or the two have other validation sets.
        WeightsError: the two know other classes.
        DataError: results of images or categories that the annotations do not list.
    """
    for path in (output, json):
        if path is not None and path.exists():
            raise UsageError(f"{path} exists, and nothing is overwritten; remove it or give another name")
    sides = [opened(one, weights_dir, device, "auto" if data is None else data.dataset) for one in references]
    check_classes(sides)
    place = data if data is not None else place_of(sides)
    evaluators = [evaluator_of(side, place, batch_size, workers) for side in sides]
    first, second = (check_evaluator(one) for one in evaluators)
    names, recipes, seen = (sides[0].name, sides[1].name), differing(sides), seen_by(sides)
    told = compared(first, second, draws)
    sentence = verdict(told)
    say(*lines(told, names, sentence, recipes, seen))
    if json is not None:
        write_json(json, as_json(told, names, recipes) | {"verdict": sentence, "seen_in_pretraining": seen})
        say(f"numbers: {json}")
    if output is not None:
        drawn, unread = pictures((first, second), told.scores, told.changed[:count])
        if unread:
            log.warning("%s of those that changed most cannot be read, and are not shown", plural(unread, "photograph"))
        write_page(output, told, names, sentence, recipes, drawn, seen)
        say(f"page: {output}")


# --- what may be compared -----------------------------------------------------------------------


def check_classes(sides: Sequence[Side]) -> None:
    """Raise WeightsError if the two know other classes."""
    known = [set(side.weights.classes.names) for side in sides if side.weights is not None and not side.weights.told]
    if len(known) == 2 and known[0] != known[1]:
        other = sorted(known[0] ^ known[1])
        raise WeightsError(
            f"{sides[0].name} and {sides[1].name} know other classes ({', '.join(other[:3])}"
            f"{', ...' if len(other) > 3 else ''} only one of them), so their AP is not of the same thing; compare "
            "detectors of the same classes"
        )


def place_of(sides: Sequence[Side]) -> DataConfig:
    """The validation set of the weights' recipes. Raises UsageError if they have different ones, or there is none."""
    configs = [config_of(side.weights) for side in sides if side.weights is not None]
    if not configs:
        raise UsageError("two result files do not say what they are results of; give --data-path, or images and JSON")
    digests = []
    for config in configs:
        annotations = trained.validation_place(config).annotations
        digests.append(str(config.data_path) if annotations is None else file_digest(annotations))
    if len(set(digests)) > 1:
        raise UsageError(
            f"{sides[0].name} and {sides[1].name} have different validation sets, and differences between them are not "
            "of the detectors; give one set for both with --data-path"
        )
    return configs[0]


def config_of(weights: trained.Trained) -> DataConfig:
    """Where the recipe of the weights has its data."""
    recipe = weights.recipe
    config = read_section(DataConfig, {name: recipe[name] for name in PLACE if recipe.get(name) is not None})
    for name in ("data_path", "val_path"):
        path = getattr(config, name)
        if path is not None and not path.exists():
            raise DataError(
                f"{weights.exported} was trained with data in {path}, which is not here; give its validation set with "
                "--data-path"
            )
    return config


def evaluator_of(side: Side, config: DataConfig, batch_size: int, workers: int) -> Any:
    if side.weights is not None:
        return trained.evaluated(config, side.weights, batch_size=batch_size, workers=workers, size=None, save=None)
    assert side.results is not None
    evaluator = trained.evaluated_results(config, side.results)
    if isinstance(evaluator, CocoEvaluator):
        check_categories(side.results, evaluator)
    return evaluator


def check_categories(results: str, evaluator: CocoEvaluator) -> None:
    """Raise DataError if results are of categories that the annotations do not list."""
    listed = set(evaluator.dataset.classes.source_ids)
    ids = [whole_number(entry.get("category_id")) for entry in trained.read_results(results)]
    if strange := sorted({number for number in ids if number is not None and number not in listed}):
        raise DataError(
            f"{results} has results of category {strange[0]}, which {evaluator.dataset.table.path} does not list, so "
            "they are of another label map; give results of these annotations"
        )


def check_evaluator(evaluator: Any) -> CocoEvaluator:
    if not isinstance(evaluator, CocoEvaluator) or isinstance(evaluator, RecallEvaluator):
        raise UsageError("compare is about AP; panoptic quality and class-agnostic recall have no intervals here")
    return evaluator


# --- what is told -------------------------------------------------------------------------------


def differing(sides: Sequence[Side]) -> dict[str, tuple[str, str]]:
    """What the two recipes say differently, by key, as words; nothing if one has no recipe."""
    if any(side.weights is None for side in sides):
        return {}
    ours, theirs = (side.weights.recipe for side in sides if side.weights is not None)
    keys = [key for key in {**ours, **theirs} if key not in UNTOLD]
    return {key: (str(ours.get(key)), str(theirs.get(key))) for key in keys if ours.get(key) != theirs.get(key)}


def seen_by(sides: Sequence[Side]) -> dict[str, list[str]]:
    """Whether validation images were seen in the pretraining of each, as sentences; result files do not say."""
    unsaid = ["whether images were seen in pretraining is not known: a result file does not say what made it"]
    return {
        letter: unsaid if side.weights is None or side.weights.certificate is None else side.weights.certificate.lines()
        for letter, side in zip("AB", sides, strict=True)
    }


def verdict(told: Comparison) -> str:
    """One sentence about the headline."""
    one = told.metrics[0] if told.metrics else None
    if one is None:
        return "The annotations have no objects, so there is nothing to compare."
    by = f"{one.name} {one.b:.4f} against {one.a:.4f}, {one.difference:+.4f}"
    if one.low != one.low:
        return f"B has {by}; {plural(told.images, 'image')} are too few to say whether that would be so on others."
    between = f"{by} (95 %: {one.low:+.4f} to {one.high:+.4f}, {plural(told.images, 'image')})"
    if one.low > 0:
        return f"B is better: {between}."
    if one.high < 0:
        return f"A is better: B has {between}."
    return f"These images cannot tell which is better: B has {between}."


def lines(
    told: Comparison,
    names: tuple[str, str],
    sentence: str,
    recipes: dict[str, tuple[str, str]],
    seen: dict[str, list[str]],
) -> list[str]:
    """The comparison as text."""
    out = [f"A: {names[0]}", f"B: {names[1]}", sentence]
    out += [*(f"{letter}: {line}" for letter, told_of in seen.items() for line in told_of), ""]
    out += [*table("metric", told.metrics), ""]
    shown = told.classes[:SHOWN_CLASSES]
    if shown:
        more = len(told.classes) - len(shown)
        out += [*table("class", shown), *([f"and {more} classes with smaller differences"] if more else []), ""]
    if told.errors:
        out.append(f"{'errors':<24}  {'A':>8}  {'B':>8}  {'cost in A':>9}  {'cost in B':>9}")
        for kind, (ours, theirs, cost, other) in told.errors.items():
            out.append(f"{kind:<24}  {ours:>8,}  {theirs:>8,}  {cost:>9.4f}  {other:>9.4f}")
        out.append("")
    if recipes:
        out += ["recipes differ in", *(f"  {key}: {ours} -> {theirs}" for key, (ours, theirs) in recipes.items()), ""]
    out.append(f"{plural(len(told.changed), 'photograph')} of {told.images:,} changed; * 0 is outside the interval, or")
    out.append("for classes the difference stands among all of them (Benjamini-Hochberg, 5 %)")
    return out


def table(title: str, rows: Sequence[Difference]) -> list[str]:
    width = max([24, *(len(one.name) for one in rows)])
    out = [f"{title:<{width}}  {'A':>8}  {'B':>8}  {'B - A':>8}  95 %"]
    for one in rows:
        bounds = "n/a" if one.low != one.low else f"{one.low:+.4f} to {one.high:+.4f}{' *' if one.real else ''}"
        out.append(f"{one.name:<{width}}  {one.a:>8.4f}  {one.b:>8.4f}  {one.difference:>+8.4f}  {bounds}")
    return out
