"""Masks and skeletons are drawn where they are, in the color of their class, and nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from detection.data.annotations.skeleton import Skeleton
from detection.data.coco import CocoDetection
from detection.data.masks.paste import Patch
from detection.drawing.draw import class_color, draw_detections
from detection.drawing.shapes import Points, draw_mask, draw_skeleton, enlarged
from detection.types import Detections, Target

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
SKELETON = Skeleton(("a", "b", "c"), ((0, 1), (1, 2)), (0, 1, 2), (0.1,) * 3)
RED = (255, 0, 0)


def gray(height: int = 400, width: int = 640) -> torch.Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def changed(picture: Image.Image) -> np.ndarray:
    """(H, W) bool: where a gray picture is not gray any more."""
    return (np.asarray(picture) != 128).any(-1)


def found(**more: Any) -> Detections:
    boxes = torch.tensor([[100.0, 100, 300, 200]])
    return Detections(boxes=boxes, labels=torch.tensor([1]), scores=torch.tensor([0.9]), **more)


NOTHING = Detections(boxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0))


def test_a_mask_is_translucent_inside_its_outline_and_nothing_outside_changes() -> None:
    picture = Image.new("RGB", (60, 50), (100, 100, 100))
    inside = np.zeros((20, 30), dtype=bool)
    inside[5:15, 10:25] = True
    draw_mask(picture, Patch(12, 8, inside), RED, cover=0.5, width=2)
    pixels = np.asarray(picture).astype(int)
    assert pixels[18, 30].tolist() == [178, 50, 50]
    assert pixels[13, 22].tolist() == pixels[14, 23].tolist() == pixels[22, 36].tolist() == [*RED]
    alone = (pixels != 100).any(-1)
    assert alone.sum() == 150 and alone[13:23, 22:37].all()


def test_an_empty_mask_draws_nothing() -> None:
    picture = Image.new("RGB", (60, 50), (128,) * 3)
    draw_mask(picture, Patch(0, 0, np.zeros((0, 0), dtype=bool)), RED, cover=0.5, width=2)
    draw_mask(picture, Patch(5, 5, np.zeros((9, 9), dtype=bool)), RED, cover=0.5, width=2)
    assert not changed(picture).any()


def test_a_found_mask_fills_its_part_of_its_box() -> None:
    left_half = torch.zeros(1, 28, 28)
    left_half[:, :, :14] = 1
    bare, with_mask = (
        changed(draw_detections(gray(), one, ("cat", "dog"))) for one in (found(), found(masks=left_half))
    )
    more = with_mask & ~bare
    down, across = np.nonzero(more)
    assert 95 <= across.min() <= 103 and 195 <= across.max() <= 203 and down.min() >= 97 and down.max() <= 203
    assert more[110:190, 110:190].all()


def test_masks_of_weak_detections_and_of_boxes_that_are_none_are_not_drawn() -> None:
    masks = torch.ones(1, 28, 28)
    for change in ({"scores": torch.tensor([0.1])}, {"boxes": torch.full((1, 4), float("nan"))}):
        one: Any = {**found(masks=masks, keypoints=torch.ones(1, 3, 3)), **change}
        assert not changed(draw_detections(gray(), one, ("cat", "dog"), skeleton=SKELETON)).any()


def test_true_masks_grow_with_a_small_image_and_are_filled_where_nothing_is_found() -> None:
    mask = torch.zeros(1, 60, 80, dtype=torch.uint8)
    mask[0, 20:40, 20:60] = 1
    truth = Target(boxes=torch.tensor([[20.0, 20, 60, 40]]), labels=torch.tensor([0]), masks=mask)
    picture = np.asarray(draw_detections(gray(60, 80), NOTHING, ("cat",), truth=truth)).astype(int)
    inside = picture[240, 400]
    assert np.abs(inside - (128 * 0.6 + 0.4 * np.array(class_color(0)))).max() <= 1
    one: Any = {**found(), "boxes": torch.tensor([[5.0, 5, 70, 55]])}
    over = draw_detections(gray(60, 80), one, ("cat", "dog"), truth=truth)
    assert over.getpixel((400, 240)) == (128, 128, 128)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_enlarged_mask_covers_as_much_as_the_picture_grows(scale: float) -> None:
    down, across = np.mgrid[:50, :70]
    mask = (np.hypot(down - 20, across - 40) < 15).astype(np.uint8)
    patch = enlarged(mask, scale)
    assert patch.inside.sum() == pytest.approx(mask.sum() * scale**2, rel=0.01)
    assert (patch.left, patch.top) == (round(26 * scale), round(6 * scale))


def test_lines_join_what_is_shown_and_are_thin_where_it_is_hidden() -> None:
    places = [(20.0, 20.0), (120.0, 20.0), (120.0, 120.0), (20.0, 120.0)]
    edges = [(0, 1), (1, 2), (2, 3), (3, 0)]
    picture = Image.new("RGB", (150, 150), (128,) * 3)
    points = Points(places, [True, True, True, False], [False, False, True, False])
    draw_skeleton(ImageDraw.Draw(picture), points, edges, RED, 6)
    red = (np.asarray(picture) == RED).all(-1)
    thickness = [int(red[:, 70].sum()), int(red[70].sum())]
    assert thickness[0] == 6 and 1 <= thickness[1] <= 4
    assert not changed(picture)[115:, :60].any()
    assert picture.getpixel((20, 20)) == (255, 255, 255)


def test_keypoints_follow_visibility_in_truth_and_score_in_detections() -> None:
    points = torch.tensor([[[150.0, 150, 2], [200, 150, 1], [250, 150, 0]]])
    truth = Target(boxes=torch.tensor([[100.0, 100, 300, 200]]), labels=torch.tensor([1]), keypoints=points)
    true = np.asarray(draw_detections(gray(), NOTHING, ("cat", "dog"), truth=truth, skeleton=SKELETON))
    assert (true[150, 175] == 255).all() and (true[145:156, 225] == 128).all() and (true[150, 250] == 128).all()
    scored = points.clone()
    scored[..., 2] = torch.tensor([4.0, -1.0, -2.0])
    picture = np.asarray(draw_detections(gray(), found(keypoints=scored), ("cat", "dog"), skeleton=SKELETON))
    assert all((picture[150, x] == 255).all() for x in (150, 200, 250))
    dots = [int((picture[140:160, x] == 255).all(-1).sum()) for x in (150, 250)]
    assert dots[0] > dots[1]
    without = np.asarray(draw_detections(gray(), found(keypoints=scored), ("cat", "dog")))
    assert (without[150, 175] == 128).all() and (without[150, 150] == 255).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
def test_real_masks_and_skeletons_are_drawn_inside_their_boxes() -> None:
    folder = REAL / "coco-keypoints"
    path = folder / "annotations/person_keypoints_train2017.json"
    data = CocoDetection(folder / "train2017", path, finds=("masks", "keypoints"), limit=4)
    drawn = {"masks": 0, "keypoints": 0}
    for index in range(len(data)):
        image, target = data.load(index, np.random.default_rng(0))
        plain: Any = {"boxes": target["boxes"], "labels": target["labels"]}
        for kind in drawn:
            more: Any = {**plain, kind: dict(target)[kind]}
            bare, full = (
                draw_detections(image, NOTHING, ("person",), truth=truth, skeleton=data.skeleton)
                for truth in (plain, more)
            )
            differs = (np.asarray(bare) != np.asarray(full)).any(-1)
            for x0, y0, x1, y1 in (target["boxes"] * full.width / image.shape[-1]).tolist():
                drawn[kind] += int(differs[max(0, int(y0) - 6) : int(y1) + 8, max(0, int(x0) - 6) : int(x1) + 8].sum())
                differs[max(0, int(y0) - 6) : int(y1) + 8, max(0, int(x0) - 6) : int(x1) + 8] = False
            assert not differs.any()
    assert min(drawn.values()) > 1000
