"""The nine commands of SMCA's repository, unchanged: each parses, and each equals one of the recipes.

`seed_002.txt` holds them without the prefix `srun ... python -m torch.distributed.launch --nproc_per_node=4 --use_env
main.py`; the network is `--network smca_detr` here.
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

LINES = (Path(__file__).parent / "seed_002.txt").read_text().splitlines()
RECIPES = [
    "smca_type1",
    "smca_type3",
    "smca_type4",
    "smca_type2_head_mixture",
    "smca_type2_query_mixture",
    "smca_type2_smooth4",
    "smca_type2_smooth16",
    "smca_type2_query_mixture_150ep",
    "smca_type2_query_mixture_500ep",
]
each_line = pytest.mark.parametrize(("name", "line"), list(zip(RECIPES, LINES, strict=True)), ids=RECIPES)


def told(*argv: str) -> dict[str, Any]:
    said = translate(argv)
    recipe = from_args(DetectRecipe, said.argv, prog="detect train", folder="detect", own="network_args").recipe
    return flat(recipe)


def typed(line: str) -> dict[str, Any]:
    return told("--network", "smca_detr", *shlex.split(line))


def test_the_seed_has_nine_commands_of_ten_flags() -> None:
    flags = {word for line in LINES for word in shlex.split(line) if word.startswith("--")}
    assert len(set(LINES)) == 9 and len(flags) == 10


@each_line
def test_command_is_one_of_the_recipes(name: str, line: str) -> None:
    found = typed(line)
    assert found.pop("data_path") == Path("../../dataset/coco")
    assert str(found.pop("output_dir")).startswith("focal_300_type")
    expected = told("--recipe", name)
    assert found == {name: expected[name] for name in found}


@each_line
def test_what_the_command_leaves_unsaid_is_what_its_program_does(name: str, line: str) -> None:
    found = typed(line)
    assert (found["opt"], found["lr"], found["backbone_lr"], found["wd"]) == ("adamw", 1e-4, 1e-5, 1e-4)
    assert (found["clip_grad_norm"], found["lr_scheduler"], found["lr_step_gamma"]) == (0.1, "step", 0.1)
    assert (found["aug_type"], found["batch_size"], found["grad_accum_steps"]) == ("detr", 4, 1)
    assert found["weights_backbone"] == "ResNet50_Weights.IMAGENET1K_V1" and found["freeze_backbone_bn"]


def test_runs_differ_in_what_their_names_say() -> None:
    own = [typed(line) for line in LINES]
    assert [found["network_args"]["dynamic_scale"] for found in own] == ["type1", "type3", "type4"] + ["type2"] * 6
    assert [found["network_args"].get("smooth") for found in own] == [None] * 5 + [4, 16, None, None]
    assert [(found["epochs"], found["lr_step_size"]) for found in own] == [(50, 40)] * 7 + [(150, 100), (500, 400)]
