"""The data set of a detector: COCO JSON with an image folder, or shards.

    instances.json, or shards -> CocoTable --+-- ClassMap: source category ids <-> labels from 0
    images, or shards -----------------------+-> CocoDetection.load(index) -> uint8 (3, H, W), boxes, labels

Boxes are clipped to their image; `targets.py` selects the annotations used for training. Boxes are in the pixels of
the size that the annotations give: `photographs.py` finds out which pictures that size has turned by EXIF. Masks and
keypoints are included on request; masks stay compressed until the augmentation is done.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations.classes import ClassMap, class_notes
from detection.data.annotations.coco_json import CocoTable, read_image_list
from detection.data.annotations.files import coco_layout, count_missing, find_photographs
from detection.data.annotations.formats import read_annotations
from detection.data.annotations.lvis import LISTS, as_labels, check_lists, folders_of, is_lvis
from detection.data.annotations.skeleton import Skeleton
from detection.data.annotations.targets import default_min_keypoints, find_targets, labeled_points, note
from detection.data.augment.copy_paste import copy_paste
from detection.data.augment.geometry import kept
from detection.data.augment.presets import Augment, Augmentation, lsj
from detection.data.batch import collate
from detection.data.masks.silhouettes import Silhouettes
from detection.data.photographs import Turn, check_usable, look_at, unseen
from detection.data.proposals import Source, find_proposals, notes_on_proposals, stored_for
from detection.data.shards import read_shards, shards_of
from detection.types import Target
from shared.errors import BadSample, DataError, UsageError
from shared.feeding.columns import exact
from shared.feeding.headers import Picture
from shared.feeding.image import BadImage, decode_image
from shared.feeding.tar import OpenFiles

__all__ = ["ClassMap", "CocoDetection", "coco_layout"]


class CocoTarget(Target):
    """A target with its image id."""

    image_id: int


class CocoDetection:
    """Images with boxes, as a data set for `shared.feeding.feed`.

    Args:
        images: the folder that file names are relative to, or a folder of shards.
        annotations: a file or folder in an annotation format; None for shards, which include them.
        classes: label space, matched by name; None for the file's own categories.
        augment: called with (uint8 (3, H, W), target, rng) after decoding.
        ignore_file: a file with the names of images to skip, one per line.
        drop_empty: skip images without targets.
        allow_missing: number of images that may be missing on disk; they are skipped.
        limit: use only so many images, spread evenly over the file.
        finds: "masks", "keypoints": fields of targets besides boxes.
        skeleton: of the keypoints, instead of that of the annotations.
        min_keypoints: skip images with fewer labeled keypoints in total; None for the default in training, 0 for none.
        copy_paste: copy-paste augmentation; needs masks and the augmentation lsj.
        turn: whether to apply the EXIF orientation where the annotations do not tell.
        lvis: follow LVIS's rules, for which the annotations must have its lists; None refuses a file that has them.
        need_images: whether image files are needed; if not, and some are missing, the annotations are used alone.
        images_only: take the images alone; a JSON needs no annotations then, and wrong ones do not matter.

    `photographs` tells which images are turned, and which cannot be used: `check_usable`. `known` (C,) bool are the
    classes that the annotations list; `partial` says that several files are joined, so that others are not evaluated.
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
        finds: Sequence[str] = (),
        skeleton: Skeleton | None = None,
        min_keypoints: int | None = 0,
        copy_paste: bool = False,
        lvis: bool | None = False,
        need_images: bool = True,
        images_only: bool = False,
        turn: Turn = "auto",
    ) -> None:
        if copy_paste:
            check_copy_paste(augment, finds)
        self.images, self.augment, self.finds, self.copy_paste = Path(images), augment, tuple(finds), copy_paste
        listing = images_only and annotations is not None and not Path(annotations).is_dir()
        table = whole = read_image_list(Path(cast(Path, annotations))) if listing else self.table_of(annotations)
        if lvis:
            check_lists(table.absent, table.unfinished, table.path)
        elif lvis is None and table.absent is not None:
            raise is_lvis(table.path)
        self.lvis, self.notes, self.class_notes = bool(lvis), list(table.notes), []
        self.skeleton = _skeleton(table, skeleton)
        if self.skeleton is not None and len(self.skeleton) > 1 and not self.skeleton.named:
            self.notes.append(
                "the keypoints have no names, so a flip exchanges none; give flip pairs with --keypoints-file"
            )
        self.shards = [] if annotations is not None else shards_of(self.images)
        self.proposals: Source | None = None
        self.files = OpenFiles()
        if ignore_file is not None:
            table = self._without_ignored(table, ignore_file)
        self.folders = folders_of(table.file_names) if lvis else None
        if limit is not None:
            table = table.select(_spread(len(table.image_ids), limit))
        optional = not need_images and table.spots is None and table.unsized is None
        missing = count_missing(table, self.images) if optional else 0
        if missing:
            self.notes += note(
                missing, "image is", "images are", f"not in {self.images}; the annotations are used alone"
            )
        elif table.spots is None:
            table, notes = find_photographs(table, self.images, allow_missing)
            self.notes += notes
        seen = look_at(table, self.pictures_of(table), turn) if not missing else unseen(table)
        self.notes += seen.notes
        table = seen.table
        targets = np.zeros(len(table.boxes), dtype=bool)
        if not images_only:
            targets, notes = find_targets(table, self.finds)
            self.notes += notes
        if drop_empty:
            filled = np.bincount(table.image_of[targets], minlength=len(table.image_ids)) > 0
            self.notes += note(int((~filled).sum()), "image has", "images have", "no box, skipped")
            table, targets = table.select(filled), targets[filled[table.image_of]]
        if self.skeleton is not None and min_keypoints != 0:
            least = default_min_keypoints(self.skeleton) if min_keypoints is None else min_keypoints
            enough = labeled_points(table, targets) >= least
            what = f"fewer than {least} labeled keypoints, skipped"
            self.notes += note(int((~enough).sum()), "image has", "images have", what)
            table, targets = table.select(enough), targets[enough[table.image_of]]
        if not len(table.image_ids):
            raise DataError(f"{table.path} has no image left to use; check the ignore file and the annotations")
        self.table, self.is_target, self.partial = table, targets, False
        self.photographs = seen.select(np.isin(seen.table.image_ids, table.image_ids), table)
        self.relabel(classes or ClassMap.from_categories(table.categories))
        self.first = np.searchsorted(table.image_of, np.arange(len(table.image_ids) + 1))
        self.sizes: Sequence[int] = [len(table.image_ids)]
        complete, turned = len(table.image_ids) == len(whole.image_ids), self.photographs.turned
        self.fingerprint = table.sha256 if complete and not turned.any() else _fingerprint(table, turned)

    def table_of(self, annotations: Path | None) -> CocoTable:
        """The table of all annotations."""
        return read_table(self.images, annotations, self.finds)

    def pictures_of(self, table: CocoTable) -> list[Picture]:
        """Where the images of a table are."""
        if table.spots is None:
            folder = os.path.join(self.images, "")
            return [Picture(folder + name.decode()) for name in table.file_names.tolist()]
        return [Picture(self.shards[shard], offset, size) for shard, offset, size in table.spots.tolist()]

    def check_usable(self, way_out: str, *, share: float = 0.0) -> None:
        """Note the images that cannot be used, by their headers; raise DataError if they are more than this share."""
        self.notes += check_usable(self.photographs, way_out, share=share)

    def take_proposals(self, path: Path | None) -> None:
        """Give every target the stored proposals of its image; None for none. Raises DataError if they do not fit."""
        if path is None:
            return
        self.proposals = find_proposals(path, self.table)
        self.notes += notes_on_proposals(self.proposals, self.table)
        made = self.proposals if isinstance(self.proposals, str) else self.proposals.digest
        self.fingerprint = hashlib.sha256((self.fingerprint + made).encode()).hexdigest()

    def relabel(self, classes: ClassMap) -> None:
        """Change the label space, matched by name.

        Raises:
            DataError: an annotation has a class that is not in it.
        """
        used = set(np.unique(self.table.category_ids).tolist())
        self.classes, labels = classes.bind(self.table.categories, used, self.table.path)
        self.labels = _looked_up(self.table.category_ids, labels)
        columns = {name: getattr(self.table, name) for name in LISTS} if self.lvis else {}
        self.lists = {name: as_labels(column, labels) for name, column in columns.items()}
        self.known = np.isin(np.arange(len(self.classes)), list(labels.values()))
        earlier, objects = self.class_notes, set(np.unique(self.labels[self.is_target]).tolist())
        if self.classes.joined:  # classes of the other files have none here
            objects |= set(np.flatnonzero(~self.known).tolist())
        self.class_notes = class_notes(self.classes, self.table.categories, objects)
        self.notes = [note for note in self.notes if note not in earlier] + self.class_notes

    def used_names(self) -> list[str]:
        """Names of the classes with annotations."""
        return [self.classes.names[label] for label in np.unique(self.labels).tolist()]

    def __len__(self) -> int:
        return len(self.table.image_ids)

    @property
    def image_ids(self) -> list[int]:
        return self.table.image_ids.tolist()

    def height_width(self, index: int) -> tuple[int, int]:
        """The size of an image in the annotations."""
        height, width = self.table.sizes[index].tolist()
        return height, width

    def path(self, index: int) -> Path:
        """The image's path; for shards, its original name."""
        return self.images / self.table.file_names[index].decode()

    def read(self, index: int) -> bytes | bytearray:
        """The bytes of one image file. Raises OSError or DataError."""
        if self.table.spots is None:
            return self.path(index).read_bytes()
        shard, offset, size = self.table.spots[index].tolist()
        return self.files.read(self.shards[shard], offset, size)

    def photograph(self, index: int) -> Tensor:
        """uint8 (3, H, W), turned as the annotations see it; BadSample if its size is not that of the annotations."""
        path, stored = self.path(index), self.height_width(index)
        try:
            image = decode_image(self.read(index), upright=bool(self.photographs.turned[index]))
        except (OSError, BadImage) as error:
            raise BadSample(str(path), str(error)) from None
        height, width = image.shape[-2:]
        if (height, width) != stored:
            raise BadSample(str(path), f"is {width}x{height}, but the annotations say {stored[1]}x{stored[0]}")
        return image

    def target(self, index: int) -> CocoTarget:
        """Boxes (N, 4) clipped to the image, labels (N,), the image id, requested fields, and the lists of LVIS."""
        return cast(CocoTarget, revealed(self._target(index)))

    def _target(self, index: int) -> CocoTarget:
        """The same with masks still compressed."""
        rows = np.arange(self.first[index], self.first[index + 1])
        rows = rows[self.is_target[rows]]
        height, width = self.height_width(index)
        corners = self.table.boxes[rows]
        corners[:, 2:] += corners[:, :2]
        corners = np.clip(corners, 0, (width, height, width, height))
        target = CocoTarget(
            boxes=torch.from_numpy(corners.astype(np.float32)),
            labels=torch.from_numpy(self.labels[rows].astype(np.int64)),
            image_id=int(self.table.image_ids[index]),
        )
        if self.lists:
            there = self.labels[self.first[index] : self.first[index + 1]]
            target["absent"] = torch.from_numpy(np.setdiff1d(self.lists["absent"][index], there))
            target["unfinished"] = torch.from_numpy(np.unique(self.lists["unfinished"][index]))
        if self.proposals is not None:
            target["proposals"] = stored_for(target["image_id"], target["boxes"], self.proposals)
        if self.table.masks is not None:
            target["masks"] = cast(Tensor, Silhouettes.whole(self.table.masks, rows, (height, width)))
        if self.table.keypoints is not None and self.skeleton is not None:
            target["keypoints"] = torch.from_numpy(self.table.keypoints[rows].astype(np.float32))
            target["mirrored"] = self.skeleton.mirrored
        return target

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """uint8 (3, H, W) and its target, augmented; BadSample if the image does not match the annotations."""
        sample = self._load(index, rng)
        if not self.copy_paste:
            return sample
        try:
            other = self._load(int(rng.integers(len(self))), rng)
        except BadSample:  # it is reported at its own position
            return sample
        return copy_paste(sample, other, rng)

    def _load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """One image, augmented."""
        image = self.photograph(index)
        target: Target = self._target(index)
        if self.augment is not None:
            image, target = self.augment(image, target, rng)
        return image, revealed(target)

    def collate(self, samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
        return collate(samples)

    def ground_truth(self) -> dict[str, Any]:
        """The ground truth for COCO's evaluation: all annotations with crowds, ids from 1."""
        table, ids = self.table, np.array(self.classes.source_ids)
        columns = (table.image_ids[table.image_of], ids[self.labels], table.boxes, table.areas, table.crowd)
        annotations = [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for n, (i, c, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1)
        ]
        for row, annotation in enumerate(annotations):
            annotation.update(beyond_boxes(table, row))
        return {
            "images": [
                {"id": i, "height": h, "width": w}
                for i, (h, w) in zip(self.image_ids, table.sizes.tolist(), strict=True)
            ],
            "categories": [
                {"id": i, "name": name} for i, name in zip(self.classes.source_ids, self.classes.names, strict=True)
            ],
            "annotations": annotations,
        }

    def _without_ignored(self, table: CocoTable, ignore_file: Path) -> CocoTable:
        try:
            lines = Path(ignore_file).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the ignore file {ignore_file} ({error}); give a file with one file name per line"
            ) from None
        ignored = np.isin(table.file_names, [line.strip().encode() for line in lines if line.strip()] or [b""])
        self.notes += note(int(ignored.sum()), "image is", "images are", f"listed in {ignore_file}, skipped")
        return table.select(~ignored)


