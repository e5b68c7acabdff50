"""The nine commands of torchvision's detection reference, unchanged: each equals the recipe of the same name.

`seed_001.txt` holds them without the program name.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from detection.published.dialects import translate
from detection.recipe import DetectRecipe
from shared.recipes.flags import from_args
from shared.recipes.recipe import flat

LINES = (Path(__file__).parent / "seed_001.txt").read_text().splitlines()
NAMES = [line.split("--model ")[1].split()[0] for line in LINES]


def told(*argv: str) -> dict[str, Any]:
    said = translate(argv)
    recipe = from_args(DetectRecipe, said.argv, prog="detect train", folder="detect", own="network_args").recipe
    values = flat(recipe)
    unused = {"cosine": ("lr_steps", "lr_step_gamma"), "multistep": ()}[values["lr_scheduler"]]
    return {name: value for name, value in values.items() if name not in unused}


def test_the_seed_has_nine_commands_of_nine_models() -> None:
    assert len(LINES) == len(set(NAMES)) == 9


@pytest.mark.parametrize(("name", "line"), list(zip(NAMES, LINES, strict=True)), ids=NAMES)
def test_command_is_the_recipe_of_its_name(name: str, line: str) -> None:
    assert told(*shlex.split(line)) == told("--recipe", name)
