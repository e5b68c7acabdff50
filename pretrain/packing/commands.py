"""`pretrain pack`: its flags, its progress and what it says at the end. Imports no torch: --help answers at once."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from shared.recipes.flags import Parser

if TYPE_CHECKING:
    from pretrain.packing.pack import Packed

SHOWN = 20  # lines about images that were left out


def pack(argv: list[str]) -> int:
    told = parser().parse_exactly(argv)
    from pretrain.packing.pack import pack as run

    packed = run(
        told.place,
        told.out,
        kind=told.kind,
        root=told.root,
        shard_size=told.shard_size,
        val_share=told.val_share,
        short_side=told.short_side,
        restart_markers=told.restart_markers,
        verify=told.verify,
        jobs=cores() if told.jobs is None else told.jobs,
        progress=percent(sys.stdout),
    )
    print("\n".join(report(packed, told)))
    return 0


def parser() -> Parser:
    flags = Parser(
        prog="pretrain pack",
        description="Turn images into shards with an index. A packing that was stopped goes on where it was.",
    )
    flags.add_argument(
        "place",
        metavar="folder",
        type=Path,
        help="class folders, or train/ and val/ with class folders, or a tar of either; a text file of `path label`; "
        "TFRecords as of ImageNet: their folder, a glob, or one",
    )
    flags.add_argument("out", type=Path, help="where the shards go; must not be there yet")
    flags.add_argument(
        "--from", dest="kind", choices=["folder", "list", "tfrecord"], help="what it is (default: as its name says)"
    )
    flags.add_argument("--root", type=Path, help="folder that the paths of a list count from (default: the list's)")
    flags.add_argument("--shard-size", type=int, default=10_000, help="images per shard (default: 10000)")
    flags.add_argument(
        "--val-share", type=float, default=0.0, help="share of images set aside for validation (default: 0)"
    )
    flags.add_argument(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="shrink images whose short side is longer, upright, bicubic; JPEG is then written at quality 95, PNG "
        "stays lossless; others, and all by default, stay byte for byte",
    )
    flags.add_argument(
        "--restart-markers",
        action="store_true",
        help="mark every row of blocks in JPEGs, without loss, so that training decodes the rows of its crop only; "
        "needs the program jpegtran",
    )
    flags.add_argument("--verify", action="store_true", help="decode every image instead of reading its header")
    flags.add_argument("--jobs", type=int, help="shards written at a time (default: one per core)")
    return flags


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def report(packed: Packed, told: Namespace) -> list[str]:
    """What was written, and what was not."""
    counts = " and ".join(f"{count:,} {split}" for split, count in packed.samples.items())
    again = f", {packed.kept} of them from before" if packed.kept else ""
    lines = [
        f"packed {counts} images of {len(packed.classes)} classes into {packed.shards} shards{again} in {told.out}"
    ]
    total = sum(packed.samples.values())
    if told.short_side is not None:
        lines.append(f"  {packed.shrunk:,} of {total:,} were shrunk to {told.short_side} pixels")
    if told.restart_markers:
        lines.append(f"  {packed.marked:,} of {total:,} have restart markers")
    lines += [f"  left out {name}: {reason}" for name, reason in packed.skipped[:SHOWN]]
    if len(packed.skipped) > SHOWN:
        lines.append(f"  and {len(packed.skipped) - SHOWN:,} more")
    return lines


def percent(stream: TextIO) -> Callable[[int, int], None]:
    """Progress as one moving line on a terminal, as a line every tenth elsewhere."""
    shown = -1

    def show_share(done: int, total: int) -> None:
        nonlocal shown
        share = 100 * done // max(total, 1)
        if share == shown or (not stream.isatty() and share // 10 == shown // 10):
            return
        shown = share
        stream.write(f"\rpacking {share:3d} %" if stream.isatty() else f"packing {share:3d} %\n")
        if stream.isatty() and done == total:
            stream.write("\n")
        stream.flush()

    return show_share