def check_copy_paste(augment: Augment | None, finds: Sequence[str]) -> None:
    """Raise UsageError if copy-paste is not possible: it needs masks and images of one size."""
    if tuple(finds) != ("masks",):
        raise UsageError("--use-copypaste needs masks; use a network with masks")
    if not isinstance(augment, Augmentation) or augment.run is not lsj:
        raise UsageError("--use-copypaste needs large-scale jitter; add --data-augmentation lsj")


def read_table(images: Path, annotations: Path | None, finds: Sequence[str] | None) -> CocoTable:
    """The table of shards, or of annotations in any format.

    Args:
        finds: as `read_coco` takes it.
    """
    if annotations is None:
        return read_shards(images, finds)
    return read_annotations(Path(annotations), images, finds)


def revealed(target: Target) -> Target:
    """The target with masks as pixels, without objects whose mask is empty after augmentation."""
    if not isinstance(masks := target.get("masks"), Silhouettes):
        return target
    target = cast(Target, {**target, "masks": (pixels := masks.pixels())})
    return kept(target, pixels.flatten(1).amax(dim=1) > 0)  # any() of uint8 gives uint8, which is not a mask


def beyond_boxes(table: CocoTable, row: int) -> dict[str, Any]:
    """Mask and keypoints of an annotation as COCO fields, if the table has them."""
    words: dict[str, Any] = {}
    if table.masks is not None:
        height, width = table.sizes[table.image_of[row]].tolist()
        words["segmentation"] = table.masks.segmentation(row, (height, width))
    if table.keypoints is not None:
        points = exact(table.keypoints[row])
        words["keypoints"] = points.flatten().tolist()
        words["num_keypoints"] = int((points[:, 2] > 0).sum())
    return words


