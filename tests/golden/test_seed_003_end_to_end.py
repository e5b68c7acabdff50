"""The document's table of end-to-end training, word for word in `seed_003.txt`: three recipes have its settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from detection.recipe import DetectRecipe
from shared.recipes.flags import from_args
from shared.recipes.recipe import flat

TEXT = (Path(__file__).parent / "seed_003.txt").read_text()
ROWS = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", TEXT.partition("#### Stage 1")[0], re.M)
RECIPES = ["seed_coco", "seed_coco_o365", "seed_lvis"]


def recipe(name: str) -> dict[str, Any]:
    argv = ["--recipe", name]
    return flat(from_args(DetectRecipe, argv, prog="detect train", folder="detect", own="network_args").recipe)


def test_the_table_has_six_rows() -> None:
    assert TEXT.startswith("#### End-to-End Training Configuration\n") and len(ROWS) == 7


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_the_settings_of_the_table(name: str) -> None:
    said, ours = dict(ROWS), recipe(name)
    assert ours["lr"] == float(said["Learning Rate"]) and ours["batch_size"] == int(said["Batch Size"])
    assert ours["epochs"] == int(said["Max Epochs"]) and ours["opt"] == said["Optimizer"].lower()
    assert [int(step) for step in re.findall(r"\d+", said["Step Decay"])] == [*ours["lr_steps"]]
    assert ours["lr_scheduler"] == "multistep" and ours["seed"] == 1
    assert said["Pre-trained Weights"] == "RegionCLIP" and ours["backbone_tag"] == "regionclip"
    assert (ours["network"], ours["backbone"], ours["rgb_mode"]) == ("unidetector", "clip_resnet50", "clip")


def test_rates_and_pixels_are_those_of_the_published_configuration() -> None:
    for name in ("unidetector_coco", "unidetector_coco_o365", "lvis_supervised"):
        ours = recipe(name)
        assert (ours["lr"], ours["backbone_lr"], ours["batch_size"], ours["epochs"]) == (0.02, 0.002, 2, 12)
        assert (ours["size"], ours["max_size"], ours["short_side_range"]) == ((800,), 1333, (400, 800))
        assert ours["clip_grad_norm"] == 35 and [*ours["lr_steps"]] == [8, 11] and not ours["antialias"]
        assert (ours["warmup_steps"], ours["warmup_start"]) == (500, 0.001) and ours["drop_empty"]
