"""What tests may lean on: threads as OMP_NUM_THREADS says, no network, one seed, and things small enough to see."""

from __future__ import annotations

import json
import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import Tensor, nn

from backbones.base import Backbone, MapInfo
from detection.types import Images, Target
from shared.logs.console import PROJECT, Held
from shared.weights.card import Card
from shared.weights.store import Store

# Before anything is traced: tracing sets up a pretended GPU, for which the first backward pass of a process would start
# threads, and a process with such threads cannot be forked and train, as the end-to-end tests do.
torch.ones(1, requires_grad=True).sum().backward()

settings.register_profile(
    "chordate",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("chordate")


@pytest.fixture(autouse=True)
def no_messages_of_another_test() -> Iterator[None]:
    """Messages that a run held for a train.log it never opened do not reach the log of the next test."""
    yield
    for logger in map(logging.getLogger, PROJECT):
        for handler in [handler for handler in logger.handlers if isinstance(handler, Held)]:
            logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def threads_as_asked_and_one_seed() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)


class TinyBackbone(Backbone):
    """Four strided convolutions with batch norm: maps of stride 4 to 32, 3,000 parameters."""

    def __init__(self, channels: int = 8, dropped: float = 0.0) -> None:
        super().__init__()
        layers = []
        for i in range(5):
            ins = 3 if i == 0 else channels
            conv = nn.Conv2d(ins, channels, 3, stride=2, padding=1)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(dropped)))
        self.layers = nn.ModuleList(layers)
        self.maps = tuple(MapInfo(channels, 2**k) for k in range(2, 6))
        self.width = channels

    def forward_features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            maps.append(x := layer(x))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)[-1].mean((2, 3))

    def stages(self) -> list[list[nn.Parameter]]:
        return [list(layer.parameters()) for layer in self.layers]

    def blocks(self) -> list[list[nn.Parameter]]:
        return self.stages()


@pytest.fixture
def tiny_backbone() -> Callable[..., TinyBackbone]:
    return TinyBackbone


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "weights")


@pytest.fixture
def card() -> Callable[..., Card]:
    """A card that says what it must; anything may be said otherwise."""

    def make(**told: Any) -> Card:
        pixels = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        return Card(**({"arch": "tiny", "tag": "supervised", "epoch": 3, "pixels": pixels} | told))

    return make


@pytest.fixture
def scenes() -> Callable[..., tuple[Images, list[Target]]]:
    """Normalized images of bright squares on noise, whose label is their color, padded as the loader would."""

    def make(
        boxes_per_image: list[int], *, size: int = 128, classes: int = 3, seed: int = 0, smallest: float = 0.25
    ) -> tuple[Images, list[Target]]:
        rng = torch.Generator().manual_seed(seed)
        pixels = torch.zeros(len(boxes_per_image), 3, size, size)
        targets, sizes = [], []
        for canvas, count in zip(pixels, boxes_per_image, strict=True):
            height, width = size, size - 16
            sizes.append((height, width))
            canvas[:, :height, :width] = 0.2 * torch.randn(3, height, width, generator=rng)
            side = size * (smallest + 0.2 * torch.rand(count, 2, generator=rng))
            corner = torch.rand(count, 2, generator=rng) * (torch.tensor([width, height]) - side)
            boxes = torch.cat((corner, corner + side), 1).round()
            labels = torch.randint(classes, (count,), generator=rng)
            for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
                canvas[:, y0:y1, x0:x1] = -1.0
                canvas[label % 3, y0:y1, x0:x1] = 2.0
            targets.append(Target(boxes=boxes, labels=labels))
        return Images(pixels, sizes), targets

    return make


@pytest.fixture(scope="session")
def write_coco() -> Callable[..., None]:
    """Write noisy photographs with a box of every category, its mask and three keypoints, and their COCO file."""

    def write(images: Path, annotations: Path, categories: dict[int, str], count: int = 2) -> None:
        for folder in (images, annotations.parent):
            folder.mkdir(parents=True, exist_ok=True)
        pngs = annotations.with_name(f"panoptic_{annotations.stem}")
        pngs.mkdir(exist_ok=True)
        listed, boxes, maps = [], [], []
        for i in range(1, count + 1):
            owners = np.zeros((96, 128, 3), np.uint8)
            owners[..., 0], infos = 1, [{"id": 1, "category_id": 1000, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}]
            pixels = np.random.default_rng(i).integers(0, 100, (96, 128, 3), np.uint8)
            for k, category in enumerate(categories):
                x, y, side = 8 + 36 * (k % 3), 6 + 4 * i % 40, 30
                pixels[y : y + side, x : x + side, k % 3] += 150
                told = {"image_id": i, "category_id": category, "bbox": [x, y, side, side], "area": side**2}
                far = (x + side, y + side)
                told["segmentation"] = [[x, y, far[0], y, *far, x, far[1]]]
                told |= {"keypoints": [x + 2, y + 2, 2, x + 28, y + 2, 1, x + 15, y + 15, 2], "num_keypoints": 3}
                boxes.append({"id": len(boxes) + 1, "iscrowd": 0, **told})
                owners[y : y + side, x : x + side, 0] = k + 2
                infos.append({"id": k + 2, "category_id": category, "area": 1, "bbox": told["bbox"], "iscrowd": 0})
            for info in infos:
                info["area"] = int((owners[..., 0] == info["id"]).sum())
            infos = [info for info in infos if info["area"]]
            Image.fromarray(owners).save(pngs / f"{i}.png")
            maps.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
            Image.fromarray(pixels).save(images / f"{i}.jpg")
            listed.append({"id": i, "file_name": f"{i}.jpg", "height": 96, "width": 128})
        points = {"keypoints": ["left_corner", "right_corner", "middle"], "skeleton": [[1, 2], [2, 3]]}
        named = [{"id": i, "name": name, **points} for i, name in categories.items()]
        annotations.write_text(json.dumps({"images": listed, "annotations": boxes, "categories": named}))
        kinds = [{"id": i, "name": name, "isthing": 1} for i, name in categories.items()]
        kinds.append({"id": 1000, "name": "ground", "isthing": 0})
        pngs.with_suffix(".json").write_text(json.dumps({"images": listed, "annotations": maps, "categories": kinds}))

    return write


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder is an empty one, where runs and weights go by default."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
