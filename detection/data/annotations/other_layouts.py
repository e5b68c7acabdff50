"""What to do with data that is not COCO: which layout it is, and how it becomes COCO JSON."""

from __future__ import annotations

import shlex
from pathlib import Path

from shared.feeding.layouts import (
    COCO,
    CSV,
    CVAT,
    FOLDERS,
    IMAGES,
    LABELME,
    OPEN_IMAGES,
    VOC,
    YOLO,
    coco_files,
    layout_of,
)

# what a layout is called in a sentence, and by `detect convert`
CONVERTED = {
    YOLO: ("a YOLO data set", "yolo"),
    VOC: ("a Pascal VOC data set", "voc"),
    CVAT: ("CVAT's own XML", "cvat"),
    LABELME: ("labelme's JSON, one for each image", "labelme"),
    OPEN_IMAGES: ("a data set of Open Images", "openimages"),
    CSV: ("a CSV of boxes, as Roboflow writes it", "roboflow"),
}
WAYS_OUT = {
    FOLDERS: "a folder of class folders, which has no boxes; `pretrain pack` and `pretrain train` are for it",
    IMAGES: "a folder of images without annotations; give their COCO JSON with --coco-json-path",
}


def sentence_about(path: Path, found: str, images: Path | None = None) -> str | None:
    """'PATH is a YOLO data set; `detect convert yolo coco ...` ...'; None for a layout without such a sentence.

    Args:
        images: their folder, where it was given apart.
    """
    if found in WAYS_OUT:
        return f"{path} is {WAYS_OUT[found]}"
    if found not in CONVERTED:
        return None
    what, kind = CONVERTED[found]
    named = path if path.name not in ("", "..") else path.resolve()
    out = named.with_name(f"{named.stem if path.is_file() else named.name}-coco")
    apart = images is not None and path.resolve() not in (images.resolve(), *images.resolve().parents)
    words = ["detect", "convert", kind, "coco", str(path), str(out), *(["--images", str(images)] if apart else [])]
    command = shlex.join(words)
    return f"{path} is {what}; run `{command}`, which links the images and ends with the command to train"


def other_layout(path: Path, images: Path | None = None) -> str | None:
    """'PATH is a YOLO data set; ...' for annotations that are recognized as another layout than COCO, or None."""
    found = layout_of(path)
    return sentence_about(path, found, images) if found in CONVERTED else None


def why_not_coco(root: Path, expected: str) -> str:
    """The sentence about a folder that has not the layout of COCO.

    Args:
        expected: what it has not, such as "neither train2017/ with ... nor ...".
    """
    if not root.exists():
        return f"there is nothing at {root}; check --data-path"
    found = layout_of(root)
    if found is not None and (sentence := sentence_about(root, found)) is not None:
        return sentence
    there = coco_files(root) if root.is_dir() else []
    named = ", ".join(str(file) for file in there[:3])
    way_out = f"it has {named}, give one with" if there else "give images and JSON with"
    if found in (COCO, None) and root.is_file() and root.suffix == ".json":
        return f"{root} is a JSON file; give it with --coco-json-path, and the folder of its images with --data-path"
    return (
        f"{root} is not a COCO folder: it has {expected}; {way_out} --coco-json-path, and its images with --data-path"
    )
