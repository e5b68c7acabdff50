"""What a command line, its network and a resumed run give a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detection.nets import detector, resize_rule
from detection.training.resolve import resolve
from shared.recipes.recipe import Resolved, dump

DETRS = {"detr", "detr_panoptic", "smca_detr", "deformable_detr", "deformable_detr_boxref"}


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
        (["--recipe", "detr_r50"], "detr", "base detr"),
        (["--recipe", "fasterrcnn_resnet50_fpn"], "torchvision", "base torchvision"),
        (["--recipe", "deformable_detr_boxref_rdnet_s_multiscale"], "torchvision", "recipe deformable_detr"),
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
