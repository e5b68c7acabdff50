"""Random subsets of COCO, Objects365, LVIS and panoptic files.

    images + seed + percent -> RandomState(seed) shuffles 0 .. n-1, the first int(percent / 100 * n) stay
                            -> the same file with these images and their annotations; every other key is kept

The same file, percent and seed give the same bytes on every machine, since numpy's RandomState never changes. Entries
of annotations are dropped while the file is parsed, so memory holds the file and what is kept of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.json_values import read_json_bytes, whole_number, without_json
from shared.errors import DataError, UsageError, plural
from shared.files import write_aside

DROPPED = object()


class Subset(NamedTuple):
    """What was written."""

    path: Path
    images: tuple[int, int]  # kept, of
    annotations: tuple[int, int]
    excluded: int  # images left out before drawing

    def line(self) -> str:
        images, annotations = (f"{kept:,} of {of:,}" for kept, of in (self.images, self.annotations))
        without = f", {plural(self.excluded, 'image')} excluded before" if self.excluded else ""
        return f"{images} images and {annotations} annotations in {self.path}{without}"


def write_subset(
    path: Path, percent: float, seed: int, output: Path | None = None, exclude: Path | None = None
) -> Subset:
    """Write a random part of a COCO, Objects365, LVIS or panoptic file.

    Args:
        percent: of the images, from above 0 to 100.
        seed: of the choice, 0 to 2**32 - 1.
        output: None for `STEM.SEED@PERCENT.json` beside the file.
        exclude: a file whose images are left out before the choice, matched by id.

    Raises:
        UsageError: the output exists, or no image would be left.
        DataError: a file cannot be read, or both have an id for different pictures.
    """
    stem = without_json(path)
    output = output or stem.with_name(f"{stem.name}.{seed}@{float(percent)}.json")
    if output.exists():
        raise UsageError(f"{output} exists and is not overwritten; remove it, or give another --output")
    raw = read_json_bytes(path, "the annotations", "a COCO JSON")
    images = images_by_id(raw, path)
    out = set() if exclude is None else _shared(images, exclude, path)
    left = [image_id for image_id in images if image_id not in out]
    count = int(percent / 100 * len(left))
    if not count:
        raise UsageError(
            f"{percent:g} percent of {plural(len(left), 'image')} is less than one; give a larger --percent"
        )
    order = np.arange(len(left))
    np.random.RandomState(seed).shuffle(order)  # a Generator may change with numpy, this one never
    chosen = {left[place] for place in order[:count].tolist()}
    top, total = parsed(raw, path, lambda entry: whole_number(entry.get("image_id")) in chosen)
    top["images"] = [image for image in top["images"] if whole_number(image["id"]) in chosen]
    write_aside(output, json.dumps(top) + "\n")
    kept = len(top.get("annotations", ()))
    return Subset(output, (count, len(images)), (kept, total), len(images) - len(left))


def images_by_id(raw: bytes, path: Path) -> dict[int, str]:
    """{image id: its name}, in the file's order."""
    top, _ = parsed(raw, path, lambda entry: False)
    found: dict[int, str] = {}
    for number, image in enumerate(top["images"]):
        image_id = whole_number(image.get("id")) if isinstance(image, dict) else None
        if image_id is None:
            raise DataError(f"{path}: image number {number + 1} has no integer id; correct or remove it")
        if image_id in found:
            raise DataError(f"{path}: the image id {image_id} appears twice; give each image its own")
        found[image_id] = _picture(image)
    return found


def _picture(image: dict[str, Any]) -> str:
    """The name that files of COCO's images share: '000000266409.jpg', also of COCO_val2014_000000266409.jpg."""
    place = image.get("coco_url") or image.get("file_name") or ""
    name = str(place).replace("\\", "/").rpartition("/")[2]
    return name.rpartition("_")[2] if name.startswith("COCO_") else name


def _shared(images: dict[int, str], exclude: Path, path: Path) -> set[int]:
    """Ids of the images that another file has too."""
    others = images_by_id(read_json_bytes(exclude, "the images to exclude", "a COCO JSON"), exclude)
    shared = images.keys() & others.keys()
    for image_id in sorted(shared):
        if images[image_id] and others[image_id] and images[image_id] != others[image_id]:
            raise DataError(
                f"image {image_id} is {images[image_id]} in {path} and {others[image_id]} in {exclude}; give a file "
                f"about the same images to --exclude"
            )
    return set(shared)


def parsed(raw: bytes, path: Path, keep: Callable[[dict[str, Any]], bool]) -> tuple[dict[str, Any], int]:
    """The file with the annotations that `keep` wants, and the number of all."""
    dropped = 0

    def hook(entry: dict[str, Any]) -> Any:
        nonlocal dropped
        if "image_id" not in entry or keep(entry):
            return entry
        dropped += 1
        return DROPPED

    top = loaded(raw, path, hook)
    annotations = top.get("annotations", [])
    if sum(entry is DROPPED for entry in annotations) != dropped:  # some were not annotations
        top = loaded(raw, path, None)
        annotations = top.get("annotations", [])
    for number, entry in enumerate(annotations):
        if entry is not DROPPED and not isinstance(entry, dict):
            raise DataError(f"{path}: annotation number {number + 1} is not an object; correct or remove it")
    if "annotations" in top:
        top["annotations"] = [entry for entry in annotations if entry is not DROPPED and keep(entry)]
    return top, len(annotations)


def loaded(raw: bytes, path: Path, hook: Any) -> dict[str, Any]:
    try:
        top = json.loads(raw, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None
    lists = isinstance(top, dict) and isinstance(top.get("images"), list) and top["images"]
    if not lists or not isinstance(top.get("annotations", []), list):
        raise DataError(f"{path} is not a COCO file: it has no list 'images'; give one as on cocodataset.org")
    return top
