"""MIM: parts of the image are hidden, and the network tells their pixels.

    SimMIM        any backbone     sees squares blanked        one linear layer predicts
    MAE           a plain ViT      sees the other patches      a small transformer predicts
    masked Hiera  a Hiera          sees the other mask units   a small transformer predicts

Xie et al., "SimMIM", 2022; He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022; Ryali et al., "Hiera",
2023. The pages of `pretrain/masked` are the networks; this one chooses between them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones.base import Backbone
from backbones.hiera import has_units
from backbones.tokens import has_tokens
from pretrain.masked.hiera import MaskedHiera
from pretrain.masked.mae import MAE
from pretrain.masked.simmim import SimMIM
from pretrain.methods import Facts, Method, View, method
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from shared.errors import UsageError
from shared.feeding.pixels import Normalize
from shared.recipes.registry import suggest


class Variant(NamedTuple):
    """What its paper hides and shows."""

    net: type[nn.Module]
    ratio: float
    crop_scale: float
    bicubic: bool


VARIANTS = {
    "simmim": Variant(SimMIM, ratio=0.6, crop_scale=0.67, bicubic=False),
    "mae": Variant(MAE, ratio=0.75, crop_scale=0.2, bicubic=True),
    "hiera": Variant(MaskedHiera, ratio=0.6, crop_scale=0.2, bicubic=True),
}


@method("mim")
class MaskedImages(Method):
    """
    Args:
        variant: auto, simmim, mae or hiera; auto is mae for plain ViTs, hiera for Hieras, simmim for the rest.
        mask_ratio: share of the places that are hidden; by default 0.75 for mae, 0.6 for the others.
        mask_size: pixels along a hidden square of simmim; 0 for 32, or less where fewer than six would fit.
        decoder_width: channels of the decoder of mae and hiera.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        norm_pixels: mae and hiera predict each place less its own mean, over its own deviation.
        xavier: draw the weights of a ViT or a Hiera anew, as mae and hiera do; not for one that has learnt already.
        crop_scale: smallest share of the image's area that a crop shows; by default 0.67 for simmim, 0.2 for others.
        crop_ratio: widest aspect ratio of a crop.
        hflip: probability that a crop is mirrored.
        val_share: share of the short side that the validation crop shows.
    """

    needs = "any backbone; a plain ViT or a Hiera computes only what it sees"

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        variant: str = "auto",
        mask_ratio: float | None = None,
        mask_size: int = 0,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_pixels: bool = True,
        xavier: bool = False,
        crop_scale: float | None = None,
        crop_ratio: float = 4 / 3,
        hflip: float = 0.5,
        val_share: float = 0.875,
    ) -> None:
        super().__init__()
        kind = choose_variant(variant, backbone)
        paper = VARIANTS[kind]
        ratio = paper.ratio if mask_ratio is None else mask_ratio
        smallest = paper.crop_scale if crop_scale is None else crop_scale
        check(mask_ratio=ratio, crop_scale=smallest, hflip=hflip, val_share=val_share)
        if crop_ratio < 1:
            raise UsageError(f"crop_ratio is {crop_ratio}; it is 1 or more")
        options: dict[str, Any] = {"cell": mask_size}
        if kind != "simmim":
            options = {"width": decoder_width, "depth": decoder_depth, "heads": decoder_heads}
            options |= {"norm_pixels": norm_pixels, "fresh": xavier}
        self.net = paper.net(backbone, facts.size, ratio=ratio, **options)
        self.normalize = Normalize(facts.pixels)
        self.size, self.hflip, self.val_share, self.bicubic = facts.size, hflip, val_share, paper.bicubic
        self.crop_scale, self.crop_ratio = smallest, crop_ratio

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
        """Images (B, 3, H, W) uint8, and labels that are left alone."""
        return {"reconstruction": self.net(self.normalize(batch[0]))}


def choose_variant(asked: str, backbone: Backbone) -> str:
    """The variant asked for, or the one that shows the backbone the least.

    Raises:
        UsageError: no such variant.
    """
    if asked == "auto":
        return "mae" if has_tokens(backbone) else "hiera" if has_units(backbone) else "simmim"
    if asked not in VARIANTS:
        known = ["auto", *VARIANTS]
        raise UsageError(f"no variant '{asked}' of mim{suggest(asked, known)}; there are {', '.join(known)}")
    return asked


def check(**shares: Any) -> None:
    """Raise UsageError for what is not a share."""
    for name, share in shares.items():
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise UsageError(f"{name} is {share}; it is a share, from 0 to 1")
