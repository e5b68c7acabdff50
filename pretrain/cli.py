"""`pretrain train | pack | list`. Imports no torch: --help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pretrain.recipe import PretrainRecipe, run_stem
from shared.errors import UsageError, guarded
from shared.flags import Parser, Resolved, Under, from_args, layered
from shared.registry import suggest

USAGE = """usage: pretrain COMMAND [flags]

  train    train a backbone on shards and export it under a tag
  pack     turn a folder of images into shards with an index
  list     what there is: methods, backbones, recipes, weights

`pretrain COMMAND --help` shows the flags of each."""


@guarded("pretrain")
def main(argv: list[str]) -> int:
    """Run one command; the exit code."""
    commands = {"train": train, "pack": pack, "list": show}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in commands:
        raise UsageError(f"no command '{argv[0]}'{suggest(argv[0], list(commands))}; there is {', '.join(commands)}")
    return commands[argv[0]](argv[1:])


def train(argv: list[str]) -> int:
    resolved = resolve(argv)
    from pretrain.train import train as run

    return run(resolved)


def resolve(argv: list[str]) -> Resolved:
    """The recipe of a command line, over the demo's settings without data, over the run's when resumed."""

    def read(under: Under) -> Resolved:
        return from_args(PretrainRecipe, argv, prog="pretrain train", folder="pretrain", own="method_args", under=under)

    return layered(read, stem=run_stem, demo="demo_pretrain")


def pack(argv: list[str]) -> int:
    parser = Parser(
        prog="pretrain pack", description="Turn an image folder (a sub-folder per class) into shards with an index."
    )
    parser.add_argument(
        "folder", type=Path, help="class folders, or train/ and val/ with class folders, or a tar of either"
    )
    parser.add_argument("out", type=Path, help="where the shards go; must not be there yet")
    parser.add_argument("--shard-size", type=int, default=10_000, help="images per shard (default: 10000)")
    parser.add_argument(
        "--val-share", type=float, default=0.0, help="share of images set aside for validation (default: 0)"
    )
    parser.add_argument("--verify", action="store_true", help="decode every image instead of reading its header")
    told = parser.parse_exactly(argv)
    from pretrain.pack import pack as run

    packed = run(
        told.folder,
        told.out,
        shard_size=told.shard_size,
        val_share=told.val_share,
        verify=told.verify,
        progress=percent(sys.stdout),
    )
    counts = " and ".join(f"{count:,} {split}" for split, count in packed.samples.items())
    print(f"packed {counts} images of {len(packed.classes)} classes into {packed.shards} shards in {told.out}")
    for name, reason in packed.skipped[:20]:
        print(f"  left out {name}: {reason}")
    if len(packed.skipped) > 20:
        print(f"  and {len(packed.skipped) - 20} more")
    return 0


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


def show(argv: list[str]) -> int:
    parser = Parser(prog="pretrain list", description="What there is.")
    parser.add_argument("what", nargs="?", default="all", help="methods, backbones, recipes, weights, or all")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    told = parser.parse_exactly(argv)
    from backbones import backbone
    from pretrain.methods import method
    from shared import catalogue

    return catalogue.show(
        told.what,
        {
            "methods": lambda: catalogue.builders(method),
            "backbones": backbone.names,
            "recipes": lambda: catalogue.recipes("pretrain"),
            "weights": lambda: catalogue.weights(told.weights_dir),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
