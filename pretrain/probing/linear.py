"""The linear probe: a linear classifier on a frozen backbone.

    image -> random crop, flip -> backbone, frozen, in eval mode -> vector -> linear -> cross-entropy

The protocol is that of Bardes, Ponce, LeCun, "VICReg", 2022, for ResNet-50 on ImageNet: SGD with momentum 0.9, learning
rate 0.02 with cosine decay to 0, weight decay 1e-6, 100 epochs, batch size 256, weights initialized with std 0.01;
evaluated on center crops. (Theirs updates the rate once per epoch, the loop here at every step.) It is trained by the
training loop, so it runs on several processes and can be resumed.

The quick form computes each vector once, on a center crop, standardizes every dimension over the training images, and
trains the same layer on them with the same schedule: minutes instead of hours, without augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from pretrain.probing.probe import Vectors, shares_right
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop
from shared.devices import dist
from shared.feeding.pixels import Normalize, PixelStats
from shared.loop.optim import build_optimizer, for_batch
from shared.loop.schedule import lr_scale, total_steps
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig, ScheduleConfig


class LinearProbe(Task):
    """A frozen backbone with a trainable linear layer."""

    def __init__(self, backbone: Backbone, pixels: PixelStats, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.normalize = Normalize(pixels)
        self.classifier = classifier(backbone.width, num_classes)
        self.known_by = sum(float(value.double().abs().sum()) for value in backbone.parameters())

    def get_extra_state(self) -> float:
        """A checksum of the backbone, so that a probe is resumed on the same weights only."""
        return self.known_by

    def set_extra_state(self, state: float) -> None:
        if state != self.known_by:
            raise RuntimeError("the probe was started on other weights")

    def train(self, mode: bool = True) -> LinearProbe:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) uint8 and labels (B,)."""
        images, labels = batch
        return {"classification": F.cross_entropy(self.classify(images), labels)}

    def classify(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, num_classes) float32"""
        with torch.no_grad():
            vectors = self.backbone(self.normalize(images)).float()
        with torch.autocast(vectors.device.type, enabled=False):
            return self.classifier(vectors)

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """linear and, with more than five classes, linear_top5: accuracies from 0 to 1."""
        predicted = [(self.classify(images).cpu(), labels.cpu()) for images, labels in loader]
        scores, labels = zip(*[pair for share in dist.gather(predicted) for pair in share], strict=True)
        return shares_right(torch.cat(scores), torch.cat(labels), "linear")


def classifier(width: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(width, num_classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def training_view(size: tuple[int, int]) -> Compose:
    return Compose([RandomResizedCrop(size), HorizontalFlip()])


def linear_on_vectors(
    known: Vectors,
    asked: Vectors,
    num_classes: int,
    *,
    optim: OptimConfig,
    schedule: ScheduleConfig,
    batch_size: int,
    seed: int = 0,
) -> dict[str, float]:
    """The quick form. Every process trains the same layer on the vectors of all processes.

    Args:
        known, asked: this process's share of the training and validation vectors.
        optim, schedule: as for the loop.
        batch_size: vectors per step.
        seed: of weights and order.
    """
    known, asked = known.of_all(), asked.of_all()
    mean, deviation = known.values.mean(0), known.values.std(0).clamp(min=1e-6)
    x, labels = (known.values - mean) / deviation, known.labels
    torch.manual_seed(seed)
    layer = classifier(x.shape[1], num_classes).to(x.device)
    optim = for_batch(optim, batch_size)
    optimizer = build_optimizer(layer, optim)
    steps = len(x) / batch_size
    order = torch.zeros(0, dtype=torch.int64)
    for step in range(total_steps(steps, schedule)):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale(step, steps, schedule, optim.lr)
        while len(order) < batch_size:  # as in the loop, an epoch may end within a batch
            order = torch.cat((order, torch.randperm(len(x))))
        rows, order = order[:batch_size].to(x.device), order[batch_size:]
        F.cross_entropy(layer(x[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        return shares_right(layer((asked.values - mean) / deviation), asked.labels, "linear")
