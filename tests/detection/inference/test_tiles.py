"""A photograph in tiles: each object once, at its own place, as if its tile were a photograph."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from detection.cli import main as detect
from detection.inference.tiles import IOU, Tiles, in_tiles, merged, own_iou, tiles_for, windows
from detection.types import Detections
from shared.errors import UsageError

SOME = settings(max_examples=40, deadline=None)
SIDES = st.integers(1, 900)
TILES = st.builds(Tiles, st.tuples(st.integers(32, 400), st.integers(32, 400)), st.floats(0, 0.9))
SQUARE = (64, 64)


def found_in(part: Tensor, score: Callable[[int, bool], float] = lambda number, part: 0.9) -> Detections:
    """What a perfect detector finds: a box around each value above 0 of the first channel, of the class of the second.

    Mask and keypoints say which object it is: its value, and the left upper corner. Scores rise with the values.
    """
    boxes, labels, scores = [], [], []
    numbers = sorted((int(n) for n in part[0].unique() if n), reverse=True)
    for number in numbers:
        rows, columns = (part[0] == number).nonzero().unbind(1)
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
        labels.append(int(part[1, rows[0], columns[0]]))
        scores.append(score(number, len(rows) < int(part[2, rows[0], columns[0]]) ** 2))
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(
        boxes=corners,
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores),
        masks=torch.tensor(numbers, dtype=torch.float32)[:, None, None].expand(-1, 4, 4) / 255,
        keypoints=torch.cat((corners[:, :2], torch.ones(len(corners), 1)), 1)[:, None],
    )


def photograph(height: int, width: int, corners: list[tuple[int, int]], side: int) -> Tensor:
    """(3, H, W) with squares of so many pixels at (x, y): number, class and side of each in the three channels."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    for number, (x, y) in enumerate(corners, start=1):
        picture[:, y : y + side, x : x + side] = torch.tensor([number, number % 2, side])[:, None, None]
    return picture


@SOME
@given(SIDES, SIDES, TILES)
def test_tiles_cover_the_photograph_and_overlap_as_asked(height: int, width: int, tiles: Tiles) -> None:
    whole, *places = windows((height, width), tiles)
    assert whole == (0, 0, width, height) and bool(places) == (height > tiles.size[0] or width > tiles.size[1])
    assert len(set(places)) == len(places)
    down, across = tiles.size
    for low, high, length, side in ((0, 2, width, across), (1, 3, height, down)) if places else ():
        spans = sorted({(place[low], place[high]) for place in places})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert {high - low for low, high in spans} == {min(side, length)}
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= math.floor(side * tiles.overlap) - 1  # starts are whole pixels


@SOME
@given(st.data())
def test_an_object_no_larger_than_the_overlap_is_found_once_at_its_place(data: st.DataObject) -> None:
    """Whatever its parts at the edges of other tiles look like, and whether or not the whole photograph shows it."""
    tiles, side = Tiles(SQUARE, 0.5), data.draw(st.integers(6, 28))
    height, width = data.draw(st.integers(64, 200)), data.draw(st.integers(64, 200))
    cells = [(x, y) for y in range(0, height - side, 36) for x in range(0, width - side, 36)]
    corners = data.draw(st.lists(st.sampled_from(cells), max_size=8, unique=True))
    seen, sure = data.draw(st.booleans()), data.draw(st.floats(0.1, 1))

    def find(part: Tensor) -> Detections:
        if part.shape[-2:] == (height, width) and not seen and max(height, width) > 64:
            part = torch.zeros_like(part)
        return found_in(part, lambda number, cut: sure if cut else 0.6 + number / 100)

    found = in_tiles(photograph(height, width, corners, side), tiles, find)
    order = found["scores"].argsort()
    expected = torch.tensor([[x, y, x + side, y + side] for x, y in corners], dtype=torch.float32).reshape(-1, 4)
    assert torch.equal(found["boxes"][order], expected)
    assert (found["scores"].diff() <= 0).all()
    assert torch.equal(found["labels"][order], torch.arange(1, len(corners) + 1) % 2)
    assert torch.equal((found["masks"][order, 0, 0] * 255).round().long(), torch.arange(1, len(corners) + 1))
    assert torch.equal(found["keypoints"][order, 0, :2], expected[:, :2])


