"""What the tests of this room share: weights that find something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones import backbone
from detection.nets import detector
from shared.weights.card import Card
from shared.weights.store import Store


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a small FCOS with random weights."""
    options = {"width": 64, "depth": 1, "min_score": 0.0}
    net = detector.build("fcos", backbone.build("test_resnet"), 2, **options)
    with torch.no_grad():  # initial values are refused as weights
        for weight in net.parameters():
            weight += 0.01
    args = {"network": "fcos", "network_args": options, "backbone": "test_resnet", "backbone_args": {}}
    recipe = {"size": [64, 64], "max_size": None, "multiscale": False, "aug_type": "hflip"}
    card = Card(
        arch="fcos-test_resnet",
        tag="mine",
        epoch=1,
        kind="detector",
        recipe=recipe,
        args=args,
        classes={"names": ["kite", "traffic cone"], "source_ids": [7, 90]},
        pixels={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    )
    return Store(tmp_path_factory.mktemp("weights")).put(net, card).path
