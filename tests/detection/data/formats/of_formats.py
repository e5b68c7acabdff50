"""Small data sets as other tools write them: two photographs of 64 x 48 and one more for validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.convert import convert
from detection.data.formats.records import Asked

WIDTH, HEIGHT = 64, 48
ROW = "0 0.5 0.5 0.25 0.5\n"
VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
    "<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def files(root: Path, texts: dict[str, str]) -> Path:
    """Write texts; a name with the ending of an image gets a photograph."""
    for seed, (name, text) in enumerate(texts.items()):
        if Path(name).suffix in (".png", ".jpg"):
            photograph(root / name, seed)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
    return root


def yolo(root: Path, **more: str) -> Path:
    """Two classes, one of two words; two training images, one of them background, and one validation image."""
    return files(
        root,
        {
            "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: {0: cell, 1: traffic cone}\n",
            "images/train/a.jpg": "",
            "images/train/b.jpg": "",
            "images/val/c.jpg": "",
            "labels/train/a.txt": ROW + "1 0.25 0.25 0.125 0.25\n",
            "labels/val/c.txt": ROW,
        }
        | {name.replace("__", "/"): text for name, text in more.items()},
    )


def xml(name: str = "a.jpg", *objects: dict[str, Any], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    told = "".join(VOC_OBJECT.format(**{"name": "cell", "difficult": 0, **words}) for words in objects)
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{sides}{told}</annotation>"


def corners(x0: float, y0: float, x1: float, y1: float, **more: Any) -> dict[str, Any]:
    return {"x0": x0, "y0": y0, "x1": x1, "y1": y1, **more}


def shapes(image: str, *told: dict[str, Any], **more: Any) -> str:
    """A labelme file."""
    content = {"version": "5.5.0", "shapes": list(told), "imagePath": image, "imageData": None}
    return json.dumps({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH, **more})


def cvat(images: str, labels: str = "<label><name>cell</name></label><label><name>traffic cone</name></label>") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>'
        f"{labels}</labels></task></meta>{images}</annotations>"
    )


def to_coco(kind: str, source: Path, asked: Asked = Asked(), split: str = "train", **options: Any) -> dict[str, Any]:  # noqa: B008
    """What a data set becomes: the COCO file of a split, with images by name and notes."""
    out = source.with_name(f"{source.name}-out-{len(list(source.parent.iterdir()))}")
    converted = convert((kind, "coco"), source, out, asked, options=(options, {}))
    content = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    for entry in content["annotations"]:
        entry["image"], entry["class"] = names[entry["image_id"]], classes[entry["category_id"]]
    return {**content, "notes": converted.notes, "splits": converted.images, "out": out}


def boxes(content: dict[str, Any]) -> list[tuple[str, str, list[float]]]:
    return [(entry["image"], entry["class"], entry["bbox"]) for entry in content["annotations"]]
