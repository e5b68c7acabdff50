"""Every recipe resolves, its names are on offer, its options are accepted: a recipe does what it says."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from backbones import backbone
from detection.nets import detector
from detection.recipe import DetectRecipe
from pretrain.methods import method
from pretrain.recipe import PretrainRecipe
from shared.flags import from_args
from shared.pixels import pixel_stats
from shared.recipe import all_knobs, load, make, recipe_folder, recipe_headline, recipe_names

HALVES = {
    "detect": (DetectRecipe, "network_args", detector, "network"),
    "pretrain": (PretrainRecipe, "method_args", method, "method"),
}
RECIPES = [(half, name) for half in HALVES for name in recipe_names(half)]


def resolve(half: str, *argv: str) -> Any:
    recipe, own, _, _ = HALVES[half]
    return from_args(recipe, list(argv), prog=f"{half} train", folder=half, own=own).recipe


def insist_on_names(half: str, recipe: Any) -> None:
    """What the recipe names is on offer, and what it tells the network or the method is understood there."""
    _, own, registry, field = HALVES[half]
    registry.check(getattr(recipe.model, field), getattr(recipe.model, own))
    for name in (getattr(recipe.model, "backbone", None), getattr(recipe.model, "model", None)):
        if name is not None:
            backbone.builder(name)
    if recipe.data.rgb_mode is not None:
        pixel_stats(recipe.data.rgb_mode)


def test_there_are_recipes_and_bases_for_both_halves() -> None:
    assert {half for half, _ in RECIPES} == set(HALVES)
    assert {"demo_detect", "demo_pretrain"} <= set(recipe_names("base"))


@pytest.mark.parametrize(("half", "name"), RECIPES)
def test_recipe_resolves_and_its_names_are_on_offer(half: str, name: str) -> None:
    insist_on_names(half, resolve(half, "--recipe", name))


@pytest.mark.parametrize(("half", "name"), RECIPES)
def test_recipe_begins_with_what_it_is_and_with_a_command_that_parses(half: str, name: str) -> None:
    assert len(recipe_headline(half, name)) > 20
    text = (recipe_folder() / half / f"{name}.yaml").read_text()
    commands = re.findall(
        rf"^#.*?({'pretrain' if half == 'pretrain' else 'detect'} train .*?)(?:\s{{4,}}.*)?$", text, re.M
    )
    assert commands, "a recipe's header shows how to run it"
    for command in commands:
        words = shlex.split(command)[2:]
        assert name in words
        insist_on_names(half, resolve(half, *words))


@pytest.mark.parametrize("name", recipe_names("base"))
def test_base_holds_keys_of_a_half_and_has_no_base(name: str) -> None:
    values, origins = load(name, "base")
    assert values and set(origins.values()) == {f"base {name}"}
    fits = [half for half, (recipe, *_) in HALVES.items() if values.keys() <= all_knobs(recipe).keys()]
    assert fits, f"no half knows all of {sorted(values)}"
    for half in fits:
        recipe = make(HALVES[half][0], values)
        if not any(half in other for other in set(HALVES) - {half} if other in name):
            insist_on_names(half, recipe)
            break


@pytest.mark.parametrize(("half", "name"), RECIPES)
def test_bases_of_a_recipe_are_bases_that_exist(half: str, name: str) -> None:
    _, origins = load(name, half)
    used = {origin.removeprefix("base ") for origin in origins.values() if origin.startswith("base ")}
    assert used <= set(recipe_names("base"))


@pytest.mark.parametrize("path", sorted((recipe_folder() / "classes").glob("*.txt")), ids=lambda path: path.stem)
def test_class_files_name_each_class_once(path: Path) -> None:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(names) > 1 and len(names) == len(set(names))


@pytest.mark.parametrize("registry", [detector, method], ids=["networks", "methods"])
def test_every_option_has_a_default_and_a_line_that_explains_it(registry: Any) -> None:
    for name in registry.names():
        text = inspect.getdoc(registry.builder(name)) or ""
        for option, parameter in registry.options(name).items():
            assert parameter.default is not inspect.Parameter.empty, f"{name}: {option} has no default"
            assert re.search(rf"^\s*{option}[,:]", text, re.M), f"{name}: {option} is explained nowhere"
