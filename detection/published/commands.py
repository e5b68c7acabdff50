"""`detect import`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.recipes.commands import Command
from shared.recipes.flags import Parser, dashed, own_flags


def import_checkpoint(argv: list[str]) -> int:
    parser = Parser(
        prog="detect import",
        description="Export a checkpoint of torchvision, DETR, Deformable DETR or SMCA under a tag; all "
        "tensors must match, and code in the file is not executed. Other flags are options of the network.",
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
    parser.add_argument("--size", type=int, nargs="+", help="height and width (default: as published)")
    parser.add_argument("--max-size", type=int, help="longest side (default: as published)")
    parser.add_argument(
        "--norm-eps", type=float, help="epsilon of the file's frozen batch norm (default: as published)"
    )
    parser.add_argument("--rgb-mode", help="pixel mean and std (default: as published)")
    parser.add_argument("--source", help="description of the file's origin, for the card")
    parser.add_argument("--license", "--licence", dest="licence", help="license of the weights, for the card")
    parser.add_argument("--allow-missing", nargs="+", default=[], metavar="GLOB", help="tensors that may be missing")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    args, rest = parser.parse_known_args([dashed(word) for word in argv])
    from detection.published.importing import Import, import_detector
    from shared.weights.store import Store

    options: dict[str, Any] = {**vars(args), "network_args": own_flags(rest, "detect import")}
    store = Store(options.pop("weights_dir"))
    options["allow_missing"], options["size"] = tuple(args.allow_missing), tuple(args.size) if args.size else None
    import_detector(Import(**options), store)
    return 0


COMMANDS = {
    "import": Command("export a published checkpoint (torchvision, DETR, Deformable DETR, SMCA)", import_checkpoint)
}
