"""`detect doctor`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from detection.data.commands import image_flags
from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.recipe import read_section
from shared.recipes.values import OneOrTwo, whole
from shared.text import say


def doctor_flags() -> Parser:
    parser = Parser(
        prog="detect doctor",
        description="Everything that is wrong with a data set, on one page, before it is trained on. Exit code 3 if "
        "training or evaluation would stop, or their numbers would be wrong. Nothing of the data is changed.",
    )
    parser.add_argument("data_path", type=Path, metavar="DATA", help="images, a COCO folder, or shards")
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of DATA")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument("--dataset", default="auto", help="coco, coco_kp, custom or lvis (default: by folder)")
    parser.add_argument("--network", default="faster_rcnn", help="for the size of its input (default: faster_rcnn)")
    parser.add_argument(
        "--size", type=whole(32, 16_384), nargs="+", action=OneOrTwo, help="height and width (default: the network's)"
    )
    parser.add_argument("--max-size", type=whole(32, 16_384), help="longest side, which keeps the aspect ratio")
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="decode every image, which finds damage behind the header, and validation "
        "images that are copies of training images, encoded again, resized, mirrored or cropped; minutes",
    )
    parser.add_argument("--no-images", action="store_true", help="look at the annotations alone")
    parser.add_argument(
        "--self-test",
        action="store_true",
        help="also evaluate the annotations as detections, whose AP is 1, train a small network on four images: its "
        "loss at the start is what theory says, and halves; and stop and resume it, to the same bits; two minutes",
    )
    parser.add_argument(
        "--self-test-size",
        type=whole(64, 2048),
        default=256,
        help="height and width of the input of --self-test (default: 256)",
    )
    parser.add_argument("--strict", action="store_true", help="exit code 3 for warnings, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the page as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page as HTML")
    parser.add_argument(
        "--fix", type=Path, metavar="OUT", help="write mended copies of the annotation files to a new folder"
    )
    image_flags(parser, "where the size in the annotations does not tell which way the labels were drawn")
    return parser


def doctor(argv: list[str]) -> int:
    args = doctor_flags().parse_exactly(argv)
    if args.pixels and args.no_images:
        raise UsageError("--pixels reads the images and --no-images leaves them out; give one of them")
    from detection.doctor.examine import examine
    from detection.recipe import DataConfig
    from shared.feeding.image import limit_pixels
    from shared.files import write_aside, write_json

    limit_pixels(args.max_pixels)
    names = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "dataset", "size", "max_size")
    values = {name: getattr(args, name) for name in (*names, "upright", "as_stored")}
    data = read_section(DataConfig, {name: value for name, value in values.items() if value is not None})
    title = f"detect doctor {args.data_path}"
    found = examine(data, title, network=args.network, need_images=not args.no_images, pixels=args.pixels)
    check_outputs(found.files(), args.json, args.html)
    if args.self_test:
        from detection.doctor.self_test import evaluate_truth, train_on_some

        evaluate_truth(data, found.sheet)
        train_on_some(data, args.self_test_size, found.sheet)
    say(*found.sheet.lines())
    if args.fix is not None:
        from detection.doctor.mending import mend

        say(*mend(found, args.fix))
    if args.json is not None:
        write_json(args.json, found.sheet.as_json())
    if args.html is not None:
        write_aside(args.html, found.sheet.as_html())
    return found.sheet.exit_code(strict=args.strict)


def check_outputs(files: list[Path], *outputs: Path | None) -> None:
    """Raise UsageError if a page would be written over the data."""
    for path in outputs:
        if path is not None and path.resolve() in files:
            raise UsageError(f"{path} is one of the annotation files, and the data is never changed; give another name")


COMMANDS = {
    "doctor": Command(
        "everything that is wrong with a data set, on one page; mended copies on request", doctor, doctor_flags
    ),
}
