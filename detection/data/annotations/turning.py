"""`"upright": true` of an image's entry: its boxes are on the picture that was turned by EXIF.

`detect predict`, `convert` and `pack` write it where the size does not tell, for square pictures or those turned by
180 degrees. Other programs ignore it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError


def upright_column(images: list[Any], path: Path) -> np.ndarray | None:
    """(I,) int8 of the entries of the list 'images': 1 true, 0 false, -1 not given; None if no entry has it."""
    values = [image.get("upright") for image in images]
    for image, value in zip(images, values, strict=True):
        if value is not None and not isinstance(value, bool):
            shown = json.dumps(value)[:60]
            raise DataError(f"{path}: image {image['id']} has the upright {shown}; it can be true or false")
    if all(value is None for value in values):
        return None
    return np.array([-1 if value is None else int(value) for value in values], np.int8)


def upright_field(upright: np.ndarray | None, row: int) -> dict[str, bool]:
    """The field of an image's entry; none if it is not given."""
    return {} if upright is None or upright[row] < 0 else {"upright": bool(upright[row])}
