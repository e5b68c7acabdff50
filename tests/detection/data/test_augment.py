"""Augmentation: boxes stay with their objects, scale is really changed, and the same key gives the same picture."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.data import augment as A
from detection.data.augment import Sample, build_augment
from detection.parts import boxes as box
from detection.types import Target
from shared.errors import UsageError

SIZES = st.tuples(st.integers(20, 90), st.integers(20, 90))
NAMES = ("hflip", "multiscale", "birder", "default")


def scene(size: tuple[int, int], seed: int, count: int = 5) -> Sample:
    """A noisy picture and `count` boxes inside it, every label its own."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), np.uint8)).permute(2, 0, 1)
    low = rng.random((count, 2)) * 0.6
    high = low + 0.1 + rng.random((count, 2)) * 0.3
    boxes = torch.from_numpy(np.concatenate((low, high), 1) * (width, height, width, height)).float()
    return image, Target(boxes=boxes, labels=torch.arange(count))


def white_box_scene(size: tuple[int, int], corners: tuple[int, int, int, int]) -> Sample:
    """Black, with one white rectangle: where it went can be read from the pixels."""
    image = torch.zeros((3, *size), dtype=torch.uint8)
    x0, y0, x1, y1 = corners
    image[:, y0:y1, x0:x1] = 255
    return image, Target(boxes=torch.tensor([corners], dtype=torch.float32), labels=torch.tensor([7]))


def assert_in_order(image: Tensor, target: Target) -> None:
    """uint8, and every box inside the image and at least a pixel wide, with its label."""
    height, width = image.shape[-2:]
    boxes = target["boxes"]
    assert image.dtype == torch.uint8 and len(boxes) == len(target["labels"])
    assert torch.equal(boxes, box.clip(boxes, (height, width))) and bool(box.usable(boxes).all())


@given(SIZES, st.integers(0, 99))
def test_flipping_twice_is_the_identity(size: tuple[int, int], seed: int) -> None:
    image, target = scene(size, seed)
    twice, twice_target = A.hflip(*A.hflip(image, target))
    assert torch.equal(twice, image)
    torch.testing.assert_close(twice_target["boxes"], target["boxes"], rtol=0, atol=1e-4)


@given(SIZES, st.integers(0, 999))
@settings(max_examples=60)
def test_a_crop_leaves_no_box_outside(size: tuple[int, int], seed: int) -> None:
    image, target = A.iou_crop(*scene(size, seed), np.random.default_rng(seed))
    assert_in_order(image, target)
    assert len(target["boxes"])  # the crop is drawn around an object


def test_a_crop_keeps_the_objects_whose_centre_it_holds_and_reaches_the_overlap() -> None:
    crops = 0
    for seed in range(60):
        image, target = scene((90, 80), seed)
        part, kept = A.iou_crop(image, target, np.random.default_rng(seed))
        height, width = part.shape[-2:]
        if (height, width) == (90, 80):
            continue
        crops += 1
        assert 0.3 * 90 - 1 <= height <= 90 and 0.3 * 80 - 1 <= width <= 80 and 0.5 <= width / height <= 2
        places = [(y, x) for y in range(91 - height) for x in range(81 - width)]
        down, across = next(p for p in places if torch.equal(image[:, p[0] :, p[1] :][:, :height, :width], part))
        centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
        corner = torch.tensor([across, down])
        inside = ((centres > corner) & (centres < corner + torch.tensor([width, height]))).all(1)
        assert kept["labels"].tolist() == target["labels"][inside].tolist()
    assert crops > 30


def test_an_image_without_boxes_is_not_cropped() -> None:
    image, target = scene((40, 50), 0, count=0)
    assert A.iou_crop(image, target, np.random.default_rng(0))[0] is image


