"""COCO's panoptic format: every pixel belongs to a thing, to stuff, or is void.

    panoptic.json: segments of each image, and which categories are things --+
    panoptic/*.png: segment id of each pixel --------------------------------+-> PanopticDetection.load(index)
    images ------------------------------------------------------------------+   uint8 (3, H, W), boxes, labels, masks

A segment is a target with the bounding box of its mask; crowd segments are not targets. The id map is transformed
lazily, as rows and columns, so that masks are made once, after the augmentation.

Kirillov, He, Girshick, Rother, Dollar, "Panoptic Segmentation", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.files import json_or_gz
from detection.data.annotations.json_values import without_json
from detection.data.annotations.panoptic_json import (
    IDS,
    NO_SEGMENT,
    Segment,
    check_ids,
    check_pngs,
    read_ids,
    read_panoptic,
)
from detection.data.augment.presets import Augment
from detection.data.coco import CocoDetection, CocoTarget
from detection.data.masks.silhouettes import Silhouettes
from shared.errors import DataError


class PanopticDetection(CocoDetection):
    """Images with a mask for each thing and each class of stuff.

    Args:
        images: the folder that file names are relative to.
        annotations: the panoptic JSON.
        classes: label space, matched by name; None for the file's own categories.
        augment: called with (uint8 (3, H, W), target, rng) after decoding.
        pngs: the folder of the PNGs; None for the one next to the JSON with its name.
        categories: JSON list of categories with `isthing`, if the annotations lack it; None looks for COCO's
            next to them.
        finds: "masks" to include them in targets.
        The others are those of CocoDetection.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path,
        classes: ClassMap | None = None,
        augment: Augment | None = None,
        *,
        pngs: Path | None = None,
        categories: Path | None = None,
        finds: Sequence[str] = (),
        **options: Any,
    ) -> None:
        annotations = Path(annotations)
        self.book = read_panoptic(annotations, categories)
        self.pngs = without_json(annotations) if pngs is None else Path(pngs)
        check_pngs(self.book, self.pngs)
        super().__init__(images, annotations, classes, augment, **options)
        self.finds = tuple(finds)

    def table_of(self, annotations: Path | None) -> CocoTable:
        return self.book.table

    @property
    def isthing(self) -> list[bool]:
        """By label; True for classes without a category in the file."""
        if self.classes.everything:
            return [True]
        return [self.book.things.get(category, True) for category in self.classes.source_ids]

    def _target(self, index: int) -> CocoTarget:
        target = super()._target(index)
        rows = np.arange(self.first[index], self.first[index + 1])
        ids, segments = self.truth(index)
        tiles = Tiles.of(ids, [segments[i].id for i in np.flatnonzero(self.is_target[rows])])
        target["boxes"] = tiles.boxes()
        if "masks" in self.finds:
            target["masks"] = cast(Tensor, tiles)
        return target

    def truth(self, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
        """(H, W) int32 segment id of each pixel, and the segments.

        Raises:
            DataError: the PNG is damaged, has another size than its image, or other ids than the JSON.
        """
        image_id = int(self.table.image_ids[index])
        path, segments = self.pngs / self.book.pngs[image_id], self.book.segments[image_id]
        ids = read_ids(path, self.height_width(index))
        check_ids(ids, segments, path, self.table.path)
        return ids, segments

    def ground_truth(self) -> dict[str, Any]:
        """The ground truth of things only, for COCO's box evaluation."""
        truth = super().ground_truth()
        things = {category for category, thing in zip(self.classes.source_ids, self.isthing, strict=True) if thing}
        return {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] in things]}


@dataclass(frozen=True)
class Tiles(Silhouettes):
    """Disjoint masks of one image, stored as one id map."""

    map: np.ndarray  # (H, W): segment id of each pixel of the stored image

    @classmethod
    def of(cls, ids: np.ndarray, numbers: Sequence[int]) -> Tiles:
        height, width = ids.shape
        whole = torch.arange(height), torch.arange(width)
        return cls(cast(Any, None), np.array(numbers, np.int64), (height, width), *whole, ids)

    def pixels(self) -> Tensor:
        rows, columns = self.rows.numpy(), self.columns.numpy()
        seen = self.map.take(rows.clip(0), axis=0).take(columns.clip(0), axis=1)
        seen = np.where((rows >= 0)[:, None] & (columns >= 0), seen, NO_SEGMENT)
        return torch.from_numpy(seen == self.numbers[:, None, None]).to(torch.uint8)

    def boxes(self) -> Tensor:
        """(N, 4) float32: the bounding box of each mask in the stored image."""
        order = np.argsort(self.numbers)
        known = np.append(self.numbers[order], IDS)
        place = np.searchsorted(known, self.map)
        found = find_objects(np.where(known[place] == self.map, place + 1, 0), max_label=len(order))
        boxes = torch.zeros(len(order), 4)
        for number, (rows, columns) in zip(order.tolist(), found, strict=True):
            boxes[number] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop])
        return boxes


def panoptic_layout(root: Path, split: str) -> tuple[Path, Path]:
    """Paths of a split ('train' or 'val') in a data set folder: its images and its panoptic JSON, PNGs next to that.

        ROOT/val2017, or val    ROOT/annotations/panoptic_val2017.json    ROOT/annotations/panoptic_val2017/*.png
        ROOT/input_images       ROOT/panoptic_examples.json               ROOT/panoptic_examples/*.png, as the format's
                                                                          own sample, whatever the split

    Raises:
        DataError: it has none of these layouts.
    """
    root = Path(root)
    layouts = [(root / name, root / "annotations" / f"panoptic_{name}.json") for name in (f"{split}2017", split)]
    for images, plain in (*layouts, (root / "input_images", root / "panoptic_examples.json")):
        if images.is_dir() and (file := json_or_gz(plain)).is_file():
            return images, file
    raise DataError(
        f"{root} is not a COCO panoptic folder: it has neither {split}2017/ with annotations/panoptic_{split}2017.json "
        f"nor {split}/ with annotations/panoptic_{split}.json; give images and JSON with --data-path and "
        f"--coco-json-path"
    )
