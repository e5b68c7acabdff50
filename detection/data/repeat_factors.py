"""How often training images of rare classes come.

    share of the images that have class c: f_c    ->  r_c = max(1, sqrt(threshold / f_c))
    classes of an image                           ->  r = the largest of its r_c, 1 without any

Gupta, Dollar, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", 2019, section 5, threshold 0.001.
`shared.feeding.repeat` makes epochs of a fixed length of it.
"""

from __future__ import annotations

import numpy as np

from detection.data.coco import CocoDetection
from shared.errors import plural


def repeat_factors(data: CocoDetection, threshold: float) -> np.ndarray:
    """(N,) float64 of at least 1: how often each image comes in an epoch.

    Args:
        threshold: share of the images, from 0 to 1; images of classes that fewer images have come more often.
    """
    rows = np.flatnonzero(data.is_target)
    image_of, labels = data.table.image_of[rows], data.labels[rows].astype(np.int64)
    images_with = np.bincount(
        np.unique(image_of.astype(np.int64) * len(data.classes) + labels) % len(data.classes), minlength=1
    )
    shares = images_with / len(data)
    of_class = np.sqrt(np.divide(threshold, shares, out=np.ones_like(shares), where=shares > 0)).clip(min=1)
    factors = np.ones(len(data))
    np.maximum.at(factors, image_of, of_class[labels])
    return factors


def note_on_repeats(factors: np.ndarray, threshold: float) -> str:
    """What the factors do to an epoch."""
    more, total = int((factors > 1).sum()), max(1, round(float(factors.sum())))
    if not more:
        return f"--repeat-threshold {threshold:g} repeats no image: no class is in fewer of them"
    times = f"{'comes' if more == 1 else 'come'} up to {factors.max():.1f} times an epoch"
    return (
        f"{plural(more, 'image')} of rare classes {times} (--repeat-threshold {threshold:g}), so an epoch has "
        f"{total:,} images instead of {len(factors):,}"
    )
