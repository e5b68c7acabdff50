"""`pretrain list`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from shared.recipes.commands import Command
from shared.recipes.flags import Parser


def list_flags() -> Parser:
    parser = Parser(prog="pretrain list", description="List methods, backbones, recipes and weights.")
    parser.add_argument("what", nargs="?", default="all", help="methods, backbones, recipes, weights, or all")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the exported weights")
    return parser


def show(argv: list[str]) -> int:
    args = list_flags().parse_exactly(argv)
    from backbones import backbone
    from pretrain.methods import method
    from shared.runs import catalogue

    return catalogue.show(
        args.what,
        {
            "methods": lambda: catalogue.builders(method),
            "backbones": backbone.names,
            "recipes": lambda: catalogue.recipes("pretrain"),
            "weights": lambda: catalogue.weights(args.weights_dir),
        },
    )


COMMANDS = {"list": Command("methods, backbones, recipes and weights", show, list_flags)}
