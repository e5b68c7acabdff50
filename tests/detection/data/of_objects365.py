"""Annotations in the manner of Objects365."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = [
    "images/v1/patch0/objects365_v1_00000011.jpg",
    "images/v1/patch7/objects365_v1_00000012.jpg",
    "images/v2/patch16/objects365_v2_00908000.jpg",
]


def objects365(folder: Path) -> Path:
    """Three images of 40x30, a box of a class in each; names as dirty as theirs."""
    content = {
        "images": [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(NAMES, start=1)],
        "categories": [
            {"id": 1, "name": "Cigar/Cigarette "},
            {"id": 2, "name": "Formula 1 "},
            {"id": 3, "name": "Moniter/TV"},
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n, "bbox": [1, 1, 9, 9], "isfake": 0, "iscrowd": 0}
            for n in (1, 2, 3)
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zhiyuan_objv2_train.json").write_text(json.dumps(content))
    return folder / "zhiyuan_objv2_train.json"
