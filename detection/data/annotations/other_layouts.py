"""What to do with data that is not COCO: which layout it is, and how it becomes COCO JSON."""

from __future__ import annotations

from pathlib import Path

from shared.feeding.layouts import COCO, CSV, CVAT, FOLDERS, IMAGES, LABELME, VOC, YOLO, coco_files, layout_of

GIVE = "then give it with --coco-json-path and its images with --data-path"
SUPERVISION = "(the package supervision does it: DetectionDataset.{read}(...).as_coco(...))"
WAYS_OUT = {
    YOLO: f"a YOLO data set; write its labels as COCO JSON {SUPERVISION.format(read='from_yolo')}, {GIVE}",
    VOC: f"a Pascal VOC data set; write its XML as COCO JSON {SUPERVISION.format(read='from_pascal_voc')}, {GIVE}",
    CVAT: f"CVAT's own XML; export the task again as 'COCO 1.0', {GIVE}",
    LABELME: f"labelme's JSON, one for each image; write it as COCO JSON (the package labelme2coco does it), {GIVE}",
    CSV: f"a CSV of boxes; export it again as COCO JSON, {GIVE}",
    FOLDERS: "a folder of class folders, which has no boxes; `pretrain pack` and `pretrain train` are for it",
    IMAGES: "a folder of images without annotations; give their COCO JSON with --coco-json-path",
}


def other_layout(path: Path) -> str | None:
    """'PATH is a YOLO data set; ...' for annotations that are recognized as another layout than COCO, or None."""
    found = layout_of(path)
    return f"{path} is {WAYS_OUT[found]}" if found in (YOLO, VOC, CVAT, LABELME, CSV) else None


def why_not_coco(root: Path, expected: str) -> str:
    """The sentence about a folder that has not the layout of COCO.

    Args:
        expected: what it has not, such as "neither train2017/ with ... nor ...".
    """
    if not root.exists():
        return f"there is nothing at {root}; check --data-path"
    found = layout_of(root)
    if found in WAYS_OUT:
        return f"{root} is {WAYS_OUT[found]}"
    there = coco_files(root) if root.is_dir() else []
    named = ", ".join(str(file) for file in there[:3])
    way_out = f"it has {named}, give one with" if there else "give images and JSON with"
    if found in (COCO, None) and root.is_file() and root.suffix == ".json":
        return f"{root} is a JSON file; give it with --coco-json-path, and the folder of its images with --data-path"
    return (
        f"{root} is not a COCO folder: it has {expected}; {way_out} --coco-json-path, and its images with --data-path"
    )
