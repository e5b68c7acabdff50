"""The fast path does what the usual one does: the same boxes in distribution, the same pixels to two gray levels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, ResizeCenterCrop, crop_resize
from shared.feeding.image import decode_image


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photograph(height: int, width: int) -> torch.Tensor:
    """Noise over soft colors, with the strides a JPEG decoder leaves."""
    y, x = np.mgrid[:height, :width] * 180.0 / max(height, width)
    pixels = np.stack([y, x, (x + y) / 2], -1) + generator().integers(0, 75, (height, width, 3))
    return torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1)


def by_pillow(image: torch.Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> torch.Tensor:
    top, left, height, width = box
    crop = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    small = crop.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def levels(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_a_resized_box_is_pillows_to_two_gray_levels(size):
    image, crop, rng = photograph(231, 317), RandomResizedCrop(size), generator(1)
    for _ in range(40):
        box = crop.box(231, 317, rng)
        assert levels(crop_resize(image, box, size), by_pillow(image, box, size)) <= 2


def test_the_same_holds_on_real_photographs():
    folder = os.environ.get("CHORDATE_REAL_DATA")
    if not folder:
        pytest.skip("CHORDATE_REAL_DATA does not name the folder of real data")
    rng, crop = generator(2), RandomResizedCrop(224)
    files = sorted((Path(folder) / "imagenet-sample").glob("*.JPEG"))[:40]
    assert files
    for file in files:
        image = decode_image(file.read_bytes(), upright=True)
        box = crop.box(image.shape[1], image.shape[2], rng)
        assert levels(crop_resize(image, box, (224, 224)), by_pillow(image, box, (224, 224))) <= 2


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest gap between two empirical distributions."""
    grid = np.sort(np.concatenate([one, other]))
    return float(np.abs(np.searchsorted(np.sort(one), grid, "right") / len(one)
                        - np.searchsorted(np.sort(other), grid, "right") / len(other)).max())  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 120), (100, 900), (9, 7)])
def test_boxes_are_distributed_like_torchvisions(height, width):
    ours, theirs, rng = RandomResizedCrop(224), v2.RandomResizedCrop(224), generator(3)
    torch.manual_seed(0)
    count, blank = 2000, torch.empty(3, height, width, dtype=torch.uint8)
    a = np.array([ours.box(height, width, rng) for _ in range(count)], dtype=float)
    drawn = [theirs.make_params([blank]) for _ in range(count)]
    b = np.array([[box[name] for name in ("top", "left", "height", "width")] for box in drawn], dtype=float)
    assert (a[:, 0] + a[:, 2] <= height).all() and (a[:, 1] + a[:, 3] <= width).all() and (a[:, 2:] > 0).all()
    values_a = [*a.T, a[:, 2] * a[:, 3], a[:, 3] / a[:, 2], a[:, 0] + a[:, 2] / 2]
    values_b = [*b.T, b[:, 2] * b[:, 3], b[:, 3] / b[:, 2], b[:, 0] + b[:, 2] / 2]
    for one, other in zip(values_a, values_b, strict=True):
        assert distance(one, other) < 1.95 * np.sqrt(2 / count)  # one in a thousand by chance


def test_other_boxes_are_told_apart_by_that_measure():
    count, rng = 2000, generator(4)
    a, b = (
        np.array([RandomResizedCrop(9, scale=s).box(375, 500, rng)[2] for _ in range(count)])
        for s in ((0.08, 1), (0.2, 1))
    )
    assert distance(a, b) > 1.95 * np.sqrt(2 / count)


def test_scale_and_ratio_of_the_whole_give_the_whole():
    box = RandomResizedCrop(9, scale=(1, 1), ratio=(2, 2)).box(50, 100, generator())
    assert box == (0, 0, 50, 100)


def test_a_flip_mirrors_as_often_as_told():
    image, rng = photograph(4, 6), generator(5)
    flipped = sum(torch.equal(HorizontalFlip(0.3)(image, rng), image.flip(-1)) for _ in range(1000))
    assert 240 < flipped < 360
    assert torch.equal(HorizontalFlip(0.0)(image, rng), image) and torch.equal(
        HorizontalFlip(1.0)(image, rng), image.flip(-1)
    )


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (97, 640), (64, 64), (30, 20)])
@pytest.mark.parametrize("size", [64, (48, 80)])
def test_the_evaluation_view_shows_what_resize_and_centre_crop_show(height, width, size):
    image = photograph(height, width)
    view = ResizeCenterCrop(size)(image)
    high, wide = (size, size) if isinstance(size, int) else size
    assert view.shape == (3, high, wide)
    grow = max(high / height, wide / width) / 0.875
    whole = image.float()[None]
    large = torch.nn.functional.interpolate(
        whole, (round(height * grow), round(width * grow)), mode="bilinear", antialias=True
    )[0]
    usual = v2.functional.center_crop(large, [high, wide])
    # the boxes agree to a pixel of the source, so noise may differ where colors may not
    blurred = [torch.nn.functional.avg_pool2d(pixels[None].float(), 16, 8) for pixels in (view, usual)]
    assert (blurred[0] - blurred[1]).abs().max() < 8


def test_the_evaluation_view_of_a_whole_image_is_the_image():
    image = photograph(32, 32)
    assert torch.equal(ResizeCenterCrop(32, share=1.0)(image, generator()), image)


def test_views_are_contiguous_bytes_of_the_asked_size_and_leave_the_image_alone():
    image = photograph(60, 80)
    before = image.clone()
    for size in (32, (16, 48), (60, 80)):
        for view in (
            Compose([RandomResizedCrop(size), HorizontalFlip(1.0)]),
            Compose([RandomResizedCrop(size, scale=(1, 1)), HorizontalFlip(0.0)]),
            Compose([ResizeCenterCrop(size, share=1.0)]),
        ):
            pixels = view(image, generator())
            assert pixels.shape == (3, *((size, size) if isinstance(size, int) else size))
            assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
            pixels.zero_()
            assert torch.equal(image, before)


def test_the_same_random_numbers_give_the_same_view_whatever_torch_drew():
    image, view = photograph(60, 80), Compose([RandomResizedCrop(32), HorizontalFlip()])
    first = view(image, generator(7))
    torch.manual_seed(99)
    assert torch.equal(view(image, generator(7)), first) and not torch.equal(view(image, generator(8)), first)
