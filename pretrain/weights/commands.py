"""`pretrain import`, `convert`, `export`, `push` and `pull`: their flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.values import OneOrTwo, Pixels, of_type, whole
from shared.runs import ancestry, exchange

if TYPE_CHECKING:
    from shared.weights.card import Exported
    from shared.weights.store import Store


def import_flags() -> Parser:
    parser = Parser(prog="pretrain import", description="Export a published checkpoint under a tag.")
    parser.add_argument(
        "file",
        type=Path,
        help="safetensors or torch file: timm, torchvision, VICReg, I-JEPA, MAE, DINO, birder, CLIP or RegionCLIP",
    )
    parser.add_argument("--model", required=True, help="its backbone; any timm name works")
    parser.add_argument("--tag", required=True, help="the tag to export under")
    parser.add_argument("--source", help="where the file comes from, for the card")
    parser.add_argument("--license", "--licence", dest="licence", help="license of the weights, for the card")
    parser.add_argument(
        "--rgb-mode", type=of_type(Pixels), help="pixel mean and std: imagenet, birder, clip, centered, neutral"
    )
    parser.add_argument("--checkpoint-key", metavar="KEY", help="which copy to take, such as model_ema or best")
    parser.add_argument("--trained-as", metavar="NAME", help="timm's name of the file's network, if it does not say it")
    size_flag(parser, "--trained-size", "image size of the file, if it does not say it")
    size_missing_and_folder(parser)
    return parser


def import_weights(argv: list[str]) -> int:
    args = import_flags().parse_exactly(argv)
    size, trained_size = pair(args.size), pair(args.trained_size)
    from pretrain.weights.importing import Import
    from pretrain.weights.importing import import_weights as run
    from shared.weights.store import Store

    wanted = Import(
        file=args.file,
        model=args.model,
        tag=args.tag,
        source=args.source,
        licence=args.licence,
        rgb_mode=args.rgb_mode,
        allow_missing=tuple(args.allow_missing),
        img_size=size,
        checkpoint_key=args.checkpoint_key,
        trained_as=args.trained_as,
        trained_size=trained_size,
    )
    run(wanted, Store(args.weights_dir))
    return 0


def convert_flags() -> Parser:
    parser = Parser(prog="pretrain convert", description="Convert a tag to another backbone, or to another image size.")
    parser.add_argument("--model", required=True, help="the backbone that has the tag")
    parser.add_argument("--tag", required=True, help="its tag, or tag@digest")
    parser.add_argument("--epoch", type=whole(0, 1_000_000), help="export of this epoch (default: the last)")
    parser.add_argument("--to", required=True, help="the backbone to convert to")
    parser.add_argument("--new-tag", help="tag of the result (default: the same; TAG-SIZE for the same model)")
    size_missing_and_folder(parser)
    return parser


def convert(argv: list[str]) -> int:
    args = convert_flags().parse_exactly(argv)
    size = pair(args.size)
    from pretrain.weights.converting import convert as run
    from shared.weights.store import Store

    run(
        Store(args.weights_dir),
        model=args.model,
        tag=args.tag,
        to=args.to,
        img_size=size,
        epoch=args.epoch,
        new_tag=args.new_tag,
        allow_missing=tuple(args.allow_missing),
    )
    return 0


def export_flags() -> Parser:
    parser = Parser(
        prog="pretrain export",
        description="A backbone as a file for another runtime: uint8 image in, maps and pooled vector out. It is "
        "compared with the network on your photographs; exit code 5 if they part.",
    )
    parser.add_argument("tag", help="its tag, tag@digest, or the path of a run or an export")
    parser.add_argument("--model", help="the backbone that has the tag (default: the only one)")
    parser.add_argument("--epoch", type=whole(0, 1_000_000), help="export of this epoch (default: the last)")
    parser.add_argument(
        "--format", choices=("onnx", "openvino", "torch"), default="onnx", help="kind of file (default: onnx)"
    )
    parser.add_argument(
        "--output", "-o", type=Path, help="new folder for it (default: named after the weights, below exports)"
    )
    size_flag(parser, "--size", "height and width of the input (default: as in training)")
    parser.add_argument("--batch-size", "-b", type=whole(1, 1024), help="images of one run (default: any number)")
    parser.add_argument(
        "--outputs", choices=("both", "maps", "pooled"), default="both", help="what comes out (default: both)"
    )
    parser.add_argument(
        "--photos",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="photographs to compare on, or folders of them",
    )
    parser.add_argument(
        "--compare", type=whole(0, 100_000), default=16, metavar="N", help="how many of them (default: 16); 0: none"
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    return parser


def export(argv: list[str]) -> int:
    args = export_flags().parse_exactly(argv)
    from pretrain.weights import exporting
    from shared.logs.console import setup_logging
    from shared.text import say
    from shared.weights.store import Store

    setup_logging()
    store = Store(args.weights_dir)
    wanted = exporting.Wanted(
        kind=args.format,
        out=args.output,
        size=pair(args.size),
        batch=args.batch_size,
        outputs=args.outputs,
        photographs=tuple(args.photos),
        most=args.compare,
    )
    folder, sheet = exporting.export(store.find(args.model, args.tag, args.epoch), store, wanted)
    say(f"exported to {folder}", *(exporting.lines_of(sheet) if sheet is not None else []))
    if sheet is not None:
        exporting.check(sheet, folder)
    return 0


def layout(exported: Exported, store: Store, folder: Path) -> str | None:
    from pretrain.weights.pushing import for_timm

    return for_timm(exported, store, folder)


def size_flag(parser: Parser, name: str, meaning: str) -> None:
    parser.add_argument(name, type=whole(8, 16_384), nargs="+", action=OneOrTwo, metavar="PIXELS", help=meaning)


def size_missing_and_folder(parser: Parser) -> None:
    size_flag(parser, "--size", "image size to resize position embeddings for")
    parser.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="GLOB", help="tensors that may keep their initial values"
    )
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")


def pair(size: list[int] | None) -> tuple[int, int] | None:
    """--size 640 or --size 480 800 as (height, width)."""
    return None if size is None else (size[0], size[-1])


COMMANDS = {
    "import": Command(
        "export a checkpoint of timm, torchvision, DINO, MAE and others under a tag", import_weights, import_flags
    ),
    "export": Command(
        "a backbone as ONNX, OpenVINO or torch.export file, compared on photographs", export, export_flags
    ),
    **ancestry.commands("pretrain"),
    **exchange.commands("pretrain", layout),
    "convert": Command("convert a tag to another backbone or another image size", convert, convert_flags),
}
