"""Every recipe resolves, its names are on offer, its options are accepted: a recipe does what it says."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import detection.recipe
import pretrain.recipe
from backbones import backbone
from detection.nets import detector
from detection.recipe import DetectRecipe
from pretrain.methods import method
from pretrain.recipe import PretrainRecipe, export_tag
from shared.errors import WeightsError
from shared.feeding.pixels import pixel_stats
from shared.recipes.files import load, recipe_folder, recipe_headline, recipe_names, recipes_for
from shared.recipes.flags import from_args
from shared.recipes.recipe import all_knobs, make
from shared.weights.store import Store

HALVES = {
    "detect": (DetectRecipe, "network_args", detector, "network"),
    "pretrain": (PretrainRecipe, "method_args", method, "method"),
}
RECIPES = [(half, name) for half in HALVES for name in recipe_names(half)]
# what the detection commands of seed 000 start from, and how each backbone's tag is made
RECIPE_TAGS = {
    ("convnext_v2_tiny", "vicreg"): "vicreg_convnext_v2_tiny",
    ("rdnet_s", "vicreg"): "vicreg_rdnet_s",
    ("vit_reg4_m16_rms_avg", "i-jepa"): "ijepa_vit_reg4_m16_rms_avg",
    ("vit_reg4_m16_rms_avg", "i-jepa-imagenet21k"): "imagenet21k_vit_reg4_m16_rms_avg",
    ("hiera_abswin_base", "mim"): "mim_hiera_abswin_base",
    ("csp_resnet_50", "imagenet1k"): "imagenet1k_csp_resnet_50",
    ("regnet_y_4g", "imagenet21k"): "imagenet21k_regnet_y_4g",
    ("convnext_v2_tiny", "imagenet21k"): "imagenet21k_convnext_v2_tiny",
}


def resolve(half: str, *argv: str) -> Any:
    recipe, own, _, _ = HALVES[half]
    tiny = {"detect": detection.recipe.tiny, "pretrain": pretrain.recipe.tiny}[half]
    return from_args(recipe, list(argv), prog=f"{half} train", folder=half, own=own, tiny=tiny).recipe


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


def explained(registry: Any, name: str) -> str:
    """What a builder says of its options, and what those it is like say of theirs."""
    like = registry.facts(name).get("like")
    return (inspect.getdoc(registry.builder(name)) or "") + "\n" + (explained(registry, like) if like else "")


@pytest.mark.parametrize("registry", [detector, method], ids=["networks", "methods"])
def test_every_option_has_a_default_and_a_line_that_explains_it(registry: Any) -> None:
    for name in registry.names():
        text = explained(registry, name)
        for option, parameter in registry.options(name).items():
            assert parameter.default is not inspect.Parameter.empty, f"{name}: {option} has no default"
            assert re.search(rf"^\s*{option}[,:]", text, re.M), f"{name}: {option} is explained nowhere"


@pytest.mark.parametrize("network", detector.names())
def test_every_option_of_a_network_can_be_typed_as_a_flag(network: str) -> None:
    for option, parameter in detector.options(network).items():
        flag = f"--{option.replace('_', '-')}"
        default = (80, 365) if parameter.default == () else parameter.default  # none cannot be typed
        word = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        given = resolve("detect", "--network", network, f"{flag}={word}").model.network_args
        assert given == {option: default} and type(given[option]) is type(default)


# --- recipes that make a tag ------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names("pretrain"))
def test_recipe_is_found_by_the_tag_that_its_run_exports(name: str) -> None:
    recipe = resolve("pretrain", "--recipe", name)
    assert name in recipes_for(recipe.model.model, export_tag(recipe))
    assert name in recipes_for(None, export_tag(recipe))
    assert name not in recipes_for("another", export_tag(recipe))


@pytest.mark.parametrize(("made", "name"), RECIPE_TAGS.items(), ids=["-".join(made) for made in RECIPE_TAGS])
def test_missing_tag_of_the_seed_is_answered_with_the_recipe_that_makes_it(
    made: tuple[str, str], name: str, store: Store
) -> None:
    with pytest.raises(WeightsError, match=rf"create it with `pretrain train --recipe {name}`"):
        store.find(*made)


def test_missing_tag_that_nobody_has_a_recipe_for_is_answered_with_the_command(store: Store) -> None:
    with pytest.raises(WeightsError, match=r"create one with `pretrain train --model rdnet_s`$"):
        store.find("rdnet_s", "imagenet21k")


def test_tags_of_private_pictures_are_answered_with_what_serves_instead(store: Store) -> None:
    with pytest.raises(WeightsError, match="not public.* any tag made by `pretrain train --model efficientnet_v2_m`"):
        store.find("efficientnet_v2_m", "il-all")
    with pytest.raises(WeightsError, match="any tag made by `pretrain train --model mobilenet_v2` instead"):
        store.find("mobilenet_v2", "il-common")


@pytest.mark.parametrize("name", [n for n in recipe_names("pretrain") if n != "cifar10_resnet18"])
def test_header_says_hardware_what_to_expect_what_was_measured_and_the_pitfalls(name: str) -> None:
    header = (recipe_folder() / "pretrain" / f"{name}.yaml").read_text().partition("\nbase:")[0]
    for word in ("Hardware", "Expected: ", "Measured: ", "Pitfalls: "):
        assert f"\n# {word}" in header


def test_recipe_of_seed_004_has_its_rate_of_two_fifths_at_1024_images() -> None:
    from shared.loop.optim import for_batch

    recipe = resolve("pretrain", "--recipe", "hrnet_w32c")
    assert for_batch(recipe.optim, 8 * recipe.runtime.batch_size).lr == pytest.approx(0.4)
    assert recipe.schedule.warmup_start == pytest.approx(1 / 8)


# --- workflows --------------------------------------------------------------------------------


def run_workflow(name: str, words: list[str], folder: Path, **programs: str) -> tuple[int, list[str]]:
    """Exit code of a script whose programs are stand-ins, and the command lines that those were called with."""
    for program, body in programs.items():
        (folder / program).write_text(f'#!/bin/sh\necho "{program} $*" >> {folder}/calls\n{body}\n')
        (folder / program).chmod(0o755)
    told = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    ended = subprocess.run(["bash", recipe_folder() / "workflows" / name, *words], env=told, check=False)
    return ended.returncode, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(("code", "again"), [(75, True), (0, False), (1, False), (4, False)])
def test_slurm_job_requeues_itself_when_its_run_was_stopped_and_only_then(
    code: int, again: bool, tmp_path: Path
) -> None:
    words = ["--recipe", "resnet50_v1d", "--data-path", "a b"]
    ended, calls = run_workflow("slurm.sbatch", words, tmp_path, srun=f"exit {code}", scontrol="")
    assert ended == code
    assert calls[0].endswith("pretrain train --name slurm-7 --recipe resnet50_v1d --data-path a b --resume")
    assert calls[1:] == (["scontrol requeue 7"] if again else [])


def test_slurm_signals_the_processes_in_time() -> None:
    text = (recipe_folder() / "workflows" / "slurm.sbatch").read_text()
    assert "\n#SBATCH --signal=USR1@300\n" in text and "\n#SBATCH --requeue\n" in text


def test_mpirun_starts_the_command_of_seed_004(tmp_path: Path) -> None:
    code, calls = run_workflow("mpirun.sh", ["/data/shards", "hrnet_w32c", "--epochs", "1"], tmp_path, mpirun="")
    assert code == 0 and calls[0].startswith("mpirun -np 8 -H localhost:8 -map-by slot ")
    _, _, flags = calls[0].partition("pretrain train ")
    recipe = resolve("pretrain", *shlex.split(flags))
    assert (recipe.model.model, recipe.data.data_path, recipe.schedule.epochs) == ("hrnet_w32c", "/data/shards", 1)
    seed = "--train_data_dir a --validation_data_dir b -b 128 --model hrnet_w32c --schedule cosine"
    recipe = resolve("pretrain", *shlex.split(seed))
    assert (recipe.data.val_path, recipe.runtime.batch_size, recipe.schedule.lr_scheduler) == ("b", 128, "cosine")


@pytest.mark.parametrize(("variant", "steps"), [("deformable_detr", 3), ("fcos", 4)])
def test_auto_labeler_chains_its_steps_and_ends_in_labels(
    variant: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIANT", variant)
    code, calls = run_workflow("auto_labeler.sh", ["coco", "mine", "new", "--scale", "tiny"], tmp_path, detect="")
    assert code == 0 and len(calls) == steps + 1
    recipes = [resolve("detect", *shlex.split(call)[2:]) for call in calls[:-1]]
    names = [f"runs/auto-labeler/{recipe.runtime.name}" for recipe in recipes]
    assert [recipe.model.init_from for recipe in recipes] == [None, *names[:-1]]
    assert [recipe.data.binary_mode for recipe in recipes] == [False] * (steps - 2) + [True, True]
    assert [recipe.model.reset_head for recipe in recipes] == [False] * (steps - 2) + [True, False]
    assert calls[-1].startswith(f"detect predict new --weights {names[-1]} --save coco --min-score 0.5 ")
