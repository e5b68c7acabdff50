"""COCO folders: read as `detect train` reads them, and written so that it does.

    OUT/annotations/instances_train.json   OUT/train -> the folder of the images      instances_val.json, val, ...

With keypoints, person_keypoints_*.json has the same content, so that OUT works with `--dataset coco` and `coco_kp`.
Images are linked, never copied.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from detection.data.annotations.coco_json import CocoTable, read_coco
from detection.data.annotations.files import STEMS, coco_layout, find_photographs
from detection.data.formats import reader, writer
from detection.data.formats.linking import link
from detection.data.formats.pictures import split_of
from detection.data.formats.records import Asked, DataSet, Mask, Photo, Thing
from detection.data.masks.encoding import read_polygons
from detection.data.masks.rle import coco_mask
from shared.errors import DataError
from shared.feeding.columns import exact

SPLITS = ("train", "val")


@reader("coco")
def read_coco_folder(source: Path, asked: Asked) -> DataSet:
    """Read the training and validation data of a COCO folder, or one COCO file with its images.

    Raises:
        DataError: a file is missing or wrong.
    """
    if source.is_file():
        words = source.name.replace(".", "/").replace("_", "/")
        return read_file(source, asked.images or source.parent, split_of(Path(words), Path()), asked)
    data: DataSet | None = None
    for split in SPLITS:
        try:
            images, annotations = coco_layout(source, split)
        except DataError:
            if data is None:
                raise
            continue
        part = read_file(annotations, asked.images or images, split, asked)
        if data is None:
            data = part
        elif part.classes != data.classes or part.ids != data.ids:
            raise DataError(f"{annotations} has other categories than the training data; give both the same")
        data.splits |= part.splits
        data.skeletons |= part.skeletons
    assert data is not None
    return data


def read_file(annotations: Path, images: Path, split: str, asked: Asked) -> DataSet:
    """One COCO file and the folder of its images, as a data set of one split. Raises DataError."""
    table, notes = find_photographs(read_coco(annotations, None), images, asked.allow_missing)
    return of_table(table, images, split, notes)


def of_table(table: CocoTable, images: Path, split: str, notes: list[str] | None = None) -> DataSet:
    """A table of annotations as a data set of one split."""
    names, skeletons = table.categories, dict(table.skeletons)
    if table.keypoints is not None and not skeletons and table.skeleton is not None:
        skeletons = dict.fromkeys(names, table.skeleton)
    photos = [
        Photo(
            images / name.decode(),
            None if table.unsized is not None and table.unsized[row] else (int(height), int(width)),
            [],
            None if table.upright is None or table.upright[row] < 0 else bool(table.upright[row]),
        )
        for row, (name, (height, width)) in enumerate(zip(table.file_names, table.sizes.tolist(), strict=True))
    ]
    columns = (table.image_of, table.category_ids, table.boxes, table.areas, table.crowd)
    for row, (image, category, box, area, crowd) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        mask: Mask | None = None
        if table.masks is not None:
            height, width = table.sizes[image].tolist()
            mask = table.masks.segmentation(row, (height, width)) or None
        points: tuple[float, ...] = ()
        if table.keypoints is not None and category in skeletons:
            points = tuple(exact(table.keypoints[row]).flatten().tolist())
        photos[image].things.append(Thing(names[category], tuple(box), mask, points, crowd, area))  # type: ignore[arg-type]
    words = {names[category]: skeleton.to_words() for category, skeleton in skeletons.items()}
    return DataSet(
        list(names.values()),
        {split: photos},
        ids=list(names),
        skeletons=words,
        notes=[*table.notes, *(notes or [])],
        check_boxes=True,
    )


@writer("coco")
def write_coco(data: DataSet, out: Path, final: Path) -> list[str]:
    """Write a COCO folder.

    Args:
        data: numbers in pixels, sizes known.
        out: an empty folder, which becomes `final`.

    Returns:
        lines to print.
    """
    (out / "annotations").mkdir()
    stems = STEMS.values() if data.skeletons else [STEMS["coco"]]
    for split, photos in data.splits.items():
        folder = Path(os.path.commonpath([os.path.abspath(photo.file.parent) for photo in photos]))
        link(out / split, folder, final / split)
        text = json.dumps(coco_of(data, photos, folder))
        for stem in stems:
            (out / "annotations" / f"{stem}_{split}.json").write_text(text, encoding="utf-8")
    command = ["detect", "train", *(["--dataset", "coco_kp"] if data.skeletons else []), "--data-path"]
    if {"train", "val"} <= data.splits.keys():
        return [f"COCO files in {final}; {shlex.join([*command, str(final)])}"]
    split = "train" if "train" in data.splits else next(iter(data.splits))
    stem = STEMS["coco_kp" if data.skeletons else "coco"]
    command += [str(final / split), "--coco-json-path", str(final / "annotations" / f"{stem}_{split}.json")]
    return [f"COCO files in {final}, of {' and '.join(data.splits)} alone; {shlex.join(command)}"]


def coco_of(data: DataSet, photos: list[Photo], folder: Path) -> dict[str, Any]:
    """One split as the content of a COCO file, whose file names are relative to the folder."""
    ids = dict(zip(data.classes, data.ids or range(1, len(data.classes) + 1), strict=True))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, 1):
        assert photo.size is not None
        height, width = photo.size
        name = Path(os.path.abspath(photo.file)).relative_to(folder).as_posix()
        told = {} if photo.upright is None else {"upright": photo.upright}
        images.append({"id": number, "file_name": name, "height": height, "width": width, **told})
        for thing in photo.things:
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[thing.name]}
            annotations.append({**about, **fields_of(thing, photo.size)})
    categories = [{"id": ids[name], "name": name, **data.skeletons.get(name, {})} for name in data.classes]
    return {"images": images, "categories": categories, "annotations": annotations}


def fields_of(thing: Thing, size: tuple[int, int]) -> dict[str, Any]:
    """bbox, area, iscrowd, and segmentation and keypoints if there are any."""
    area = area_of(thing, size) if thing.area is None else thing.area
    words: dict[str, Any] = {"bbox": list(thing.box), "area": area, "iscrowd": int(thing.crowd)}
    if thing.mask is not None:
        words["segmentation"] = thing.mask
    if thing.points:
        seen = sum(visibility > 0 for visibility in thing.points[2::3])
        words |= {"keypoints": list(thing.points), "num_keypoints": seen}
    return words


def area_of(thing: Thing, size: tuple[int, int]) -> float:
    """Pixels of the mask as pycocotools counts them, if it has any; else the area of the box."""
    code = None
    if isinstance(thing.mask, dict):
        code = thing.mask
    elif thing.mask is not None:
        counts = read_polygons(thing.mask, size)
        code = None if counts is None else {"size": list(size), "counts": counts}
    pixels = 0 if code is None else float(coco_mask.area(code))
    return pixels or max(thing.box[2], 0) * max(thing.box[3], 0)
