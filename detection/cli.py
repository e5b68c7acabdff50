"""The commands of `detect`, as its usage lists them. Imports no torch: --help answers at once."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from detection.published.dialects import understand
from detection.recipe import DetectRecipe, run_stem, tiny, usual_for
from shared.devices.launcher import adopt
from shared.errors import UsageError, WeightsError, guarded
from shared.recipes.flags import Parser, Under, dashed, from_args, own_flags, replay_file
from shared.recipes.recipe import Resolved
from shared.recipes.registry import suggest
from shared.runs.resume import layered

USAGE = """usage: detect COMMAND [flags]

  train    fine-tune a detector on COCO annotations, from a backbone found by its tag
  eval     official COCO average precision of trained weights
  predict  pictures with boxes, and COCO result JSON, for images, folders or a COCO file
  report   one HTML page about one run, or comparing several
  list     what there is: networks, backbones, recipes, weights
  import   a published detector's checkpoint (torchvision, DETR, Deformable DETR, SMCA) under a tag
  convert  a person's own annotations into COCO files
  pack     a COCO file and its images into shards, which the others read as well
  replay   where a step whose loss was not finite broke: in which module, on which image
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
        "import": bring_in,
        "convert": convert,
        "pack": pack,
        "replay": replay,
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
    said = understand(argv)
    if os.environ.get("RANK", "0") == "0":
        print("".join(f"{note}\n" for note in said.notes), end="", flush=True)
    if said.only_evaluate is not None:
        return evaluate_only(resolve(said.argv), said.only_evaluate)
    resolved = resolve(said.argv)
    from detection.training.train import train as run

    return run(resolved)


def evaluate_only(resolved: Resolved, weights: str) -> int:
    """`detect train --eval --resume FILE` as DETR's program types it: the run's data, the weights' own settings."""
    from detection.inference import trained

    recipe, told = resolved.recipe, {name for name, origin in resolved.origins.items() if origin == "flag"}
    runtime, data = recipe.runtime, recipe.data
    opened = open_weights(weights, runtime.weights_dir, runtime.device)
    network = opened.exported.card.args["network"]
    if "network" in resolved.origins and recipe.model.network != network:
        raise WeightsError(f"{weights} holds {network}, not {recipe.model.network}; say --network {network}")
    metrics = trained.evaluate(
        data if "max_size" in told else replace(data, max_size=None),
        opened,
        batch_size=runtime.batch_size,
        workers=max(runtime.num_workers, 0),
        size=data.size if "size" in told else None,
        save=None,
    )
    trained.show(metrics, None)
    return 0


def resolve(argv: list[str]) -> Resolved:
    """The recipe of a command line, over the demo's settings without data, over the run's when resumed, over the
    network's and backbone's names when it starts from a trained detector."""

    def parsed(under: Under) -> Resolved:
        return from_args(
            DetectRecipe, argv, prog="detect train", folder="detect", own="network_args", under=under, tiny=tiny
        )

    def told(under: Under) -> Resolved:
        data = parsed(under).recipe.data
        usual = usual_for(data)
        return parsed([(f"dataset {data.dataset}", usual), *under]) if usual else parsed(under)

    def read(under: Under) -> Resolved:
        resolved = told(under)
        if resolved.recipe.model.init_from is None:
            return resolved
        from detection.training.start import as_recipe, find_start

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
    parser.add_argument("--dataset", default="auto", help="coco, coco_kp, custom or coco_panoptic (default: what fits)")
    parser.add_argument("--keypoints-file", type=Path, help="YAML of the keypoints (default: as in training)")
    parser.add_argument("--oks-sigmas", nargs="+", default=(), metavar="SIGMA", help="how exact each keypoint is")
    parser.add_argument("--batch-size", "-b", type=int, default=8, help="images per forward pass (default: 8)")
    parser.add_argument("--num-workers", "-j", type=int, default=0, help="data loading processes (default: 0)")
    parser.add_argument("--eval-backend", default="auto", help="auto, pycocotools or hotcoco")
    parser.add_argument("--save", type=Path, help="write the detections as COCO result JSON")
    parser.add_argument("--json", type=Path, help="write the metrics as JSON")
    told = parser.parse_exactly(argv)
    if (told.weights is None) == (told.results is None):
        raise UsageError("detect eval scores either --weights or --results; give one of them")
    from detection.inference import trained
    from detection.recipe import DataConfig

    names = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "eval_backend", "max_size")
    names += ("dataset", "keypoints_file", "oks_sigmas")
    data = DataConfig(**{name: getattr(told, name) for name in names})
    if told.results is not None:
        trained.show(trained.evaluate_results(data, told.results), told.json)
        return 0
    metrics = trained.evaluate(
        data,
        open_weights(told.weights, told.weights_dir, told.device),
        batch_size=told.batch_size,
        workers=told.num_workers,
        size=told.size,
        save=told.save,
    )
    trained.show(metrics, told.json)
    return 0


