"""The three tables of settings of the document, unchanged: each is a recipe, with one file per row of data.

`seed_003.txt` holds them word for word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from detection.recipe import DetectRecipe
from shared.recipes.flags import from_args
from shared.recipes.recipe import flat

TEXT = (Path(__file__).parent / "seed_003.txt").read_text()
TABLES = {"Stage 1 Training Configuration (Region Proposal)": "seed_cln"}
TABLES |= {"Stage 2 Training Configuration (RoI Classification)": "seed_regions"}


def table(title: str) -> dict[str, str]:
    """Value by parameter of the table under a title."""
    _, _, rest = TEXT.partition(f"#### {title}\n")
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", rest.partition("####")[0], re.M)
    return dict(row for row in rows if row[0] != "Parameter")


def recipe(name: str) -> dict[str, Any]:
    argv = ["--recipe", name]
    return flat(from_args(DetectRecipe, argv, prog="detect train", folder="detect", own="network_args").recipe)


def test_the_document_has_three_tables_of_six_rows() -> None:
    titles = re.findall(r"^#### (.*)$", TEXT, re.M)
    assert len(titles) == 3 and all(len(table(title)) == 6 for title in titles)


@pytest.mark.parametrize(("title", "name"), TABLES.items(), ids=TABLES.values())
def test_recipe_has_the_settings_of_its_table(title: str, name: str) -> None:
    said, ours = table(title), recipe(name)
    assert ours["lr"] == float(said["Learning Rate"]) and ours["batch_size"] == int(said["Batch Size"])
    assert ours["epochs"] == int(said["Max Epochs"]) and ours["opt"] == said["Optimizer"].lower()
    assert [int(step) for step in re.findall(r"\d+", said["Step Decay"])] == [*ours["lr_steps"]]
    assert ours["lr_scheduler"] == "multistep" and ours["seed"] == 1
    if said["Pre-trained Weights"] == "RegionCLIP":
        assert ours["backbone_tag"] == "regionclip"
    else:
        assert said["Pre-trained Weights"] == "ImageNet" and ours["weights_backbone"].endswith("IMAGENET1K_V1")
