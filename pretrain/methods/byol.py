"""BYOL: predict what a teacher says of another view of the image, where the teacher is an average of the network.

Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020.

    view   -> backbone        -> projection        -> prediction  |
    view'  -> backbone, EMA   -> projection, EMA   -> target      |  squared distance of directions, both ways

Projection, prediction and distance are lightly's. Nothing holds the embeddings apart but the prediction and the slow
teacher, so `--probe` watches them for a collapse.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from pretrain.joint.pair import Pair, blur_range, insist_on_two
from pretrain.joint.teacher import copied, cosine, follow, keep_still
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import ResizeCenterCrop
from shared.feeding.pixels import Normalize
from shared.recipes.values import Probability, Share, Width

TRAINED = {
    "by": "its paper",
    "opt": "lars",
    "lr": 0.2,
    "lr_batch": 256,
    "wd": 1.5e-6,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "epochs": 1000,
    "warmup_epochs": 10,
    "warmup_start": 0,
    "sync_bn": True,
}


@method("byol", trained=TRAINED)
class BYOL(Method):
    """
    Args:
        hidden_width: channels of the hidden layer of projection and prediction.
        embedding_width: channels of what is predicted.
        momentum: initial EMA momentum of the teacher; increases along half a cosine to 1 at the end.
        crop_scale: smallest area of a view as a fraction of the image.
        hflip: probability of a horizontal flip.
        jitter: probability of color jitter.
        gray: probability of grayscale.
        blur_first: probability of Gaussian blur of the first view, std 0.1 to 2 pixels at 224 and proportional
            otherwise.
        blur_second: the same for the second view.
        solarize_first: probability of solarization of the first view.
        solarize_second: the same for the second view.
    """

    needs = "any backbone; two images or more in a batch"
    graphs = ("predict", "look_up")

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        hidden_width: Width = 4096,
        embedding_width: Width = 256,
        momentum: Probability = 0.996,
        crop_scale: Share = 0.08,
        hflip: Probability = 0.5,
        jitter: Probability = 0.8,
        gray: Probability = 0.2,
        blur_first: Probability = 1.0,
        blur_second: Probability = 0.1,
        solarize_first: Probability = 0.0,
        solarize_second: Probability = 0.2,
    ) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        super().__init__()
        self.backbone = backbone
        self.projection = BYOLProjectionHead(backbone.width, hidden_width, embedding_width)
        self.prediction = BYOLPredictionHead(embedding_width, hidden_width, embedding_width)
        self.target, self.target_projection = copied(backbone), copied(self.projection)
        self.similarity = NegativeCosineSimilarity()
        self.normalize, self.momentum = Normalize(facts.pixels), momentum
        same: dict[str, Any] = {"jitter": jitter, "gray": gray, "sigma": blur_range(facts.size)}
        first = Color(blur=blur_first, solarize=solarize_first, **same)
        second = Color(blur=blur_second, solarize=solarize_second, **same)
        self.pair = Pair(facts.size, first, second, crop_scale, hflip)

    def view(self) -> View:
        return self.pair.crops()

    def val_view(self) -> View:
        return ResizeCenterCrop(self.pair.size)

    def check_batch(self, images: int) -> None:
        insist_on_two("BYOL", images, alone=True)  # its projection has a batch norm

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Two views (B, 3, H, W) uint8 of the same images, and labels, which are ignored."""
        crops, _ = batch
        self.check_batch(len(crops[0]))
        x, y = self.pair(crops, self.normalize)
        # separately, so that batch norm statistics are per view
        p, p_ = self.predict(x), self.predict(y)
        t, t_ = self.look_up(x), self.look_up(y)
        with torch.autocast(x.device.type, enabled=False):
            return {"prediction": self.distance(p.float(), t_.float()) + self.distance(p_.float(), t.float())}

    def predict(self, x: Tensor) -> Tensor:
        return self.prediction(self.projection(self.backbone(x)))

    @torch.no_grad()
    def look_up(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, D) of the teacher."""
        return self.target_projection(self.target(x))

    def distance(self, p: Tensor, t: Tensor) -> Tensor:
        """(B, D), (B, D) -> (), mean squared distance of their directions, from 0 to 4."""
        return 2 + 2 * self.similarity(p, t)

    def embed(self, vectors: Tensor) -> Tensor:
        z = self.projection(vectors)
        return F.normalize(z, dim=1) * z.shape[1] ** 0.5

    def after_step(self, progress: float) -> None:
        share = 1 - cosine(self.momentum, 1.0, progress)
        follow(self.target, self.backbone, share)
        follow(self.target_projection, self.projection, share)

    def train(self, mode: bool = True) -> BYOL:
        super().train(mode)
        for teacher in (self.target, self.target_projection):
            keep_still(teacher, mode)
        return self
