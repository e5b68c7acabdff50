"""Supervised pretraining: classification with mixup, cutmix, random erasing and label smoothing.

    image -> crop, flip -> [mixup | cutmix] -> [erase] -> backbone -> vector -> linear -> cross-entropy

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019;
Zhong et al., "Random Erasing Data Augmentation", 2020; label smoothing as in Szegedy et al., 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Beta

from backbones.base import Backbone
from pretrain.methods import Facts, Method, View, method
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from shared.devices import dist
from shared.errors import DataError
from shared.feeding.pixels import Normalize
from shared.recipes.values import Dropout, Probability, Ratio, Share, Weight

# kernels alone are decayed, at twice the L2 penalty of 1e-4
TRAINED = {
    "by": "AWS's 120 epochs of ImageNet-1k",
    "opt": "nesterov",
    "momentum": 0.9,
    "lr": 0.1,
    "lr_batch": 256,
    "wd": 2e-4,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "epochs": 120,
    "warmup_epochs": 5,
    "warmup_start": 0.125,
}


@method("supervised", trained=TRAINED)
class Supervised(Method):
    """
    Args:
        label_smoothing: from 0 to 1.
        mixup: alpha of the Beta distribution of mixup, per sample; 0 for none.
        cutmix: the same for cutmix; with both, each sample gets one of them.
        random_erase: probability of random erasing.
        dropout: before the classifier.
        crop_scale: smallest area of a training crop as a fraction of the image.
        crop_ratio: widest aspect ratio of a training crop.
        hflip: probability of a horizontal flip.
        val_share: size of the validation crop as a fraction of the short side.
    """

    labeled = True

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        label_smoothing: Probability = 0.1,
        mixup: Weight = 0.0,
        cutmix: Weight = 0.0,
        random_erase: Probability = 0.0,
        dropout: Dropout = 0.0,
        crop_scale: Share = 0.08,
        crop_ratio: Ratio = 4 / 3,
        hflip: Probability = 0.5,
        val_share: Share = 0.875,
    ) -> None:
        super().__init__()
        if not facts.num_classes:
            raise DataError("supervised pretraining needs labels, and these shards have none; pack them with labels")
        self.backbone = backbone
        self.normalize = Normalize(facts.pixels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.width, facts.num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.size, self.label_smoothing, self.random_erase = facts.size, label_smoothing, random_erase
        self.mixup, self.cutmix = mixup, cutmix
        self.crop_scale, self.crop_ratio, self.hflip, self.val_share = crop_scale, crop_ratio, hflip, val_share

    def view(self) -> View:
        ratios = (1 / self.crop_ratio, self.crop_ratio)
        crop = RandomResizedCrop(self.size, scale=(self.crop_scale, 1.0), ratio=ratios)
        return Compose([crop, HorizontalFlip(self.hflip)])

    def val_view(self) -> View:
        return ResizeCenterCrop(self.size, share=self.val_share)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) uint8 and labels (B,)."""
        images, labels = batch
        x = self.normalize(images)
        target = F.one_hot(labels, self.classifier.out_features).to(x.dtype)
        if self.mixup > 0 or self.cutmix > 0:
            x, target = mixed(x, target, self.mixup, self.cutmix)
        if self.random_erase > 0:
            x = erased(x, self.random_erase)
        logits = self.classify(x)
        return {"classification": F.cross_entropy(logits.float(), target, label_smoothing=self.label_smoothing)}

    def classify(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalized -> (B, num_classes)"""
        return self.classifier(self.dropout(self.backbone(x)))

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """top1 and, with more than five classes, top5 accuracy on the validation images, from 0 to 1."""
        hits1 = hits5 = seen = 0
        deep = min(5, self.classifier.out_features)
        for images, labels in loader:
            best = self.classify(self.normalize(images)).topk(deep).indices
            right = best == labels[:, None]
            hits1, hits5, seen = hits1 + int(right[:, 0].sum()), hits5 + int(right.sum()), seen + len(labels)
        hits1, hits5, seen = (sum(column) for column in zip(*dist.gather((hits1, hits5, seen)), strict=True))
        metrics = {"top1": hits1 / max(seen, 1)}
        return metrics | ({"top5": hits5 / max(seen, 1)} if self.classifier.out_features > 5 else {})


def mixed(x: Tensor, target: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of each image with another one of the batch; targets are mixed by the share of pixels.

    (B, 3, H, W), (B, K) -> the same shapes.
    """
    count, _, tall, wide = x.shape
    blend = draw_shares(count, mixup, x).view(-1, 1, 1, 1).expand(-1, 1, tall, wide)
    if cutmix > 0:
        cut = 1 - rectangles(count, tall, wide, 1 - draw_shares(count, cutmix, x))
        either = (
            torch.rand(count, device=x.device) < 0.5
            if mixup > 0
            else torch.ones(count, dtype=torch.bool, device=x.device)
        )
        blend = torch.where(either.view(-1, 1, 1, 1), cut, blend)
    share = blend.mean((1, 2, 3))[:, None]
    return x * blend + x.flip(0) * (1 - blend), target * share + target.flip(0) * (1 - share)


def draw_shares(count: int, alpha: float, like: Tensor) -> Tensor:
    """(count,) samples from Beta(alpha, alpha); all 1 if alpha is 0."""
    if alpha <= 0:
        return like.new_ones(count)
    return (
        Beta(torch.tensor(alpha, device=like.device), torch.tensor(alpha, device=like.device))
        .sample((count,))
        .to(like.dtype)
    )


def rectangles(count: int, tall: int, wide: int, areas: Tensor) -> Tensor:
    """(count, 1, tall, wide): 1 inside one random rectangle each, with the image's aspect ratio and this share of
    its area.
    """
    half = areas.sqrt() / 2
    middle_y, middle_x = torch.rand(2, count, device=areas.device).unbind(0)
    ys = (torch.arange(tall, device=areas.device) + 0.5) / tall
    xs = (torch.arange(wide, device=areas.device) + 0.5) / wide
    rows = (ys - middle_y[:, None]).abs() < half[:, None]
    columns = (xs - middle_x[:, None]).abs() < half[:, None]
    return (rows[:, :, None] & columns[:, None, :]).to(areas.dtype)[:, None]


def erased(x: Tensor, probability: float) -> Tensor:
    """Random erasing: rectangles of 2 % to 1/3 of the area set to the mean color, which is 0 after normalization."""
    count, _, tall, wide = x.shape
    areas = 0.02 + (1 / 3 - 0.02) * torch.rand(count, device=x.device)
    chosen = (torch.rand(count, device=x.device) < probability).view(-1, 1, 1, 1)
    return x * (1 - rectangles(count, tall, wide, areas) * chosen)