def open_weights(reference: str, weights_dir: Path, device: str) -> Any:
    """The detector that --weights names, on its device."""
    from detection.inference import trained
    from detection.training.start import find_weights
    from shared.devices.device import pick_device
    from shared.logs.console import setup_logging

    setup_logging()
    return trained.Trained(find_weights(reference, weights_dir), pick_device(device))


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
        help="leave out what scores less (default: 0.05, 0.5 with --save coco, segments 0.85; pictures: at least 0.3)",
    )
    parser.add_argument(
        "--save",
        choices=["results", "coco"],
        default="results",
        help="coco: annotations.json besides, which `detect train` accepts, and labelled.json about it",
    )
    told = parser.parse_exactly(argv)
    from detection.inference import trained

    lines = trained.predict(
        open_weights(told.weights, told.weights_dir, told.device),
        told.images,
        told.output,
        annotations=told.coco_json_path,
        min_score=told.min_score,
        size=told.size,
        max_size=told.max_size,
        annotate=told.save == "coco",
    )
    print("\n".join(lines))
    return 0


def bring_in(argv: list[str]) -> int:
    parser = Parser(
        prog="detect import",
        description="A checkpoint of torchvision, DETR, Deformable DETR or SMCA becomes an export under a tag; every "
        "tensor is accounted for, and nothing in the file is run. Flags not listed are options of the network.",
    )
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument(
        "--network", required=True, help="a detector of ours, or its authors' name for it, such as fcos_resnet50_fpn"
    )
    parser.add_argument("--tag", required=True, help="the word that will find it")
    parser.add_argument("--backbone", help="what it stands on (default: what the file's names tell)")
    parser.add_argument("--dilation", action="store_true", help="the backbone's last stage is dilated (DC5)")
    parser.add_argument("--class-file", type=Path, help="one class name per line (default: COCO's, where they fit)")
    parser.add_argument("--size", type=int, nargs="+", help="height and width (default: as published)")
    parser.add_argument("--max-size", type=int, help="longest side (default: as published)")
    parser.add_argument("--norm-eps", type=float, help="what the file's frozen batch norm adds to variances")
    parser.add_argument("--rgb-mode", help="pixel statistics (default: as published)")
    parser.add_argument("--source", help="where it is from, in words, for the card")
    parser.add_argument("--licence", help="of the weights, for the card")
    parser.add_argument("--allow-missing", nargs="+", default=[], metavar="GLOB", help="tensors the file may lack")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    known, rest = parser.parse_known_args([dashed(word) for word in argv])
    from detection.published.importing import Import, import_detector
    from shared.weights.store import Store

    told: dict[str, Any] = {**vars(known), "network_args": own_flags(rest, "detect import")}
    store = Store(told.pop("weights_dir"))
    told["allow_missing"], told["size"] = tuple(known.allow_missing), tuple(known.size) if known.size else None
    import_detector(Import(**told), store)
    return 0


def convert(argv: list[str]) -> int:
    parser = Parser(prog="detect convert", description="A person's own annotations become COCO files.")
    parser.add_argument("source_kind", choices=["custom"], help="custom: one JSON for each image, boxes and keypoints")
    parser.add_argument("kind", choices=["coco"], help="coco: what every other tool reads")
    parser.add_argument("source", type=Path, help="a folder with train/{images,annotations} and test/")
    parser.add_argument("out", type=Path, help="where the COCO folder goes; must not be there yet")
    parser.add_argument(
        "--keypoints-file", type=Path, help="YAML of the keypoints: names, skeleton, flip_pairs, sigmas"
    )
    told = parser.parse_exactly(argv)
    from detection.data.annotations.skeleton import Skeleton
    from detection.data.convert import convert_custom

    skeleton = Skeleton.from_yaml(told.keypoints_file) if told.keypoints_file else None
    print("\n".join(convert_custom(told.source, told.out, skeleton).lines(told.out)))
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
    from detection.data.pack import pack as run
    from shared.logs.console import setup_logging

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


def replay(argv: list[str]) -> int:
    file = replay_file(argv, "detect replay")
    from detection.training.replay import task_of
    from shared.loop.replay import replay_with

    print("\n".join(replay_with(task_of, file, "detect train")))
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
    from detection.training.show_augment import show as run

    print("\n".join(run(recipe, told.output, told.count)))
    return 0


def report(argv: list[str]) -> int:
    parser = Parser(prog="detect report", description="One self-contained HTML page about runs.")
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; with two, the first is what the second is compared to"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="the HTML file to write")
    told = parser.parse_exactly(argv)
    from shared.runs.report import read_runs, verdict, write_report

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
    from shared.runs import catalogue

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
