"""The keypoint head of Mask R-CNN.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017, section 5.

    positive boxes -> RoIAlign, 14 x 14 -> convolutions -> upsampled twice -> a heatmap per keypoint, 56 x 56

The target is one cell of the heatmap, with a softmax over 56 x 56 cells. At inference, the heatmap is resized to its
box and its maximum taken. Names and weights are those of torchvision's keypoint_head and
keypoint_predictor. Shape letters: R boxes, K keypoints, G cells along a side of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from backbones.base import MapInfo
from detection.parts.fixed import shapes_are_fixed
from detection.parts.roi.rcnn import Matched, together
from detection.parts.roi.roi_align import PyramidRoIAlign
from detection.types import Detections, Images, Target
from shared.devices.device import sent

CUT = 14  # output size of RoIAlign
CELLS = 4 * CUT


def add_keypoint_head(
    roi_heads: RoIHeads, maps: Sequence[MapInfo], num_keypoints: int, *, width: int, depth: int
) -> None:
    """Add a keypoint head to RoI heads; RoIAlign uses all levels but the pooled one.

    Args:
        width: channels of the convolutions.
        depth: number of convolutions.
    """
    roi_heads.keypoint_roi_pool = PyramidRoIAlign(maps[:-1], CUT)
    roi_heads.keypoint_head = KeypointRCNNHeads(maps[0].channels, [width] * depth)
    roi_heads.keypoint_predictor = Heatmaps(width, num_keypoints)


def keypoint_loss(
    roi_heads: Any, maps: list[Tensor], images: Images, matched: Matched, targets: list[Target]
) -> Tensor:
    """Cross-entropy over the cells of the heatmaps of keypoints that are labeled and inside the box."""
    of_image = [target["keypoints"] for target in targets]  # type: ignore[typeddict-item]
    starts = sent(np.cumsum([0, *(len(points) for points in of_image[:-1])]), matched.objects.device)
    known = torch.cat(of_image)[starts[matched.images] + matched.objects]
    cells, inside = cells_of(known, matched.boxes, CELLS)
    wanted = inside.nonzero().unbind(1)
    x = look_closer(roi_heads, maps, matched.boxes, matched.images)
    heatmaps = roi_heads.keypoint_predictor(x, wanted).float().flatten(1)
    return F.cross_entropy(heatmaps, cells[wanted], reduction="sum") / max(1, len(heatmaps))


def with_keypoints(roi_heads: Any, maps: list[Tensor], images: Images, found: list[Detections]) -> list[Detections]:
    """Add keypoints to detections, or, in fixed shapes, heatmaps, since `highest` makes one of each box's size."""
    boxes = [one["boxes"] for one in found]
    heatmaps = roi_heads.keypoint_predictor(look_closer(roi_heads, maps, *together(boxes))).float()
    if shapes_are_fixed():
        each = heatmaps.split([len(b) for b in boxes])
        return [{**one, "heatmaps": part} for one, part in zip(found, each, strict=True)]
    parts = highest(heatmaps, torch.cat(boxes)).split([len(b) for b in boxes])
    return [{**one, "keypoints": part} for one, part in zip(found, parts, strict=True)]


def look_closer(roi_heads: Any, maps: list[Tensor], boxes: Tensor, of_image: Tensor) -> Tensor:
    """Boxes (R, 4) and the image of each (R,) -> (R, width, 14, 14)"""
    return roi_heads.keypoint_head(roi_heads.keypoint_roi_pool.cut(maps, boxes, of_image))


class Heatmaps(KeypointRCNNPredictor):
    """torchvision's KeypointRCNNPredictor that can compute a subset of heatmaps."""

    def forward(self, x: Tensor, wanted: tuple[Tensor, ...] | Tensor | None = None) -> Tensor:
        """(R, C, 14, 14) -> (R, K, 56, 56); or with the indices or a mask (R, K) of wanted ones -> (V, 56, 56)"""
        coarse = self.kps_score_lowres(x)
        if wanted is not None:
            coarse = coarse[wanted][:, None]
        fine = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return fine if wanted is None else fine[:, 0]


def cells_of(keypoints: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Keypoints (R, K, 3), boxes (R, 4) -> cell index (R, K) in a grid over the box, row by row; validity (R, K).

    Valid keypoints are labeled and inside the box. Those on its right or lower edge are in the last cell.
    """
    first, last = boxes[:, None].split(2, 2)
    at = keypoints[..., :2]
    cell = ((at - first) * (side / (last - first))).floor().long()
    cell = torch.where(at == last, side - 1, cell)
    inside = ((cell >= 0) & (cell < side)).all(2) & (keypoints[..., 2] > 0)
    return cell[..., 1] * side + cell[..., 0], inside


def highest(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """(R, K, G, G), boxes (R, 4) -> (R, K, 3) as x y in pixels and the logit of the maximum.

    Heatmaps are resized to the box in pixels, rounded up, by separable bicubic interpolation.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    found = heatmaps.new_zeros(*heatmaps.shape[:2], 3)
    for one, heatmap, (width, height) in zip(found, heatmaps, pixels.long().tolist(), strict=True):
        wide = heatmap @ cubic(heatmap.shape[-1], width, heatmap).T
        one[:, 2], place = (cubic(heatmap.shape[-1], height, heatmap) @ wide).flatten(1).max(1)
        one[:, 0], one[:, 1] = place % width, place // width
    found[..., :2] = (found[..., :2] + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2]
    return found


def cubic(cells: int, pixels: int, like: Tensor) -> Tensor:
    """Bicubic interpolation matrix (pixels, cells)."""
    cell = torch.eye(cells, dtype=like.dtype, device=like.device)
    return F.interpolate(cell[None, None], size=(pixels, cells), mode="bicubic", align_corners=False)[0, 0]
