"""Translate flags of torchvision's train.py and of DETR's main.py into those of `detect train`.

    --model fasterrcnn_resnet50_fpn          the recipe of that name
    --network smca_detr --coco_path coco     the recipe of that name, if no backbone or weights are given
    --enc_layers 6 --set_cost_bbox 5         --encoder-layers 6 --l1-cost 5
    --eval --resume FILE, --test-only        `detect eval --weights FILE`
    --backend pil, --world-size 8            ignored, with a note

Most other flags of these programs have the same names here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from shared.errors import UsageError
from shared.recipes.files import recipe_names
from shared.recipes.flags import dashed

RENAMED = {
    "--rpn-score-thresh": "--rpn-min-score",
    "--weights": "--init-from",
    "--frozen-weights": "--frozen-boxes --init-from",
    "--mask-loss-coef": "--mask-weight",
    "--dice-loss-coef": "--dice-weight",
    "--enc-layers": "--encoder-layers",
    "--dec-layers": "--decoder-layers",
    "--dim-feedforward": "--feedforward",
    "--hidden-dim": "--width",
    "--nheads": "--heads",
    "--set-cost-class": "--class-cost",
    "--set-cost-bbox": "--l1-cost",
    "--set-cost-giou": "--giou-cost",
    "--bbox-loss-coef": "--l1-weight",
    "--giou-loss-coef": "--giou-weight",
}
LEFT_OUT = {  # flag: (number of its values, why it is ignored)
    "--backend": (1, "there is only one image decoder"),
    "--use-v2": (0, "there is only one version of the augmentations"),
    "--world-size": (1, "the launcher sets the number of processes"),
    "--dist-url": (1, "the launcher sets the address"),
    "--local-rank": (1, "it is read from the environment variable LOCAL_RANK"),
    "--start-epoch": (1, "--resume restores the epoch"),
    "--remove-difficult": (0, "DETR's main.py does not use it either"),
}
ONLY_EVALUATE = ("--eval", "--test-only")
STARTS_FROM = ("--recipe", "--backbone", "--backbone-tag", "--init-from", "--resume", "--resume-epoch")
DATA = ("--data-path", "--coco-path")


class CommandLine(NamedTuple):
    """A translated command line.

    argv: flags of `detect train`.
    only_evaluate: weights to evaluate instead of training, or None to train.
    notes: one line for each ignored flag, with the reason.
    """

    argv: list[str]
    only_evaluate: str | None
    notes: list[str]


def translate(argv: Sequence[str]) -> CommandLine:
    """Translate a command line.

    Raises:
        UsageError: --eval or --test-only without weights, or --model NAME of a recipe together with --recipe.
    """
    words = [part for word in argv for part in split(dashed(word))]
    notes = [f"{word} is ignored: {LEFT_OUT[word][1]}" for word in words if word in LEFT_OUT]
    words = without(words, {flag: count for flag, (count, _) in LEFT_OUT.items()})
    evaluates = any(word in ONLY_EVALUATE for word in words)
    words = without(words, dict.fromkeys(ONLY_EVALUATE, 0))
    weights = None
    if evaluates:
        weights = next((v for f, v in pairwise(words) if f in ("--resume", "--weights")), None)
        if weights is None or weights.startswith("--"):
            raise UsageError("--eval and --test-only evaluate weights; give them with --resume FILE or --weights NAME")
        words = without(words, {"--resume": 1, "--weights": 1})
    return CommandLine(named_recipe(renamed(words)), weights, notes)


def renamed(words: list[str]) -> list[str]:
    """Replace the flags in RENAMED; values are kept."""
    return [ours for word in words for ours in (RENAMED[word].split() if word in RENAMED else [word])]


def named_recipe(words: list[str]) -> list[str]:
    """Replace --model NAME by --recipe NAME if there is such a recipe.

    --network NAME is replaced, too, if data is given but no recipe, backbone or weights.

    Raises:
        UsageError: --model NAME of a recipe together with --recipe.
    """
    known = recipe_names("detect")
    if not {*STARTS_FROM}.intersection(words) and {*DATA}.intersection(words):
        for place, (flag, value) in enumerate(pairwise(words)):
            if flag == "--network" and value in known:
                return [*words[:place], "--recipe", *words[place + 1 :]]
    for place, (flag, value) in enumerate(pairwise(words)):
        if flag == "--model" and value in known:
            if "--recipe" in words:
                raise UsageError(f"--model {value} is a recipe, and --recipe names another; keep one of them")
            return [*words[:place], "--recipe", *words[place + 1 :]]
    return words


def split(word: str) -> list[str]:
    """'--model=fcos' -> '--model', 'fcos', for the flags that are handled here; other words are kept."""
    flag, eq, value = word.partition("=")
    looked_for = {*RENAMED, *LEFT_OUT, *ONLY_EVALUATE, "--model", "--network", *STARTS_FROM, *DATA}
    return [flag, value] if eq and flag in looked_for else [word]


def without(words: list[str], flags: dict[str, int]) -> list[str]:
    """Remove flags and their values. flags: {flag: number of values}."""
    kept, skip = [], 0
    for word in words:
        if word in flags:
            skip = flags[word]
        elif skip and not word.startswith("--"):
            skip -= 1
        else:
            skip = 0
            kept.append(word)
    return kept
