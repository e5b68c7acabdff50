"""`detect show-augment` and `detect replay`: their flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from detection.training.resolve import resolve
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, replay_file


def show_augment(argv: list[str]) -> int:
    parser = Parser(
        prog="detect show-augment",
        description="Draws training samples as the network sees them, with their boxes, on one image. Besides these "
        "flags it takes all of `detect train`, whose data, size, augmentation and seed it shows.",
    )
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("augmented.jpg"), help="output image (default: augmented.jpg)"
    )
    parser.add_argument("--count", type=int, default=12, help="number of samples (default: 12)")
    args, flags = parser.parse_known_args(argv)
    recipe = resolve(flags).recipe
    from detection.training.show_augment import show

    print("\n".join(show(recipe, args.output, args.count)))
    return 0


def replay(argv: list[str]) -> int:
    file = replay_file(argv, "detect replay")
    from detection.training.replay import task_of
    from shared.loop.replay import replay_with

    print("\n".join(replay_with(task_of, file, "detect train")))
    return 0


COMMANDS = {
    "show-augment": Command("draw augmented training samples as the network sees them", show_augment),
    "replay": Command("find the module and the image behind a loss that was NaN or Inf", replay),
}
