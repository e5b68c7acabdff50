"""Command lines of torchvision's train.py and of DETR's main.py, said in our words before anybody reads them.

    --model fasterrcnn_resnet50_fpn          the recipe of that name
    --network smca_detr --coco_path coco     the same, as nothing is named that it should stand on
    --enc_layers 6 --set_cost_bbox 5         --encoder-layers 6 --l1-cost 5
    --eval --resume FILE, --test-only        `detect eval --weights FILE`
    --backend pil, --world-size 8            nothing: said once, and left out

Most of their flags are words of our own already, since these were chosen to be.
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
LEFT_OUT = {  # flag: (words after it, why it says nothing here)
    "--backend": (1, "images are decoded and augmented one way"),
    "--use-v2": (0, "images are decoded and augmented one way"),
    "--world-size": (1, "the launcher says how many processes there are"),
    "--dist-url": (1, "the launcher says where the processes meet"),
    "--local-rank": (1, "the environment says which process this is"),
    "--start-epoch": (1, "--resume knows where the run was"),
    "--remove-difficult": (0, "nothing reads it in the original either"),
}
ONLY_EVALUATE = ("--eval", "--test-only")
STARTS_FROM = ("--recipe", "--backbone", "--backbone-tag", "--init-from", "--resume", "--resume-epoch")
DATA = ("--data-path", "--coco-path")


class CommandLine(NamedTuple):
    """A command line in our words.

    argv: the flags.
    only_evaluate: the weights that are to be evaluated and not trained, None otherwise.
    notes: what was left out, and why.
    """

    argv: list[str]
    only_evaluate: str | None
    notes: list[str]


def translate(argv: Sequence[str]) -> CommandLine:
    """Flags as anybody types them -> our flags.

    Raises:
        UsageError: --eval or --test-only without weights, or --model beside --recipe.
    """
    words = [part for word in argv for part in split(dashed(word))]
    notes = [f"{word} is left out: {LEFT_OUT[word][1]}" for word in words if word in LEFT_OUT]
    words = without(words, {flag: count for flag, (count, _) in LEFT_OUT.items()})
    evaluates = any(word in ONLY_EVALUATE for word in words)
    words = without(words, dict.fromkeys(ONLY_EVALUATE, 0))
    weights = None
    if evaluates:
        weights = next((v for f, v in pairwise(words) if f in ("--resume", "--weights")), None)
        if weights is None or weights.startswith("--"):
            raise UsageError("--eval and --test-only evaluate weights; name them with --resume FILE or --weights NAME")
        words = without(words, {"--resume": 1, "--weights": 1})
    return CommandLine(named_recipe(renamed(words)), weights, notes)


def renamed(words: list[str]) -> list[str]:
    """Flags of theirs as ours."""
    return [ours for word in words for ours in (RENAMED[word].split() if word in RENAMED else [word])]


def named_recipe(words: list[str]) -> list[str]:
    """--model NAME becomes --recipe NAME where a recipe has that name; so does --network NAME where somebody's data is
    named, and nothing that the network should stand on."""
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
    """'--lr=0.1' -> '--lr', '0.1', where a flag is one that is looked for here."""
    flag, eq, value = word.partition("=")
    looked_for = {*RENAMED, *LEFT_OUT, *ONLY_EVALUATE, "--model", "--network", *STARTS_FROM, *DATA}
    return [flag, value] if eq and flag in looked_for else [word]


def without(words: list[str], flags: dict[str, int]) -> list[str]:
    """The words less these flags and the words that follow each."""
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
