"""The command lines of `pretrain import` and `pretrain convert`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from shared.errors import UsageError
from shared.recipes.flags import Parser


def import_weights(argv: list[str]) -> int:
    parser = Parser(prog="pretrain import", description="Bring in a checkpoint of somebody else under a tag.")
    parser.add_argument(
        "file",
        type=Path,
        help="safetensors or torch file: timm, torchvision, VICReg, I-JEPA, MAE, DINOv2, DINOv3 or birder",
    )
    parser.add_argument("--model", required=True, help="the backbone it is of; any timm name works")
    parser.add_argument("--tag", required=True, help="word that will find the weights")
    parser.add_argument("--source", help="where it is from, in words, for the card")
    parser.add_argument("--licence", "--license", help="of the weights, for the card")
    parser.add_argument("--rgb-mode", help="pixel statistics: imagenet, birder, clip, centered, neutral")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="make position tables for such images")
    missing_and_folder(parser)
    told = parser.parse_exactly(argv)
    size = pair(told.size)
    from pretrain.weights.importing import Import
    from pretrain.weights.importing import import_weights as run
    from shared.weights.store import Store

    wanted = Import(
        file=told.file,
        model=told.model,
        tag=told.tag,
        source=told.source,
        licence=told.licence,
        rgb_mode=told.rgb_mode,
        allow_missing=tuple(told.allow_missing),
        img_size=size,
    )
    run(wanted, Store(told.weights_dir))
    return 0


def convert(argv: list[str]) -> int:
    parser = Parser(
        prog="pretrain convert", description="Make a tag of one backbone serve another, or another image size."
    )
    parser.add_argument("--model", required=True, help="the backbone that has the tag")
    parser.add_argument("--tag", required=True, help="its tag, or tag@digest")
    parser.add_argument("--epoch", type=int, help="the export of that epoch")
    parser.add_argument("--to", required=True, help="the backbone that is to have it")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="make position tables for such images")
    parser.add_argument(
        "--new-tag", help="another word for the result (default: the same; TAG-SIZE for the same model)"
    )
    missing_and_folder(parser)
    told = parser.parse_exactly(argv)
    size = pair(told.size)
    from pretrain.weights.converting import convert as run
    from shared.weights.store import Store

    run(
        Store(told.weights_dir),
        model=told.model,
        tag=told.tag,
        to=told.to,
        img_size=size,
        epoch=told.epoch,
        new_tag=told.new_tag,
        allow_missing=tuple(told.allow_missing),
    )
    return 0


def missing_and_folder(parser: Parser) -> None:
    parser.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="GLOB", help="tensors that may keep their initial values"
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")


def pair(size: list[int] | None) -> tuple[int, int] | None:
    """--size 640 or --size 480 800 as (height, width)."""
    if size is None:
        return None
    if len(size) not in (1, 2) or min(size) < 1:
        raise UsageError("--size takes one number of pixels or two, height and width")
    return size[0], size[-1]
