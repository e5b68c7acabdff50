"""Barlow Twins: the cross-correlation of two views' embeddings is to be the identity.

Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021.

    image -> two crops -> colors of each -> backbone -> vector -> projector -> embeddings z, z'
    z, z' normalized over the images of all processes -> correlations (D, D)
        on the diagonal   1: the same dimension says the same of both views
        beside it         0: different dimensions say different things

Projector and loss are lightly's. Shape letters: B images of a process, N of all, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from pretrain.joint.pair import Pair, blur_range, has_batch_norm, insist_on_two
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import ResizeCenterCrop
from shared.devices import dist
from shared.feeding.pixels import Normalize
from shared.recipes.values import Layers, Probability, Scale, Share, Weight, Width

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


@method("barlow_twins", trained=TRAINED)
class BarlowTwins(Method):
    """
    Args:
        projector_width: width of the embedding and of the layers before it.
        projector_layers: linear layers of the projector, without biases, with batch norm and ReLU between them.
        redundancy: weight of the correlations beside the diagonal, the paper's lambda.
        loss_scale: factor of the loss. LARS takes the same steps of weights with any; those of biases and norms, which
            it does not adapt, are in proportion: 0.024 is the paper's rate of 0.0048 for them beside 0.2.
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
    compares_images = True
    graphs = ("look",)

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        projector_width: Width = 8192,
        projector_layers: Layers = 3,
        redundancy: Weight = 0.005,
        loss_scale: Scale = 0.024,
        crop_scale: Share = 0.08,
        hflip: Probability = 0.5,
        jitter: Probability = 0.8,
        gray: Probability = 0.2,
        blur_first: Probability = 1.0,
        blur_second: Probability = 0.1,
        solarize_first: Probability = 0.0,
        solarize_second: Probability = 0.2,
    ) -> None:
        super().__init__()
        self.backbone, self.projector = backbone, projector(backbone.width, projector_width, projector_layers)
        self.normalize = Normalize(facts.pixels)
        self.redundancy, self.loss_scale = redundancy, loss_scale
        same: dict[str, Any] = {"jitter": jitter, "gray": gray, "sigma": blur_range(facts.size)}
        first = Color(blur=blur_first, solarize=solarize_first, **same)
        second = Color(blur=blur_second, solarize=solarize_second, **same)
        self.pair = Pair(facts.size, first, second, crop_scale, hflip)

    def view(self) -> View:
        return self.pair.crops()

    def val_view(self) -> View:
        return ResizeCenterCrop(self.pair.size)

    def check_batch(self, images: int) -> None:
        insist_on_two("Barlow Twins", images, alone=has_batch_norm(self.projector))

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Two views (B, 3, H, W) uint8 of the same images, and labels, which are ignored."""
        crops, _ = batch
        self.check_batch(len(crops[0]))
        x, y = self.pair(crops, self.normalize)
        # separately, so that batch norm statistics are per view
        z, z_ = self.look(x), self.look(y)
        with torch.autocast(z.device.type, enabled=False):
            return {"correlation": self.loss_scale * self.correlate(z.float(), z_.float())}

    def look(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)"""
        return self.projector(self.backbone(x))

    def embed(self, vectors: Tensor) -> Tensor:
        z = self.projector(vectors)
        return F.normalize(z, dim=1) * z.shape[1] ** 0.5

    def correlate(self, z: Tensor, z_: Tensor) -> Tensor:
        """Two embeddings (B, D) of the same images -> (), the loss of the N images of all processes.

        Rows are gathered, not correlations: lightly's own gathering normalizes by the images of each process alone.
        """
        from lightly.loss import BarlowTwinsLoss

        return BarlowTwinsLoss(self.redundancy)(dist.gather_rows(z), dist.gather_rows(z_))


def projector(inside: int, width: int, layers: int) -> nn.Module:
    """(B, inside) -> (B, width), without biases."""
    from lightly.models.modules.heads import ProjectionHead

    blocks: list[Any] = []
    for _ in range(layers - 1):
        blocks.append((inside, width, nn.BatchNorm1d(width), nn.ReLU(), False))
        inside = width
    return ProjectionHead([*blocks, (inside, width, None, None, False)])
