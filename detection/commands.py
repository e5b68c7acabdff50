"""`detect train`, `list` and `report`: the commands that need more than one room. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from detection.inference.commands import open_weights
from detection.published.dialects import translate
from detection.training.resolve import resolve, train_flags
from shared.devices.launcher import adopt
from shared.errors import UsageError, WeightsError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.recipe import Resolved
from shared.recipes.submit import submission, submit
from shared.recipes.values import number
from shared.runs import ancestry, exchange
from shared.text import say


def train(argv: list[str]) -> int:
    if (asked := submission(argv)) is not None:
        runtime = resolve(translate(asked.argv).argv).recipe.runtime
        say(*submit("detection", asked, runtime.output_dir / "submitted", runtime.name).lines())
        return 0
    adopt(os.environ)
    command_line = translate(argv)
    if os.environ.get("RANK", "0") == "0":
        say(*command_line.notes)
    if command_line.only_evaluate is not None:
        return evaluate_only(resolve(command_line.argv), command_line.only_evaluate)
    resolved = resolve(command_line.argv)
    from detection.training.train import train as run

    run(resolved)
    return 0


def evaluate_only(resolved: Resolved, weights: str) -> int:
    """`detect train --eval --resume FILE`, as in DETR's main.py: data from the flags, settings from the weights.

    Raises:
        WeightsError: the weights belong to another network than --network.
    """
    from detection.inference import trained
    from detection.inference.metrics import show_evaluator

    recipe, flags = resolved.recipe, {name for name, origin in resolved.origins.items() if origin == "flag"}
    runtime, data = recipe.runtime, recipe.data
    opened = open_weights(weights, runtime.weights_dir, runtime.device, data.dataset)
    network = opened.exported.card.args["network"]
    if "network" in resolved.origins and recipe.model.network != network:
        raise WeightsError(f"{weights} has weights of {network}, not {recipe.model.network}; use --network {network}")
    evaluator = trained.evaluated(
        data if "max_size" in flags else replace(data, max_size=None),
        opened,
        batch_size=runtime.batch_size,
        workers=max(runtime.num_workers, 0),
        size=data.size if "size" in flags else None,
        save=None,
    )
    show_evaluator(evaluator)
    return 0


def report_flags() -> Parser:
    parser = Parser(prog="detect report", description="One self-contained HTML page about runs.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; with two, the second is compared to the first")
    parser.add_argument("--output", "-o", type=Path, help="the HTML file to write")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="write a picture of each run's training loss there")
    parser.add_argument(
        "--smooth",
        type=number(low=0, below=1),
        help="exponential moving average over training curves, such as 0.9: the weight of the past",
    )
    parser.add_argument(
        "--skip-first-above",
        type=number(low=0, high=1e9),
        metavar="LOSS",
        help="leave out the first point of a training curve if it is larger, such as 100",
    )
    return parser


def report(argv: list[str]) -> int:
    args = report_flags().parse_exactly(argv)
    if args.output is None and args.png is None:
        raise UsageError("detect report writes a page or pictures; give --output FILE.html, --png FOLDER, or both")
    from shared.runs.curves import write_pictures
    from shared.runs.folders import read_runs
    from shared.runs.report import check_runs, verdict, write_report

    check_runs(args.runs)
    if args.png is not None:
        for picture in write_pictures(read_runs(args.runs), args.png, args.smooth, args.skip_first_above):
            say(f"picture: {picture}")
    if args.output is not None:
        shown = {"smooth": args.smooth, "skip_first_above": args.skip_first_above}
        page = write_report(args.runs, args.output, **shown)
        say(verdict(read_runs(args.runs)))
        say(f"report: {page}")
    return 0


def list_flags() -> Parser:
    parser = Parser(prog="detect list", description="List networks, backbones, augmentations, recipes and weights.")
    parser.add_argument(
        "what", nargs="?", default="all", help="networks, backbones, augmentations, recipes, weights, or all"
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    return parser


def show(argv: list[str]) -> int:
    args = list_flags().parse_exactly(argv)
    from backbones import backbone
    from detection.data.augment.presets import augmentations
    from detection.nets import detector
    from shared.runs import catalogue

    return catalogue.show(
        args.what,
        {
            "networks": lambda: catalogue.builders(detector),
            "backbones": backbone.names,
            "augmentations": augmentations,
            "recipes": lambda: catalogue.recipes("detect"),
            "weights": lambda: catalogue.weights(args.weights_dir),
        },
    )


COMMANDS = {
    **ancestry.commands("detect"),
    **exchange.commands("detect"),
    "train": Command("fine-tune a detector on COCO annotations, from a backbone found by its tag", train, train_flags),
    "report": Command("one HTML page about a run, or comparing several", report, report_flags),
    "list": Command("networks, backbones, augmentations, recipes and weights", show, list_flags),
}
