"""`detect convert`, `pack`, `subset`, `count` and `join-classes`: their flags. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from shared.errors import UsageError
from shared.feeding.cluster import add_engine_flags, cluster_of
from shared.feeding.parts import add_part_flags, next_step
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_options, add_pixel_limit
from shared.recipes.offers import Offers
from shared.recipes.values import number, whole
from shared.text import say

READERS = Offers("detection.data.formats", "reader")
WRITERS = Offers("detection.data.formats", "writer")


def convert_flags() -> Parser:
    parser = Parser(
        prog="detect convert",
        description="Convert a data set of another tool into COCO files, or into YOLO's or Pascal VOC's. Images are "
        "linked, never copied or changed, and nothing is overwritten.",
    )
    parser.add_argument("source_kind", choices=sorted(READERS.table), metavar="FROM", help=kinds_of(READERS))
    parser.add_argument("kind", choices=sorted(WRITERS.table), metavar="TO", help=kinds_of(WRITERS))
    parser.add_argument("source", type=Path, nargs="?", metavar="SRC", help="the folder or file to read")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="the folder to write; must not exist yet")
    parser.add_argument("--data-path", type=Path, help="the same as SRC")
    parser.add_argument("--output", "-o", type=Path, help="the same as OUT")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="the images, if they are not in SRC")
    parser.add_argument(
        "--class-file", type=Path, help="names of the classes, one per line, from class 0 on, if SRC does not have them"
    )
    parser.add_argument(
        "--allow-missing-images", type=whole(0), default=0, help="number of labels whose image may be missing on disk"
    )
    parser.add_argument(
        "--keypoints-file", type=Path, help="YAML of the keypoints: names, skeleton, flip_pairs, sigmas"
    )
    for offers in (READERS, WRITERS):
        add_options(parser, offers, [])
    image_flags(parser, "where neither the size in the annotations nor the boxes tell which way they were drawn")
    return parser


def kinds_of(offers: Offers) -> str:
    return ", ".join(sorted(offers.table))


def convert(argv: list[str]) -> int:
    args = convert_flags().parse_exactly(argv, intermixed=True)
    source, out = (
        one_of(args.source, args.data_path, "SRC", "--data-path"),
        one_of(args.out, args.output, "OUT", "--output"),
    )
    given = {word[1:]: value for word, value in vars(args).items() if word.startswith(".")}
    reading = {name: value for name, value in given.items() if READERS.having(name)}
    writing = {name: value for name, value in given.items() if WRITERS.having(name)}
    options = READERS.check(args.source_kind, reading), WRITERS.check(args.kind, writing)
    from detection.data.annotations.classes import ClassMap
    from detection.data.annotations.skeleton import Skeleton
    from detection.data.convert import convert as run
    from detection.data.formats.records import Asked
    from detection.data.photographs import chosen
    from shared.feeding.image_header import limit_pixels

    limit_pixels(args.max_pixels)
    classes = ClassMap.from_file(args.class_file).names if args.class_file else None
    converted = run(
        (args.source_kind, args.kind),
        source,
        out,
        Asked(args.images, classes, args.allow_missing_images),
        options=options,
        skeleton=Skeleton.from_yaml(args.keypoints_file) if args.keypoints_file else None,
        turn=chosen(upright=args.upright, as_stored=args.as_stored),
    )
    say(*converted.lines())
    return 0


def one_of(word: Path | None, flag: Path | None, name: str, spelled: str) -> Path:
    """A path that is given as a word or as a flag. Raises UsageError for both, or none."""
    if word is not None and flag is not None:
        raise UsageError(f"{name} is given as {word} and with {spelled} as {flag}; remove one of them")
    given = word or flag
    if given is None:
        raise UsageError(f"{name} is missing; give it as a word, FROM TO SRC OUT, or with {spelled}")
    return given


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
    add_part_flags(parser)
    add_engine_flags(parser)
    image_flags(parser, "where neither the size in the annotations nor the boxes tell which way they were drawn")
    return parser


def pack(argv: list[str]) -> int:
    args = pack_flags().parse_exactly(argv)
    cluster = cluster_of(args)
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
        part=args.part,
        settle=args.settle,
        cluster=cluster,
        progress=lambda done, total: say(f"packed {done} of {total} images"),
    )
    say(*packed.lines(args.out), *([next_step(args.part, packed.shards)] if args.part else []))
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
    "convert": Command("YOLO, VOC, CVAT, labelme and other data into COCO files, and back", convert, convert_flags),
    "join-classes": Command("propose one list of classes for several files, for review", join_classes, join_flags),
    "count": Command("images and objects of every category of a COCO or LVIS file", count, count_flags),
    "subset": Command("a random part of a COCO, Objects365 or LVIS file, the same every time", subset, subset_flags),
    "pack": Command("pack a COCO file and its images into shards, which every command reads as well", pack, pack_flags),
}
