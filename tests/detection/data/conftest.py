"""Eleven photographs with their COCO file, and the shards packed from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.pack import pack
from tests.detection.data.of_coco import IMAGES


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    """Eleven photographs, JPEG and PNG, one of them damaged; crowds, odd boxes, holes in the ids, an empty image."""
    rng, root = np.random.default_rng(0), tmp_path / "coco"
    (root / "sub").mkdir(parents=True)
    images, annotations = [], []
    for n in range(IMAGES):
        height, width = (int(side) for side in rng.integers(30, 60, 2))
        name = f"sub/{n}.png" if n % 3 == 0 else f"{n}.jpg"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(root / name)
        images.append({"id": 1000 - 7 * n, "file_name": name, "height": height, "width": width})
        for k in range(0 if n == 4 else 3):
            x, y = (rng.random(2) * 20).tolist()
            annotations.append(
                {
                    "id": 100 * n + k,
                    "image_id": 1000 - 7 * n,
                    "category_id": (3, 18, 90)[k],
                    "bbox": [x - 2, y, 0.3 if n == 5 and k == 0 else 17.1, 60 if k == 1 else 13.7],
                    "area": 0.1 + x,
                    "iscrowd": int(n % 4 == 1 and k == 2),
                }
            )
    (root / "8.jpg").write_bytes((root / "8.jpg").read_bytes()[:300])
    names = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat "}, {"id": 90, "name": "Owl"}, {"id": 7, "name": "yak"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "instances.json").write_text(json.dumps(content))
    return root, root / "instances.json"


@pytest.fixture
def shards(coco: tuple[Path, Path], tmp_path: Path) -> Path:
    pack(*coco, tmp_path / "shards", shard_size=4)
    return tmp_path / "shards"