@given(st.floats(0.1, 2), SIZES, st.integers(0, 99))
@settings(max_examples=60)
def test_rescaling_gives_objects_the_drawn_size_in_a_fixed_canvas(
    scale: float, size: tuple[int, int], seed: int
) -> None:
    height, width = size
    image, target = scene((height * 2, width * 3), seed, count=1)
    out, moved = A.rescale(image, target, scale, size, np.random.default_rng(seed))
    assert out.shape[-2:] == size
    assert_in_order(out, moved)
    plain = box.areas(A.resize(image, target, size)[1]["boxes"])
    for box_area in box.areas(moved["boxes"]):
        assert box_area <= plain * scale**2 * 1.3 + 5  # less where the canvas cuts it; sides are whole pixels
        if scale < 1:
            assert box_area >= plain * scale**2 * 0.7 - 5


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.0, 1.6])
def test_boxes_stay_on_their_pixels(scale: float) -> None:
    for seed in range(8):
        image, target = white_box_scene((120, 160), (60, 40, 110, 80))
        image, target = A.rescale(image, target, scale, (96, 96), np.random.default_rng(seed))
        image, target = A.hflip(image, target)
        if not len(target["boxes"]):
            continue
        x0, y0, x1, y1 = (round(side) for side in target["boxes"][0].tolist())
        inner = image[:, y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
        assert inner.numel() == 0 or inner.min() > 200
        image[:, max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = 0
        assert image.max() <= max(A.FILL)


def test_scale_jitter_and_zoom_out_are_not_undone_by_the_resize() -> None:
    image, target = white_box_scene((100, 100), (40, 40, 60, 60))
    augment = build_augment("birder", level=1, size=(100, 100))
    widths = []
    for seed in range(80):
        _, moved = augment(image, target, np.random.default_rng(seed))
        widths += (moved["boxes"][:, 2] - moved["boxes"][:, 0]).tolist()
    assert min(widths) < 12 and max(widths) > 30 and len({round(w) for w in widths}) > 10


@pytest.mark.parametrize("seed", range(3))
def test_level_0_is_the_resize_alone(seed: int) -> None:
    image, target = scene((60, 80), seed)
    out, moved = build_augment("birder", level=0, size=(96, 64))(image, target, np.random.default_rng(seed))
    assert torch.equal(out, F.resize(image, [96, 64], antialias=True))
    torch.testing.assert_close(moved["boxes"], box.scaled(target["boxes"], (96 / 60, 64 / 80)))


@given(st.sampled_from(NAMES), st.integers(0, 10), st.booleans(), st.none() | st.integers(40, 120), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_every_augmentation_keeps_its_promises(
    name: str, level: int, multi: bool, longest: int | None, key: int
) -> None:
    augment = build_augment(name, level=level, size=(48, 64), max_size=longest, multiscale=multi)
    image, target = scene((50, 70), key)
    before = image.clone(), target["boxes"].clone()
    out, moved = augment(image, target, np.random.default_rng(key))
    assert_in_order(out, moved)
    assert torch.equal(image, before[0]) and torch.equal(target["boxes"], before[1])
    if longest or multi or name == "multiscale":
        assert max(out.shape[-2:]) <= (longest or 1333)
    else:
        assert out.shape[-2:] == (48, 64)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_picture_and_another_key_another(name: str) -> None:
    augment = build_augment(name, level=10, size=(48, 64))
    image, target = scene((50, 70), 3)
    pictures = [augment(image, target, np.random.default_rng(key)) for key in (*range(8), *range(8))]
    for (once, boxes), (again, boxes_again) in zip(pictures[:8], pictures[8:], strict=True):
        assert torch.equal(once, again) and torch.equal(boxes["boxes"], boxes_again["boxes"])
    assert any(not torch.equal(picture, pictures[0][0]) for picture, _ in pictures)


def test_nothing_but_the_key_matters() -> None:
    augment = build_augment("birder", level=10, size=(48, 64))
    image, target = scene((50, 70), 3)
    once = augment(image, target, np.random.default_rng(5))[0]
    torch.manual_seed(1)
    augment = pickle.loads(pickle.dumps(augment))  # noqa: S301, as it travels to a worker
    assert torch.equal(once, augment(image, target, np.random.default_rng(5))[0])


@pytest.mark.parametrize("level", [3, 4, 6])
def test_colours_begin_at_level_4(level: int) -> None:
    image = torch.full((3, 32, 32), 90, dtype=torch.uint8)
    image[0] = 180
    changed = sum(not torch.equal(A.recolour(image, level, np.random.default_rng(k)), image) for k in range(30))
    assert (changed == 0) == (level == 3)
    grey = sum(bool((A.recolour(image, level, np.random.default_rng(k)).float().std(0) < 1).all()) for k in range(30))
    assert (grey > 0) == (level == 6)


def test_a_colour_table_equals_the_colour_arithmetic_to_a_level_or_so() -> None:
    down, across = np.meshgrid(np.linspace(0, 255, 40), np.linspace(0, 255, 40))
    image = torch.from_numpy(np.stack((down, across, (down + across) / 2)).astype(np.uint8))
    assert torch.equal(A.by_table(image, lambda colours: colours), image)
    by_hand = F.adjust_hue(F.adjust_saturation(image, 1.2), 0.03).int()
    by_table = A.by_table(image, lambda c: F.adjust_hue(F.adjust_saturation(c, 1.2), 0.03)).int()
    assert (by_hand - by_table).abs().float().mean() < 2


def test_evaluation_resizes_and_draws_nothing() -> None:
    image, target = scene((60, 80), 0)
    fixed = build_augment("birder", size=(32, 48), train=False)(image, target, np.random.default_rng(0))
    assert torch.equal(fixed[0], F.resize(image, [32, 48], antialias=True))
    options: dict[str, Any]
    for options in ({"max_size": 50}, {"multiscale": True}):
        kept = build_augment("birder", size=(48, 64), train=False, **options)(image, target, np.random.default_rng(0))
        assert kept[0].shape[-2:] == ((38, 50) if "max_size" in options else (48, 64))


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_a_fitted_size_reaches_one_limit_and_exceeds_none(height: int, width: int) -> None:
    fitted = A.fitted((height, width), 480, 640)
    assert min(fitted) <= 480 and max(fitted) <= 640 and min(fitted) >= 1
    assert min(fitted) == 480 or max(fitted) == 640


def test_multiscale_draws_short_sides_from_480_to_800() -> None:
    augment = build_augment("multiscale", size=(640, 640))
    image, target = scene((24, 32), 0)
    shorts = {augment(image, target, np.random.default_rng(k))[0].shape[-2] for k in range(40)}
    assert shorts <= set(range(480, 801, 32)) and len(shorts) > 6


def test_fields_of_the_image_travel_and_fields_of_objects_are_dropped_with_them() -> None:
    _, target = scene((40, 40), 0, count=2)
    target = {**target, "image_id": 9, "keypoints": torch.zeros(2, 3, 3)}
    target["boxes"][1] = torch.tensor([39.5, 0, 40, 40])
    moved = A.with_boxes(target, target["boxes"], (40, 40))  # pyright: ignore[reportArgumentType]
    assert moved["image_id"] == 9 and len(moved["keypoints"]) == len(moved["labels"]) == 1  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "birdr"}, "did you mean 'birder'"),
        ({"name": "birder", "level": 11}, "level 11"),
        ({"name": "hflip", "size": (0, 5)}, "sizes start at 1"),
    ],
)
def test_a_wrong_choice_is_explained(options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_augment(**{"size": (64, 64), **options})
