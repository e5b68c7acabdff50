"""`detect compare`: its flags. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from detection.inference.commands import draws_flag
from shared.recipes.commands import Command
from shared.recipes.flags import Parser
from shared.recipes.recipe import read_device, read_section
from shared.recipes.values import whole, word


def compare_flags() -> Parser:
    parser = Parser(
        prog="detect compare",
        description="How two detectors differ on one validation set: B minus A with intervals, by class and size, "
        "kinds of errors, recipes, and the photographs that changed most.",
    )
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(), help="a run folder, an export, a tag, or a COCO result file (.json)"
        )
    parser.add_argument(
        "--data-path",
        "--coco-path",
        type=Path,
        help="images, or a COCO folder (default: that of the weights' recipe)",
    )
    parser.add_argument("--val-path", type=Path, help="validation images")
    parser.add_argument("--coco-json-path", type=Path, help="annotations of --data-path")
    parser.add_argument("--coco-val-json-path", type=Path, help="annotations of --val-path")
    parser.add_argument("--dataset", default="auto", help="kind of annotations (default: by folder and network)")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    parser.add_argument("--device", type=word(read_device), default="auto", help="cuda, cuda:1 (or 1), cpu or auto")
    parser.add_argument(
        "--batch-size", "-b", type=whole(1, 1_000_000), default=8, help="images per forward pass (default: 8)"
    )
    parser.add_argument(
        "--num-workers", "-j", type=whole(0, 1024), default=0, help="data loading processes (default: 0)"
    )
    draws_flag(parser, least=100)
    parser.add_argument("--output", "-o", type=Path, help="the HTML file to write; it must not exist")
    parser.add_argument("--json", type=Path, help="write the numbers as JSON; it must not exist")
    parser.add_argument(
        "--pictures",
        type=whole(0, 500),
        default=24,
        help="photographs of the page, the most changed (default: 24)",
    )
    return parser


def compare(argv: list[str]) -> int:
    args = compare_flags().parse_exactly(argv)
    from detection.comparing.compare import PLACE
    from detection.comparing.compare import compare as compare_both
    from detection.recipe import DataConfig
    from shared.logs.console import setup_logging

    setup_logging()
    given = any(getattr(args, name) is not None for name in PLACE if name != "dataset")
    data = read_section(DataConfig, {name: getattr(args, name) for name in PLACE}) if given else None
    compare_both(
        (args.a, args.b),
        data,
        weights_dir=args.weights_dir,
        device=args.device,
        batch_size=args.batch_size,
        workers=args.num_workers,
        draws=args.draws,
        count=args.pictures,
        output=args.output,
        json=args.json,
    )
    return 0


COMMANDS = {
    "compare": Command("how two detectors differ on one validation set, with intervals", compare, compare_flags),
}
