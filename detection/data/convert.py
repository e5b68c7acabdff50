"""`detect convert custom coco SRC OUT`: custom annotations -> COCO files.

    SRC/train/{images,annotations}    ->  OUT/train -> SRC/train/images    OUT/annotations/instances_train.json
    SRC/test/{images,annotations}     ->  OUT/val   -> SRC/test/images     OUT/annotations/instances_val.json

With keypoints, person_keypoints_*.json has the same content, so that OUT works with `--dataset coco` and `coco_kp`.
Images are not copied; OUT has links to their folders. OUT is complete or does not exist, and is never overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from detection.data.annotations.box_format import check_box_format
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.custom import read_custom
from detection.data.annotations.files import STEMS, custom_layout
from detection.data.annotations.skeleton import Skeleton
from detection.data.annotations.turning import upright_field
from detection.data.coco import beyond_boxes
from detection.data.photographs import Turn, listed_bad, look_at, upright_said
from shared.errors import DataError
from shared.feeding.headers import Picture


class Converted(NamedTuple):
    """Summary of a conversion, by split."""

    images: dict[str, int]
    objects: dict[str, int]
    keypoints: int
    notes: list[str]

    def lines(self, out: Path) -> list[str]:
        """The lines to print."""
        points = f" of {self.keypoints} keypoints" if self.keypoints else ""
        summary = [
            f"{split}: {self.images[split]:,} images, {self.objects[split]:,} objects{points}" for split in self.images
        ]
        kind = " --dataset coco_kp" if self.keypoints else ""
        return [*summary, *self.notes, f"COCO files in {out}; detect train{kind} --data-path {out}"]


def convert_custom(source: Path, out: Path, skeleton: Skeleton | None = None, *, turn: Turn = "auto") -> Converted:
    """Write COCO files of a custom folder.

    Args:
        source: a folder with train, test or both.
        out: a folder that does not exist yet.
        skeleton: of the keypoints; None to number them.
        turn: whether boxes are on photographs turned by EXIF, where neither sizes nor boxes tell; the files then tell
            it.

    Raises:
        DataError: invalid source, or `out` exists or cannot be written.
    """
    if os.path.lexists(out):
        raise DataError(f"{out} already exists; give another folder or remove it first")
    present = [
        split for split, name in (("train", "train"), ("val", "test"), ("val", "val")) if (source / name).is_dir()
    ]
    places = {split: custom_layout(source, split) for split in present or ["train"]}
    tables = {split: read_custom(annotations, images, None) for split, (images, annotations) in places.items()}
    tables, notes = settled(tables, places, turn)
    for table in tables.values():
        check_box_format(table)
    counts = {table.keypoints.shape[1] for table in tables.values() if table.keypoints is not None}
    if len(counts | ({len(skeleton)} if skeleton and counts else set())) > 1:
        counted = [*sorted(counts), *([f"{len(skeleton)} in the skeleton"] if skeleton else [])]
        raise DataError(
            f"{source} has {' and '.join(map(str, counted))} keypoints per object; give all the same number"
        )
    aside = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "annotations").mkdir(parents=True)
        for split, table in tables.items():
            target = places[split][0].resolve()
            (aside / split).symlink_to(
                os.path.relpath(target, out.resolve().parent / out.name), target_is_directory=True
            )
            content = json.dumps(coco_file(table, skeleton))
            for stem in STEMS.values() if table.keypoints is not None else [STEMS["coco"]]:
                (aside / "annotations" / f"{stem}_{split}.json").write_text(content, encoding="utf-8")
        aside.rename(out)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise DataError(f"cannot write {out} ({error}); give a writable folder") from None
    images = {split: len(table.image_ids) for split, table in tables.items()}
    return Converted(
        images, {split: len(table.boxes) for split, table in tables.items()}, max(counts, default=0), notes
    )


def settled(
    tables: dict[str, CocoTable], places: dict[str, tuple[Path, Path]], turn: Turn
) -> tuple[dict[str, CocoTable], list[str]]:
    """Tables with the sizes of the pictures that the boxes are on, and notes. Raises DataError for other sizes."""
    found: dict[str, CocoTable] = {}
    notes: list[str] = []
    for split, table in tables.items():
        images = places[split][0]
        seen = look_at(table, [Picture(images / name.decode()) for name in table.file_names], turn)
        if seen.bad:
            raise DataError(listed_bad(seen, "correct or remove them")[0])
        found[split] = upright_said(seen)
        notes += [f"{split}: {sentence}" for sentence in seen.notes]
    return found, notes


def coco_file(table: CocoTable, skeleton: Skeleton | None) -> dict[str, Any]:
    """The table as a COCO dict."""
    skeleton = None if table.keypoints is None else skeleton or table.skeleton
    words = {} if skeleton is None else skeleton.to_words()
    columns = (table.image_ids[table.image_of], table.category_ids, table.boxes, table.areas)
    return {
        "images": [
            {"id": i, "file_name": name.decode(), "height": h, "width": w, **upright_field(table.upright, row)}
            for row, (i, name, (h, w)) in enumerate(
                zip(table.image_ids.tolist(), table.file_names.tolist(), table.sizes.tolist(), strict=True)
            )
        ],
        "categories": [{"id": category, "name": name, **words} for category, name in table.categories.items()],
        "annotations": [
            {
                "id": row + 1,
                "image_id": image_id,
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                **beyond_boxes(table, row),
            }
            for row, (image_id, category, box, area) in enumerate(zip(*(c.tolist() for c in columns), strict=True))
        ],
    }
