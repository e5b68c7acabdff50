"""From a `pretrain train` command line to a recipe; without one, a method is trained as in its paper or reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pretrain.methods import method, trained_as
from pretrain.recipe import PretrainRecipe
from pretrain.training.commands import resolve
from pretrain.training.train import method_notes
from shared.recipes.files import load
from shared.recipes.recipe import Resolved, dump, flat, make

RECIPES = {
    "supervised": "resnet50_v1b",
    "vicreg": "vicreg_resnet50_1000ep",
    "i-jepa": "ijepa_vit_h14_300ep",
    "mim": "mae_vit_b16_800ep",
}


def resolved(*words: str) -> Resolved:
    return resolve(["--data-path", "shards", *words])


def of_method(found: Resolved) -> set[str]:
    return {name for name, origin in found.origins.items() if origin.startswith("method ")}


@pytest.mark.parametrize("name", method.names())
def test_every_method_knows_how_its_reference_trains_it(name: str) -> None:
    by, values = trained_as(name)
    assert by and {"opt", "lr", "lr_batch", "wd", "lr_scheduler", "epochs"} <= values.keys()
    found = resolved("--method", name)
    assert of_method(found) == values.keys()
    wanted = flat(make(PretrainRecipe, values))
    assert {key: flat(found.recipe)[key] for key in values} == {key: wanted[key] for key in values}


@pytest.mark.parametrize("name", RECIPES)
def test_method_is_trained_as_its_recipe_says(name: str) -> None:
    recipe: dict[str, Any] = {**load(RECIPES[name], "pretrain")[0]}
    recipe.pop("tiny", None)
    wanted, (_, values) = flat(make(PretrainRecipe, recipe)), trained_as(name)
    ours = flat(make(PretrainRecipe, values))
    assert {key: ours[key] for key in values} == {key: wanted[key] for key in values}


def test_recipe_demo_resumed_run_and_a_rate_of_ones_own_are_not_mixed_with_it(tmp_path: Path) -> None:
    assert not of_method(resolved("--recipe", "vicreg_resnet50_100ep"))
    assert not of_method(resolve(["--method", "vicreg"]))
    before = resolved("--method", "vicreg", "--lr", "0.3", "--opt", "sgd")
    assert not of_method(before) and before.recipe.optim.opt == "sgd"
    (tmp_path / "recipe.yaml").write_text(dump(before.recipe))
    again = resolve(["--resume", str(tmp_path)])
    assert again.recipe.optim == before.recipe.optim and not of_method(again)


def test_schedule_follows_the_epochs_and_the_line_says_what_was_scaled() -> None:
    found = resolved("--method", "i-jepa", "--epochs", "30")
    assert (found.recipe.schedule.epochs, found.recipe.schedule.warmup_epochs) == (30, 4)
    (line,) = method_notes(found, step_size=64)
    assert line == (
        "no --recipe: i-jepa is trained as in its paper: adamw, learning rate 0.001 for 2048 images per step, "
        "3.125e-05 for 64, cosine schedule over 30 epochs in proportion to its 300; --dry-run shows all"
    )
    (line,) = method_notes(resolved("--lr", "0.1"), step_size=64)
    assert line.startswith("--lr is given, so the flags alone decide: sgd, learning rate 0.1")
