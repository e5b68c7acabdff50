"""Panoptic data: masks that tile a photograph, moved with it; whatever does not fit together is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.panoptic_json import read_ids, write_ids
from detection.data.augment.presets import build_augment
from detection.data.panoptic import PanopticDetection, Tiles, panoptic_layout
from shared.errors import BadSample, DataError

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "nowhere")) / "panoptic-sample"
on_the_sample = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder with panoptic-sample")
RNG = np.random.default_rng
CATEGORIES = [
    {"id": 3, "name": "person", "isthing": 1},
    {"id": 8, "name": "dog", "isthing": 1},
    {"id": 120, "name": "sky", "isthing": 0},
]
# id, category, left, top, width, height, crowd; later ones lie on top
PARTS = [
    (70000, 120, 0, 0, 40, 12, 0),
    (5, 3, 4, 6, 10, 20, 0),
    (6, 3, 20, 10, 8, 15, 0),
    (900, 8, 30, 20, 10, 10, 1),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs of 40x30, one of them with two persons, a crowd of dogs and sky, in COCO's layout."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations" / "panoptic_val2017").mkdir(parents=True)
    images, annotations = [], []
    for i, parts in enumerate((PARTS, PARTS[:1]), start=1):
        ids = np.zeros((30, 40), np.int64)
        for number, _, x, y, width, height, _ in parts:
            ids[y : y + height, x : x + width] = number
        infos = []
        for number, category, *_, crowd in parts:
            rows, columns = np.nonzero(ids == number)
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            own = {"id": number, "category_id": category, "area": len(rows), "bbox": box, "iscrowd": crowd}
            infos.append(own)
        (root / "annotations" / "panoptic_val2017" / f"{i}.png").write_bytes(write_ids(ids))
        colors = np.stack([ids % 251] * 3, -1).astype(np.uint8)
        Image.fromarray(colors).save(root / "val2017" / f"{i}.png")
        images.append({"id": 10 * i, "file_name": f"{i}.png", "height": 30, "width": 40})
        annotations.append({"image_id": 10 * i, "file_name": f"{i}.png", "segments_info": infos})
    save(root, {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return root


def save(root: Path, top: dict[str, Any]) -> None:
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(top))


def opened(root: Path, **told: Any) -> PanopticDetection:
    return PanopticDetection(*panoptic_layout(root, "val"), **{"finds": ("masks",), **told})


def test_targets_are_the_segments_that_are_no_crowds_with_boxes_around_their_masks(folder: Path) -> None:
    data = opened(folder)
    assert len(data) == 2 and data.image_ids == [10, 20] and data.classes.names == ("person", "dog", "sky")
    assert data.isthing == [True, True, False] and data.sizes == [2]
    image, target = data.load(0, RNG(0))
    assert image.shape == (3, 30, 40) and target["image_id"] == 10  # type: ignore[typeddict-item]
    assert target["labels"].tolist() == [2, 0, 0]
    assert target["boxes"].tolist() == [[0, 0, 40, 12], [4, 6, 14, 26], [20, 10, 28, 25]]
    masks = target["masks"]  # type: ignore[typeddict-item]
    assert masks.dtype == torch.uint8 and masks.shape == (3, 30, 40)
    assert masks.sum((1, 2)).tolist() == [40 * 12 - 60 - 16, 200, 120] and masks.sum(0).max() == 1
    assert data.table.areas.tolist()[:3] == masks.sum((1, 2)).tolist()


def test_box_stage_reads_the_same_boxes_without_masks(folder: Path) -> None:
    target = opened(folder, finds=()).load(0, RNG(0))[1]
    assert "masks" not in target and torch.equal(target["boxes"], opened(folder).load(0, RNG(0))[1]["boxes"])


@pytest.mark.parametrize("name", ["hflip", "detr", "lsj", "ssd"])
def test_masks_go_where_their_pixels_go(folder: Path, name: str) -> None:
    data = opened(folder)
    data.augment = build_augment(name, size=(60, 80), level=2)
    for seed in range(8):
        image, target = data.load(0, RNG(seed))
        masks: Any = target["masks"]  # type: ignore[typeddict-item]
        assert len(masks) == len(target["boxes"]) == len(target["labels"]) and masks.shape[1:] == image.shape[1:]
        assert masks.sum(0).max() <= 1 and masks.flatten(1).any(1).all()
        for mask, box in zip(masks, target["boxes"], strict=True):
            rows, columns = mask.nonzero().T
            assert (columns.min() >= box[0] - 1) and (columns.max() + 1 <= box[2] + 1)
            assert (rows.min() >= box[1] - 1) and (rows.max() + 1 <= box[3] + 1)


def test_mirrored_masks_are_where_the_mirrored_colors_are(folder: Path) -> None:
    data = opened(folder)
    data.augment = build_augment("hflip", size=(30, 40))
    seen = set()
    for seed in range(8):
        image, target = data.load(0, RNG(seed))
        seen.add(float(target["boxes"][1, 0]))
        colors = torch.tensor([70000 % 251, 5, 6])[:, None, None]
        assert torch.equal(target["masks"].bool(), image[0] == colors)  # type: ignore[typeddict-item]
    assert seen == {4.0, 26.0}, "as it is, and mirrored"


def test_ground_truth_of_boxes_is_that_of_things(folder: Path) -> None:
    truth = opened(folder).ground_truth()
    assert [a["category_id"] for a in truth["annotations"]] == [3, 3, 8]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 1] and len(truth["categories"]) == 3


def test_classes_are_matched_by_name_and_a_part_of_the_images_is_still_itself(folder: Path) -> None:
    names = ClassMap(("sky", "cat", "dog", "person"), (1, 2, 3, 4))
    data = opened(folder, classes=names, limit=1)
    assert len(data) == 1 and data.isthing == [False, True, True, True]
    assert data.load(0, RNG(0))[1]["labels"].tolist() == [0, 3, 3]
    assert data.fingerprint != opened(folder).fingerprint
    assert isinstance(data.table, CocoTable)


def test_ids_are_colors(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 256, 65536], [255, 65535, 2**24 - 1, 1193046]])
    (tmp_path / "ids.png").write_bytes(write_ids(ids))
    assert np.array_equal(read_ids(tmp_path / "ids.png"), ids)
    assert np.asarray(Image.open(tmp_path / "ids.png"))[0].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_tiles_know_their_boxes_in_any_order_of_numbers() -> None:
    ids = np.array([[9, 9, 0], [2, 7, 7]])
    assert Tiles.of(ids, [7, 9]).boxes().tolist() == [[1, 1, 3, 2], [0, 0, 2, 1]]
    assert Tiles.of(ids, []).boxes().shape == (0, 4) and Tiles.of(ids, []).pixels().shape == (0, 2, 3)


# -- what does not fit together -------------------------------------------------------------------


def first(top: dict[str, Any]) -> dict[str, Any]:
    return top["annotations"][0]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "segment missing": (
        lambda t: first(t)["segments_info"].pop(1),
        r"1\.png has pixels of segment 5, which .*2017.json",
    ),
    "segment too many": (
        lambda t: first(t)["segments_info"].append({**first(t)["segments_info"][1], "id": 77}),
        r"1\.png has no pixel of segment 77",
    ),
    "another size": (lambda t: t["images"][0].update(height=31), r"1\.png is 40x30, but its image is 40x31"),
    "missing PNG": (lambda t: first(t).update(file_name="x.png"), r"1 of the 2 PNGs .* such as x\.png"),
    "PNG elsewhere": (lambda t: first(t).update(file_name="../x.png"), "image 10 has no file_name of a PNG"),
    "id twice": (lambda t: first(t)["segments_info"][1].update(id=6), "image 10 has two segments with the same id"),
    "id too large": (lambda t: first(t)["segments_info"][1].update(id=2**24), "image 10, segment 16777216 has no id"),
    "category": (lambda t: first(t)["segments_info"][1].update(category_id=4), "segment 5 has the category 4, which"),
    "no box": (lambda t: first(t)["segments_info"][1].pop("bbox"), "segment 5 has no bbox"),
    "no area": (lambda t: first(t)["segments_info"][1].pop("area"), "segment 5 has no bbox of .* and no area"),
    "not annotated": (lambda t: t["annotations"].pop(), "image 20 is listed and has no annotation"),
    "not listed": (lambda t: t["images"].pop(), "image 20 is annotated and has no entry"),
    "annotated twice": (lambda t: t["annotations"].append(first(t)), "image 10 has two annotations"),
    "boxes": (lambda t: first(t).pop("segments_info"), "use --dataset coco for one with boxes"),
    "no things": (lambda t: t["categories"][0].pop("isthing"), "has no `isthing` in its categories"),
    "no images": (lambda t: t.pop("images"), "no list 'images'"),
}


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES)
def test_files_that_do_not_fit_together_are_refused_in_a_sentence(
    folder: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    top = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    change(top)
    save(folder, top)
    with pytest.raises(DataError, match=sentence):
        data = opened(folder)
        data.truth(0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"\x89PNG\r\n", "cannot be read as a PNG"), (None, "has the mode 'L', but segment ids are RGB")],
)
def test_png_that_is_none_or_has_no_colors_is_refused(folder: Path, content: bytes | None, sentence: str) -> None:
    path = folder / "annotations" / "panoptic_val2017" / "1.png"
    Image.new("L", (40, 30)).save(path)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        opened(folder).load(0, RNG(0))


def test_damaged_photograph_is_a_bad_sample_and_not_the_end(folder: Path) -> None:
    (folder / "val2017" / "1.png").write_bytes(b"nothing")
    with pytest.raises(BadSample):
        opened(folder).load(0, RNG(0))


def test_categories_may_come_from_a_file_of_their_own(folder: Path) -> None:
    path = folder / "annotations" / "panoptic_val2017.json"
    top = json.loads(path.read_text())
    plain = [{"id": c["id"], "name": c["name"]} for c in CATEGORIES]
    save(folder, {**top, "categories": plain})
    (folder / "things.json").write_text(json.dumps(CATEGORIES))
    assert opened(folder, categories=folder / "things.json").isthing == [True, True, False]
    (folder / "annotations" / "panoptic_coco_categories.json").write_text(json.dumps(CATEGORIES))
    assert opened(folder).isthing == [True, True, False]


def test_folder_that_is_none_is_told_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither train2017/ with annotations/panoptic_train2017.json"):
        panoptic_layout(tmp_path, "train")


@on_the_sample
def test_masks_and_boxes_of_the_formats_own_sample_are_those_its_json_says() -> None:
    data = PanopticDetection(*panoptic_layout(REAL, "train"), finds=("masks",))
    assert len(data) == 2 and len(data.classes) == 133 and sum(data.isthing) == 80
    for index, count in enumerate((17, 30)):
        _, target = data.load(index, RNG(0))
        rows = np.arange(data.first[index], data.first[index + 1])
        rows = rows[data.is_target[rows]]
        corners = data.table.boxes[rows] + np.pad(data.table.boxes[rows][:, :2], ((0, 0), (2, 0)))
        assert len(rows) == count and np.array_equal(target["boxes"].numpy(), corners)
        assert target["masks"].sum((1, 2)).tolist() == data.table.areas[rows].tolist()  # type: ignore[typeddict-item]
