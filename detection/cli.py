"""`detect train | eval | predict | show-augment | pack | report | list`. Imports no torch: --help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from detection.recipe import DetectRecipe, run_stem, tiny
from shared.errors import UsageError, guarded
from shared.flags import Parser, Resolved, Under, from_args, layered
from shared.launcher import adopt
from shared.registry import suggest

USAGE = """usage: detect COMMAND [flags]

  train    fine-tune a detector on COCO annotations, from a backbone found by its tag
  eval     official COCO average precision of trained weights
  predict  pictures with boxes, and COCO result JSON, for images, folders or a COCO file
  report   one HTML page about one run, or comparing several
  list     what there is: networks, backbones, recipes, weights
  pack     a COCO file and its images into shards, which the others read as well
  show-augment  one picture of training samples as the network would see them

`detect COMMAND --help` shows the flags of each."""


@guarded("detect")
def main(argv: list[str]) -> int:
    """Run one command; the exit code."""
    commands = {
        "train": train,
        "eval": evaluate,
        "predict": predict,
        "report": report,
        "list": show,
        "pack": pack,
        "show-augment": show_augment,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in commands:
        raise UsageError(f"no command '{argv[0]}'{suggest(argv[0], list(commands))}; there is {', '.join(commands)}")
    return commands[argv[0]](argv[1:])


def train(argv: list[str]) -> int:
    adopt(os.environ)
    resolved = resolve(argv)
    from detection.train import train as run

    return run(resolved)


def resolve(argv: list[str]) -> Resolved:
    """The recipe of a command line, over the demo's settings without data, over the run's when resumed, over the
    network's and backbone's names when it starts from a trained detector."""

    def told(under: Under) -> Resolved:
        return from_args(
            DetectRecipe, argv, prog="detect train", folder="detect", own="network_args", under=under, tiny=tiny
        )

    def read(under: Under) -> Resolved:
        resolved = told(under)
        if resolved.recipe.model.init_from is None:
            return resolved
        from detection.start import as_recipe, find_start

        start = find_start(resolved.recipe.model, resolved.recipe.runtime.weights_dir)
        assert start is not None
        return told([(f"weights {start.card.tag}", as_recipe(start)), *under])

    return layered(read, stem=run_stem, demo="demo_detect")


def weights_flags(parser: Parser) -> None:
    parser.add_argument(
        "--weights", required=True, help="a run folder, an export folder, a tag, or network-backbone/tag"
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto")
    parser.add_argument("--size", type=int, nargs="+", help="height and width (default: as in training)")
    parser.add_argument("--max-size", type=int, help="longest side (default: as in training)")


def evaluate(argv: list[str]) -> int:
    parser = Parser(prog="detect eval", description="Official COCO average precision.")
    weights_flags(parser)
    parser.set_defaults(weights=None)
    next(a for a in parser._actions if a.dest == "weights").required = False
    parser.add_argument(
        "--results", help="score a COCO result file instead of weights; `truth` scores the annotations themselves"
    )
    parser.add_argument(
        "--data-path", "--coco-path", type=Path, help="images, or a COCO folder (default: the demo data)"
    )
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of --data-path")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument("--batch-size", "-b", type=int, default=8, help="images per forward pass (default: 8)")
    parser.add_argument("--num-workers", "-j", type=int, default=0, help="data loading processes (default: 0)")
    parser.add_argument("--eval-backend", default="auto", help="auto, pycocotools or hotcoco")
    parser.add_argument("--save", type=Path, help="write the detections as COCO result JSON")
    parser.add_argument("--json", type=Path, help="write the metrics as JSON")
    told = parser.parse_exactly(argv)
    if (told.weights is None) == (told.results is None):
        raise UsageError("detect eval scores either --weights or --results; give one of them")
    from detection import trained
    from detection.recipe import DataConfig

    names = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "eval_backend", "max_size")
    data = DataConfig(**{name: getattr(told, name) for name in names})
    if told.results is not None:
        trained.show(trained.evaluate_results(data, told.results), told.json)
        return 0
    metrics = trained.evaluate(
        data, opened(told), batch_size=told.batch_size, workers=told.num_workers, size=told.size, save=told.save
    )
    trained.show(metrics, told.json)
    return 0


def opened(told: Any) -> Any:
    """The detector that --weights names, on its device."""
    from detection import trained
    from detection.start import find_weights
    from shared.device import pick_device
    from shared.log import setup_logging

    setup_logging()
    return trained.Trained(find_weights(told.weights, told.weights_dir), pick_device(told.device))


def predict(argv: list[str]) -> int:
    parser = Parser(prog="detect predict", description="Find things in images.")
    parser.add_argument("images", nargs="+", help="image files or folders of them")
    weights_flags(parser)
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("predictions"), help="folder for pictures and results.json"
    )
    parser.add_argument("--coco-json-path", type=Path, help="take the images, and their ids, from this COCO file")
    parser.add_argument(
        "--min-score",
        type=float,
        help="leave out what scores less (default: 0.05, or 0.5 with --save coco; pictures: at least 0.3)",
    )
    parser.add_argument(
        "--save",
        choices=["results", "coco"],
        default="results",
        help="coco: annotations.json besides, which `detect train` accepts, and labelled.json about it",
    )
    told = parser.parse_exactly(argv)
    from detection import trained

    usual = 0.5 if told.save == "coco" else 0.05
    lines = trained.predict(
        opened(told),
        told.images,
        told.output,
        annotations=told.coco_json_path,
        min_score=usual if told.min_score is None else told.min_score,
        size=told.size,
        max_size=told.max_size,
        annotate=told.save == "coco",
    )
    print("\n".join(lines))
    return 0


def pack(argv: list[str]) -> int:
    parser = Parser(
        prog="detect pack",
        description="Turn a COCO file and its images into shards. A packing that was stopped goes on where it was.",
    )
    parser.add_argument("images", type=Path, help="the folder that the file names start from")
    parser.add_argument("annotations", type=Path, help="the COCO JSON")
    parser.add_argument("out", type=Path, help="where the shards go; must not be there yet")
    parser.add_argument("--shard-size", type=int, default=1000, help="images per shard (default: 1000)")
    parser.add_argument("--allow-missing-images", type=int, default=0, help="how many images may be absent")
    told = parser.parse_exactly(argv)
    from detection.pack import pack as run
    from shared.log import setup_logging

    setup_logging()
    packed = run(
        told.images,
        told.annotations,
        told.out,
        shard_size=told.shard_size,
        allow_missing=told.allow_missing_images,
        progress=lambda done, total: print(f"packed {done} of {total} images", flush=True),
    )
    print("\n".join(packed.lines(told.out)))
    return 0


def show_augment(argv: list[str]) -> int:
    parser = Parser(
        prog="detect show-augment",
        description="One picture of training samples as the network would see them, with their boxes. Besides these "
        "flags it takes all of `detect train`, whose data, size, augmentation and seed it shows.",
    )
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("augmented.jpg"), help="the picture (default: augmented.jpg)"
    )
    parser.add_argument("--count", type=int, default=12, help="samples on it (default: 12)")
    told, flags = parser.parse_known_args(argv)
    recipe = resolve(flags).recipe
    from detection.show_augment import show as run

    print("\n".join(run(recipe, told.output, told.count)))
    return 0


def report(argv: list[str]) -> int:
    parser = Parser(prog="detect report", description="One self-contained HTML page about runs.")
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; with two, the first is what the second is compared to"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="the HTML file to write")
    told = parser.parse_exactly(argv)
    from shared.report import read_runs, verdict, write_report

    page = write_report(told.runs, told.output)
    print(verdict(read_runs(told.runs)))
    print(f"report: {page}")
    return 0


def show(argv: list[str]) -> int:
    parser = Parser(prog="detect list", description="What there is.")
    parser.add_argument("what", nargs="?", default="all", help="networks, backbones, recipes, weights, or all")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    told = parser.parse_exactly(argv)
    from backbones import backbone
    from detection.nets import detector
    from shared import catalogue

    return catalogue.show(
        told.what,
        {
            "networks": lambda: catalogue.builders(detector),
            "backbones": backbone.names,
            "recipes": lambda: catalogue.recipes("detect"),
            "weights": lambda: catalogue.weights(told.weights_dir),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
