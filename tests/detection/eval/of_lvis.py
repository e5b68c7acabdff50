"""What tests of LVIS's evaluation share: its own evaluator, made files and made results."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder")) / "coco-eval/lvis_val_100.json"
needs_real_file = pytest.mark.skipif(not REAL.is_file(), reason="CHORDATE_REAL_DATA has no coco-eval/lvis_val_100.json")
Results = list[dict[str, Any]]


def official(truth: Path, results: Results, *, max_dets: int = 300, kind: str = "bbox") -> list[float]:
    """The 13 numbers of the package lvis; 0.5.3 needs `numpy.float` back, and imports OpenCV only to draw."""
    try:
        import cv2  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        sys.modules["cv2"] = types.ModuleType("cv2")
    lvis = pytest.importorskip("lvis")
    logging.getLogger("lvis").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        whole = lvis.LVIS(str(truth))
        found = lvis.LVISResults(whole, copy.deepcopy(results), max_dets=max_dets)
        evaluation = lvis.LVISEval(whole, found, kind)
        evaluation.run()
    return [float(number) for number in evaluation.results.values()]


def written(folder: Path, content: dict[str, Any], name: str = "lvis_v1_val.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def made(seed: int = 0, images: int = 12, categories: int = 15) -> dict[str, Any]:
    """An LVIS v1 file without photographs: objects of all sizes, several of a category, known absent and unfinished
    categories, an image without any object, ids that are neither dense nor sorted."""
    rng = np.random.default_rng(seed)
    ids = (rng.permutation(categories) * 3 + 2).tolist()
    letters = [*"rcf" * categories][:categories]
    entries, annotations = [], []
    for number in range(images):
        image_id = 900 - 7 * number
        present = rng.permutation(ids)[: 0 if number == 3 else int(rng.integers(1, 5))].tolist()
        others = [i for i in ids if i not in present]
        url = f"http://images.cocodataset.org/{'val' if number % 3 else 'train'}2017/{image_id:012d}.jpg"
        entry = {"id": image_id, "height": 480, "width": 640, "coco_url": url}
        entry["neg_category_ids"] = rng.permutation(others)[:3].tolist()
        entry["not_exhaustive_category_ids"] = present[: int(rng.integers(0, 2))]
        entries.append(entry)
        for category in present:
            for _ in range(int(rng.integers(1, 4))):
                x, y, w, h = (rng.random(4) ** 2 * (400, 250, 200, 200) + (0, 0, 6, 6)).round(2).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": round(w * h * 0.6, 2),
                        "segmentation": [[x, y, x + w, y, x + w, y + h * 0.8, x, y + h]],
                    }
                )
    names = [
        {"id": i, "name": f"thing_{i}", "frequency": f, "image_count": {"r": 3, "c": 50, "f": 500}[f]}
        for i, f in zip(ids, letters, strict=True)
    ]
    return {"images": entries, "categories": names, "annotations": annotations}


def true_boxes(content: dict[str, Any]) -> Results:
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: a[key] for key in keys}, "score": 1.0} for a in content["annotations"]]


def perturbed(content: dict[str, Any], seed: int = 0, copies: int = 3) -> Results:
    """Four of five objects found roughly, several times, some as another category, with many equal scores."""
    rng, ids = np.random.default_rng(seed), [c["id"] for c in content["categories"]]
    results = []
    for a in content["annotations"]:
        for _ in range(copies if rng.random() < 0.8 else 0):
            x, y, w, h = (np.array(a["bbox"]) + rng.normal(0, 4, 4)).tolist()
            category = a["category_id"] if rng.random() < 0.8 else int(rng.choice(ids))
            box = [x, y, max(w, 1.0), max(h, 1.0)]
            score = float(rng.integers(1, 20) / 20)
            results.append({"image_id": a["image_id"], "category_id": category, "bbox": box, "score": score})
    return [results[i] for i in rng.permutation(len(results)).tolist()]


def crowded(
    content: dict[str, Any], pick: str, count: int = 400, seed: int = 1, score: tuple[float, float] = (0, 1)
) -> Results:
    """So many boxes more in each image: of "any" category, of those "known" in it, "unknown", "absent" or
    "unfinished" ones."""
    rng, ids = np.random.default_rng(seed), {c["id"] for c in content["categories"]}
    results = []
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        absent, unfinished = set(image["neg_category_ids"]), set(image["not_exhaustive_category_ids"])
        groups = {"any": ids, "known": present | absent, "unknown": ids - present - absent}
        chosen = sorted((groups | {"absent": absent, "unfinished": unfinished})[pick])
        for _ in range(count if chosen else 0):
            x, y, w, h = (rng.random(4) * (400, 300, 150, 150) + (0, 0, 2, 2)).tolist()
            value = float(np.round(rng.uniform(*score), 2))
            results.append(
                {"image_id": image["id"], "category_id": int(rng.choice(chosen)), "bbox": [x, y, w, h], "score": value}
            )
    return results


def shuffled_images(results: Results, seed: int = 0) -> Results:
    """The same results with the images in another order; those of one image keep theirs."""
    order = np.random.default_rng(seed).permutation(sorted({r["image_id"] for r in results})).tolist()
    return [r for image in order for r in results if r["image_id"] == image]
