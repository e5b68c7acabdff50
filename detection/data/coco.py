"""Photographs with boxes: the samples of a detector, from COCO JSON and an image folder, or from shards of both.

    instances.json, or shards -> CocoTable --+-- ClassMap: source category ids <-> labels from 0
    photographs, or shards ------------------+-> CocoDetection.load(index) -> uint8 (3, H, W), boxes, labels

Boxes are clipped to their image; those narrower than a pixel after that are no targets. Crowd regions and exact
duplicates are no targets either; all stay for evaluation. Boxes are in stored pixels, so photographs are not turned
upright.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations import CocoTable, exact_duplicates, read_coco
from detection.data.batch import collate
from detection.data.classes import ClassMap
from detection.data.files import coco_layout, find_photographs
from detection.data.shards import read_shards, shards_of
from detection.types import Target
from shared.errors import BadSample, DataError
from shared.image import BadImage, decode_image
from shared.tar import OpenFiles

__all__ = ["ClassMap", "CocoDetection", "coco_layout"]

Augment = Callable[[Tensor, Target, np.random.Generator], tuple[Tensor, Target]]


class CocoTarget(Target):
    """A target that knows which image of the file it belongs to."""

    image_id: int


class CocoDetection:
    """Photographs with boxes, by position. A `Samples` of `shared.feed`.

    Args:
        images: the folder that the file names start from, or a folder of shards.
        annotations: the COCO JSON; None where `images` are shards, which hold their own.
        classes: label space to use, matched by name; None takes the file's own categories.
        augment: called with (uint8 (3, H, W), target, rng) after decoding.
        ignore_file: names of images to leave out, one `file_name` a line.
        drop_empty: leave out images without a target.
        allow_missing: this many images may be missing on disk; they are left out.
        limit: use this many images, spread evenly over the file.
    """

    def __init__(
        self,
        images: Path,
        annotations: Path | None,
        classes: ClassMap | None = None,
        augment: Augment | None = None,
        *,
        ignore_file: Path | None = None,
        drop_empty: bool = False,
        allow_missing: int = 0,
        limit: int | None = None,
    ) -> None:
        self.images, self.augment = Path(images), augment
        self.notes: list[str] = []
        table = whole = read_shards(self.images) if annotations is None else read_coco(Path(annotations))
        self.shards = [] if annotations is not None else shards_of(self.images)
        self.files = OpenFiles()
        if ignore_file is not None:
            table = self._without_ignored(table, ignore_file)
        if limit is not None:
            table = table.select(_spread(len(table.image_ids), limit))
        if table.spots is None:
            table, notes = find_photographs(table, self.images, allow_missing)
            self.notes += notes
        targets = self._targets(table)
        if drop_empty:
            filled = np.bincount(table.image_of[targets], minlength=len(table.image_ids)) > 0
            self._note(int((~filled).sum()), "image has", "images have", "no box and left out")
            targets = targets[filled[table.image_of]]
            table = table.select(filled)
        if not len(table.image_ids):
            raise DataError(f"{table.path} leaves no image to use; check the ignore file and the annotations")
        self.table, self.is_target = table, targets
        self.relabel(classes or ClassMap.from_categories(table.categories))
        self.first = np.searchsorted(table.image_of, np.arange(len(table.image_ids) + 1))
        self.sizes: Sequence[int] = [len(table.image_ids)]
        self.fingerprint = table.sha256 if len(table.image_ids) == len(whole.image_ids) else _fingerprint(table)

    def relabel(self, classes: ClassMap) -> None:
        """Use this label space from here on, matched by name.

        Raises:
            DataError: an annotation is of a class it does not have.
        """
        used = set(np.unique(self.table.category_ids).tolist())
        self.classes, labels = classes.bind(self.table.categories, used, self.table.path)
        self.labels = _looked_up(self.table.category_ids, labels)

    def used_names(self) -> list[str]:
        """The classes that annotations carry, by name."""
        return [self.classes.names[label] for label in np.unique(self.labels).tolist()]

    def __len__(self) -> int:
        return len(self.table.image_ids)

    @property
    def image_ids(self) -> list[int]:
        return self.table.image_ids.tolist()

    def height_width(self, index: int) -> tuple[int, int]:
        """The stored size of one image, without opening it."""
        height, width = self.table.sizes[index].tolist()
        return height, width

    def path(self, index: int) -> Path:
        """The image's file; in shards, what was its name."""
        return self.images / self.table.file_names[index].decode()

    def read(self, index: int) -> bytes | bytearray:
        """The bytes of one image file. Raises OSError or DataError."""
        if self.table.spots is None:
            return self.path(index).read_bytes()
        shard, offset, size = self.table.spots[index].tolist()
        return self.files.read(self.shards[shard], offset, size)

    def target(self, index: int) -> CocoTarget:
        """Boxes (N, 4) clipped to the image, labels (N,), and the image's id."""
        rows = np.arange(self.first[index], self.first[index + 1])
        rows = rows[self.is_target[rows]]
        height, width = self.height_width(index)
        corners = self.table.boxes[rows]
        corners[:, 2:] += corners[:, :2]
        corners = np.clip(corners, 0, (width, height, width, height))
        return CocoTarget(
            boxes=torch.from_numpy(corners.astype(np.float32)),
            labels=torch.from_numpy(self.labels[rows].astype(np.int64)),
            image_id=int(self.table.image_ids[index]),
        )

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """uint8 (3, H, W) and its target, augmented; BadSample if the photograph is not what the file says."""
        path, stored = self.path(index), self.height_width(index)
        try:
            image = decode_image(self.read(index), upright=False)
        except (OSError, BadImage) as error:
            raise BadSample(str(path), str(error)) from None
        height, width = image.shape[-2:]
        if (height, width) != stored:
            raise BadSample(str(path), f"is {width}x{height}, but the annotations say {stored[1]}x{stored[0]}")
        target: Target = self.target(index)
        return (image, target) if self.augment is None else self.augment(image, target, rng)

    def collate(self, samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
        return collate(samples)

    def ground_truth(self) -> dict[str, Any]:
        """The file as its official evaluation reads it: every annotation, crowds too, with ids from 1."""
        table, ids = self.table, np.array(self.classes.source_ids)
        columns = (table.image_ids[table.image_of], ids[self.labels], table.boxes, table.areas, table.crowd)
        return {
            "images": [
                {"id": i, "height": h, "width": w}
                for i, (h, w) in zip(self.image_ids, table.sizes.tolist(), strict=True)
            ],
            "categories": [
                {"id": i, "name": name} for i, name in zip(self.classes.source_ids, self.classes.names, strict=True)
            ],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": area, "iscrowd": int(crowd)}
                for n, (i, c, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1)
            ],
        }

    def _without_ignored(self, table: CocoTable, ignore_file: Path) -> CocoTable:
        try:
            lines = Path(ignore_file).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the ignore file {ignore_file} ({error}); one file name a line") from None
        ignored = np.isin(table.file_names, [line.strip().encode() for line in lines if line.strip()] or [b""])
        self._note(int(ignored.sum()), "image is", "images are", f"named by {ignore_file} and left out")
        return table.select(~ignored)

    def _targets(self, table: CocoTable) -> np.ndarray:
        """(A,) bool: the annotations that are trained on."""
        corners, objects = table.corners(), ~table.crowd
        outside = (corners != np.hstack((table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]))).any(axis=1)
        wide = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
        again = exact_duplicates(table) & wide & objects
        self._note(int((outside & wide & objects).sum()), "box reaches", "boxes reach", "outside the image, clipped")
        self._note(int((~wide & objects).sum()), "box is", "boxes are", "narrower than 1 pixel, dropped")
        self._note(int(again.sum()), "annotation is", "annotations are", "there twice or more, counted once")
        if not (wide & objects).any():
            raise DataError(f"{table.path} has no usable boxes at all; give annotations of objects ('instances')")
        return wide & objects & ~again

    def _note(self, count: int, one: str, many: str, what: str) -> None:
        if count:
            self.notes.append(f"{count} {one if count == 1 else many} {what}")


def _spread(total: int, count: int) -> np.ndarray:
    """(total,) bool: `count` of them, evenly."""
    keep = np.zeros(total, dtype=bool)
    keep[np.arange(min(count, total)) * total // max(min(count, total), 1)] = True
    return keep


def _looked_up(ids: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    """(A,) source ids -> (A,) int32 labels."""
    known = np.array(sorted(labels))
    return np.array([labels[i] for i in known.tolist()], np.int32)[np.searchsorted(known, ids)]


def _fingerprint(table: CocoTable) -> str:
    """Which images of which file: positions mean something else when others are left out."""
    return hashlib.sha256(table.sha256.encode() + table.image_ids.tobytes()).hexdigest()
