"""Augmentation: boxes stay on their pixels, scale is really changed, and the same key gives the same picture."""

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

from detection.data.augment import presets as A
from detection.data.augment.geometry import FILL, Sample
from detection.data.augment.presets import AUGMENTATIONS, build_augment
from detection.data.augment.sizes import RULES
from detection.parts.dense import boxes as box
from detection.types import Target
from shared.errors import UsageError

NAMES = tuple(AUGMENTATIONS)
names = st.sampled_from(NAMES)
KEYS = st.integers(0, 999)


def scene(size: tuple[int, int], seed: int, count: int = 5) -> Sample:
    """A noisy picture and `count` boxes inside it, every label its own."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), np.uint8)).permute(2, 0, 1)
    low = rng.random((count, 2)) * 0.6
    high = low + 0.1 + rng.random((count, 2)) * 0.3
    boxes = torch.from_numpy(np.concatenate((low, high), 1) * (width, height, width, height)).float()
    return image, Target(boxes=boxes, labels=torch.arange(count))


def painted(size: tuple[int, int], corners: tuple[int, int, int, int]) -> Sample:
    """Black, with one white rectangle: where it went can be read from the pixels."""
    image = torch.zeros((3, *size), dtype=torch.uint8)
    x0, y0, x1, y1 = corners
    image[:, y0:y1, x0:x1] = 255
    return image, Target(boxes=torch.tensor([corners], dtype=torch.float32), labels=torch.tensor([7]))


def rectangle(image: Tensor) -> tuple[float, float, float, float]:
    """Where the white one is, to a part of a pixel: its edges weigh as much as they are white."""
    white = (image[0].float() - max(FILL)).clamp(min=0) / (255 - max(FILL))
    down, across = white.amax(1), white.amax(0)
    y0, x0 = int((down > 0.3).int().argmax()), int((across > 0.3).int().argmax())
    return x0, y0, x0 + float(across.sum()), y0 + float(down.sum())


def assert_in_order(image: Tensor, target: Target) -> None:
    """uint8, and every box inside the image and at least a pixel wide, with its label."""
    height, width = image.shape[-2:]
    boxes = target["boxes"]
    assert image.dtype == torch.uint8 and len(boxes) == len(target["labels"])
    assert torch.equal(boxes, box.clip(boxes, (height, width))) and bool(box.usable(boxes).all())


# -- what every augmentation promises -------------------------------------------------------------


@given(names, st.integers(0, 10), st.booleans(), st.none() | st.integers(40, 120), KEYS)
@settings(max_examples=120, deadline=None)
def test_every_augmentation_keeps_its_promises(
    name: str, level: int, multi: bool, longest: int | None, key: int
) -> None:
    multi = multi and name != "lsj"
    augment = build_augment(name, level=level, size=(48, 64), max_size=longest, multiscale=multi)
    image, target = scene((50, 70), key)
    before = image.clone(), target["boxes"].clone()
    out, moved = augment(image, target, np.random.default_rng(key))
    assert_in_order(out, moved)
    assert set(moved["labels"].tolist()) <= set(range(5))
    assert torch.equal(image, before[0]) and torch.equal(target["boxes"], before[1])
    if name != "lsj" and (longest or multi or name in ("multiscale", "detr")):
        assert max(out.shape[-2:]) <= (longest or 1333 * 48 / 640 + 1)
    else:
        assert out.shape[-2:] == (48, 64)


@given(names, st.booleans(), st.none() | st.integers(40, 120), st.sampled_from(sorted(RULES)), KEYS)
@settings(max_examples=50, deadline=None)
def test_no_image_is_larger_than_the_largest(name: str, multi: bool, longest: int | None, rule: str, key: int) -> None:
    multi, rng = multi and name != "lsj", np.random.default_rng(key)
    augment = build_augment(name, size=(48, 64), max_size=longest, multiscale=multi, resize_rule=rule)
    sizes: list[tuple[int, int]] = [(h, w) for h, w in rng.integers(30, 200, (3, 2)).tolist()]
    height, width = augment.largest(sizes)
    for size in sizes:
        out, _ = augment(*scene(size, key), rng)
        over = max(1, round(max(size) / min(size)))  # of rules that round the short side first
        assert out.shape[-2] <= height + over and out.shape[-1] <= width + over


def test_the_largest_image_is_that_of_the_photographs_where_nothing_is_cropped() -> None:
    wide = [(720, 1280), (600, 800)]
    flip = build_augment("hflip", size=(800, 800), max_size=1333)
    assert flip.largest(wide) == (800, 1333), "600 x 800 becomes 800 x 1066"
    assert flip.largest([*wide, (1280, 720)]) == (1333, 1333), "a batch may have both"
    assert build_augment("multiscale", size=(800, 800)).largest([(500, 500)]) == (800, 800)
    assert build_augment("detr", size=(800, 800)).largest(wide) == (1333, 1333), "crops have any shape"
    assert build_augment("lsj", size=(1024, 1024)).largest(wide) == (1024, 1024)
    assert build_augment("birder", size=(512, 640)).largest(wide) == (512, 640)


@pytest.mark.parametrize("name", NAMES)
def test_the_box_is_where_the_pixels_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(A, "distort_colors", lambda image, rng, share: image)
    kept = 0
    for key in range(50):
        rng = np.random.default_rng(key)
        height, width = (int(side) for side in rng.integers(90, 200, 2))
        x0, y0 = int(rng.integers(4, width - 64)), int(rng.integers(4, height - 64))
        image, target = painted(
            (height, width), (x0, y0, x0 + int(rng.integers(20, 60)), y0 + int(rng.integers(20, 60)))
        )
        out, moved = build_augment(name, level=3, size=(160, 192))(image, target, rng)
        kept += len(moved["boxes"])
        for corners in moved["boxes"].tolist():
            grown = max(out.shape[-2] / height, out.shape[-1] / width, 1)
            assert np.abs(np.array(rectangle(out)) - corners).max() <= 1.5 * grown, key
            assert moved["labels"].tolist() == [7]
    assert kept > 30


@pytest.mark.parametrize("name", NAMES)
def test_labels_stay_with_their_boxes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four patches, each with a gray of its own that its label names."""
    monkeypatch.setattr(A, "distort_colors", lambda image, rng, share: image)
    seen = set()
    for key in range(25):
        image = torch.zeros((3, 120, 120), dtype=torch.uint8)
        boxes = torch.tensor([[10.0, 10, 45, 45], [70, 10, 110, 50], [10, 70, 50, 110], [70, 70, 115, 115]])
        for label, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            image[:, y0:y1, x0:x1] = 60 + 60 * label
        target = Target(boxes=boxes, labels=torch.arange(4))
        out, moved = build_augment(name, level=3, size=(160, 160))(image, target, np.random.default_rng(key))
        for (x0, y0, x1, y1), label in zip(moved["boxes"].int().tolist(), moved["labels"].tolist(), strict=True):
            if min(x1 - x0, y1 - y0) > 8:
                middle = out[0, (y0 + y1) // 2, (x0 + x1) // 2]
                assert abs(int(middle) - 60 - 60 * label) < 20
                seen.add(label)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("name", NAMES)
def test_images_without_boxes_pass_through(name: str) -> None:
    augment = build_augment(name, level=10, size=(48, 64))
    for key in range(12):
        out, moved = augment(*scene((50, 70), key, count=0), np.random.default_rng(key))
        assert moved["boxes"].shape == (0, 4) and moved["labels"].shape == (0,) and out.dtype == torch.uint8


@pytest.mark.parametrize("name", NAMES)
def test_masks_keypoints_and_the_images_own_fields_come_along(name: str) -> None:
    augment = build_augment(name, level=10, size=(48, 64))
    for key in range(12):
        image, plain = scene((50, 70), key)
        target: Any = {**plain, "masks": torch.ones(5, 50, 70, dtype=torch.uint8), "keypoints": torch.ones(5, 17, 3)}
        out, moved = augment(image, target | {"image_id": 9}, np.random.default_rng(key))
        count = len(moved["boxes"])
        assert moved["masks"].shape == (count, *out.shape[-2:]) and moved["keypoints"].shape == (count, 17, 3)  # pyright: ignore
        assert moved["image_id"] == 9  # pyright: ignore


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_picture_and_another_key_another(name: str) -> None:
    augment = build_augment(name, level=10, size=(48, 64))
    image, target = scene((50, 70), 3)
    pictures = [augment(image, target, np.random.default_rng(key)) for key in (*range(8), *range(8))]
    for (once, boxes), (again, boxes_again) in zip(pictures[:8], pictures[8:], strict=True):
        assert torch.equal(once, again) and torch.equal(boxes["boxes"], boxes_again["boxes"])
    assert any(not torch.equal(picture, pictures[0][0]) for picture, _ in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_key_matters(name: str) -> None:
    augment = build_augment(name, level=10, size=(48, 64))
    image, target = scene((50, 70), 3)
    once = augment(image, target, np.random.default_rng(5))[0]
    torch.manual_seed(1)
    np.random.seed(1)
    augment = pickle.loads(pickle.dumps(augment))  # noqa: S301, as it travels to a worker
    assert torch.equal(once, augment(image, target, np.random.default_rng(5))[0])


# -- one by one -----------------------------------------------------------------------------------


def widths(name: str, count: int = 80, **options: Any) -> list[float]:
    """How wide an object becomes that a plain resize would leave at 20 pixels of 100; cut ones are left out."""
    image, target = painted((100, 100), (40, 40, 60, 60))
    augment = build_augment(name, size=(100, 100), **options)
    found = [augment(image, target, np.random.default_rng(key)) for key in range(count)]
    return [
        float(b[2] - b[0])
        for out, moved in found
        for b in moved["boxes"]
        if b[:2].min() > 0 and b[2] < out.shape[-1] and b[3] < out.shape[-2]
    ]


def test_large_scale_jitter_really_changes_the_size_of_objects() -> None:
    """The seed's own was undone by the resize after it: every object 20 pixels wide, whatever was drawn."""
    found = widths("lsj", 200)
    assert 2 <= min(found) < 4 and 36 < max(found) <= 41 and len({round(width) for width in found}) > 25
    assert np.mean(np.array(found) < 20) == pytest.approx(10 / 19, abs=0.12)  # uniform from 0.1 to 2


def test_large_scale_jitter_keeps_the_shape_of_objects_and_pads_at_the_bottom_right() -> None:
    image, target = painted((60, 120), (40, 20, 70, 50))
    augment, padded = build_augment("lsj", size=(160, 160)), 0
    for key in range(60):
        out, moved = augment(image, target, np.random.default_rng(key))
        assert out.shape[-2:] == (160, 160)
        if out[:, -1, -1].tolist() == list(FILL):
            padded += 1
            assert out[:, 0, 0].tolist() == [0, 0, 0]
            x0, y0, x1, y1 = moved["boxes"][0].tolist()
            if x0 > 0 and y0 > 0 and x1 < 160 and y1 < 160:
                assert (x1 - x0) == pytest.approx(y1 - y0, abs=2)
    assert padded > 20


def test_large_scale_jitter_is_evaluated_on_what_fits_into_its_canvas() -> None:
    image, target = scene((60, 120), 0)
    out, _ = build_augment("lsj", size=(160, 160), train=False)(image, target, np.random.default_rng(0))
    assert out.shape[-2:] == (80, 160)


def test_scale_jitter_and_zoom_out_are_not_undone_by_the_resize() -> None:
    found = widths("birder", level=1)
    assert min(found) < 12 and max(found) > 30 and len({round(w) for w in found}) > 10


def test_ssd_zooms_out_to_a_quarter_and_its_crop_enlarges() -> None:
    found = widths("ssd", 200)
    assert min(found) < 8 and max(found) > 30
    found = widths("ssdlite", 200)
    assert 19.5 < min(found) < 21 and max(found) > 30


@pytest.mark.parametrize("seed", range(3))
def test_level_0_is_the_resize_alone(seed: int) -> None:
    image, target = scene((60, 80), seed)
    out, moved = build_augment("birder", level=0, size=(96, 64))(image, target, np.random.default_rng(seed))
    assert torch.equal(out, F.resize(image, [96, 64], antialias=True))
    torch.testing.assert_close(moved["boxes"], box.scaled(target["boxes"], (96 / 60, 64 / 80)))


def test_detr_draws_the_papers_short_sides_and_cuts_out_parts() -> None:
    augment = build_augment("detr", size=A.DETR_SIZE)
    image, target = scene((48, 64), 0)
    sizes = [tuple(augment(image, target, np.random.default_rng(key))[0].shape[-2:]) for key in range(90)]
    assert {min(size) for size in sizes} == set(range(480, 801, 32)) and max(map(max, sizes)) <= 1333
    whole = sum(abs(width / height - 64 / 48) < 0.01 for height, width in sizes)
    assert 30 < whole < 65  # the others are parts, whose shape is their own


def test_detr_shrinks_in_proportion_to_a_smaller_size() -> None:
    augment = build_augment("detr", size=(256, 256))
    image, target = scene((48, 64), 0)
    shapes = {tuple(augment(image, target, np.random.default_rng(key))[0].shape[-2:]) for key in range(90)}
    assert {min(shape) for shape in shapes} == {round(side * 0.32) for side in range(480, 801, 32)}
    assert max(max(shape) for shape in shapes) <= round(1333 * 0.32)
    kept = build_augment("detr", size=(256, 256), train=False)(image, target, np.random.default_rng(0))
    assert kept[0].shape[-2:] == (256, 341)


def test_a_range_of_short_sides_gives_every_whole_number_in_it_and_the_size_in_evaluation() -> None:
    picture, target = torch.zeros(3, 30, 40, dtype=torch.uint8), Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0))
    for name in ("hflip", "birder", "detr", "multiscale"):
        augment = build_augment(name, size=(64, 64), short_sides=(40, 47), max_size=2000, level=2)
        seen = [min(augment(picture, target, np.random.default_rng(seed))[0].shape[1:]) for seed in range(120)]
        assert set(seen) == set(range(40, 48)), name
    plain = build_augment("hflip", size=(64, 64), short_sides=(40, 47), train=False)
    assert plain(picture, target, np.random.default_rng(0))[0].shape == (3, 64, 85)


