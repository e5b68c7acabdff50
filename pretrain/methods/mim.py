"""MIM: masked image modeling; parts of the image are masked, and the network predicts their pixels.

    SimMIM        any backbone     sees masked squares         one linear layer predicts
    MAE           a plain ViT      sees the other patches      a small transformer predicts
    masked Hiera  a Hiera          sees the other mask units   a small transformer predicts

Xie et al., "SimMIM", 2022; He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022; Ryali et al., "Hiera",
2023. The networks are in `pretrain/masked`; this module chooses between them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.hiera import has_units
from backbones.tokens import has_tokens
from pretrain.masked.hiera import MaskedHiera
from pretrain.masked.mae import MAE
from pretrain.masked.simmim import SimMIM
from pretrain.methods import Facts, Method, View, method
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from shared.feeding.pixels import Normalize
from shared.recipes.values import Count, CountOrNone, Layers, Probability, Ratio, Share, Width


class Variant(NamedTuple):
    """Defaults of a paper: mask ratio and crop."""

    net: type[nn.Module]
    ratio: float
    crop_scale: float
    bicubic: bool


VARIANTS = {
    "simmim": Variant(SimMIM, ratio=0.6, crop_scale=0.67, bicubic=False),
    "mae": Variant(MAE, ratio=0.75, crop_scale=0.2, bicubic=True),
    "hiera": Variant(MaskedHiera, ratio=0.6, crop_scale=0.2, bicubic=True),
}


TRAINED = {
    "by": "MAE's paper",
    "opt": "adamw",
    "betas": (0.9, 0.95),
    "lr": 1.5e-4,
    "lr_batch": 256,
    "wd": 0.05,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 0,
    "epochs": 800,
    "warmup_epochs": 40,
    "warmup_start": 0,
}


@method("mim", trained=TRAINED)
class MaskedImages(Method):
    """
    Args:
        variant: auto, simmim, mae or hiera; auto is mae for plain ViTs, hiera for Hieras, simmim for the rest.
        mask_ratio: fraction of masked places; by default 0.75 for mae, 0.6 for the others.
        mask_size: side in pixels of a masked square of simmim; 0 for 32, or less for small images.
        decoder_width: channels of the decoder of mae and hiera.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        norm_pixels: mae and hiera normalize the target pixels of each place by their own mean and std.
        xavier: initialize the weights of a ViT or Hiera as in MAE; not for pretrained ones.
        crop_scale: smallest area of a crop as a fraction of the image; by default 0.67 for simmim, 0.2 for others.
        crop_ratio: widest aspect ratio of a crop.
        hflip: probability of a horizontal flip.
        val_share: size of the validation crop as a fraction of the short side.
    """

    needs = "any backbone; a plain ViT or a Hiera computes only what it sees"

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        variant: Literal["auto", "simmim", "mae", "hiera"] = "auto",
        mask_ratio: Probability | None = None,
        mask_size: CountOrNone = 0,
        decoder_width: Width = 512,
        decoder_depth: Layers = 8,
        decoder_heads: Count = 16,
        norm_pixels: bool = True,
        xavier: bool = False,
        crop_scale: Share | None = None,
        crop_ratio: Ratio = 4 / 3,
        hflip: Probability = 0.5,
        val_share: Share = 0.875,
    ) -> None:
        super().__init__()
        kind = choose_variant(variant, backbone)
        paper = VARIANTS[kind]
        ratio = paper.ratio if mask_ratio is None else mask_ratio
        smallest = paper.crop_scale if crop_scale is None else crop_scale
        options: dict[str, Any] = {"cell": mask_size}
        if kind != "simmim":
            options = {"width": decoder_width, "depth": decoder_depth, "heads": decoder_heads}
            options |= {"norm_pixels": norm_pixels, "fresh": xavier}
        self.net = paper.net(backbone, facts.size, ratio=ratio, **options)
        self.normalize = Normalize(facts.pixels)
        self.size, self.hflip, self.val_share, self.bicubic = facts.size, hflip, val_share, paper.bicubic
        self.crop_scale, self.crop_ratio = smallest, crop_ratio

        self.backbone_calls = getattr(self.net, "backbone_calls", ())

    @property
    def backbone(self) -> Backbone:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.net.backbone  # type: ignore[return-value]

    def view(self) -> View:
        scale, ratio = (self.crop_scale, 1.0), (1 / self.crop_ratio, self.crop_ratio)
        crop = RandomResizedCrop(self.size, scale=scale, ratio=ratio, bicubic=self.bicubic)
        return Compose([crop, HorizontalFlip(self.hflip)])

    def val_view(self) -> View:
        return ResizeCenterCrop(self.size, share=self.val_share)

    def forward(self, batch: tuple[Tensor, Any]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) uint8, and labels, which are ignored."""
        return {"reconstruction": self.net(self.normalize(batch[0]))}


def choose_variant(asked: str, backbone: Backbone) -> str:
    """The requested variant, or for auto the one with the least computation."""
    if asked == "auto":
        return "mae" if has_tokens(backbone) else "hiera" if has_units(backbone) else "simmim"
    return asked
