"""`detect import`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.recipes.commands import Command
from shared.recipes.flags import Parser, add_options
from shared.recipes.offers import Offers
from shared.recipes.values import OneOrTwo, Pixels, number, of_type, whole

NETWORKS = Offers("detection.nets", "detector")


def import_flags() -> Parser:
    parser = Parser(
        prog="detect import",
        description="Export a checkpoint of torchvision, DETR, Deformable DETR, DINO, SMCA or RT-DETR; "
        "all tensors must match, and code in the file is not executed. Other flags are options of the network.",
    )
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument(
        "--network",
        required=True,
        help="a network (`detect list networks`) or published name, such as fcos_resnet50_fpn",
    )
    parser.add_argument("--tag", required=True, help="tag of the export")
    parser.add_argument("--backbone", help="its backbone (default: from the file's tensor names)")
    parser.add_argument("--dilation", action="store_true", help="the backbone's last stage is dilated (DC5)")
    parser.add_argument("--class-file", type=Path, help="one class name per line (default: COCO's, if the number fits)")
    parser.add_argument(
        "--size", type=whole(32, 16_384), nargs="+", action=OneOrTwo, help="height and width (default: as published)"
    )
    parser.add_argument("--max-size", type=whole(32, 16_384), help="longest side (default: as published)")
    parser.add_argument(
        "--norm-eps",
        type=number(above=0, high=1),
        help="epsilon of the file's frozen batch norm (default: as published)",
    )
    parser.add_argument("--rgb-mode", type=of_type(Pixels), help="pixel mean and std (default: as published)")
    parser.add_argument("--checkpoint-key", metavar="KEY", help="which copy to take, such as model_ema or best")
    parser.add_argument("--source", help="description of the file's origin, for the card")
    parser.add_argument("--license", "--licence", dest="licence", help="license of the weights, for the card")
    parser.add_argument("--allow-missing", nargs="+", default=[], metavar="GLOB", help="tensors that may be missing")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    add_options(parser, NETWORKS, ["dilation"])
    return parser


def import_checkpoint(argv: list[str]) -> int:
    args = vars(import_flags().parse_exactly(argv))
    own = {word[1:]: args.pop(word) for word in [*args] if word.startswith(".")}
    if args["network"] in NETWORKS.table:
        own = NETWORKS.check(args["network"], own)
    from detection.published.importing import Import, import_detector
    from shared.weights.store import Store

    options: dict[str, Any] = {**args, "network_args": own}
    store = Store(options.pop("weights_dir"))
    options["allow_missing"], options["size"] = tuple(args["allow_missing"]), tuple(args["size"] or ()) or None
    import_detector(Import(**options), store)
    return 0


COMMANDS = {
    "import": Command(
        "export a published checkpoint (torchvision, DETRs, SMCA, RT-DETR)", import_checkpoint, import_flags
    )
}
