"""Colors of batches: each change is torchvision's for the same amount, and as often and as much is drawn as there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from pretrain.views import color as color
from pretrain.views.color import Color, Drawn, blur, brightness, colored, contrast, hue, paint, saturation, solarize
from shared.feeding.pixels import PIXEL_STATS, Normalize

EVERYTHING = Color(blur=0.5, solarize=0.3)


def pictures(count: int = 4, height: int = 24, width: int = 31) -> Tensor:
    """Soft colors, strong colors, grays, black and white: (count, 3, height, width) uint8."""
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    images[:, :, :4] = images[:, :1, :4]  # grays have no hue
    images[:, :, 4:6], images[:, :, 6:8] = 0, 255
    images[:, 0, 8:10] = images[:, 1, 8:10]  # two channels share the top
    return images


def done(images: Tensor, how: Callable[..., None], amounts: list[float], **told: int) -> Tensor:
    pixels = images.float()
    how(pixels, torch.tensor(amounts).view(-1, 1, 1, 1), **told)
    return pixels


# --- each change beside torchvision's -----------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reference", "amounts"),
    [
        (brightness, TF.adjust_brightness, [0.6, 0.9, 1.1, 1.4]),
        (contrast, TF.adjust_contrast, [0.6, 0.9, 1.1, 1.4]),
        (saturation, TF.adjust_saturation, [0.0, 0.8, 1.2, 3.0]),
        (hue, TF.adjust_hue, [-0.1, 0.03, 0.1, 0.5]),
    ],
)
def test_each_jitter_is_torchvisions_with_an_amount_for_every_image(
    how: Callable, reference: Callable, amounts: list[float]
) -> None:
    images = pictures()
    ours = done(images, how, amounts)
    assert not torch.allclose(ours, images.float(), atol=5), "something was done"
    for mine, image, amount in zip(ours, images, amounts, strict=True):
        torch.testing.assert_close(mine, reference(image / 255, amount) * 255, atol=2e-3, rtol=0)
        assert (mine - reference(image, amount).float()).abs().max() < 2.01  # bytes round on the way


def test_hue_turns_past_red_and_back_again() -> None:
    images = pictures()
    there = done(images, hue, [0.1, -0.1, 0.5, 0.3])
    hue(there, -torch.tensor([0.1, -0.1, 0.5, 0.3]).view(-1, 1, 1, 1))
    torch.testing.assert_close(there, images.float(), atol=0.02, rtol=0)


def test_no_colors_are_torchvisions_gray() -> None:
    images = pictures()
    gray = TF.rgb_to_grayscale(images / 255, num_output_channels=3) * 255
    torch.testing.assert_close(done(images, saturation, [0.0] * 4), gray, atol=1e-3, rtol=0)


def test_solarize_is_torchvisions_at_the_middle_of_the_scale() -> None:
    scale = torch.arange(256, dtype=torch.uint8).expand(1, 3, 2, 256)
    assert torch.equal(done(scale, solarize, [0.0]), TF.solarize(scale, threshold=128).float())


@pytest.mark.parametrize("sigmas", [[0.1, 0.5, 1.0, 2.0], [2.0, 2.0, 2.0, 2.0]])
def test_blur_is_torchvisions_with_a_kernel_of_six_deviations(sigmas: list[float]) -> None:
    images = pictures()
    ours = done(images, blur, sigmas, reach=6)
    for mine, image, sigma in zip(ours, images, sigmas, strict=True):
        theirs = TF.gaussian_blur(image.float(), [13, 13], [sigma, sigma])
        torch.testing.assert_close(mine, theirs, atol=0.01, rtol=0)


def test_blur_ends_where_no_byte_notices() -> None:
    images = pictures()
    cut = done(images, blur, [2.0] * 4, reach=6)
    assert (cut - done(images, blur, [2.0] * 4, reach=16)).abs().max() < 1.0


def test_blur_is_near_pillows_which_the_official_code_uses() -> None:
    y, x = np.mgrid[:64, :64]
    waves = np.stack([np.sin(x / 3), np.sin(y / 2), np.sin((x + y) / 5)], -1) * 90 + 128
    image = np.clip(waves + np.random.default_rng(0).normal(0, 20, waves.shape), 0, 255).astype(np.uint8)
    for sigma in (0.5, 1.0, 2.0):
        theirs = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))).astype(np.float32)
        ours = done(torch.from_numpy(image).permute(2, 0, 1)[None], blur, [sigma], reach=6)[0].permute(1, 2, 0).numpy()
        inner = np.abs(ours - theirs)[8:-8, 8:-8]  # edges are mirrored here, repeated there
        assert inner.mean() < 1.0 and np.abs(image - theirs).mean() > 4 * inner.mean()


def test_an_image_smaller_than_the_kernel_is_blurred_too() -> None:
    tiny = pictures(1, 3, 2)
    assert done(tiny, blur, [2.0], reach=6).isfinite().all()


# --- what is drawn ------------------------------------------------------------------------------


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest gap between two empirical distributions."""
    grid = np.sort(np.concatenate([one, other]))
    return float(np.abs(np.searchsorted(np.sort(one), grid, "right") / len(one)
                        - np.searchsorted(np.sort(other), grid, "right") / len(other)).max())  # fmt: skip


COUNT = 3000
CLOSE = 1.95 * np.sqrt(2 / COUNT)  # one in a thousand by chance


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    torch.manual_seed(1)
    return EVERYTHING.draw(COUNT)


