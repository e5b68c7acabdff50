"""Facts about the objects of a training set: balance of the classes, sizes, and sizes as the network sees them."""

from __future__ import annotations

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from detection.data.augment.presets import Augmentation, build_augment
from detection.nets import default_size, resize_rule
from detection.training.data_notes import sides_seen
from shared.errors import plural
from shared.findings import Sheet

MOST = 5  # classes of a list
EDGES = (32**2, 96**2)  # pixels: COCO's small, medium and large
ANCHORS, RATIOS = 32.0 * 2.0 ** (np.arange(15) / 3), np.array([0.5, 1.0, 2.0])  # RetinaNet's sides and shapes
SAMPLED = 50_000  # objects that are compared with anchors, spread over the file
MATCHED = 0.5  # overlap from which an anchor is the object's


def balance(table: CocoTable, targets: np.ndarray) -> list[str]:
    """Objects of the most and the least frequent classes."""
    counts = {number: 0 for number in table.categories}
    for number, count in zip(*np.unique(table.category_ids[targets], return_counts=True), strict=True):
        counts[int(number)] = int(count)
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = ordered if len(ordered) <= 2 * MOST else [*ordered[:MOST], *ordered[-MOST:]]
    width = max(len(f"{count:,}") for _, count in shown)
    lines = [f"{count:>{width},}  {table.categories[number]}" for number, count in shown]
    if len(shown) < len(ordered):
        lines.insert(MOST, f"{'...':>{width}}  {plural(len(ordered) - len(shown), 'class')}")
    least = min((count for _, count in ordered if count), default=0)
    if least and len(ordered) > 1:
        lines.append(f"the most frequent class has {ordered[0][1] / least:,.0f} times the objects of the rarest")
    return lines


def amounts(table: CocoTable, targets: np.ndarray) -> list[str]:
    """Objects of an image, and COCO's sizes."""
    per_image = np.bincount(table.image_of[targets], minlength=len(table.image_ids))
    small, medium = (float((table.areas[targets] < edge).mean()) for edge in EDGES)
    return [
        f"objects of an image: {per_image.mean():.1f} on average, at most {per_image.max():,}, "
        f"none in {plural(int((per_image == 0).sum()), 'image')}",
        f"areas: {small:.0%} small, {medium - small:.0%} medium, {1 - medium:.0%} large, as COCO divides them",
        f"crowds: {int(table.crowd.sum()):,}",
    ]


def examine_sizes(
    table: CocoTable, targets: np.ndarray, network: str, size: tuple[int, int] | None, longest: int | None, sheet: Sheet
) -> list[str]:
    """Sizes of objects as a network sees them; a finding about those smaller than a pixel.

    Args:
        size: (height, width) of its input; None for the network's own.
        longest: longest side, for sizes that keep the aspect ratio.
    """
    size = size or default_size(network)
    seen_by = build_augment("hflip", size=size, max_size=longest, resize_rule=resize_rule(network), train=False)
    if not isinstance(seen_by, Augmentation):
        return []
    sides = sides_seen(table, seen_by.output)[targets]
    lost = int((sides < 1).any(axis=1).sum())
    where = f"{size[0]}x{size[1]}" if longest is None else f"at most {longest}"
    what = f"{plural(lost, 'object')} less than a pixel wide or high at {where} pixels, the input of {network}"
    sheet.add("object-too-small", "training", what, lost)
    roots = np.sqrt(sides.prod(axis=1))
    low, middle, high = np.quantile(roots, (0.05, 0.5, 0.95)).tolist()
    return [
        f"at {where} pixels, square roots of areas: {low:.0f} (5 %), {middle:.0f} (median), {high:.0f} (95 %)",
        f"best overlap with an anchor of RetinaNet's sizes and shapes, wherever it stands: at least {MATCHED} for "
        f"{(best_overlap(sides[:: len(sides) // SAMPLED + 1]) >= MATCHED).mean():.1%}",
    ]


def best_overlap(sides: np.ndarray) -> np.ndarray:
    """(N, 2) widths and heights -> (N,) the best overlap with an anchor about the same center."""
    wide, high = (np.outer(ANCHORS, ratio).ravel() for ratio in (RATIOS**-0.5, RATIOS**0.5))
    best = np.zeros(len(sides))
    for width, height in zip(wide.tolist(), high.tolist(), strict=True):
        both = np.minimum(sides[:, 0], width) * np.minimum(sides[:, 1], height)
        best = np.maximum(best, both / (sides.prod(axis=1) + width * height - both))
    return best
