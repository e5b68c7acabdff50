"""`detect ablate`: does a pretraining help this detector on these data? Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, dashed
from shared.recipes.values import number, whole
from shared.text import say

OWN = ("seed", "backbone_tag", "backbone_epoch", "backbone_pretrained", "weights_backbone", "init_from", "resume_epoch",
       "reset_head", "tag", "name", "output_dir", "resume", "dry_run", "datasets", "limit")  # fmt: skip
MACHINE = ("device", "num_workers", "threads", "offline")
GRID = (0.3, 1.0, 3.0)


def ablate_flags() -> Parser:
    parser = Parser(
        prog="detect ablate",
        description="Train a detector from scratch and from tags, with several seeds and shares of the labels, and say "
        "whether the pretraining helps. All other flags are those of `detect train`. Run again, it does what is "
        "missing.",
        epilog="detect ablate --network fcos --backbone resnet18 --arms scratch vicreg --seeds 5 --fractions 0.1 1 "
        "--data-path coco --output help",
    )
    parser.add_argument("--arms", nargs="+", required=True, metavar="ARM", help="scratch, tags of backbones, scratch+")
    parser.add_argument("--seeds", type=whole(1, 1000), default=3, help="runs of each arm (default: 3)")
    parser.add_argument(
        "--fractions", type=number(above=0, high=1), nargs="+", default=[1.0], help="shares of the labels (default: 1)"
    )
    parser.add_argument(
        "--lr-grid",
        type=number(above=0, high=1000),
        nargs="+",
        default=list(GRID),
        metavar="FACTOR",
        help="factors of the learning rate that are tried for each arm on training images held out; 1 for no trials "
        "(default: 0.3 1 3)",
    )
    parser.add_argument(
        "--longer",
        type=number(above=1, high=1000),
        metavar="TIMES",
        help="scratch+: epochs as a multiple of those of scratch (default: as many as pretraining and training cost "
        "together, by the seconds on the cards)",
    )
    parser.add_argument(
        "--margin", type=number(above=0, high=100), default=0.5, help="AP that does not matter (default: 0.5)"
    )
    parser.add_argument("--draws", type=whole(100, 100_000), default=2000, help="draws of images (default: 2000)")
    parser.add_argument("--part", metavar="3/8", help="do the third of eight parts, the others on other machines")
    parser.add_argument("--output", "-o", type=Path, required=True, help="folder of the runs and of ablation.html")
    return parser


def ablate(argv: list[str]) -> int:
    from detection.training.resolve import resolve, train_flags

    own, trains = ablate_flags(), train_flags("detect ablate")
    for word in argv:  # unknown flags are answered before missing ones
        if dashed(word).partition("=")[0] not in own.flags():
            trains.understood(dashed(word))
    args, rest = own.parse_known_args([dashed(word) for word in argv])
    part = part_from(args.part)
    if args.longer is not None and "scratch+" not in args.arms:
        raise UsageError("--longer is the length of scratch+, which is not among --arms; add it or leave --longer out")
    resolved = resolve(rest)
    flags = {name for name, origin in resolved.origins.items() if origin == "flag"}
    if taken := sorted(flags & set(OWN)):
        raise UsageError(f"--{taken[0].replace('_', '-')} is set by the ablation itself for each run; remove it")
    from detection.ablation.ablate import run_ablation
    from shared.logs.console import setup_logging

    setup_logging()
    extra: list[str] = []
    values: Any = resolved.recipe.runtime
    for name in sorted(flags & set(MACHINE)):
        value = getattr(values, name)
        extra += [f"--{name.replace('_', '-')}", *([] if isinstance(value, bool) else [str(value)])]
    say(*run_ablation(resolved, args, part, extra, ["detect", "ablate", *argv]))
    return 0


def part_from(text: str | None) -> tuple[int, int]:
    """'3/8' -> (3, 8). Raises UsageError if it is none."""
    if text is None:
        return 1, 1
    first, _, of = text.partition("/")
    if not (first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of)):
        raise UsageError(f"--part {text} is no part; give one such as 3/8, the third of eight")
    return int(first), int(of)


COMMANDS = {
    "ablate": Command(
        "does a pretraining help? several seeds and shares of the labels, with a verdict", ablate, ablate_flags
    )
}
