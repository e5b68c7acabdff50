"""Large photographs in overlapping tiles at their own resolution: `detect predict --tiles SIZE`.

photograph -> windows: the whole, and tiles -> find in each -> moved into the photograph -> merged -> Detections

    merged      the network's NMS, per class and with its IoU threshold, over the detections of all windows
    cut boxes   those at an edge where their tile cuts the photograph: a part of an object, probably. Their score counts
                half in merging, and they are dropped where a better box of their class covers them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detection.data.augment.geometry import size_of
from detection.data.augment.sizes import Size
from detection.inference.trained import Trained
from detection.nets import detector
from detection.types import Detections
from shared.errors import UsageError
from shared.weights.card import Card

OVERLAP = 0.2  # of a tile and the next, as a share of a tile's side
IOU = 0.6  # above which two boxes are one object, for networks without an NMS of one threshold: DETRs, soft NMS
EDGE = 0.01  # boxes that end within this share of a tile's side from its edge are cut by it
CUT = 0.5  # what the score of a cut box counts in merging
AT_ONCE = 64  # cut boxes that are compared with all others at once


class Tiles(NamedTuple):
    """How a photograph is cut, and its detections merged.

    size: (height, width) of a tile in pixels of the photograph.
    overlap: of neighbors at least, as a share of their sides. Objects of at most this size are whole in a tile.
    iou: above which two boxes of a class are one object.
    """

    size: Size
    overlap: float = OVERLAP
    iou: float = IOU


def tiles_for(trained: Trained, size: int | Sequence[int], overlap: float | None = None) -> Tiles:
    """Tiles merged by the IoU threshold of the network's NMS, or `IOU`; they overlap by `OVERLAP` for None.

    Args:
        size: height and width in pixels of the photograph, or the side of squares.

    Raises:
        UsageError: a panoptic network, whose segments are those of whole photographs, or a number out of range.
    """
    overlap = OVERLAP if overlap is None else overlap
    if trained.isthing is not None and "masks" in trained.finds:
        raise UsageError(f"{trained.exported.card.args['network']} segments whole photographs; leave out the tiles")
    sides = (size,) if isinstance(size, int) else tuple(size)
    if len(sides) not in (1, 2) or not (32 <= min(sides) <= max(sides) <= 16_384 and 0 <= overlap <= 0.9):
        raise UsageError(
            f"tiles of {' x '.join(map(str, sides))} pixels that overlap by {overlap:g} cannot be made; give one or "
            f"two sides of 32 to 16384 pixels, and a share from 0 to 0.9"
        )
    return Tiles((sides[0], sides[-1]), overlap, own_iou(trained.exported.card))


def own_iou(card: Card) -> float:
    """The IoU threshold of the NMS of a network with its options, or `IOU` if it has no such option."""
    option = detector.options(card.args["network"]).get("nms_iou")
    return IOU if option is None else float(card.args.get("network_args", {}).get("nms_iou", option.default))


def windows(size: Size, tiles: Tiles) -> list[tuple[int, int, int, int]]:
    """x0 y0 x1 y1 of the whole photograph of (height, width) `size`, and of the tiles, evenly spaced, if it is larger
    than one."""
    height, width = size
    rows, columns = (starts(length, side, tiles.overlap) for length, side in zip(size, tiles.size, strict=True))
    whole = (0, 0, width, height)
    if len(rows) == len(columns) == 1:
        return [whole]
    down, across = tiles.size
    return [whole, *((x, y, min(x + across, width), min(y + down, height)) for y, x in product(rows, columns))]


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles of a side begin along so many pixels: the first at 0, the last ends with them."""
    beyond = max(length - side, 0)
    steps = math.ceil(beyond / max(side * (1 - overlap), 1))
    return [round(beyond * i / max(steps, 1)) for i in range(steps + 1)]


def in_tiles(picture: Tensor, tiles: Tiles, find: Callable[[Tensor], Detections]) -> Detections:
    """The detections of a photograph and of its tiles, each object once, best first, in pixels of the photograph.

    Args:
        picture: (3, H, W) uint8 RGB.
        find: detections of such a picture in its own pixels, on the CPU; those of the photograph itself are returned as
            they are if it fits into a tile.
    """
    size = size_of(picture)
    places = windows(size, tiles)
    if len(places) == 1:
        return find(picture)
    found = [find(picture[:, y0:y1, x0:x1].contiguous()) for x0, y0, x1, y1 in places]
    moved = [moved_by(one, place[:2]) for one, place in zip(found, places, strict=True)]
    cut = [is_cut(one["boxes"], place, size) for one, place in zip(moved, places, strict=True)]
    return merged(joined(moved), torch.cat(cut), tiles.iou)


def moved_by(found: Detections, offset: Sequence[int]) -> Detections:
    """Detections moved right and down. offset: (x, y) in pixels."""
    x, y = offset
    moved = Detections(**found)
    moved["boxes"] = found["boxes"] + found["boxes"].new_tensor([x, y, x, y])
    if "keypoints" in found:
        moved["keypoints"] = found["keypoints"] + found["keypoints"].new_tensor([x, y, 0])
    return moved


def joined(parts: list[Detections]) -> Detections:
    """The detections of several windows in one; the mask of each is over its own box, wherever that is."""
    every: Any = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}  # type: ignore[literal-required]
    return every


def is_cut(boxes: Tensor, window: tuple[int, int, int, int], size: Size) -> Tensor:
    """(M,) bool: boxes (M, 4) that end at an edge of their window inside the photograph of (height, width) `size`."""
    x0, y0, x1, y1 = window
    height, width = size
    across, down = EDGE * (x1 - x0), EDGE * (y1 - y0)
    left, top, right, bottom = boxes.unbind(1)
    across_edges = ((left < x0 + across) & (x0 > 0)) | ((right > x1 - across) & (x1 < width))
    return across_edges | ((top < y0 + down) & (y0 > 0)) | ((bottom > y1 - down) & (y1 < height))


def merged(found: Detections, cut: Tensor, iou: float) -> Detections:
    """The detections of all windows, each object once, best first.

    Args:
        found: M of them, in pixels of the photograph.
        cut: (M,) bool.
        iou: above which two boxes of a class are one object; a cut box is one with a better box that covers more than
            this share of it.
    """
    boxes, scores = found["boxes"].double(), found["scores"].double()  # float32 has no room for classes times pixels
    kept = batched_nms(boxes, torch.where(cut, CUT * scores, scores), found["labels"], iou)
    whole = kept[~covered(boxes[kept], found["labels"][kept], cut[kept], iou)]
    order = whole[scores[whole].argsort(descending=True, stable=True)]
    return Detections(**{name: value[order] for name, value in found.items()})  # type: ignore[index, typeddict-item]


def covered(boxes: Tensor, labels: Tensor, cut: Tensor, share: float) -> Tensor:
    """(M,) bool: cut boxes of which more than a share lies in an earlier box of the same class."""
    hidden = torch.zeros_like(cut)
    for some in cut.nonzero().flatten().split(AT_ONCE):
        low = torch.maximum(boxes[some, None, :2], boxes[:, :2])
        high = torch.minimum(boxes[some, None, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        area = (boxes[some, 2:] - boxes[some, :2]).prod(-1)
        earlier = torch.arange(len(boxes)) < some[:, None]
        mostly = (shared > share * area[:, None]) & (labels == labels[some, None]) & earlier
        hidden[some] = mostly.any(1)
    return hidden