@pytest.fixture(scope="module")
def theirs() -> list[dict]:
    torch.manual_seed(2)
    jitter = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    return [jitter.make_params([]) for _ in range(COUNT)]


def test_amounts_are_distributed_like_torchvisions(drawn: Drawn, theirs: list[dict]) -> None:
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for number, name in enumerate(names):
        wanted = np.array([float(params[name]) for params in theirs])
        assert distance(drawn.amounts[:, number], wanted) < CLOSE


def test_stronger_amounts_are_told_apart_by_that_measure(drawn: Drawn) -> None:
    stronger = Color(strengths=(0.5, 0.5, 0.3, 0.13)).draw(COUNT)
    for number in range(4):
        assert distance(drawn.amounts[:, number], stronger.amounts[:, number]) > CLOSE


def test_every_order_is_as_frequent_as_any_other(drawn: Drawn, theirs: list[dict]) -> None:
    assert (np.sort(drawn.order, 1) == np.arange(4)).all()
    _, ours = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(ours) == 24 == len({tuple(np.asarray(params["fn_idx"]).tolist()) for params in theirs})
    assert ((ours - COUNT / 24) ** 2 / (COUNT / 24)).sum() < 49.7  # chi squared of 23 degrees, one in a thousand


def test_deviations_of_the_blur_are_even_between_their_ends(drawn: Drawn) -> None:
    blurred = drawn.sigma[drawn.sigma > 0]
    assert blurred.min() >= 0.1 and blurred.max() <= 2.0
    torch.manual_seed(3)
    even = np.array([v2.GaussianBlur(3, (0.1, 2.0)).make_params([])["sigma"][0] for _ in range(COUNT)])
    assert distance(blurred, even) < 1.95 * np.sqrt(1 / len(blurred) + 1 / COUNT)


def test_each_happens_as_often_as_told_and_without_regard_to_the_others(drawn: Drawn) -> None:
    fates = np.stack([drawn.jittered, drawn.gray, drawn.sigma > 0, drawn.solarized])
    for fate, share in zip(fates, (0.8, 0.2, 0.5, 0.3), strict=True):
        assert abs(fate.mean() - share) < 3.3 * np.sqrt(share * (1 - share) / COUNT)
    assert np.abs(np.corrcoef(fates) - np.eye(4)).max() < 3.9 / np.sqrt(COUNT)
    amounts = np.corrcoef(np.concatenate([drawn.amounts.T, drawn.order[:, :1].T]))
    assert np.abs(amounts - np.eye(5)).max() < 4 / np.sqrt(COUNT)


def test_never_and_always_are_never_and_always() -> None:
    images = pictures(40, 8, 8)
    assert torch.equal(Color(0, 0, 0, 0)(images), images.float())
    everything = Color(1, 1, 1, 1).draw(200)
    assert everything.jittered.all() and everything.gray.all() and everything.solarized.all()
    assert (everything.sigma > 0).all()


# --- whole batches ------------------------------------------------------------------------------


def by_torchvision(image: Tensor, drawn: Drawn, i: int) -> Tensor:
    """One image, change after change, as floats from 0 to 1."""
    x = image / 255
    if drawn.jittered[i]:
        steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
        for number in drawn.order[i]:
            x = steps[number](x, float(drawn.amounts[i, number]))
    if drawn.gray[i]:
        x = TF.rgb_to_grayscale(x, num_output_channels=3)
    if drawn.sigma[i]:
        x = TF.gaussian_blur(x, [13, 13], [float(drawn.sigma[i])] * 2)
    if drawn.solarized[i]:
        x = torch.minimum(x, 1 - x)  # floats fall between the bytes at the threshold
    return x


def test_a_batch_is_what_torchvision_makes_of_its_images_one_by_one() -> None:
    images, drawn = pictures(48), EVERYTHING.draw(48)
    ours = colored(images, drawn)
    for i, (mine, image) in enumerate(zip(ours, images, strict=True)):
        torch.testing.assert_close(mine / 255, by_torchvision(image, drawn, i), atol=2e-3, rtol=0)


def test_images_done_together_are_images_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU those that share a fate go through it together; on a processor large ones go by themselves."""
    images, drawn = pictures(48), EVERYTHING.draw(48)
    together = images.float()
    paint(together, drawn)
    for cached in (1, 10 * images[0].numel()):
        monkeypatch.setattr(color, "CACHED", cached)
        # the widest blur says how far all of them reach, which is less than half a gray level
        torch.testing.assert_close(together, colored(images, drawn), atol=0.5, rtol=0)


def test_bytes_come_in_and_stay_as_they_are() -> None:
    images = pictures()
    before = images.clone()
    x = EVERYTHING(images)
    assert torch.equal(images, before) and x.dtype == torch.float32 and x.shape == images.shape
    assert x.min() >= 0 and x.max() <= 255


def test_what_comes_last_is_done_to_every_image() -> None:
    images, drawn = pictures(48), EVERYTHING.draw(48)
    normalize = Normalize(PIXEL_STATS["imagenet"])
    torch.testing.assert_close(colored(images, drawn, normalize), normalize(colored(images, drawn)))


def test_colors_follow_torchs_random_state_and_differ_between_images() -> None:
    images = pictures(1).expand(6, -1, -1, -1)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(EVERYTHING(images))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert len({tuple(x.flatten().tolist()) for x in results[0]}) > 3
