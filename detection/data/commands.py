"""`detect convert`, `pack`, `subset`, `count` and `join-classes`: their flags. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from shared.errors import UsageError
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_pixel_limit
from shared.recipes.values import number, whole
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


def subset_flags() -> Parser:
    parser = Parser(
        prog="detect subset",
        description="Write a random part of a COCO, Objects365 or LVIS file: the same bytes every time.",
    )
    parser.add_argument("annotations", type=Path, metavar="FILE", help="the COCO, Objects365, LVIS or panoptic JSON")
    parser.add_argument(
        "--percent", type=number(above=0, high=100), required=True, help="percent of the images to keep"
    )
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=1, help="seed of the choice (default: 1)")
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="leave out the images of this file before choosing, such as those that another set is tested on",
    )
    parser.add_argument(
        "--output", "-o", type=Path, help="the file to write (default: STEM.SEED@PERCENT.json beside FILE)"
    )
    return parser


def subset(argv: list[str]) -> int:
    args = subset_flags().parse_exactly(argv)
    from detection.data.annotations.subsets import write_subset

    say(write_subset(args.annotations, args.percent, args.seed, args.output, args.exclude).line())
    return 0


def count_flags() -> Parser:
    parser = Parser(prog="detect count", description="Images and objects of every category, and which have none.")
    parser.add_argument("annotations", type=Path, metavar="FILE", help="the COCO, Objects365 or LVIS JSON")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead: the list of categories with image_count and instance_count",
    )
    return parser


def count(argv: list[str]) -> int:
    args = count_flags().parse_exactly(argv)
    from detection.data.annotations.counts import count_categories, table_of

    counted = count_categories(args.annotations)
    say(*([json.dumps(counted)] if args.json else table_of(counted, args.annotations)))
    return 0


def join_flags() -> Parser:
    parser = Parser(
        prog="detect join-classes",
        description="Propose one list of classes for several files, for review and then for `train --class-map`: equal "
        "names are joined, other words for one thing are only suggested.",
    )
    parser.add_argument("annotations", type=Path, nargs="+", metavar="FILE", help="two COCO-like JSON files or more")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="what to call each data set (default: the names of the files)"
    )
    parser.add_argument(
        "--aliases", type=Path, help="lines `name = name` of other words for one thing (default: those shipped)"
    )
    parser.add_argument("--output", "-o", type=Path, required=True, help="the YAML file to write")
    return parser


def join_classes(argv: list[str]) -> int:
    args = join_flags().parse_exactly(argv)
    from detection.data.annotations.aliases import read_aliases
    from detection.data.annotations.joins import write_join

    names = args.names or [path.name.partition(".")[0] for path in args.annotations]
    if len(args.annotations) < 2 or len(names) != len(args.annotations):
        raise UsageError(f"{len(args.annotations)} files with {len(names)} names; give two files or more, a name each")
    files = dict(zip(names, args.annotations, strict=True))
    if len(files) < len(names):
        raise UsageError(f"two files are called {max(names, key=names.count)}; give each a name with --names")
    say(*write_join(args.output, files, read_aliases(args.aliases)))
    return 0


def image_flags(parser: Parser, where: str) -> None:
    """Add --upright, --as-stored and --max-pixels; `where` ends the help of the first two."""
    add_pixel_limit(parser)
    parser.add_argument("--upright", action="store_true", help=f"turn photographs by EXIF {where}")
    parser.add_argument("--as-stored", action="store_true", help=f"do not turn photographs by EXIF {where}")


COMMANDS = {
    "convert": Command("convert your own annotations into COCO files", convert, convert_flags),
    "join-classes": Command("propose one list of classes for several files, for review", join_classes, join_flags),
    "count": Command("images and objects of every category of a COCO or LVIS file", count, count_flags),
    "subset": Command("a random part of a COCO, Objects365 or LVIS file, the same every time", subset, subset_flags),
    "pack": Command("pack a COCO file and its images into shards, which every command reads as well", pack, pack_flags),
}