@pytest.mark.parametrize(
    ("size", "shorts"), [(640, range(480, 801, 32)), (320, range(240, 401, 16)), (900, range(480, 801, 32))]
)
def test_multiscale_draws_short_sides_from_480_to_800_and_fewer_pixels_in_proportion(size: int, shorts: range) -> None:
    augment = build_augment("multiscale", size=(size, size))
    image, target = scene((24, 32), 0)
    drawn = {augment(image, target, np.random.default_rng(k))[0].shape[-2] for k in range(40)}
    assert drawn <= set(shorts) and len(drawn) > 6


def test_evaluation_resizes_and_draws_nothing() -> None:
    image, target = scene((60, 80), 0)
    for name in ("birder", "ssd", "ssdlite", "hflip"):
        fixed = build_augment(name, size=(32, 48), train=False)(image, target, np.random.default_rng(0))
        assert torch.equal(fixed[0], F.resize(image, [32, 48], antialias=True))
    options: dict[str, Any]
    for options in ({"max_size": 50}, {"multiscale": True}):
        kept = build_augment("birder", size=(48, 64), train=False, **options)(image, target, np.random.default_rng(0))
        assert kept[0].shape[-2:] == ((37, 50) if "max_size" in options else (48, 64))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "birdr"}, "did you mean 'birder'"),
        ({"name": "birder", "level": 11}, "level 11"),
        ({"name": "hflip", "size": (0, 5)}, "sizes start at 1"),
        ({"name": "lsj", "short_sides": (40, 80)}, "remove --short-side-range"),
        ({"name": "hflip", "short_sides": (80, 40)}, "give 40 80"),
        ({"name": "lsj", "multiscale": True}, "remove --multiscale"),
    ],
)
def test_a_wrong_choice_is_explained(options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_augment(**{"size": (64, 64), **options})
