"""Detections above a score become annotations that training accepts; a report counts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import read_coco
from detection.data.annotations.skeleton import Skeleton
from detection.inference.labeling import annotations_of, save

encode: Any = pycocotools.mask.encode
CLASSES = ClassMap(("cat", "dog"), (3, 18))
IMAGES = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)]


def found(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_only_what_scores_enough_is_an_annotation_clipped_to_its_image() -> None:
    results = [
        found(1, 18, [50, 30, 20, 20], 0.9),
        found(1, 3, [0, 0, 5, 5], 0.49),
        found(1, 3, [59.5, 0, 20, 20], 0.8),
    ]
    labeled = annotations_of(IMAGES, results, CLASSES, 0.5)
    (one,) = labeled["annotations"]
    assert one["bbox"] == [50, 30, 10, 10] and one["area"] == 100 and one["score"] == 0.9
    assert (one["id"], one["image_id"], one["category_id"], one["iscrowd"]) == (1, 1, 18, 0)
    assert labeled["categories"] == [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]


def test_the_file_is_one_that_training_reads_and_the_report_counts_it(tmp_path: Path) -> None:
    results = [found(1, 18, [5, 5, 20, 20], score) for score in (0.9, 0.95, 0.61)]
    labeled = annotations_of(IMAGES, results, CLASSES, 0.5)
    sentence = save(tmp_path, labeled, 0.5)
    table = read_coco(tmp_path / "annotations.json")
    assert table.boxes.tolist() == [[5, 5, 20, 20]] * 3 and set(table.category_ids.tolist()) == {18}
    report = json.loads((tmp_path / "labelled.json").read_text())
    assert report["boxes_by_class"] == {"dog": 3} and report["without_boxes"] == ["2.jpg"]
    assert report["boxes_by_score"]["0.9"] == 2 and report["boxes_by_score"]["0.6"] == 1
    assert "3 boxes with a score of at least 0.5 on 1 of 2 images (dog 3)" in sentence


@pytest.mark.parametrize("box", [[70.0, 0.0, 5.0, 5.0], [0.0, 0.0, 0.5, 30.0]])
def test_boxes_outside_or_thinner_than_a_pixel_are_no_labels(box: list[float]) -> None:
    assert annotations_of(IMAGES, [found(1, 3, box, 1.0)], CLASSES, 0.5)["annotations"] == []


def test_masks_and_keypoints_are_labels_too_where_the_detector_is_sure(tmp_path: Path) -> None:
    skeleton = Skeleton(("nose", "tail"), ((0, 1),), (0, 1), (0.1, 0.1))
    mask = np.zeros((40, 60), np.uint8)
    mask[6:20, 10:30] = 1
    runs, nothing = (
        {"size": [40, 60], "counts": encode(np.asfortranarray(m))["counts"].decode()} for m in (mask, mask * 0)
    )
    whole = found(1, 18, [9, 5, 22, 16], 0.9) | {"segmentation": runs}
    whole |= {"keypoints": [12.5, 8, 1, 70, 3, 1], "keypoint_scores": [2.5, -1.0]}
    results = [whole, whole | {"segmentation": nothing}, whole | {"score": 0.1}]
    labeled = annotations_of(IMAGES, results, CLASSES, 0.5, skeleton)
    (one,) = labeled["annotations"]
    assert one["area"] == 280 and one["segmentation"] == runs
    assert one["keypoints"] == [12.5, 8, 2, 0, 0, 0] and one["num_keypoints"] == 1
    save(tmp_path, labeled, 0.5)
    table = read_coco(tmp_path / "annotations.json", ("masks", "keypoints"))
    assert table.skeleton == skeleton and table.areas.tolist() == [280]
    assert table.keypoints is not None and table.keypoints.tolist() == [[[12.5, 8, 2], [0, 0, 0]]]
    assert table.masks is not None and table.masks.code(0).decode() == runs["counts"]
