"""Copy-paste: what is pasted is on top, what it hides is gone, boxes fit what is left, and a key is a picture."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import masks_to_boxes

from detection.data.augment.copy_paste import copy_paste
from detection.data.augment.geometry import Sample
from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection
from shared.errors import UsageError
from shared.feeding.feed import Feed
from tests.detection.data.of_people import people

SIZE = (40, 60)


def scene(*corners: tuple[int, int, int, int], gray: int = 50, label: int = 0) -> Sample:
    """A gray picture and boxes that their masks fill."""
    masks = torch.zeros((len(corners), *SIZE), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = 1
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    labels = torch.full((len(corners),), label)
    target: Any = {"boxes": boxes, "labels": labels, "masks": masks, "image_id": label}
    return torch.full((3, *SIZE), gray, dtype=torch.uint8), target


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_pasted_object_hides_what_lies_under_it() -> None:
    onto = scene((0, 0, 20, 20), (30, 10, 50, 30), (52, 30, 58, 38))
    image, target = copy_paste(onto, scene((10, 5, 52, 25), gray=250, label=1), rng())
    masks: Any = target["masks"]  # pyright: ignore
    assert target["labels"].tolist() == [0, 0, 0, 1] and target["image_id"] == 0  # pyright: ignore
    assert target["boxes"].tolist() == [[0, 0, 20, 20], [30, 25, 50, 30], [52, 30, 58, 38], [10, 5, 52, 25]]
    assert masks.dtype == torch.uint8 and (masks.sum(0) <= 1).all()
    assert image[:, 15, 30].tolist() == [250] * 3 and image[:, 35, 5].tolist() == [50] * 3


def test_an_object_that_is_hidden_altogether_is_dropped_with_its_label() -> None:
    onto = scene((12, 6, 20, 20), (30, 30, 40, 38))
    _, target = copy_paste(onto, scene((10, 5, 25, 25), label=1), rng())
    assert target["boxes"].tolist() == [[30, 30, 40, 38], [10, 5, 25, 25]] and target["labels"].tolist() == [0, 1]
    assert len(target["masks"]) == 2  # pyright: ignore


def test_edges_are_blended_and_nothing_else_changes() -> None:
    image, _ = copy_paste(scene((0, 0, 5, 5)), scene((20, 10, 40, 30), gray=250), rng())
    line = image[0, 20].tolist()
    assert line[:18] == [50] * 18 and line[22:38] == [250] * 16 and line[42:] == [50] * 18
    assert all(a < b for a, b in pairwise(line[17:22])) and 50 < line[19] < 150 < line[20] < 250


@given(st.integers(0, 999), st.integers(0, 4), st.integers(0, 4))
def test_boxes_always_fit_their_masks_and_neither_sample_is_changed(seed: int, count: int, others: int) -> None:
    draw = np.random.default_rng(seed)

    def drawn(number: int) -> list[Any]:
        low = draw.integers(0, 30, (number, 2))
        return np.concatenate((low, low + draw.integers(1, 11, (number, 2))), 1).tolist()

    samples = scene(*drawn(count)), scene(*drawn(others), label=1)
    before = pickle.loads(pickle.dumps(samples))  # noqa: S301, our own bytes
    _, target = copy_paste(*samples, rng(seed))
    masks: Any = target["masks"]  # pyright: ignore
    assert len(masks) == len(target["boxes"]) == len(target["labels"])
    assert (target["labels"] == 1).sum() >= min(others, 1)
    if len(masks):
        assert torch.equal(masks_to_boxes(masks) + torch.tensor((0, 0, 1, 1)), target["boxes"])
    for (image, told), (old, was) in zip(samples, before, strict=True):
        assert torch.equal(image, old) and all(torch.equal(told[n], was[n]) for n in ("boxes", "labels", "masks"))  # pyright: ignore


def test_some_objects_are_pasted_and_some_are_not() -> None:
    other = scene(*((4 * n, 0, 4 * n + 3, 5) for n in range(10)), label=1)
    counts = [int((copy_paste(scene(), other, rng(key))[1]["labels"] == 1).sum()) for key in range(60)]
    assert 1 <= min(counts) < max(counts) <= 10 and np.mean(counts) == pytest.approx(6.5, abs=0.5)


# -- in a data set --------------------------------------------------------------------------------


def opened(folder: Path, **options: Any) -> CocoDetection:
    told: dict[str, Any] = {"finds": ("masks",), "augment": build_augment("lsj", size=(48, 48)), "copy_paste": True}
    return CocoDetection(*people(folder), **{**told, **options})


def test_the_same_key_gives_the_same_picture_in_any_feed_and_another_another(tmp_path: Path) -> None:
    data = opened(tmp_path)
    one, again, other = (data.load(1, rng(key)) for key in (3, 3, 4))
    assert torch.equal(one[0], again[0]) and not torch.equal(one[0], other[0])
    assert all(torch.equal(one[1][name], again[1][name]) for name in ("boxes", "labels", "masks"))  # pyright: ignore
    straight = list(Feed(opened(tmp_path), seed=1, batch_size=2).steps(0, 4))
    resumed = list(Feed(opened(tmp_path), seed=1, batch_size=2).steps(2, 4))
    for ours, theirs in zip(straight[2:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[0][0], theirs[0][0], strict=True))


def test_objects_of_other_images_are_pasted(tmp_path: Path) -> None:
    data, plain = opened(tmp_path), opened(tmp_path, copy_paste=False)
    more = [len(data.load(0, rng(key))[1]["boxes"]) - len(plain.load(0, rng(key))[1]["boxes"]) for key in range(20)]
    assert max(more) > 0 and all(data.load(0, rng(key))[1]["image_id"] == 3 for key in range(5))  # pyright: ignore


def test_a_partner_that_cannot_be_read_is_done_without(tmp_path: Path) -> None:
    data = opened(tmp_path)
    (tmp_path / "a.png").write_bytes(b"<html>")
    for key in range(6):
        assert data.load(0, rng(key))[0].shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"finds": ()}, "--use-copypaste needs masks; use a network with masks"),
        ({"finds": ("masks", "keypoints")}, "use a network with masks"),
        ({"augment": None}, "needs large-scale jitter; add --data-augmentation lsj"),
        ({"augment": build_augment("hflip", size=(48, 48))}, "needs large-scale jitter"),
        ({"augment": build_augment("lsj", size=(48, 48), train=False)}, "needs large-scale jitter"),
    ],
)
def test_pasting_without_masks_or_jitter_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        opened(tmp_path, **options)


def test_stored_proposals_are_dropped_and_other_fields_of_the_image_are_those_of_the_first() -> None:
    onto, other = scene((0, 0, 20, 20)), scene((10, 5, 25, 25), label=1)
    for sample in (onto, other):
        sample[1]["proposals"] = torch.tensor([[0.0, 0.0, 9.0, 9.0, 0.5]])
        sample[1]["absent"] = sample[1]["labels"] + 7
    _, target = copy_paste(onto, other, rng())
    assert "proposals" not in target and target["absent"].tolist() == [7]  # pyright: ignore


def test_a_class_that_was_absent_is_not_after_it_is_pasted() -> None:
    onto, other = scene((0, 0, 20, 20)), scene((10, 5, 25, 25), label=3)
    onto[1]["absent"], onto[1]["unfinished"] = torch.tensor([2, 3, 4]), torch.tensor([0])
    other[1]["absent"], other[1]["unfinished"] = torch.tensor([0]), torch.tensor([3])
    _, target = copy_paste(onto, other, rng())
    assert target["absent"].tolist() == [2, 4] and target["unfinished"].tolist() == [0]  # pyright: ignore
