"""Teachers that stay as they are: networks of a tag or of published weights, looked up and never changed.

    --teacher-tag TAG [--teacher BACKBONE]     a tag, whose weights load completely
    --teacher timm:NAME                        timm's published weights
    --teacher untrained:NAME                   random weights, to try a command
        -> Teacher: pixels of the batch -> map, vector

A teacher is no module of the task: it is in no state, export or average, and its first call moves it to the device of
the batch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones import build_backbone
from backbones.base import Backbone
from backbones.inherit import fill, rebuild
from backbones.reach import join_passes
from shared.errors import UsageError
from shared.feeding.pixels import Normalize, PixelStats, pixel_stats
from shared.weights.card import Exported, expected_pixels
from shared.weights.store import Store

log = logging.getLogger(__name__)
PUBLISHED, UNTRAINED = "timm:", "untrained:"


class Teacher:
    """A frozen network in evaluation mode.

    Args:
        net: the network; its gradients are switched off.
        pixels: mean and std of its input.
        name: of its weights, with the digest of an export, so that another teacher has another name.
        size: (height, width) of its images; None for those of the batch.
        exported: its export; None for published weights.
    """

    def __init__(
        self, net: Backbone, pixels: PixelStats, name: str, size: tuple[int, int], exported: Exported | None = None
    ) -> None:
        self.net, self.normalize = net.requires_grad_(False).eval(), Normalize(pixels)
        self.name, self.size, self.exported = name, net.only or size, exported
        join_passes(net, self.size)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self  # it never changes, so copies of the task share it

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) from 0 to 255 -> its coarsest map (B, C, h, w), its vector (B, width)"""
        if self.normalize.mean.device != pixels.device:
            self.net.to(pixels.device)
            self.normalize.to(pixels.device)
        x = self.normalize(pixels)
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True)
        return self.net.forward_both(x)


def find_teacher(asked: str | None, tag: str | None, weights_dir: Path | None, size: tuple[int, int]) -> Teacher:
    """The teacher that --teacher and --teacher-tag name.

    Args:
        weights_dir: folder of the exported weights.
        size: (height, width) of its images, unless it accepts one size only.

    Raises:
        UsageError: no teacher, two teachers, or an unknown name.
        WeightsError: no such tag, or weights that do not load.
    """
    word = asked or ""
    if word.startswith((PUBLISHED, UNTRAINED)):
        if tag is not None:
            raise UsageError(
                f"--teacher {word} and --teacher-tag {tag} are two teachers; keep one, or give --teacher the "
                f"backbone that has the tag"
            )
        kind, _, name = word.partition(":")
        net = build_backbone(name, pretrained=kind == "timm")
        return Teacher(net, net.pixels or pixel_stats("imagenet"), word, size)
    if tag is None:
        raise UsageError(
            "distill needs a teacher; give --teacher-tag TAG, or --teacher timm:NAME for timm's published weights"
        )
    store = Store(weights_dir or Path("weights"))
    exported = store.find(asked, tag)
    net = rebuild(exported.card)
    log.info("teacher %s", fill(store, net, exported))
    name = f"{exported.card.arch} {exported.card.tag}@{exported.digest}"
    return Teacher(net, expected_pixels(exported), name, size, exported)
