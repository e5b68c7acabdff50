"""`pretrain pack` and `pretrain fingerprint`: their flags, progress and summary. Imports no torch."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from shared.errors import UsageError, plural
from shared.feeding.cluster import add_engine_flags, cluster_of
from shared.feeding.parts import add_part_flags, next_step
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_pixel_limit
from shared.recipes.values import number, whole
from shared.text import say

if TYPE_CHECKING:
    from pretrain.packing.pack import Packed

SHOWN = 20  # lines about files that were left out
REASONS = 5  # reasons in the line of sums


def pack(argv: list[str]) -> int:
    args = parser().parse_exactly(argv)
    if (cluster := cluster_of(args)) is not None and args.jobs is not None:
        raise UsageError("--jobs is for processes; remove it, since --engine ray uses all processors of the cluster")
    from pretrain.packing.pack import pack as run
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)
    packed = run(
        args.place,
        args.out,
        kind=args.kind,
        root=args.root,
        shard_size=args.shard_size,
        val_share=args.val_share,
        short_side=args.short_side,
        restart_markers=args.restart_markers,
        verify=args.verify,
        fingerprints=args.fingerprints,
        jobs=cores() if args.jobs is None else args.jobs,
        part=args.part,
        settle=args.settle,
        cluster=cluster,
        progress=percent(sys.stdout),
    )
    say(*report(packed, args))
    return 0


def parser() -> Parser:
    flags = Parser(
        prog="pretrain pack",
        description="Pack images into shards with an index. Run again, a stopped packing continues.",
    )
    flags.add_argument(
        "place",
        metavar="folder",
        help="class folders, or train/ and val/ with class folders, or a tar of either; a text file of `path label`; "
        "TFRecords named as ImageNet's: a folder, a glob, or one file; class folders at s3:// and other addresses (pip "
        "install 'chordate[remote]')",
    )
    flags.add_argument("out", help="the folder of shards to write; must not exist yet")
    flags.add_argument(
        "--from", dest="kind", choices=["folder", "list", "tfrecord"], help="format of the input (default: by its name)"
    )
    flags.add_argument(
        "--root", help="folder or s3:// address that the paths of a list are relative to (default: the list's)"
    )
    flags.add_argument("--shard-size", type=whole(1), default=10_000, help="images per shard (default: 10000)")
    flags.add_argument(
        "--val-share",
        type=number(low=0, below=1),
        default=0.0,
        help="share of images set aside for validation (default: 0)",
    )
    flags.add_argument(
        "--short-side",
        type=whole(1, 65_500),
        metavar="PIXELS",
        help="shrink images whose short side is longer (upright by EXIF, bicubic, JPEG quality 95, PNG lossless); "
        "other images, and all by default, are copied byte for byte",
    )
    flags.add_argument(
        "--restart-markers",
        action="store_true",
        help="add restart markers to JPEGs, losslessly, so that training decodes only the rows of its crop; "
        "needs the program jpegtran",
    )
    add_pixel_limit(flags)
    flags.add_argument("--verify", action="store_true", help="decode every image instead of reading its header")
    flags.add_argument(
        "--fingerprints",
        action="store_true",
        help="also what `pretrain fingerprint` writes, which decodes every image at a small size",
    )
    flags.add_argument("--jobs", type=whole(1, 1024), help="shards written in parallel (default: one per core)")
    add_part_flags(flags)
    add_engine_flags(flags)
    return flags


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def report(packed: Packed, args: Namespace) -> list[str]:
    """What was written and what was left out, as lines to print."""
    from pretrain.packing.pack import UNPACKED

    counts = " and ".join(f"{count:,} {split}" for split, count in packed.samples.items()) or "no"
    again = f", {packed.kept} of them kept from the stopped packing" if packed.kept else ""
    classes, shards = plural(len(packed.classes), "class"), plural(packed.shards, "shard")
    lines = [f"packed {counts} images of {classes} into {shards}{again} in {Path(args.out)}"]
    total, left_out = sum(packed.samples.values()), packed.left_out
    lines.append(f"  {total + len(left_out):,} files or records found: {total:,} packed{reasons(left_out)}")
    if args.short_side is not None:
        lines.append(f"  {packed.shrunk:,} of {total:,} were shrunk to {args.short_side} pixels")
    if args.restart_markers:
        lines.append(f"  {packed.marked:,} of {total:,} have restart markers")
    if args.part is not None:
        lines.append(next_step(args.part, packed.shards))
    lines += [f"  left out {name}: {reason}" for name, reason in left_out[:SHOWN]]
    if len(left_out) > SHOWN:
        lines.append(f"  and {len(left_out) - SHOWN:,} more, listed in {Path(args.out) / UNPACKED}")
    return lines + [f"  note: {note}" for note in packed.notes]


def reasons(left_out: list[tuple[str, str]]) -> str:
    """The number of files left out, and how many for the most frequent reasons."""
    if not left_out:
        return ""
    counts = Counter(reason for _, reason in left_out).most_common()
    words = [f"{count:,} {reason}" for reason, count in counts[:REASONS]]
    if rest := sum(count for _, count in counts[REASONS:]):
        words.append(f"{rest:,} for other reasons")
    return f", {len(left_out):,} left out ({'; '.join(words)})"


def percent(stream: TextIO, what: str = "packing") -> Callable[[int, int], None]:
    """Progress as one updated line on a terminal, as a line every 10 % elsewhere."""
    shown = -1

    def show_share(done: int, total: int) -> None:
        nonlocal shown
        share = 100 * done // max(total, 1)
        if share == shown or (not stream.isatty() and share // 10 == shown // 10):
            return
        shown = share
        stream.write(f"\r{what} {share:3d} %" if stream.isatty() else f"{what} {share:3d} %\n")
        if stream.isatty() and done == total:
            stream.write("\n")
        stream.flush()

    return show_share


def fingerprint_flags() -> Parser:
    flags = Parser(
        prog="pretrain fingerprint",
        description="Write fingerprints of all images beside their shards, so that `detect eval` can tell whether test "
        "images were seen in pretraining, also if they were encoded again, resized, mirrored or cropped by 10 %. Run "
        "again, a stopped command continues.",
    )
    flags.add_argument(
        "shards",
        nargs="?",
        help="a folder of shards, a tar, a glob or a range such as train-{000000..000009}.tar (default: the built-in "
        "demo data)",
    )
    flags.add_argument("--jobs", type=whole(1, 1024), help="images decoded in parallel (default: one per core)")
    add_pixel_limit(flags)
    return flags


def fingerprint(argv: list[str]) -> int:
    args = fingerprint_flags().parse_exactly(argv)
    from pretrain.data.digests import fingerprint_shard
    from pretrain.data.remote import is_remote
    from pretrain.data.shard_index import open_index
    from pretrain.data.shards import find_shards
    from shared.feeding.image import limit_pixels

    limit_pixels(args.max_pixels)
    if args.shards is None:
        from shared.feeding.demo import demo_data
        from shared.files import cache_dir

        say("no shards given: using the built-in demo data")
        args.shards = str(demo_data(cache_dir() / "demo").shards)
    found = find_shards(args.shards, None)
    if is_remote(found[0]):
        raise UsageError("fingerprints are written beside local shards; copy them to a local folder first")
    shards = [Path(shard) for shard in found]
    total, done, show = sum(len(open_index(shard).keys) for shard in shards), 0, percent(sys.stdout, "fingerprinting")
    without, kept = 0, 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        show(done, total)

    for shard in shards:
        lacking = fingerprint_shard(shard, cores() if args.jobs is None else args.jobs, tick)
        kept += lacking is None
        without += lacking or 0
    there = f"; {plural(kept, 'shard')} had them already" if kept else ""
    say(f"{plural(total, 'image')} of {plural(len(shards), 'shard')} have fingerprints{there}")
    if without:
        say(f"  {without:,} without a fingerprint: they cannot be decoded, or are of one color")
    return 0


def upload_flags() -> Parser:
    flags = Parser(
        prog="pretrain upload",
        description="Copy a folder of shards to an address, from where `pretrain train --data-path` streams them. Run "
        "again, a stopped upload continues.",
    )
    flags.add_argument("shards", type=Path, help="a folder that `pretrain pack` wrote")
    flags.add_argument("address", help="a new folder, such as s3://bucket/shards; pip install 'chordate[remote]'")
    return flags


def upload(argv: list[str]) -> int:
    args = upload_flags().parse_exactly(argv)
    from pretrain.packing.upload import upload as run

    count, kept = run(args.shards, args.address, percent(sys.stdout, "uploading"))
    again = f", {kept:,} of them before" if kept else ""
    say(f"uploaded {plural(count, 'file')} to {args.address}{again}")
    return 0


COMMANDS = {
    "upload": Command("copy shards to an address such as s3://bucket/shards, for training there", upload, upload_flags),
    "pack": Command("pack folders, lists or TFRecords of images into shards with an index", pack, parser),
    "fingerprint": Command(
        "write fingerprints of the images of shards, to find test images among them", fingerprint, fingerprint_flags
    ),
}
