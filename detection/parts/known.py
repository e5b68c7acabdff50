"""Classes that an image's file does not annotate, where several files with one joined list of classes are trained on.

A place without an object may show one of a class that the file does not list, so it says nothing about that class: its
logit there is set to "never", with no gradient. Sigmoids of these classes then cost nothing, and a softmax chooses
among the classes that are known and background.

Shape letters: B images, P places of an image, K classes, R regions of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.types import Target

NEVER = -1e4  # a logit; in every precision a probability of 0 and a loss of 0


def unknown_of(targets: Sequence[Target]) -> Tensor | None:
    """(B, K) bool: classes that the file of each image does not annotate; None if all are known."""
    known = [target.get("known") for target in targets]
    some = next((one for one in known if one is not None), None)
    if some is None:
        return None
    return ~torch.stack([torch.ones_like(some) if one is None else one for one in known])


def hidden(
    logits: Tensor,
    empty: Tensor,
    unknown: Tensor | None,
    *,
    background: Literal["first", "last"] | None = None,
    image_of: Tensor | None = None,
) -> Tensor:
    """The logits, where there is no object with those of unknown classes at "never".

    Args:
        logits: (..., B, P, K), or (R, K) with `image_of`; K + 1 with a column for background.
        empty: the same without K, bool: places without an object.
        unknown: (B, K) bool, or None, of `unknown_of`.
        background: where its column is.
        image_of: (R,) the image of each region.
    """
    if unknown is None:
        return logits
    if background is not None:
        unknown = F.pad(unknown, (1, 0) if background == "first" else (0, 1))
    unknown = unknown[:, None] if image_of is None else unknown[image_of]
    return logits.masked_fill(empty[..., None] & unknown, NEVER)
