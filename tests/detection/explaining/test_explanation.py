"""What explains an AP: equal to the official AP50 where they meet, and right on scenes that are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.explaining.explanation import RECALLS, best_f1, explained, precision_at_recalls

CATEGORIES = {3: "cat", 18: "dog", 44: "none"}
Row = tuple[int, int, tuple[float, float, float, float], float]  # image, category, x y w h, score


def evaluator_of(folder: Path, objects: list[Row], found: list[Row], count: int = 3) -> CocoEvaluator:
    """Objects with a `score` of -1 are crowds."""
    images = [{"id": 10 + n, "file_name": f"{n}.png", "width": 200, "height": 150} for n in range(count)]
    for image in images:
        Image.new("RGB", (200, 150)).save(folder / image["file_name"])
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd == -1)}
        for n, (i, c, box, crowd) in enumerate(objects, 1)
    ]
    categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    evaluator = CocoEvaluator(CocoDetection(folder, folder / "truth.json"), "pycocotools")
    results = [{"image_id": i, "category_id": c, "bbox": [*box], "score": score} for i, c, box, score in found]
    evaluator.merge([results])
    return evaluator


def test_scene_is_counted_as_by_hand(tmp_path: Path) -> None:
    objects = [
        (10, 3, (10, 10, 40, 40), 0),  # found
        (10, 3, (100, 10, 40, 40), 0),  # called a dog
        (11, 18, (10, 10, 10, 10), 0),  # missed
        (11, 18, (100, 50, 80, 80), -1),  # a crowd of dogs
    ]
    found = [
        (10, 3, (11, 10, 40, 40), 0.9),
        (10, 3, (12, 10, 40, 40), 0.8),  # a duplicate
        (10, 18, (101, 10, 40, 40), 0.85),
        (11, 18, (120, 60, 20, 20), 0.95),  # in the crowd
        (12, 18, (20, 20, 20, 20), 0.85),  # nothing is there
        (12, 3, (20, 20, 20, 20), 0.1),  # below the score of the best F1
    ]
    told = explained(evaluator_of(tmp_path, objects, found))
    assert told.score == 0.9 and told.f1 == pytest.approx(2 * 1 / (1 + 3))
    assert (told.precision, told.recall) == (1.0, pytest.approx(1 / 3))
    assert told.confusions == [("cat", "cat", 1), ("cat", None, 1), ("dog", None, 1)]
    assert told.images == [(0, 1, 0), (1, 1, 0)]
    assert [bin for bin in told.sizes if bin[1]] == [(8, 1, 0), (32, 2, 1)]
    assert [(c["name"], c["objects"]) for c in told.classes] == [("cat", 2), ("dog", 1), ("none", 0)]
    assert told.classes[2]["ap"] is None and told.classes[0]["ap"] > 0
    assert told.curves.keys() == {"", "cat", "dog"}


def test_what_is_left_over_is_matched_across_classes(tmp_path: Path) -> None:
    objects = [(10, 3, (10, 10, 40, 40), 0), (10, 3, (100, 10, 40, 40), 0), (11, 18, (10, 10, 60, 60), 0)]
    found = [
        (11, 18, (10, 10, 60, 60), 0.5),  # the best F1 is here, behind all others
        (10, 3, (10, 10, 40, 40), 0.6),
        (10, 18, (12, 10, 40, 40), 0.9),  # over a cat that is found: of the background
        (10, 18, (102, 10, 40, 40), 0.8),  # over a cat that is not
    ]
    told = explained(evaluator_of(tmp_path, objects, found))
    assert told.score == 0.5
    assert sorted(told.confusions, key=str) == [
        ("cat", "cat", 1),
        ("cat", "dog", 1),
        ("dog", "dog", 1),
        (None, "dog", 1),
    ]
    assert told.images == [(0, 1, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_mean_of_the_curves_is_the_official_ap50(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects: list[Row] = []
    found: list[Row] = []
    for n in range(60):
        x, y, w, h = (rng.random(4) * (100, 80, 60, 50) + (0, 0, 10, 10)).tolist()
        image, category = 10 + n % 4, [3, 18][n % 2]
        objects.append((image, category, (x, y, w, h), -float(n % 11 == 3)))
        for _ in range(n % 3):
            moved = (x + rng.normal() * 6, y + rng.normal() * 6, w, h)
            found.append((image, [3, 18][int(rng.integers(2))], moved, float(rng.integers(1, 20)) / 20))
    evaluator = evaluator_of(tmp_path, objects, found, count=5)
    told = explained(evaluator)
    assert np.mean(told.curves[""]) == pytest.approx(evaluator.summary()["box_ap50"], abs=1e-12)
    shown = sum(1 for _, _, _, score in found if score >= told.score)
    false = sum(count for true, name, count in told.confusions if name is not None and true != name)
    right = sum(count for true, name, count in told.confusions if true == name)
    assert right + sum(count for true, name, count in told.confusions if true is not None and true != name) == sum(
        crowd != -1 for *_, crowd in objects
    )
    assert right + false <= shown  # the rest lies in crowds
    assert sum(wrong for _, _, wrong in told.images) == false
    assert told.precision == pytest.approx(right / (right + false))


def test_nothing_found_and_no_objects_are_explained_too(tmp_path: Path) -> None:
    nothing = explained(evaluator_of(tmp_path, [(10, 3, (10, 10, 40, 40), 0)], []))
    assert (nothing.score, nothing.f1, nothing.precision, nothing.recall) == (1.0, 0.0, 0.0, 0.0)
    assert nothing.confusions == [("cat", None, 1)] and nothing.images == [(0, 1, 0)]
    assert nothing.curves == {"": [0.0] * 101, "cat": [0.0] * 101}


def test_precision_is_read_at_the_recall_or_beyond() -> None:
    precision = precision_at_recalls(np.array([True, False, True]), 4)
    wanted = np.select([RECALLS <= 0.25, RECALLS <= 0.5], [1, 2 / 3], 0)
    np.testing.assert_allclose(precision, wanted)


def test_a_score_cuts_behind_all_detections_that_have_it() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    assert best_f1(scores, np.array([True, True, False, False]), 2) == (0.9, pytest.approx(2 / 3))
    assert best_f1(scores, np.array([True, True, True, False]), 3) == (0.5, pytest.approx(6 / 7))
    assert best_f1(scores, np.zeros(4, bool), 3) == (1.0, 0.0)