def aspect_ratios(dataset: CocoDetection) -> np.ndarray:
    """(I,) float64: height / width of each image, from the annotations."""
    heights, widths = dataset.table.sizes.T
    return heights / widths


def _skeleton(table: CocoTable, given: Skeleton | None) -> Skeleton | None:
    """The skeleton of requested keypoints. Raises DataError if the given one has another number of keypoints."""
    known = table.skeleton
    if known is not None and given is not None and len(known) != len(given):
        raise DataError(
            f"{table.path} has {len(known)} keypoints per object, but the skeleton has {len(given)}; give one "
            f"that matches"
        )
    return known if known is None or given is None else given


def _spread(total: int, count: int) -> np.ndarray:
    """(total,) bool: `count` of them, evenly."""
    keep = np.zeros(total, dtype=bool)
    keep[np.arange(min(count, total)) * total // max(min(count, total), 1)] = True
    return keep


def _looked_up(ids: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    """(A,) source ids -> (A,) int32 labels."""
    known = np.array(sorted(labels))
    return np.array([labels[i] for i in known.tolist()], np.int32)[np.searchsorted(known, ids)]


def _fingerprint(table: CocoTable, turned: np.ndarray) -> str:
    """Digest of the file, the used images, which determine the positions, and which of them are turned."""
    turns = turned.tobytes() if turned.any() else b""
    return hashlib.sha256(table.sha256.encode() + table.image_ids.tobytes() + turns).hexdigest()
