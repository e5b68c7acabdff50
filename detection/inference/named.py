"""Detections by the names of photographs and classes: what pictures are called, and results.csv of `detect predict`.

cam1/street.jpg -> cam1/street.jpg     the folders of the photographs, below --output
cam2/street.png -> cam2/street.png.jpg
results, images -> results.csv: file_name,class_id,class_name,score,x0,y0,x1,y1
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from shared.files import written_aside

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
CORNERS = ("x0", "y0", "x1", "y1")
COLUMNS = ("file_name", "class_id", "class_name", "score", *CORNERS)


def picture_name(name: str, image_id: int, taken: set[str]) -> str:
    """The name of an image's picture, a JPEG: its own, with .jpg after another ending.

    A name that is taken, as by the same file given twice, is preceded by the image id. Case is no difference, since
    there are disks where it is none.

    Args:
        name: of the image, relative to the folder of all.
        taken: names in use; that of the picture is added.
    """
    own = PurePosixPath(name if name.lower().endswith(JPEG) else f"{name}.jpg")
    found, number = own, 1
    while str(found).casefold() in taken:
        found, number = own.with_name(f"{image_id:06d}-{'' if number == 1 else f'{number}-'}{own.name}"), number + 1
    taken.add(str(found).casefold())
    return str(found)


def save_csv(path: Path, images: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> int:
    """Write COCO results that have names as CSV (RFC 4180, UTF-8), a row for each box; returns the number of rows.

    Boxes are in pixels of the image, to a thousandth, scores from 0 to 1, to a millionth.
    """
    names = {image["id"]: image["file_name"] for image in images}
    with (
        written_aside(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as to,
    ):
        rows = csv.writer(to)
        rows.writerow(COLUMNS)
        for found in results:
            x, y, width, height = found["bbox"]
            corners = (round(value, 3) for value in (x, y, x + width, y + height))
            own = (names[found["image_id"]], found["category_id"], found["category_name"])
            rows.writerow((*own, round(found["score"], 6), *corners))
    return len(results)
