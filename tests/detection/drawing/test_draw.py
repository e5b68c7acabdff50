"""Pictures show what was found and what is true, at a size a person can read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.drawing.draw import class_color, draw_detections, readable_on, sheet
from detection.types import Detections, Target

NAMES = ("cat", "dog")
REAL = Path(os.environ["CHORDATE_REAL_DATA"]) if "CHORDATE_REAL_DATA" in os.environ else None


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores),
    )


def gray(height: int = 400, width: int = 640) -> torch.Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def count(picture: Image.Image, color: tuple[int, int, int]) -> int:
    return int((pixels(picture) == np.array(color)).all(-1).sum())


def test_a_box_is_drawn_in_the_color_of_its_class_where_it_is() -> None:
    picture = draw_detections(gray(), found([[100, 100, 300, 200]], [1], [0.9]), NAMES)
    assert picture.size == (640, 400)
    color = class_color(1)
    assert all(picture.getpixel(at) == color for at in ((100, 150), (300, 150), (250, 200)))
    assert picture.getpixel((200, 150)) == (128, 128, 128)
    assert picture.getpixel((105, 85)) == color  # the plate of the label, above the box


def test_nothing_found_leaves_the_picture_as_it_is() -> None:
    picture = draw_detections(gray(), found([], [], []), NAMES)
    assert (pixels(picture) == 128).all()


def test_weak_detections_are_not_shown() -> None:
    weak = found([[100, 100, 300, 200]], [0], [0.2])
    assert (pixels(draw_detections(gray(), weak, NAMES)) == 128).all()
    assert count(draw_detections(gray(), weak, NAMES, min_score=0.1), class_color(0)) > 500


def test_small_images_are_enlarged_with_their_boxes_and_large_ones_are_not() -> None:
    small = draw_detections(gray(60, 80), found([[10, 10, 40, 30]], [0], [0.9]), NAMES)
    assert small.size == (640, 480)
    assert small.getpixel((80, 200)) == small.getpixel((200, 240)) == class_color(0)
    assert draw_detections(gray(900, 1200), found([], [], []), NAMES).size == (1200, 900)


def test_true_boxes_are_white_dashes_and_named_only_where_no_detection_agrees() -> None:
    box = [[100.0, 100.0, 300.0, 200.0]]
    truth = Target(boxes=torch.tensor(box), labels=torch.tensor([0]))
    agreed = draw_detections(gray(), found(box, [0], [0.9]), NAMES, truth=truth)
    side = pixels(agreed)[110:190, 100]
    assert (side == 255).all(-1).any() and (side == 0).all(-1).any()
    confused = draw_detections(gray(), found(box, [1], [0.9]), NAMES, truth=truth)
    missed = draw_detections(gray(), found([], [], []), NAMES, truth=truth)
    plates = [count(picture, (255, 255, 255)) for picture in (agreed, confused, missed)]
    assert plates[1] > plates[0] + 150 and plates[2] > plates[0] + 150


def test_labels_do_not_cover_each_other_and_stay_inside() -> None:
    boxes = [[0.0, 0.0, 50.0, 50.0], [2.0, 2.0, 52.0, 52.0], [590.0, 350.0, 639.0, 399.0]]
    alone = [draw_detections(gray(), found([box], [i], [0.9]), (*NAMES, "mouse")) for i, box in enumerate(boxes)]
    together = draw_detections(gray(), found(boxes, [0, 1, 2], [0.9, 0.8, 0.7]), (*NAMES, "mouse"))
    for label, picture in enumerate(alone):
        assert count(together, class_color(label)) > 0.7 * count(picture, class_color(label)) > 300


def test_boxes_that_are_outside_or_no_numbers_do_no_harm() -> None:
    boxes = [[-50.0, -50.0, 900.0, 900.0], [700, 700, 800, 800], [float("nan")] * 4, [30, 30, 30, 30], [50, 50, 40, 40]]
    picture = draw_detections(gray(), found(boxes, [0, 0, 0, 0, 7], [0.9] * 5), NAMES)
    assert picture.getpixel((0, 200)) == picture.getpixel((639, 200)) == class_color(0)


def test_text_can_be_read_on_every_class_color() -> None:
    def gray_level(color: tuple[int, int, int]) -> float:
        return float(np.dot(color, (0.299, 0.587, 0.114)))

    colors = [class_color(label) for label in range(80)]
    assert len(set(colors[:20])) == 20
    assert all(abs(gray_level(color) - gray_level(readable_on(color))) > 100 for color in colors)


def test_a_sheet_holds_every_picture_whole() -> None:
    pictures = [
        Image.new("RGB", size, color) for size, color in (((60, 40), "red"), ((30, 50), "lime"), ((9, 9), "blue"))
    ]
    page = sheet(pictures, 2)
    assert page.size == (2 * 60 + 18, 50 + 9 + 18)
    assert [count(page, color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))] == [2400, 1500, 81]
    assert sheet(pictures[:1], 4).size == (72, 52)


@pytest.mark.skipif(REAL is None, reason="real photographs are read from CHORDATE_REAL_DATA")
def test_real_annotations_can_be_drawn_on_real_photographs() -> None:
    assert REAL is not None
    coco = json.loads((REAL / "coco-tiny/annotations/instances_val2017.json").read_text())
    dense = {category["id"]: i for i, category in enumerate(coco["categories"])}
    names = [category["name"] for category in coco["categories"]]
    for image in coco["images"][:3]:
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)]
        labels = [dense[a["category_id"]] for a in own]
        photo = Image.open(REAL / "coco-tiny/val2017" / image["file_name"]).convert("RGB")
        raw = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        truth = Target(boxes=torch.tensor(corners), labels=torch.tensor(labels))
        picture = draw_detections(raw, found(corners, labels, [0.9] * len(own)), names, truth=truth)
        assert max(picture.size) >= 640
        assert all(count(picture, class_color(label)) > 0 for label in set(labels))
