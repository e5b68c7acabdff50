"""Masks of a data set: on the objects, through every augmentation, and gone with what they belong to."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import masks_to_boxes

from detection.data.augment import geometry as G
from detection.data.augment.geometry import Part
from detection.data.augment.presets import AUGMENTATIONS, build_augment
from detection.data.coco import CocoDetection, aspect_ratios, coco_layout
from detection.data.masks.outlines import OutlineRows, Outlines
from detection.data.masks.silhouettes import Silhouettes
from shared.errors import DataError
from tests.detection.data.of_people import HEIGHT, WIDTH, people, people_file, square

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def masks_of(target: Any) -> Tensor:
    return target["masks"]


def outlines_of(segmentations: list[Any], size: tuple[int, int]) -> Outlines:
    rows = OutlineRows()
    for each in segmentations:
        rows.take(each)
    return rows.outlines(np.array([size] * len(segmentations)), lambda wrong, say: None)


# -- from the file --------------------------------------------------------------------------------


def test_targets_hold_the_masks_of_their_objects_and_no_crowds(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=("masks",))
    for target in (data.target(1), data.load(1, rng())[1]):
        masks = masks_of(target)
        assert masks.shape == (3, HEIGHT, WIDTH) and masks.dtype == torch.uint8 and masks.unique().tolist() == [0, 1]
        assert (masks_to_boxes(masks) + torch.tensor((0, 0, 1, 1))).tolist() == target["boxes"].tolist()
    two_parts = masks_of(data.target(0))
    assert two_parts.sum() == pytest.approx(36 + 12.5**2, abs=13) and two_parts[0, 4, 4] == two_parts[0, 15, 25] == 1
    assert "masks" not in CocoDetection(*people(tmp_path)).target(1)


def test_ground_truth_holds_what_pycocotools_reads_crowds_too(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    data = CocoDetection(*people(tmp_path), finds=("masks",))
    ours: Any = COCO()
    theirs = COCO(str(data.table.path))
    ours.dataset = data.ground_truth()
    ours.createIndex()
    found = {json.dumps(a["bbox"]): ours.annToMask(a) for a in ours.dataset["annotations"]}
    for entry in theirs.dataset["annotations"]:
        assert np.array_equal(found[json.dumps([float(n) for n in entry["bbox"]])], theirs.annToMask(entry))
    assert json.loads(json.dumps(data.ground_truth())) == data.ground_truth() and len(found) == 5
    assert [a["iscrowd"] for a in data.ground_truth()["annotations"]] == [0, 0, 0, 0, 1]


def test_masks_outside_the_image_are_clipped_or_dropped_and_told_and_stay_for_evaluation(tmp_path: Path) -> None:
    content = people_file()
    for number, segmentation in enumerate(
        ([square(50, 30, 20)], [square(100, 100, 9)], [square(-9, 2, 8)], [square(5, 5, 0.1)])
    ):
        content["annotations"].append(
            {
                **content["annotations"][0],
                "id": 200 + number,
                "bbox": [5, 5, 9, 9 + number],
                "segmentation": segmentation,
            }
        )
    data = CocoDetection(*people(tmp_path, content), finds=("masks",))
    told = ["1 polygon reaches outside the image, clipped", "3 masks have no pixel in the image, dropped"]
    assert [note for note in data.notes if "crowd" not in note] == told
    masks = masks_of(data.target(1))
    assert len(masks) == 4 and masks[3].sum() == 100 and masks[3, 30:, 50:].all()
    assert len(data.ground_truth()["annotations"]) == 9
    for entry in content["annotations"]:
        entry["segmentation"] = [square(100, 100, 9)]
    with pytest.raises(DataError, match="no mask inside its image"):
        CocoDetection(*people(tmp_path, content), finds=("masks",))


def test_an_rle_of_nothing_is_dropped(tmp_path: Path) -> None:
    content = people_file()
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    data = CocoDetection(*people(tmp_path, content), finds=("masks",))
    assert data.notes[1:] == ["1 mask has no pixel in the image, dropped"] and len(masks_of(data.target(1))) == 2


def test_an_object_of_which_an_augmentation_leaves_no_pixel_is_dropped(tmp_path: Path) -> None:
    """The box of the two squares is still in the picture; neither of them is."""
    cut = lambda image, target, _: G.crop(image, target, Part(2, 9, 8, 10))  # noqa: E731
    data = CocoDetection(*people(tmp_path), augment=cut, finds=("masks", "keypoints"))
    target: Any = data.load(0, rng())[1]
    assert all(len(target[name]) == 0 for name in ("boxes", "labels", "masks", "keypoints"))
    assert target["masks"].shape == (0, 8, 10)


def test_a_data_set_with_masks_travels_to_a_worker(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=("masks", "keypoints"), augment=build_augment("ssd", size=(48, 48)))
    again = pickle.loads(pickle.dumps(data))  # noqa: S301, our own bytes
    (image, target), (other, theirs) = data.load(1, rng(3)), again.load(1, rng(3))
    assert torch.equal(image, other) and torch.equal(masks_of(target), masks_of(theirs))


def test_the_limit_takes_masks_along(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=("masks", "keypoints"), limit=1)
    assert data.table.masks is not None and len(data.table.masks) == 1 == len(data.ground_truth()["annotations"])


def test_aspect_ratios_open_no_image(tmp_path: Path) -> None:
    images, annotations = people(tmp_path)
    data = CocoDetection(images, annotations)
    for file in images.glob("*.png"):
        file.unlink()
    assert aspect_ratios(data).tolist() == [HEIGHT / WIDTH] * 2


# -- compressed and as pixels, the same -----------------------------------------------------------

SIZES = st.tuples(st.integers(20, 70), st.integers(20, 70))


def moves(image: Tensor, target: Any, seed: int) -> G.Sample:
    """Several in a row."""
    draw = np.random.default_rng(seed)
    for _ in range(4):
        height, width = G.size_of(image)
        choice = draw.integers(5)
        if choice == 0:
            image, target = G.hflip(image, target)
        elif choice == 1:
            image, target = G.resize(image, target, (int(draw.integers(20, 90)), int(draw.integers(20, 90))))
        elif choice == 2:
            corner = int(draw.integers(height // 4)), int(draw.integers(width // 4))
            image, target = G.crop(image, target, Part(*corner, height * 3 // 4, width * 3 // 4))
        elif choice == 3:
            image, target = G.paste(image, target, (3, 5), (height + 9, width + 6))
        else:
            image, target = G.through(image, target, Part(-5, 4, height, width), (50, 40))
    return image, target


@given(SIZES, st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_silhouettes_become_the_pixels_that_moving_every_mask_gives(size: tuple[int, int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    height, width = size
    low = draw.random((5, 2)) * 0.6
    corners = np.concatenate((low, low + 0.1 + draw.random((5, 2)) * 0.3), 1) * (width, height, width, height)
    rings = [[[x0, y0, x1, y0, (x0 + x1) / 2, y1]] for x0, y0, x1, y1 in corners.tolist()]
    lazy = Silhouettes.whole(outlines_of(rings, size), np.arange(5), size)
    image = torch.zeros((3, *size), dtype=torch.uint8)
    told: Any = {"boxes": torch.from_numpy(corners).float(), "labels": torch.arange(5)}
    out, ours = moves(image, {**told, "masks": lazy}, seed)
    _, theirs = moves(image, {**told, "masks": lazy.pixels()}, seed)
    assert torch.equal(ours["boxes"], theirs["boxes"])
    moved: Any = masks_of(ours)
    assert torch.equal(moved.pixels(), masks_of(theirs)) and moved.pixels().shape[1:] == out.shape[1:]


@pytest.mark.parametrize(("before", "after"), [(480, 800), (427, 640), (640, 333), (33, 7), (5, 1000)])
def test_masks_are_resized_to_the_nearest_pixel_as_torchvision_does(before: int, after: int) -> None:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    line = torch.arange(before, dtype=torch.float32).reshape(1, 1, -1)
    found = F.resize(line, [1, after], interpolation=InterpolationMode.NEAREST_EXACT)[0, 0]
    assert (found - G.nearest(before, after)).abs().max() <= 1
    assert (found == G.nearest(before, after)).float().mean() > 0.98


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_after_any_augmentation_masks_fill_their_boxes(tmp_path: Path, name: str) -> None:
    """Boxes that are filled by their masks: corners agree within a pixel of the stored image, areas follow."""
    content, draw, kept = people_file(), np.random.default_rng(0), 0
    content["images"][0].update(width=160, height=120)
    content["images"] = content["images"][:1]
    content["annotations"] = []
    for number in range(12):
        x, y, side = (int(n) for n in (*draw.integers(0, 90, 2), draw.integers(8, 30)))
        told = {"bbox": [x, y, side, side], "segmentation": [square(x, y, side)], "image_id": 3, "category_id": 1}
        content["annotations"].append({"id": number, **told})
    data = CocoDetection(
        *people(tmp_path, content), finds=("masks",), augment=build_augment(name, level=3, size=(96, 128))
    )
    for key in range(25):
        image, target = data.load(0, rng(key))
        masks, boxes = masks_of(target), target["boxes"]
        assert masks.shape == (len(boxes), *image.shape[1:]) and masks.dtype == torch.uint8 and masks.max() <= 1
        kept += len(boxes)
        if len(boxes):
            found = masks_to_boxes(masks) + torch.tensor((0, 0, 1, 1))
            grown = max(1.0, *((boxes[:, 2:] - boxes[:, :2]).max(dim=0).values / 8).tolist())
            assert (found - boxes).abs().max() <= grown
            sides = boxes[:, 2:] - boxes[:, :2]
            assert ((masks.sum((1, 2)) - sides.prod(1)).abs() <= grown * (sides.sum(1) + grown)).all()
    assert kept > 60


# -- on real photographs --------------------------------------------------------------------------


@needs_real_data
def test_masks_and_keypoints_of_real_people_lie_in_their_boxes_before_and_after_augmentation() -> None:
    images, annotations = coco_layout(REAL / "coco-keypoints", "train", "coco_kp")
    for name in ("plain", "multiscale", "lsj", "ssd"):
        augment = None if name == "plain" else build_augment(name, size=(320, 320))
        data = CocoDetection(images, annotations, finds=("masks", "keypoints"), augment=augment)
        inside, points, apart = 0, 0, []
        for index in range(0, len(data), 4):
            target: Any = data.load(index, rng(index))[1]
            for box, keypoints, pixels in zip(target["boxes"], target["keypoints"], target["masks"], strict=True):
                apart.append(float((masks_to_boxes(pixels[None])[0] + torch.tensor((0, 0, 1, 1)) - box).abs().max()))
                seen = keypoints[keypoints[:, 2] == 2][:, :2]
                points += len(seen)
                x, y = seen.T.long()
                near = [
                    bool(pixels[max(b - 4, 0) : b + 5, max(a - 4, 0) : a + 5].any())
                    for a, b in zip(x.tolist(), y.tolist(), strict=True)
                ]
                inside += sum(near)
        assert points > 50 and inside / points > 0.93, (name, inside, points)
        assert np.median(apart) <= 1 and np.mean(np.array(apart) < 6) > (0.95 if augment is None else 0.8), name


@needs_real_data
def test_every_real_mask_is_the_one_pycocotools_decodes() -> None:
    from pycocotools.coco import COCO

    images, annotations = coco_layout(REAL / "coco-tiny", "val")
    data, reference = CocoDetection(images, annotations, finds=("masks",)), COCO(str(annotations))
    for index in range(0, len(data), 3):
        target = data.target(index)
        told = [reference.annToMask(a) for a in reference.imgToAnns[data.image_ids[index]] if not a["iscrowd"]]
        assert len(told) >= len(target["boxes"]) > 0
        assert {m.numpy().tobytes() for m in masks_of(target)} <= {m.tobytes() for m in told}
