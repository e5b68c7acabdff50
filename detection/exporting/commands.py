"""`detect export`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from detection.inference.commands import open_weights, weights_flags
from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_pixel_limit
from shared.recipes.recipe import read_section
from shared.recipes.values import OneOrTwo, number, whole
from shared.text import say

FORMATS = ("onnx", "openvino", "torch")
DATA = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "dataset")


def export_flags() -> Parser:
    parser = Parser(
        prog="detect export",
        description="A trained detector as a file for another runtime: uint8 image in, boxes, labels and scores out. "
        "It is compared with the network on your photographs; exit code 5 if they part.",
    )
    weights_flags(parser, device=False)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="kind of file (default: onnx)")
    parser.add_argument(
        "--output", "-o", type=Path, help="new folder for it (default: named after the weights, below exports)"
    )
    parser.add_argument(
        "--canvas",
        type=whole(32, 16_384),
        nargs="+",
        action=OneOrTwo,
        metavar="PIXELS",
        help="where images keep their aspect ratio: height and width that all are padded to; larger images are made "
        "smaller (default: the longest side, for both)",
    )
    parser.add_argument(
        "--batch-size", "-b", type=whole(1, 1024), default=1, help="images of one run, all of one size (default: 1)"
    )
    parser.add_argument("--min-score", type=number(low=0, high=1), help="drop detections below (default: as trained)")
    parser.add_argument("--max-detections", type=whole(1, 100_000), help="rows that come out (default: as trained)")
    parser.add_argument("--photos", nargs="+", default=[], metavar="PATH", help="photographs to compare on")
    parser.add_argument(
        "--compare",
        type=whole(0, 100_000),
        default=16,
        metavar="N",
        help="photographs to compare on (default: 16); 0: none",
    )
    parser.add_argument("--data-path", "--coco-path", type=Path, help="a COCO folder, for the AP of both")
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of --data-path")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument("--dataset", default="auto", help="kind of annotations (default: by folder)")
    add_pixel_limit(parser)
    return parser


def export(argv: list[str]) -> int:
    args = export_flags().parse_exactly(argv)
    from detection.recipe import DataConfig

    given = {name: getattr(args, name) for name in DATA}
    data = None
    if any(given[name] is not None for name in DATA[:-1]):
        data = read_section(DataConfig, given)
        if not args.compare:
            raise UsageError("--compare 0 compares nothing, and the data are for that; remove one")
    from detection.exporting.export import Wanted
    from detection.exporting.export import export as run
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)
    least = {} if args.min_score is None else {"min_score": args.min_score}
    trained = open_weights(args.weights, args.weights_dir, "cpu", args.dataset, args.max_detections, least)
    wanted = Wanted(
        kind=args.format,
        out=args.output,
        size=args.size and tuple(args.size),
        max_size=args.max_size,
        canvas=args.canvas and (args.canvas[0], args.canvas[-1]),
        batch=args.batch_size,
        photographs=tuple(args.photos),
        most=args.compare,
        data=data,
    )
    folder, sheet = run(trained, wanted)
    say(f"exported to {folder}", *(sheet.lines() if sheet is not None else []))
    if sheet is not None:
        sheet.check(str(folder))
    return 0


COMMANDS = {
    "export": Command(
        "a trained detector as ONNX, OpenVINO or torch.export, compared on photographs", export, export_flags
    )
}
