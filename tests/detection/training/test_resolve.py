"""What a command line, its network and a resumed run give a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from detection.nets import detector, resize_rule, trained_as
from detection.recipe import DetectRecipe
from detection.training.network_defaults import notes
from detection.training.resolve import resolve
from shared.recipes.files import load
from shared.recipes.recipe import Resolved, dump, flat, make

DETRS = {"dino_detr", "detr", "detr_panoptic", "smca_detr", "deformable_detr", "deformable_detr_boxref"}


def resolved(*words: str) -> Resolved:
    return resolve(["--data-path", "photos", *words])


def test_rule_of_the_resize_is_that_of_the_reference_of_the_network() -> None:
    assert {name for name in detector.names() if resize_rule(name) == "detr"} == DETRS
    assert {resize_rule(name) for name in set(detector.names()) - DETRS} == {"torchvision"}


@pytest.mark.parametrize(
    ("words", "rule", "origin"),
    [
        (["--network", "detr"], "detr", "network detr"),
        (["--network", "fcos"], "torchvision", "network fcos"),
        (["--network", "detr", "--resize-rule", "transformers"], "transformers", "flag"),
        (["--recipe", "fcos_efficientnet_v2_s_warmup"], "torchvision", "network fcos"),
        (["--recipe", "detr_r50"], "detr", "network detr"),
        (["--recipe", "fasterrcnn_resnet50_fpn"], "torchvision", "network faster_rcnn"),
    ],
)
def test_rule_and_its_origin_are_in_the_recipe(words: list[str], rule: str, origin: str) -> None:
    found = resolved(*words)
    assert found.recipe.data.resize_rule == rule and found.origins["resize_rule"].startswith(origin)


@pytest.mark.parametrize(("saved", "rule"), [("detr", "detr"), ("torchvision", "torchvision"), (None, "legacy")])
def test_resumed_run_keeps_its_rule_and_one_from_before_there_were_rules_keeps_what_it_did(
    saved: str | None, rule: str, tmp_path: Path
) -> None:
    values = yaml.safe_load(dump(resolved("--network", "detr").recipe))
    values.pop("resize_rule")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(values | ({"resize_rule": saved} if saved else {})))
    assert resolve(["--resume", str(tmp_path / "run")]).recipe.data.resize_rule == rule


# --- settings of a network without a recipe ---------------------------------------------------

RECIPES = {  # of the same paper or reference, and what is different there
    "faster_rcnn": ("fasterrcnn_resnet50_fpn", set()),
    "mask_rcnn": ("maskrcnn_resnet50_fpn", set()),
    "keypoint_rcnn": ("keypointrcnn_resnet50_fpn", set()),
    "fcos": ("fcos_resnet50_fpn", set()),
    "retinanet": ("retinanet_resnet50_fpn_v2", set()),
    "ssd": ("ssd300_vgg16", set()),
    "ssdlite": ("ssdlite320_mobilenet_v3_large", set()),
    "detr": ("detr_r50_panoptic_boxes", set()),
    "smca_detr": ("smca_detr", set()),
    "deformable_detr": ("deformable_detr_regnet_y_4g", {"aug_type"}),
    "efficientdet_d3": ("efficientdet_d3_efficientnet_v1_b3", {"aug_type"}),
    "vitdet": ("vitdet_vit_sam_b16", {"aug_type"}),
}


@pytest.mark.parametrize("network", detector.names())
def test_every_network_knows_how_its_reference_trains_it(network: str) -> None:
    by, values = trained_as(network)
    assert by and {"opt", "lr", "lr_batch", "wd", "lr_scheduler", "epochs", "aug_type"} <= values.keys()
    recipe = resolved("--network", network, "--backbone-pretrained").recipe
    told = flat(make(DetectRecipe, values))
    assert {key: flat(recipe)[key] for key in values} == {key: told[key] for key in values}


@pytest.mark.parametrize("network", RECIPES)
def test_network_is_trained_as_its_recipe_says(network: str) -> None:
    name, apart = RECIPES[network]
    recipe, _ = load(name, "detect")
    recipe.pop("tiny", None)
    told, (_, values) = flat(make(DetectRecipe, recipe)), trained_as(network)
    ours = flat(make(DetectRecipe, values))
    assert {key: ours[key] for key in values.keys() - apart - {"lr_batch"}} == {
        key: told[key] for key in values.keys() - apart - {"lr_batch"}
    }


def test_recipe_a_resumed_run_and_the_demo_are_not_mixed_with_it(tmp_path: Path) -> None:
    for words in (["--recipe", "detr_tiny_vit_11m", "--data-path", "photos"], ["--network", "detr"]):
        assert [k for k, origin in resolve(words).origins.items() if origin == "network detr"] in ([], ["resize_rule"])
    before = resolved("--network", "detr", "--lr", "0.3", "--opt", "sgd").recipe
    (tmp_path / "recipe.yaml").write_text(dump(before))
    again = resolve(["--resume", str(tmp_path)])
    assert again.recipe.optim == before.optim and "network detr" not in again.origins.values()


def test_what_is_given_is_kept_and_what_belongs_to_something_else_is_left_out() -> None:
    detr = resolved("--network", "detr", "--backbone-tag", "x").recipe
    assert (detr.optim.opt, detr.optim.lr, detr.optim.backbone_lr, detr.optim.clip_grad_norm) == (
        "adamw",
        1e-4,
        1e-5,
        0.1,
    )
    assert detr.data.aug_type == "detr" and (detr.schedule.epochs, detr.schedule.lr_step_size) == (300, 200)
    scratch = resolved("--network", "detr").recipe.optim
    assert scratch.backbone_lr is None, "random weights learn at the full rate"
    rate = resolved("--network", "detr", "--backbone-tag", "x", "--lr", "0.001").recipe
    assert (rate.optim.lr, rate.optim.opt, rate.data.aug_type, rate.schedule.epochs) == (0.001, "sgd", "birder", 26)
    other = resolved("--network", "detr", "--opt", "sgd").recipe
    assert (other.optim.lr, other.optim.clip_grad_norm, other.data.aug_type) == (0.02, None, "detr")
    assert resolved("--network", "vitdet", "--multiscale").recipe.data.aug_type == "birder"
    assert not resolved("--network", "keypoint_rcnn", "--aug-type", "lsj").recipe.data.multiscale


def test_schedule_is_in_proportion_to_the_epochs() -> None:
    short = resolved("--network", "faster_rcnn", "--epochs", "13").recipe.schedule
    assert short.lr_steps == (8, 11) and short.warmup_epochs == 1
    assert resolved("--network", "faster_rcnn", "--epochs", "2").recipe.schedule.warmup_epochs == 0.5
    assert resolved("--network", "efficientdet_d0", "--epochs", "30").recipe.schedule.warmup_epochs == 1
    assert resolved("--network", "faster_rcnn", "--epochs", "260").recipe.schedule.warmup_epochs == 1
    assert resolved("--network", "detr", "--epochs", "30").recipe.schedule.lr_step_size == 20
    assert resolved("--network", "detr", "--epochs", "0").recipe.schedule.lr_step_size == 200


@pytest.mark.parametrize("line", (Path(__file__).parents[2] / "golden/seed_000.txt").read_text().splitlines())
def test_commands_with_a_rate_of_their_own_are_left_as_they_are(line: str) -> None:
    found = resolve([*shlex.split(line), "--data-path", "photos"])
    assert [name for name, origin in found.origins.items() if origin.startswith("network ")] == ["resize_rule"]


def test_one_line_says_whose_settings_they_are_and_what_was_scaled() -> None:
    (said,) = notes(resolved("--network", "fcos", "--epochs", "6"), 4)
    assert (
        "fcos is trained as in torchvision's reference: sgd, learning rate 0.01 for 16 images per step, 0.0025" in said
    )
    assert "for 4, multistep schedule over 6 epochs in proportion to its 26, augmentation hflip" in said
    (said,) = notes(resolved("--network", "fcos", "--opt", "adamw"), 4)
    assert "adamw, learning rate 0.02, a default for sgd (the reference has no rate for adamw; give --lr)" in said
    (said,) = notes(resolved("--network", "fcos", "--lr", "0.001"), 4)
    assert "flags alone decide: sgd, learning rate 0.001, constant schedule, augmentation birder; without it" in said
    assert notes(resolved("--recipe", "bccd_fcos"), 4) == notes(resolve(["--network", "fcos"]), 4) == []


def test_lvis_takes_300_detections_per_image_unless_told_and_only_where_there_is_a_limit() -> None:
    def limit(*words: str) -> object:
        return resolved("--dataset", "lvis", *words).recipe.model.network_args.get("max_detections")

    assert limit("--network", "fcos") == 300 and limit("--network", "fcos", "--max-detections", "50") == 50
    assert "max_detections" not in resolved("--network", "fcos").recipe.model.network_args
    assert limit("--network", "unidetector_cln") is None
