"""`pretrain eval`: its flags are the fields of `EvalRecipe`. Imports no torch."""

from __future__ import annotations

import os

from pretrain.probing.recipe import EvalRecipe, eval_stem, tiny
from shared.devices.launcher import adopt
from shared.recipes.commands import Command
from shared.recipes.flags import Parser, Under, from_args, recipe_parser
from shared.recipes.recipe import Resolved
from shared.runs.resume import layered


def eval_flags() -> Parser:
    return recipe_parser(EvalRecipe, "pretrain eval", scales=True)


def evaluate(argv: list[str]) -> int:
    adopt(os.environ)

    def read(under: Under) -> Resolved:
        return from_args(EvalRecipe, argv, prog="pretrain eval", folder="eval", own="", under=under, tiny=tiny)

    resolved = layered(read, stem=eval_stem, demo="demo_eval")
    from pretrain.probing.evaluate import evaluate as run

    return run(resolved)


COMMANDS = {"eval": Command("measure a backbone: nearest neighbors, linear probe, collapse", evaluate, eval_flags)}
