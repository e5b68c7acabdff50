"""Distillation: a small network is to say of an image what a large one says, without labels.

Zhang, Ma, Bai, Wang, Fu, "Accessing Vision Foundation Models via ImageNet-1K", 2025 (Proteus): its losses of the class
token and of all features, without the third one, of masked patches.

    image -> one crop, colors -> network -> map, vector -> LayerNorm, linear  |
                              -> teacher -> map, vector -> normalized         |  mean squared error of each

The teacher is a tag or timm's published weights. It sees the same pixels, with its own mean and std, and at its own
size where it accepts one size only. Its features are normalized over their channels, so that the error is about 1 at
the beginning, whatever the teacher. Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.reach import join_passes, map_reach
from pretrain.joint.frozen import find_teacher
from pretrain.joint.pair import blur_range, cropped
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import ResizeCenterCrop
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import Normalize
from shared.recipes.values import CountOrNone, Probability, Share, Weight

log = logging.getLogger(__name__)

TRAINED = {
    "by": "the authors of Proteus",
    "opt": "adamw",
    "betas": (0.9, 0.999),
    "lr": 5e-4,
    "lr_batch": 512,
    "wd": 0.05,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 1e-5,
    "epochs": 300,
    "warmup_epochs": 5,
    "warmup_start": 0.002,
}


@method("distill", trained=TRAINED)
class Distill(Method):
    """
    Args:
        teacher: timm:NAME for timm's published weights, or the backbone that has the tag; untrained:NAME for random
            weights, to try a command.
        teacher_tag: the tag of the teacher, or tag@digest.
        teacher_size: side of the teacher's images in pixels; 0 for that of the network's, or the only one it accepts.
        pooled_weight: weight of the error of the pooled vector; 0 for none.
        map_weight: weight of the error of the coarsest map; 0 for none.
        crop_scale: smallest area of a crop as a fraction of the image.
        hflip: probability of a horizontal flip.
        jitter: probability of color jitter, the same for both networks.
        gray: probability of grayscale.
        blur: probability of Gaussian blur, std 0.1 to 2 pixels at 224 and proportional otherwise.
    """

    needs = "any backbone; and a teacher, of a tag or timm's"
    backbone_calls = ("forward_both",)
    graphs = ("differences",)

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        teacher: str | None = None,
        teacher_tag: str | None = None,
        teacher_size: CountOrNone = 0,
        pooled_weight: Weight = 1.0,
        map_weight: Weight = 1.0,
        crop_scale: Share = 0.08,
        hflip: Probability = 0.5,
        jitter: Probability = 0.0,
        gray: Probability = 0.0,
        blur: Probability = 0.0,
    ) -> None:
        super().__init__()
        if not pooled_weight and not map_weight:
            raise UsageError("pooled_weight and map_weight are 0, so nothing is learnt; give one of them a value")
        size = (teacher_size, teacher_size) if teacher_size else facts.size
        self.teacher = find_teacher(teacher, teacher_tag, facts.weights_dir, size)
        self.backbone, theirs = backbone, self.teacher.net
        self.pooled_weight, self.map_weight = pooled_weight, map_weight
        self.pooled_head = head(backbone.width, theirs.width) if pooled_weight else None
        self.map_head = head(backbone.maps[-1].channels, theirs.maps[-1].channels) if map_weight else None
        if not map_weight:
            self.backbone_calls = ("forward",)
        elif not pooled_weight:
            self.backbone_calls = ("forward_features",)
            freeze_beyond_map(backbone)
        else:
            join_passes(backbone, facts.size)
        self.normalize = Normalize(facts.pixels)
        self.size, self.crop_scale, self.hflip = facts.size, crop_scale, hflip
        self.color = Color(jitter, gray, blur, sigma=blur_range(facts.size))

    @property
    def learns_from(self) -> list[Any]:
        return [] if self.teacher.exported is None else [self.teacher.exported]

    @property
    def source(self) -> dict[str, str]:
        return {} if self.teacher.exported is not None else {"published": f"features of {self.teacher.name}"}

    def view(self) -> View:
        return cropped(self.size, (self.crop_scale, 1.0), self.hflip)

    def val_view(self) -> View:
        return ResizeCenterCrop(self.size)

    def forward(self, batch: tuple[Tensor, Any]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) uint8, and labels, which are ignored."""
        return self.differences(self.color(batch[0]))

    def differences(self, pixels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) from 0 to 255 -> the weighted errors."""
        wanted_map, wanted = self.teacher(pixels)
        found_map, found = self.look(self.normalize(pixels))
        losses: dict[str, Tensor] = {}
        if self.pooled_head is not None:
            losses["pooled"] = self.pooled_weight * error(self.pooled_head(found), wanted)
        if self.map_head is not None:
            same = at_size(found_map, wanted_map.shape[-2:]).movedim(1, -1)
            losses["map"] = self.map_weight * error(self.map_head(same), wanted_map.movedim(1, -1))
        return losses

    def look(self, x: Tensor) -> tuple[Any, Any]:
        """(B, 3, H, W) -> the map and the vector of the network; what is not compared is None."""
        if self.pooled_head is not None and self.map_head is not None:
            return self.backbone.forward_both(x)
        return (self.backbone.forward_features(x)[-1], None) if self.map_head else (None, self.backbone(x))

    def get_extra_state(self) -> str:
        return self.teacher.name

    def set_extra_state(self, state: str) -> None:
        """Raises WeightsError if the run had another teacher."""
        if state != self.teacher.name:
            raise WeightsError(
                f"this run learnt from {state}, and its flags now mean {self.teacher.name}; give --teacher-tag as "
                f"tag@digest to name the former"
            )


def head(inside: int, outside: int) -> nn.Sequential:
    """(..., inside) -> (..., outside)"""
    return nn.Sequential(nn.LayerNorm(inside), nn.Linear(inside, outside))


def error(found: Tensor, wanted: Tensor) -> Tensor:
    """(..., C), the teacher's (..., C) -> (), mean squared error after the teacher's is normalized over C."""
    with torch.autocast(found.device.type, enabled=False):
        return F.mse_loss(found.float(), F.layer_norm(wanted.float(), wanted.shape[-1:]))


def at_size(x: Tensor, size: Any) -> Tensor:
    """(B, C, h, w) -> (B, C, *size)"""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", antialias=x.shape[-2] > size[0] or x.shape[-1] > size[1])


def freeze_beyond_map(backbone: Backbone) -> None:
    """Freeze what the coarsest map does not depend on: distributed training would wait for its gradient."""
    used = map_reach(backbone)[-1]
    for name, parameter in backbone.named_parameters():
        if name not in used:
            parameter.requires_grad_(False)
