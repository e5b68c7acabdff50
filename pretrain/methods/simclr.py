"""SimCLR: of all views in a batch, which one is of the same image?

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", 2020.

    image -> two crops -> colors of each -> backbone -> vector -> projection -> directions z, z'
    z against the 2N - 1 other directions of all processes: cosine / temperature -> cross-entropy with z' as the answer

Projection and loss are lightly's. Shape letters: B images of a process, N of all, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from pretrain.joint.pair import Pair, blur_range, has_batch_norm, insist_on_two
from pretrain.methods import Facts, Method, View, method
from pretrain.views.color import Color
from pretrain.views.crops import ResizeCenterCrop
from shared.devices import dist
from shared.feeding.pixels import Normalize
from shared.recipes.values import Layers, Probability, Scale, Share, Width

TRAINED = {
    "by": "its paper",
    "opt": "lars",
    "lr": 0.3,
    "lr_batch": 256,
    "wd": 1e-6,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "epochs": 1000,
    "warmup_epochs": 10,
    "warmup_start": 0,
    "sync_bn": True,
}


@method("simclr", trained=TRAINED)
class SimCLR(Method):
    """
    Args:
        projection_width: channels of the projection's hidden layers.
        projection_layers: its linear layers, two in the paper and three in SimCLR v2.
        projection_norm: batch norm after each of them.
        embedding_width: channels of what is compared.
        temperature: of the cosines; the paper's best is 0.1 with long training and large batches.
        crop_scale: smallest area of a view as a fraction of the image.
        hflip: probability of a horizontal flip.
        jitter: probability of color jitter.
        jitter_strength: 1 for factors of brightness, contrast and saturation within 0.8 of 1, and hue within 0.2 of
            a turn; the paper uses 0.5 for CIFAR-10.
        gray: probability of grayscale.
        blur: probability of Gaussian blur, std 0.1 to 2 pixels at 224 and proportional otherwise.
    """

    needs = "any backbone; two images or more in a batch"
    compares_images = True
    graphs = ("look",)

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        projection_width: Width = 2048,
        projection_layers: Layers = 2,
        projection_norm: bool = True,
        embedding_width: Width = 128,
        temperature: Scale = 0.1,
        crop_scale: Share = 0.08,
        hflip: Probability = 0.5,
        jitter: Probability = 0.8,
        jitter_strength: Share = 1.0,
        gray: Probability = 0.2,
        blur: Probability = 0.5,
    ) -> None:
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__()
        self.backbone = backbone
        widths = (backbone.width, projection_width, embedding_width)
        self.projection = SimCLRProjectionHead(*widths, num_layers=projection_layers, batch_norm=projection_norm)
        self.normalize = Normalize(facts.pixels)
        self.temperature = temperature
        strengths = (0.8 * jitter_strength, 0.8 * jitter_strength, 0.8 * jitter_strength, 0.2 * jitter_strength)
        color = Color(jitter, gray, blur, strengths=strengths, sigma=blur_range(facts.size))
        self.pair = Pair(facts.size, color, color, crop_scale, hflip)

    def view(self) -> View:
        return self.pair.crops()

    def val_view(self) -> View:
        return ResizeCenterCrop(self.pair.size)

    def check_batch(self, images: int) -> None:
        insist_on_two("SimCLR", images, alone=has_batch_norm(self.projection))

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Two views (B, 3, H, W) uint8 of the same images, and labels, which are ignored."""
        crops, _ = batch
        self.check_batch(len(crops[0]))
        z = self.look(torch.cat(self.pair(crops, self.normalize)))
        with torch.autocast(z.device.type, enabled=False):
            return {"contrast": self.contrast(*z.float().chunk(2))}

    def look(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D)"""
        return self.projection(self.backbone(x))

    def embed(self, vectors: Tensor) -> Tensor:
        z = self.projection(vectors)
        return F.normalize(z, dim=1) * z.shape[1] ** 0.5

    def contrast(self, z: Tensor, z_: Tensor) -> Tensor:
        """Two embeddings (B, D) of the same images -> (); its mean over the processes is the loss of the N images."""
        from lightly.loss import NTXentLoss

        return NTXentLoss(self.temperature, gather_distributed=dist.world() > 1)(z, z_)
