"""The settings of published detectors agree with torchvision and with the recipes of the same names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import detection as theirs

from backbones import backbone
from detection.data.augment.presets import build_augment
from detection.nets import detector, resize_rule
from detection.published.references import REFERENCES, USUAL_EPS, nearest, of_file
from detection.recipe import DetectRecipe
from detection.training.datasets import input_size
from detection.types import Target
from shared.feeding.pixels import Normalize
from shared.recipes.files import load, recipe_names
from shared.recipes.recipe import make

WEIGHTS = {
    "fasterrcnn_resnet50_fpn": theirs.FasterRCNN_ResNet50_FPN_Weights,
    "fasterrcnn_resnet50_fpn_v2": theirs.FasterRCNN_ResNet50_FPN_V2_Weights,
    "maskrcnn_resnet50_fpn_v2": theirs.MaskRCNN_ResNet50_FPN_V2_Weights,
    "retinanet_resnet50_fpn_v2": theirs.RetinaNet_ResNet50_FPN_V2_Weights,
    "fasterrcnn_mobilenet_v3_large_fpn": theirs.FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    "fasterrcnn_mobilenet_v3_large_320_fpn": theirs.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    "fcos_resnet50_fpn": theirs.FCOS_ResNet50_FPN_Weights,
    "retinanet_resnet50_fpn": theirs.RetinaNet_ResNet50_FPN_Weights,
    "ssd300_vgg16": theirs.SSD300_VGG16_Weights,
    "ssdlite320_mobilenet_v3_large": theirs.SSDLite320_MobileNet_V3_Large_Weights,
    "maskrcnn_resnet50_fpn": theirs.MaskRCNN_ResNet50_FPN_Weights,
    "keypointrcnn_resnet50_fpn": theirs.KeypointRCNN_ResNet50_FPN_Weights,
}
NOTHING = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
# recipes with another name than the published file
RECIPES = {"ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large_reduced_tail"}


def built(name: str, **options: Any) -> Any:
    known = REFERENCES[name]
    published: Any = WEIGHTS[name]
    rows = len(published.DEFAULT.meta["categories"])
    with torch.device("meta"):
        net = backbone.build(options.pop("backbone", known.backbone))
        classes = rows if known.network in ("fcos", "retinanet") else rows - 1  # these have a row for background
        return detector.build(known.network, net, classes, **known.args)


@pytest.mark.parametrize("name", WEIGHTS)
def test_networks_have_as_many_parameters_as_the_published(name: str) -> None:
    """torchvision's frozen batch norm has no parameters; SSDlite and the v2 models have trainable batch norm."""
    net = built(name)
    count = sum(p.numel() for p in net.parameters())
    if not name.startswith("ssdlite") and not name.endswith("_v2"):
        norms = [layer for layer in net.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
        count -= sum(p.numel() for layer in norms for p in layer.parameters())
    published: Any = WEIGHTS[name]
    assert count == published.DEFAULT.meta["num_params"]


def test_ssdlite_on_published_backbone_weights_has_the_full_tail() -> None:
    net = built("ssdlite320_mobilenet_v3_large", backbone="tv_mobilenet_v3_large_ssdlite")
    assert sum(p.numel() for p in net.parameters()) == 5_198_540


@pytest.mark.parametrize("name", WEIGHTS)
def test_published_files_are_known_by_the_sha256_in_their_names(name: str) -> None:
    published: Any = WEIGHTS[name]
    starts = {re.search(r"-([0-9a-f]{8})\.pth$", weights.url)[1] for weights in published}  # type: ignore[index]
    assert starts == REFERENCES[name].files.keys()
    for start in starts:
        assert of_file(start + "0" * 56) == (name, REFERENCES[name].files[start])
    assert of_file("0" * 64) is None


def test_the_nearest_reference_lends_its_settings_to_other_backbones() -> None:
    assert nearest("detr", "resnet101_v1b") == REFERENCES["detr_resnet101"]
    assert nearest("ssd", "resnet18").args == {"ssd300": True} and nearest("ssd", "resnet18").backbone == "resnet18"
    assert nearest("efficientdet_d0", "resnet18").network == "efficientdet_d0"
    assert set(REFERENCES["detr_resnet50"].files.values()) == {USUAL_EPS}


@pytest.mark.parametrize("name", [n for n in REFERENCES if RECIPES.get(n, n) in recipe_names("detect")])
def test_recipe_of_the_name_is_set_as_what_was_published(name: str) -> None:
    known = REFERENCES[name]
    values, _ = load(RECIPES.get(name, name), "detect")
    values.pop("tiny", None)
    recipe = make(DetectRecipe, values)
    model, data = recipe.model, recipe.data
    assert (model.network, model.backbone) == (known.network, known.backbone)
    assert model.network_args.items() >= dict(known.args).items()
    size = input_size(data.size, data.aug_type, model.network)
    assert (min(size), data.max_size) == (min(known.size), known.longest)
    assert data.antialias == known.antialias
    assert data.resize_rule is None and resize_rule(known.network) == ("detr" if "detr" in name else "torchvision")


@pytest.mark.parametrize("shape", [(480, 640), (1000, 700), (90, 201), (100, 298), (384, 640)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_images_come_to_a_network_as_torchvisions_transform_brings_them(name: str, shape: tuple[int, int]) -> None:
    """Sizes, resizing and normalization; up to one level of 255 is lost as images are resized in uint8."""
    known = REFERENCES[name]
    with torch.device("meta"):
        transform = getattr(theirs, name)(weights=None, weights_backbone=None).eval().transform
    image = torch.randint(256, (3, *shape), dtype=torch.uint8)
    options = {"size": known.size, "max_size": known.longest, "antialias": known.antialias}
    small, _ = build_augment("hflip", **options, train=False)(image, NOTHING, np.random.default_rng(0))
    ours = Normalize(known.pixels)(small[None].float())[0]
    batch, _ = transform([image / 255])
    height, width = batch.image_sizes[0]
    assert ours.shape[1:] == (height, width)
    away = (ours - batch.tensors[0, :, :height, :width]).abs().amax((1, 2))
    level = 1 / (255 * torch.tensor(known.pixels.std))
    assert (away <= 1.01 * level).all()


def test_images_made_smaller_are_smoothed_unless_told() -> None:
    """So that the test above does detect a difference in antialiasing."""
    stripes = (torch.arange(600) % 2 * 255).to(torch.uint8).expand(3, 600, 600)
    spread = {}
    for antialias in (True, False):
        augment = build_augment("hflip", size=(200, 200), antialias=antialias, train=False)
        spread[antialias] = augment(stripes, NOTHING, np.random.default_rng(0))[0].float().std().item()
    assert spread[True] < 60 < 100 < spread[False]
