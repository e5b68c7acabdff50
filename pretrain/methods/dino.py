"""DINO: what a teacher sees in the whole image, the network is to see in any part of it.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021.

    image -> 2 global crops, L local crops -> colors of each
    all crops    -> backbone      -> head      -> K logits / student temperature              | cross-entropy of every
    global crops -> backbone, EMA -> head, EMA -> K logits - center, / teacher temperature    | pair but the same crop

    center: moving average of the teacher's logits, over all images of a step and all processes

The head's layers and the loss are lightly's. Letters: B images, G global crops, L local crops, K logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from pretrain.joint.pair import blur_range, cropped
from pretrain.joint.teacher import copied, cosine, follow, keep_still
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import Joined, ResizeCenterCrop, Several
from shared.devices import dist
from shared.errors import UsageError
from shared.feeding.pixels import Normalize
from shared.recipes.values import CountOrNone, Probability, Scale, Share, Width

CELL = 16  # local crops have a multiple of so many pixels as their side, a patch of most ViTs


TRAINED = {
    "by": "its authors' 100 epochs of ViT-S/16",
    "opt": "adamw",
    "betas": (0.9, 0.999),
    "lr": 5e-4,
    "lr_batch": 256,
    "wd": 0.04,
    "wd_end": 0.4,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 1e-6,
    "epochs": 100,
    "warmup_epochs": 10,
    "warmup_start": 0,
    "clip_grad_norm": 3.0,
}


@method("dino", trained=TRAINED)
class DINO(Method):
    """
    Args:
        prototypes: K, logits of the head.
        hidden_width: channels of the head's hidden layers.
        bottleneck_width: channels before its last layer.
        momentum: initial EMA momentum of the teacher; increases along half a cosine to 1 at the end.
        student_temperature: of the student's logits.
        teacher_temperature: of the teacher's logits after the warm-up; 0.07 in the paper's longer trainings.
        teacher_temperature_start: of the teacher's logits at the beginning; changes linearly.
        temperature_warmup: length of that warm-up as a fraction of the training.
        last_layer_frozen: the head's last layer keeps its weights for this fraction of the training.
        center_momentum: of the center of the teacher's logits.
        local_crops: L, local crops of an image; 0 for none.
        local_size: their side in pixels; 0 for 3/7 of the image size, as 96 is of 224, in multiples of 16.
        crop_split: largest area of a local and smallest area of a global crop, as a fraction of the image.
        crop_scale: smallest area of a local crop.
        hflip: probability of a horizontal flip.
        jitter: probability of color jitter.
        gray: probability of grayscale.
        blur_first: probability of Gaussian blur of the first global crop, std 0.1 to 2 pixels at 224 and proportional
            otherwise.
        blur_second: the same for the second global crop.
        blur_local: the same for local crops.
        solarize_second: probability of solarization of the second global crop.
        export_teacher: export the EMA backbone, as the paper evaluates, instead of the trained one.
    """

    needs = "any backbone that accepts images of several sizes, or --local-crops 0"
    graphs = ("look", "look_up")  # not the comparison: its temperature is another one in every step

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        prototypes: Width = 65_536,
        hidden_width: Width = 2048,
        bottleneck_width: Width = 256,
        momentum: Probability = 0.996,
        student_temperature: Scale = 0.1,
        teacher_temperature: Scale = 0.04,
        teacher_temperature_start: Scale = 0.04,
        temperature_warmup: Probability = 0.3,
        last_layer_frozen: Probability = 0.01,
        center_momentum: Probability = 0.9,
        local_crops: CountOrNone = 8,
        local_size: CountOrNone = 0,
        crop_split: Share = 0.4,
        crop_scale: Share = 0.05,
        hflip: Probability = 0.5,
        jitter: Probability = 0.8,
        gray: Probability = 0.2,
        blur_first: Probability = 1.0,
        blur_second: Probability = 0.1,
        blur_local: Probability = 0.5,
        solarize_second: Probability = 0.2,
        export_teacher: bool = True,
    ) -> None:
        from lightly.loss import DINOLoss

        super().__init__()
        self.size, self.local_crops, self.hflip = facts.size, local_crops, hflip
        self.local_size = (local_size, local_size) if local_size else local_of(facts.size)
        if crop_scale > crop_split:
            raise UsageError(f"crop_scale {crop_scale} is more than crop_split {crop_split}; give a smaller one")
        if local_crops and backbone.only not in (None, self.local_size):
            raise UsageError(
                f"this backbone accepts only images of {backbone.only[0]}x{backbone.only[1]}, and local crops are "  # type: ignore[index]
                f"smaller; give --local-crops 0, or use one such as vit_small_patch16_224 or resnet_v1_50"
            )
        self.scales = (crop_scale, crop_split, 1.0)
        same: dict[str, Any] = {"jitter": jitter, "gray": gray, "sigma": blur_range(facts.size)}
        self.colors = (Color(blur=blur_first, **same), Color(blur=blur_second, solarize=solarize_second, **same))
        self.local_color = Color(jitter, gray, blur_local, sigma=blur_range(self.local_size))
        self.normalize = Normalize(facts.pixels)
        self.backbone, self.head = backbone, Head(backbone.width, hidden_width, bottleneck_width, prototypes)
        self.teacher, self.teacher_head = copied(backbone), copied(self.head)
        self.loss = DINOLoss(prototypes, student_temp=student_temperature, center_momentum=center_momentum)
        self.loss.update_center = self.note_center
        self.centers: list[Tensor] = []  # of the teacher's logits in the micro batches of this step
        self.momentum, self.export_teacher = momentum, export_teacher
        self.temperatures, self.warmup = (teacher_temperature_start, teacher_temperature), temperature_warmup
        self.last_layer_frozen = last_layer_frozen
        self.set_extra_state(0.0)

    def view(self) -> View:
        smallest, split, largest = self.scales
        views = [Several(cropped(self.size, (split, largest), self.hflip), 2)]
        views += [Several(cropped(self.local_size, (smallest, split), self.hflip), self.local_crops)]
        return Joined(views)

    def val_view(self) -> View:
        return ResizeCenterCrop(self.size)

    def forward(self, batch: tuple[tuple[Tensor, ...], Tensor]) -> dict[str, Tensor]:
        """2 global crops (B, 3, H, W) uint8, L local ones (B, 3, h, w), and labels, which are ignored."""
        crops, _ = batch
        whole = torch.cat([color(x, self.normalize) for color, x in zip(self.colors, crops[:2], strict=True)])
        views = [whole, self.local_color(torch.cat(crops[2:]), self.normalize)] if len(crops) > 2 else [whole]
        logits = self.look(*views)
        return {"distillation": self.compared(logits.chunk(len(crops)), self.look_up(whole).chunk(2))}

    def look(self, *views: Tensor) -> Tensor:
        """Images (N, 3, H, W) of each size -> (sum of N, K) of the student."""
        return self.head(torch.cat([self.backbone(x) for x in views]))

    @torch.no_grad()
    def look_up(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, K) of the teacher."""
        return self.teacher_head(self.teacher(x))

    def compared(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K) of 2 + L and of 2 crops -> ()"""
        with torch.autocast(student[0].device.type, enabled=False):
            theirs, ours = [t.float() for t in teacher], [s.float() for s in student]
            return self.loss(theirs, ours, teacher_temp=self.temperature)

    # --- what follows the weights ---------------------------------------------------------------

    def note_center(self, teacher_out: Tensor) -> None:
        """Logits (2, B, K) of a micro batch; lightly would move its center here, in the middle of a step."""
        self.centers.append(teacher_out.mean((0, 1))[None])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        share = 1 - cosine(self.momentum, 1.0, progress)
        follow(self.teacher, self.backbone, share)
        follow(self.teacher_head, self.head, share)
        if self.centers:
            center: Any = self.loss.center
            center.lerp_(dist.gather_rows(torch.cat(self.centers)).mean(0), 1 - self.loss.center_momentum)
            self.centers.clear()
        self.set_extra_state(progress)

    def get_extra_state(self) -> float:
        return self.progress

    def set_extra_state(self, state: float) -> None:
        """How far the training is, from 0 to 1: temperature and last layer depend on it."""
        self.progress = state
        start, end = self.temperatures
        self.temperature = start + (end - start) * min(1.0, state / self.warmup if self.warmup else 1.0)
        self.head.last_layer.frozen = state < self.last_layer_frozen

    def train(self, mode: bool = True) -> DINO:
        super().train(mode)
        for teacher in (self.teacher, self.teacher_head):
            keep_still(teacher, mode)
        return self

    def exports(self) -> dict[str, nn.Module]:
        return {"backbone": self.teacher if self.export_teacher else self.backbone}


class Head(nn.Module):
    """(B, inside) -> (B, prototypes): three layers with GELU, direction, cosines with the prototypes."""

    def __init__(self, inside: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        from lightly.models.modules.heads import ProjectionHead

        super().__init__()
        shapes = ((inside, hidden, nn.GELU()), (hidden, hidden, nn.GELU()), (hidden, bottleneck, None))
        self.layers = ProjectionHead([(ins, outs, None, activation) for ins, outs, activation in shapes])
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.layers(x), dim=-1))


class Prototypes(nn.Module):
    """(B, D) -> (B, K): a linear layer whose rows have norm 1.

    lightly's head has torch's old weight norm, of which no copy can be made.

    frozen: the gradient is 0.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # that of nn.Linear
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        rows = F.normalize(self.weight, dim=1)
        # zero rather than none, for which DDP would wait
        return F.linear(x, rows.detach() + 0 * rows if self.frozen else rows)


def local_of(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of local crops: 3/7 of the image's, in multiples of CELL."""
    tall, wide = (CELL * max(1, round(side * 3 / 7 / CELL)) for side in size)
    return tall, wide
