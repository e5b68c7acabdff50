"""The largest micro batch has the largest size and the images with the most objects, whatever the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.nets import detector
from detection.recipe import DetectRecipe
from detection.training.datasets import open_data
from detection.training.largest import Largest
from detection.training.task import DetectTask
from shared.feeding.pixels import PIXEL_STATS
from shared.loop.trial import Step, on_trial
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, make

SIZES = [(60, 90), (48, 96), (96, 48)]  # height, width


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three photographs with one, three and two boxes; the last one has a crowd besides."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    images, boxes = [], []
    for number, ((height, width), count) in enumerate(zip(SIZES, (1, 3, 2), strict=True)):
        Image.new("RGB", (width, height), (number, 90, 0)).save(tmp_path / "train" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for k in range(count + (number == 2)):
            corner = [2 + 3 * k, 4, 20, 20]
            outline = [corner[0], 4, corner[0] + 20, 4, corner[0] + 20, 24]
            about = {"image_id": number, "category_id": 1, "bbox": corner, "area": 200, "segmentation": [outline]}
            boxes.append({"id": len(boxes) + 1, **about, "iscrowd": int(k == count)})
    told = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(told))
    return tmp_path


def recipe_of(scenes: Path, **values: Any) -> DetectRecipe:
    places = {"data_path": str(scenes / "train"), "coco_json_path": str(scenes / "annotations/instances_train.json")}
    return make(DetectRecipe, {**places, "network": "mask_rcnn", "aug_type": "hflip", **values})


def largest(scenes: Path, **values: Any) -> Largest:
    recipe = recipe_of(scenes, **values)
    return Largest(open_data(recipe), recipe.data)


def test_the_images_with_most_objects_come_first_at_the_largest_size(scenes: Path) -> None:
    made = largest(scenes, size=[64], max_size=120)
    pictures, targets = made(5)
    assert {tuple(picture.shape) for picture in pictures} == {(3, 120, 120)}, "both ways up may come in a batch"
    assert [len(target["boxes"]) for target in targets] == [3, 2, 1, 3, 2], "the crowd is none; then from the start"
    assert all(target["masks"].shape == (len(target["boxes"]), 120, 120) for target in targets)
    assert [target["image_id"] for target in made(2)[1]] == [1, 2]


def test_groups_of_shapes_never_meet_in_a_batch(scenes: Path) -> None:
    assert largest(scenes, size=[64], max_size=120, aspect_ratio_group_factor=0).size == (64, 120)
    assert largest(scenes, size=[64], max_size=120).size == (120, 120)
    assert largest(scenes, size=[64, 80]).size == (64, 80)


def test_copy_paste_may_double_the_objects(scenes: Path) -> None:
    made = largest(scenes, size=[64], aug_type="lsj", use_copypaste=True)
    _, (target,) = made(1)
    assert len(target["boxes"]) == len(target["masks"]) == len(target["labels"]) == 6
    assert made.size == (64, 64)


def test_the_data_is_left_as_it_was(scenes: Path) -> None:
    recipe = recipe_of(scenes, size=[64], max_size=120)
    data = open_data(recipe)
    augment = data.train.augment
    Largest(data, recipe.data)(3)
    assert data.train.augment is augment and max(data.train.load(0, np.random.default_rng(0))[0].shape) < 121


@pytest.mark.parametrize("network", ["mask_rcnn", "rt_detr"])
def test_a_trial_leaves_the_detector_as_it_was(network: str, scenes: Path, tiny_backbone: Callable[..., Any]) -> None:
    net = detector.build(network, tiny_backbone(), 3, **detector.facts(network).get("tiny", {}))
    task = DetectTask(net, PIXEL_STATS["imagenet"]).train()
    kept = {name: value.clone() for name, value in task.state_dict().items()}
    recipe = SimpleNamespace(optim=OptimConfig(lr=0.1), schedule=ScheduleConfig(), runtime=RuntimeConfig())
    batch = largest(scenes, network=network, size=[64])(2)
    with on_trial(task, Step(2, 1), recipe, torch.device("cpu"), apart=True) as trainer:
        trainer.advance([batch])
        assert any(not torch.equal(value, kept[name]) for name, value in trainer.task.state_dict().items())
    assert all(torch.equal(value, kept[name]) for name, value in task.state_dict().items())
    assert all(p.grad is None for p in task.parameters())
