"""`detect show-augment` and `detect replay`: their flags. Imports no torch."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from detection.training.resolve import resolve, train_flags
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, dashed, replay_flags
from shared.recipes.recipe import Resolved
from shared.recipes.values import whole
from shared.runs.audit import Prepared, audit_flags
from shared.text import say


def show_augment_flags() -> Parser:
    parser = train_flags("detect show-augment")
    parser.description = (
        "Draws training samples as the network sees them, with their boxes, on one image. Besides these "
        "flags it takes all of `detect train`, whose data, size, augmentation and seed it shows."
    )
    add_picture_flags(parser)
    return parser


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("augmented.jpg"), help="output image (default: augmented.jpg)"
    )
    parser.add_argument("--count", type=whole(1, 1000), default=12, help="number of samples (default: 12)")


def show_augment(argv: list[str]) -> int:
    args = show_augment_flags().parse_exactly(argv)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_picture_flags(own)
    _, flags = own.parse_known_args([dashed(word) for word in argv])
    recipe = resolve(flags).recipe
    from detection.training.show_augment import show

    say(*show(recipe, args.output, args.count))
    return 0


def replay(argv: list[str]) -> int:
    file = replay_flags("detect replay").parse_exactly(argv).file
    from detection.training.replay import task_of
    from shared.loop.replay import replay_with

    say(*replay_with(task_of, file, "detect train"))
    return 0


def audit(argv: list[str]) -> int:
    from shared.runs.audit import audit as run

    def prepare(resolved: Resolved) -> Prepared:
        from detection.training.audit import prepare as build

        return build(resolved)

    return run("detect", argv, resolve, prepare)


COMMANDS = {
    "audit": Command("take random steps of a run again, and compare their bits", audit, partial(audit_flags, "detect")),
    "show-augment": Command(
        "draw augmented training samples as the network sees them", show_augment, show_augment_flags
    ),
    "replay": Command(
        "find the module and the image behind a loss that was NaN or Inf",
        replay,
        partial(replay_flags, "detect replay"),
    ),
}
