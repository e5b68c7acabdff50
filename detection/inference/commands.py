"""`detect eval` and `detect predict`: their flags. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.data.commands import image_flags
from detection.inference.flags import asks_for_videos, score_flags, scores_of, video_flags, vocabulary_flags
from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.recipe import read_device, read_section
from shared.recipes.values import OneOrTwo, number, whole, word
from shared.text import say


def eval_flags() -> Parser:
    parser = Parser(prog="detect eval", description="COCO average precision.")
    weights_flags(parser, required=False)
    parser.add_argument(
        "--results", help="evaluate a COCO result file instead of weights; `truth` evaluates the annotations themselves"
    )
    parser.add_argument(
        "--data-path", "--coco-path", type=Path, help="images, or a COCO folder (default: the demo data)"
    )
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of --data-path")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument(
        "--dataset",
        default="auto",
        help="coco, coco_kp, custom, coco_panoptic or lvis (default: by folder and network)",
    )
    parser.add_argument("--keypoints-file", type=Path, help="YAML file of the keypoints (default: as in training)")
    parser.add_argument(
        "--oks-sigmas", nargs="+", default=(), metavar="SIGMA", help="OKS sigma of each keypoint, or coco"
    )
    image_flags(parser, "where the size in the annotations does not tell which way the labels were drawn")
    parser.add_argument(
        "--batch-size", "-b", type=whole(1, 1_000_000), default=8, help="images per forward pass (default: 8)"
    )
    parser.add_argument(
        "--num-workers", "-j", type=whole(0, 1024), default=0, help="data loading processes (default: 0)"
    )
    vocabulary_flags(
        parser,
        "the classes of the annotations by another vocabulary than the weights': a file, or the text model to look "
        "them up in (clip:RN50, minilm)",
    )
    parser.add_argument("--eval-backend", default="auto", help="auto, pycocotools or hotcoco")
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="box recall (AR) at 100, 300 and 1,000 detections per image, whatever the class, instead of AP",
    )
    parser.add_argument(
        "--ap-fixed",
        action="store_true",
        help="with --dataset lvis: also AP fixed, of the 10,000 best detections of each class, not limited per image",
    )
    parser.add_argument(
        "--max-detections",
        type=whole(1, 100_000),
        help="detections of the network per image (default: as in training; 300 with --dataset lvis)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="TRAIN.json",
        help="annotations that were trained on: a warning if more than 1 %% of the images are listed there",
    )
    parser.add_argument("--save", type=Path, help="write the detections as COCO result JSON")
    parser.add_argument(
        "--proposals", type=Path, help="stored proposals of `detect propose`, or truth, for networks on them"
    )
    parser.add_argument("--counts", type=Path, help="write how often each name was detected, for --prior")
    score_flags(parser, "a first pass over the same images")
    parser.add_argument("--json", type=Path, help="write the metrics as JSON")
    draws_flag(parser)
    return parser


def draws_flag(parser: Parser, least: int = 0) -> None:
    """Add --draws."""
    parser.add_argument(
        "--draws",
        type=whole(least, 100_000),
        default=1000,
        help=f"draws of the images with replacement, for the 95 %% intervals{'' if least else '; 0 for none'} "
        "(default: 1000)",
    )


def evaluate(argv: list[str]) -> int:
    args = eval_flags().parse_exactly(argv)
    if (args.weights is None) == (args.results is None):
        raise UsageError("detect eval needs either --weights or --results; give one of them")
    if args.vocabulary and args.results is not None:
        raise UsageError("--vocabulary is what weights are told to find, and --results are found already; remove it")
    from detection.recipe import DataConfig

    names = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "eval_backend", "max_size")
    names += ("upright", "as_stored", "dataset", "keypoints_file", "oks_sigmas", "vocabulary", "proposals")
    names += ("class_agnostic", "ap_fixed")
    data = read_section(DataConfig, {name: getattr(args, name) for name in names})
    from detection.inference import trained
    from detection.inference.metrics import show_evaluator
    from detection.inference.open_world import OpenWorld
    from shared.feeding.image import limit_pixels
    from shared.logs.console import setup_logging

    limit_pixels(args.max_pixels)
    if args.results is not None:
        setup_logging()
        evaluator = trained.evaluated_results(data, args.results, args.against)
        show_evaluator(evaluator, args.json, draws=args.draws, by_class=False)
        return 0
    evaluator = trained.evaluated(
        data,
        open_weights(args.weights, args.weights_dir, args.device, data.dataset, args.max_detections),
        batch_size=args.batch_size,
        workers=args.num_workers,
        size=args.size,
        save=args.save,
        against=args.against,
        text_weights=args.text_weights,
        how=OpenWorld(counts=args.counts, **scores_of(args)),
    )
    show_evaluator(evaluator, args.json, draws=args.draws)
    return 0


def propose_flags() -> Parser:
    parser = Parser(
        prog="detect propose",
        description="Store the boxes that a network proposes, for `detect train --proposals`. Run again, a stopped "
        "command continues.",
    )
    weights_flags(parser)
    parser.add_argument(
        "--output", "-o", type=Path, required=True, help="folder for a file of proposals per annotation file"
    )
    parser.add_argument(
        "--data-path", "--coco-path", type=Path, help="images, or a COCO folder, of which training and validation "
        "images are taken (default: the demo data)"
    )  # fmt: skip
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of --data-path")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument("--dataset", default="auto", help="kind of annotations (default: by folder)")
    parser.add_argument("--limit", type=whole(1), help="use only N images of each file, spread over it, for tests")
    image_flags(parser, "where the size in the annotations does not tell which way the labels were drawn")
    parser.add_argument(
        "--batch-size", "-b", type=whole(1, 1_000_000), default=8, help="images per forward pass (default: 8)"
    )
    parser.add_argument(
        "--num-workers", "-j", type=whole(0, 1024), default=0, help="data loading processes (default: 0)"
    )
    return parser


def propose(argv: list[str]) -> int:
    args = propose_flags().parse_exactly(argv)
    from detection.recipe import DataConfig

    names = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "dataset", "limit", "max_size", "upright")
    data = read_section(DataConfig, {name: getattr(args, name) for name in (*names, "as_stored")})
    from detection.inference.propose import propose as store_proposals
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)
    lines = store_proposals(
        data,
        open_weights(args.weights, args.weights_dir, args.device),
        args.output,
        batch_size=args.batch_size,
        workers=args.num_workers,
        size=args.size,
    )
    say(*lines)
    return 0


def predict_flags() -> Parser:
    parser = Parser(prog="detect predict", description="Detect objects in images and videos.")
    parser.add_argument("images", nargs="+", help="image files, folders of them, or https addresses; or videos")
    weights_flags(parser)
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("predictions"), help="folder for pictures and results.json"
    )
    parser.add_argument("--coco-json-path", type=Path, help="COCO file with the images and their ids")
    parser.add_argument(
        "--min-score",
        type=number(low=0, high=1),
        help="drop detections below this score (default: 0.05; 0.5 with --save coco; 0.85 for panoptic segments; "
        "pictures show 0.3 and above, with --vocabulary the best 20, or all above this)",
    )
    vocabulary_flags(
        parser,
        "names to look for instead of the weights' own, such as 'zebra,traffic cone', for networks told their classes "
        "by name; a broader word than the trained ones finds little: fruit, where apples were trained",
    )
    parser.add_argument(
        "--save",
        choices=["results", "coco"],
        default="results",
        help="coco: also write annotations.json, which `detect train` accepts, and labelled.json, its summary",
    )
    parser.add_argument(
        "--csv",
        action="store_true",
        help="also write results.csv: file_name,class_id,class_name,score,x0,y0,x1,y1 in pixels of the photograph",
    )
    parser.add_argument(
        "--proposal-weights", metavar="WEIGHTS", help="weights that propose, for networks on stored proposals"
    )
    parser.add_argument(
        "--tiles",
        type=whole(32, 16_384),
        nargs="+",
        action=OneOrTwo,
        metavar="SIZE",
        help="for small objects in large photographs: look into overlapping tiles of this height and width too, each "
        "as into a photograph of its own, and merge what is found by the network's NMS",
    )
    parser.add_argument(
        "--tile-overlap",
        type=number(low=0, high=0.9),
        metavar="SHARE",
        help="of neighbors, as a share of their sides; objects of at most this size are whole in one (default: 0.2)",
    )
    video_flags(parser)
    score_flags(parser, "needed here")
    image_flags(parser, "(default: all; with --coco-json-path those whose size in it says so)")
    return parser


def predict(argv: list[str]) -> int:
    args = predict_flags().parse_exactly(argv)
    from detection.data.photographs import chosen
    from detection.inference.open_world import OpenWorld
    from detection.inference.predict import made_ready
    from detection.inference.predict import predict as detect_in_images
    from detection.inference.tiles import tiles_for
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)
    if args.calibrate is not None and args.prior is None:
        raise UsageError("--calibrate needs a count over many images; count with `detect eval --counts`, give --prior")
    if args.tile_overlap is not None and args.tiles is None:
        raise UsageError("--tile-overlap is that of tiles; give --tiles SIZE too")
    in_videos = asks_for_videos(args)
    proposer = None
    if args.proposal_weights is not None:
        proposer = open_weights(args.proposal_weights, args.weights_dir, args.device)
    trained, how = open_weights(args.weights, args.weights_dir, args.device), OpenWorld(**scores_of(args))
    tiles = None if args.tiles is None else tiles_for(trained, args.tiles, args.tile_overlap)
    if in_videos:
        from detection.inference.video_results import predict_videos

        vocabulary = (args.vocabulary, args.text_weights)
        resize = made_ready(trained, *vocabulary, proposer, how).resize(args.size, args.max_size)
        named = {
            "every": args.every or 1,
            "table": args.csv,
            "drawn": args.annotated_video,
            "asked": bool(args.vocabulary),
        }
        own: dict[str, Any] = {"min_score": args.min_score, "resize": resize, "proposer": proposer, "tiles": tiles}
        say(*predict_videos(trained, args.images, args.output, **own, **named))
        return 0
    lines = detect_in_images(
        trained,
        args.images,
        args.output,
        annotations=args.coco_json_path,
        min_score=args.min_score,
        size=args.size,
        max_size=args.max_size,
        annotate=args.save == "coco",
        csv=args.csv,
        turn=chosen(upright=args.upright, as_stored=args.as_stored),
        vocabulary=args.vocabulary,
        text_weights=args.text_weights,
        proposer=proposer,
        tiles=tiles,
        how=how,
    )
    say(*lines)
    return 0


def weights_flags(parser: Parser, *, required: bool = True, device: bool = True) -> None:
    """Add the flags of trained weights: --weights, --weights-dir, --device if wanted, --size, --max-size."""
    parser.add_argument(
        "--weights",
        required=required,
        help="a run folder, an export folder, a tag, network-backbone/tag, or a folder of `detect export`",
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    if device:
        parser.add_argument("--device", type=word(read_device), default="auto", help="cuda, cuda:1 (or 1), cpu or auto")
    parser.add_argument(
        "--size", type=whole(32, 16_384), nargs="+", action=OneOrTwo, help="height and width (default: as in training)"
    )
    parser.add_argument("--max-size", type=whole(32, 16_384), help="longest side (default: as in training)")


def open_weights(
    reference: str,
    weights_dir: Path,
    device: str,
    dataset: str = "auto",
    max_detections: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The `Trained` detector of --weights, on a device; one that was exported runs on the processor. Sets up logging.

    Args:
        dataset: kind of annotations it is evaluated on.
        max_detections: per image; None for those of the card, or of the kind of annotations.
        options: further options of the network, instead of those of the card.

    Raises:
        WeightsError: no such weights, or they do not match.
    """
    from detection.inference import exported, trained
    from detection.inference.for_lvis import limit_of
    from detection.training.start import find_weights
    from shared.devices.device import pick_device
    from shared.logs.console import setup_logging

    setup_logging()
    folder = exported.folder_of(reference)
    if folder is not None:
        if max_detections is not None:
            raise UsageError(f"{folder} was exported for its own number of detections; remove --max-detections")
        return exported.Written(folder)
    found = find_weights(reference, weights_dir)
    limit = limit_of(found.card, dataset, max_detections) if found.card.kind == "detector" else {}
    return trained.Trained(found, pick_device(device), limit | dict(options or {}))


COMMANDS = {
    "eval": Command("COCO average precision of trained weights", evaluate, eval_flags),
    "propose": Command(
        "store the boxes that a network proposes, for networks on stored proposals", propose, propose_flags
    ),
    "predict": Command(
        "pictures with boxes, and COCO result JSON or CSV, for images, folders, videos or a COCO file",
        predict,
        predict_flags,
    ),
}