def test_an_object_larger_than_a_tile_is_that_of_the_whole_photograph() -> None:
    find: Any = lambda part: found_in(part, lambda number, cut: 0.9 if cut else 0.5)  # noqa: E731
    found = in_tiles(photograph(300, 300, [(20, 30)], 200), Tiles(SQUARE), find)
    assert found["boxes"].tolist() == [[20, 30, 220, 230]] and found["scores"].tolist() == [0.5]


def test_a_part_that_nothing_better_covers_is_kept() -> None:
    blind: Any = lambda part: found_in(part if max(part.shape) == 64 else part * 0)  # noqa: E731
    assert len(in_tiles(photograph(64, 128, [(40, 7)], 50), Tiles(SQUARE, 0), blind)["boxes"]) == 2


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 64), (64, 1)])
def test_a_photograph_no_larger_than_a_tile_is_not_cut(height: int, width: int) -> None:
    picture, calls = torch.zeros(3, height, width, dtype=torch.uint8), []
    plain = found_in(picture)
    assert in_tiles(picture, Tiles(SQUARE), lambda part: (calls.append(part), plain)[1]) is plain
    assert len(calls) == 1 and calls[0] is picture


@SOME
@given(st.integers(0, 2**31), st.integers(0, 60), st.sampled_from([0.45, 0.5, 0.6, 0.9]))
def test_no_two_boxes_of_a_class_are_one_object(seed: int, count: int, iou: float) -> None:
    random = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=random) * 60
    boxes = torch.cat((low, low + 5 + torch.rand(count, 2, generator=random) * 40), 1)
    labels, scores = torch.randint(2, (count,), generator=random), torch.rand(count, generator=random)
    cut = torch.rand(count, generator=random) < 0.5
    kept = merged(Detections(boxes=boxes, labels=labels, scores=scores), cut, iou)
    same = (kept["labels"][:, None] == kept["labels"]).fill_diagonal_(False)
    assert not (box_iou(kept["boxes"], kept["boxes"])[same] > iou + 1e-5).any()
    assert (kept["scores"].diff() <= 0).all() and {*kept["scores"].tolist()} <= {*scores.tolist()}
    if count:
        assert torch.where(cut, scores / 2, scores).max() in torch.cat((kept["scores"], kept["scores"] / 2))


@pytest.mark.parametrize(
    ("network", "options", "iou"),
    [
        ("fcos", {}, 0.6),
        ("fcos", {"nms_iou": 0.35}, 0.35),
        ("ssdlite", {}, 0.55),
        ("faster_rcnn", {}, 0.5),
        ("detr", {}, IOU),
        ("unidetector", {}, IOU),
    ],
)
def test_tiles_are_merged_by_the_nms_of_the_network(
    network: str, options: dict[str, Any], iou: float, card: Callable
) -> None:
    assert own_iou(card(kind="detector", args={"network": network, "network_args": options})) == iou


def test_what_cannot_be_cut_is_refused(card: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exported = SimpleNamespace(card=card(kind="detector", args={"network": "detr_panoptic", "network_args": {}}))
    panoptic: Any = SimpleNamespace(isthing=[True], finds=("masks",), exported=exported)
    with pytest.raises(UsageError, match="detr_panoptic segments whole photographs"):
        tiles_for(panoptic, 640)
    boxes: Any = SimpleNamespace(isthing=None, finds=(), exported=exported)
    assert tiles_for(boxes, 640) == Tiles((640, 640), 0.2, IOU) and tiles_for(boxes, [48, 64]).size == (48, 64)
    for size, overlap in ((0, 0.2), ((640, 20_000), 0.2), ((), 0.2), (640, 1.0), (640, -0.1), (640, math.nan)):
        with pytest.raises(UsageError, match="cannot be made"):
            tiles_for(boxes, size, overlap)
    assert detect(["predict", str(tmp_path), "--weights", "x", "--tile-overlap", "0.3"]) == 2
    assert "give --tiles SIZE too" in capfd.readouterr().err
