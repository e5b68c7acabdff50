"""`detect convert` and `detect pack`: their flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_pixel_limit
from shared.recipes.values import whole
from shared.text import say


def convert_flags() -> Parser:
    parser = Parser(prog="detect convert", description="Convert annotations of your own into COCO files.")
    parser.add_argument("source_kind", choices=["custom"], help="custom: one JSON for each image, boxes and keypoints")
    parser.add_argument("kind", choices=["coco"], help="coco: the format that every other tool reads")
    parser.add_argument("source", type=Path, help="a folder with train/{images,annotations} and test/")
    parser.add_argument("out", type=Path, help="the COCO folder to write; must not exist yet")
    parser.add_argument(
        "--keypoints-file", type=Path, help="YAML of the keypoints: names, skeleton, flip_pairs, sigmas"
    )
    image_flags(parser, "where neither the size in the annotations nor the boxes tell which way they were drawn")
    return parser


def convert(argv: list[str]) -> int:
    args = convert_flags().parse_exactly(argv)
    from detection.data.annotations.skeleton import Skeleton
    from detection.data.convert import convert_custom
    from detection.data.photographs import chosen
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)

    skeleton = Skeleton.from_yaml(args.keypoints_file) if args.keypoints_file else None
    turn = chosen(upright=args.upright, as_stored=args.as_stored)
    say(*convert_custom(args.source, args.out, skeleton, turn=turn).lines(args.out))
    return 0


def pack_flags() -> Parser:
    parser = Parser(
        prog="detect pack",
        description="Pack a COCO file and its images into shards. Run again, a stopped packing continues.",
    )
    parser.add_argument("images", type=Path, help="the folder that the file names are relative to")
    parser.add_argument("annotations", type=Path, help="the COCO JSON")
    parser.add_argument("out", type=Path, help="the folder of shards to write; must not exist yet")
    parser.add_argument("--shard-size", type=whole(1), default=1000, help="images per shard (default: 1000)")
    parser.add_argument(
        "--allow-missing-images", type=whole(0), default=0, help="number of images that may be missing on disk"
    )
    image_flags(parser, "where neither the size in the annotations nor the boxes tell which way they were drawn")
    return parser


def pack(argv: list[str]) -> int:
    args = pack_flags().parse_exactly(argv)
    from detection.data.pack import pack as run
    from detection.data.photographs import chosen
    from shared.feeding.image import limit_pixels
    from shared.logs.console import setup_logging

    limit_pixels(args.max_pixels)
    setup_logging()
    packed = run(
        args.images,
        args.annotations,
        args.out,
        shard_size=args.shard_size,
        allow_missing=args.allow_missing_images,
        turn=chosen(upright=args.upright, as_stored=args.as_stored),
        progress=lambda done, total: say(f"packed {done} of {total} images"),
    )
    say(*packed.lines(args.out))
    return 0


def image_flags(parser: Parser, where: str) -> None:
    """Add --upright, --as-stored and --max-pixels; `where` ends the help of the first two."""
    add_pixel_limit(parser)
    parser.add_argument("--upright", action="store_true", help=f"turn photographs by EXIF {where}")
    parser.add_argument("--as-stored", action="store_true", help=f"do not turn photographs by EXIF {where}")


COMMANDS = {
    "convert": Command("convert your own annotations into COCO files", convert, convert_flags),
    "pack": Command("pack a COCO file and its images into shards, which every command reads as well", pack, pack_flags),
}
