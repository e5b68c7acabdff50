"""COCO files: what they mean, what is dropped and counted, and one sentence for everything that is wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detection.data.annotations.coco_json import exact_duplicates, read_coco
from detection.data.augment.presets import AUGMENTATIONS, build_augment
from detection.data.coco import ClassMap, CocoDetection, coco_layout
from shared.errors import BadSample, DataError
from shared.feeding.feed import Feed
from tests.detection.data.of_coco import CLASSES, REAL, coco_file, needs_real_data, rng, written

# -- samples ------------------------------------------------------------------------------------


def test_a_sample_is_the_stored_pixels_with_corners_and_dense_labels(tmp_path: Path) -> None:
    data = CocoDetection(*written(tmp_path))
    assert data.sizes == [2] and data.image_ids == [70, 5] and data.height_width(0) == (30, 40)
    assert data.classes == ClassMap(("cat", "dog"), (3, 18))
    image, target = data.load(0, rng())
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8 and image[:, 0, 0].tolist() == [255, 0, 0]
    assert target["boxes"].tolist() == [[1, 1, 9, 9.5]] and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1] and target["image_id"] == 70  # pyright: ignore[reportGeneralTypeIssues]
    assert data.target(1)["boxes"].tolist() == [[2, 3, 12, 14]] and data.target(1)["labels"].tolist() == [0]


def test_crowds_are_no_targets_but_stay_for_evaluation(tmp_path: Path) -> None:
    truth = CocoDetection(*written(tmp_path)).ground_truth()
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 1, 0]
    assert [a["area"] for a in truth["annotations"]] == [68, 1200, 50]  # the crowd's is computed: it had none
    assert [a["category_id"] for a in truth["annotations"]] == [18, 18, 3]
    assert min(a["id"] for a in truth["annotations"]) == 1  # pycocotools takes 0 for "not matched"


def test_odd_boxes_are_clipped_or_dropped_and_counted(tmp_path: Path) -> None:
    content = coco_file()
    odd = [[-5, -5, 20, 20], [30, 20, 50, 0.5], [100, 100, 5, 5], [9, 9, -4, 4], [3, 3, 0, 0]]
    content["annotations"] += [
        {"id": 100 + n, "image_id": 70, "category_id": 3, "bbox": bbox} for n, bbox in enumerate(odd)
    ]
    data = CocoDetection(*written(tmp_path, content))
    assert data.target(0)["boxes"].tolist() == [[1, 1, 9, 9.5], [0, 0, 15, 15]]
    assert data.notes[:2] == ["1 box reaches outside the image, clipped", "4 boxes are narrower than 1 pixel, dropped"]
    assert data.notes[2:] == ["1 annotation is a crowd (iscrowd), not trained on and not counted in evaluation"]
    assert len(data.ground_truth()["annotations"]) == 8


def test_exact_duplicates_are_trained_on_once_and_stay_for_evaluation(tmp_path: Path) -> None:
    """Objects365 has thousands; a box of another class, image or place is none, and neither is a crowd."""
    content = coco_file()
    first = content["annotations"][1]
    others: list[dict[str, Any]] = [
        {},
        {},
        {"category_id": 3},
        {"image_id": 5},
        {"bbox": [1, 1, 8, 8.6]},
        {"iscrowd": 1},
    ]
    content["annotations"] += [{**first, "id": 100 + n, **other} for n, other in enumerate(others)]
    data = CocoDetection(*written(tmp_path, content))
    assert data.target(0)["labels"].tolist() == [1, 0, 1] and data.target(1)["labels"].tolist() == [0, 1]
    assert data.notes[0] == "2 annotations are duplicated, counted once"
    assert data.notes[1].startswith("2 annotations are crowds (iscrowd), not trained on") and len(data.notes) == 2
    assert len(data.ground_truth()["annotations"]) == 9


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2), st.integers(0, 1)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_duplicates_are_those_that_a_set_would_find(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, int]]
) -> None:
    content = coco_file()
    content["annotations"] = [
        {"id": n, "image_id": (70, 5)[image], "category_id": (18, 3)[kind], "bbox": [x * 0.25, y * 1e-9, 9, 9]}
        for n, (x, image, y, kind) in enumerate(rows)
    ]
    table = read_coco(written(tmp_path_factory.getbasetemp(), content, photographs=False)[1])
    keys = list(zip(table.image_of.tolist(), table.category_ids.tolist(), table.boxes.tolist(), strict=True))
    assert exact_duplicates(table).tolist() == [key in keys[:n] for n, key in enumerate(keys)]


def test_one_pixel_boxes_are_targets_and_an_image_of_crowds_alone_has_none(tmp_path: Path) -> None:
    content = coco_file()
    content["annotations"][0].update(bbox=[19, 0, 1, 1], area=1)
    del content["annotations"][1]
    data = CocoDetection(*written(tmp_path, content))
    assert data.target(1)["boxes"].tolist() == [[19, 0, 20, 1]] and data.target(0)["boxes"].shape == (0, 4)
    assert data.load(0, rng())[1]["labels"].shape == (0,)
    assert [note.split(" (")[0] for note in data.notes] == [
        "1 annotation is a crowd",
        "1 of 2 classes has no object: dog",
    ]
    assert CocoDetection(*written(tmp_path, content), drop_empty=True).image_ids == [5]


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_a_thousand_objects_and_one_pixel_objects_survive_every_augmentation(tmp_path: Path, name: str) -> None:
    content = coco_file()
    places = [[x * 0.9, y * 0.6, 1 + x % 3, 1 + y % 3] for x in range(40) for y in range(25)]
    content["annotations"] = [
        {"id": n, "image_id": 70, "category_id": 3, "bbox": bbox} for n, bbox in enumerate(places)
    ]
    augment = build_augment(name, size=(96, 96))
    data = CocoDetection(*written(tmp_path, content), augment=augment)
    assert len(data.target(0)["boxes"]) == 1000
    for key in range(4):
        _, target = data.load(0, np.random.default_rng(key))
        assert len(target["boxes"]) == len(target["labels"]) and target["boxes"].isfinite().all()


numbers = st.one_of(st.floats(-100, 100), st.integers(-60, 60), st.just(1e300), st.just(0.3))


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=12))
@settings(max_examples=200, deadline=None)
def test_no_target_ever_leaves_its_image(tmp_path_factory: pytest.TempPathFactory, bboxes: list[tuple]) -> None:
    folder = tmp_path_factory.getbasetemp() / "targets"
    content = coco_file()
    content["annotations"] += [{"id": 50 + n, "image_id": 5, "category_id": 3, "bbox": b} for n, b in enumerate(bboxes)]
    boxes = CocoDetection(*written(folder, content, photographs=not folder.exists())).target(1)["boxes"]
    assert len(boxes) and (boxes >= 0).all() and (boxes <= 20).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 0.99).all()


def test_augmentation_gets_the_samples_own_random_numbers(tmp_path: Path) -> None:
    seen = []
    augment = lambda image, target, rng: (seen.append(rng.random()), (image[:, :9], target))[1]  # noqa: E731
    image, _ = CocoDetection(*written(tmp_path), augment=augment).load(0, rng())
    assert image.shape == (3, 9, 40) and seen == [rng().random()]


def test_a_photograph_of_another_size_and_a_damaged_one_are_bad_samples(tmp_path: Path) -> None:
    data = CocoDetection(*written(tmp_path))
    Image.new("RGB", (30, 40)).save(tmp_path / "a.png")
    with pytest.raises(BadSample, match="is 30x40, but the annotations say 40x30"):
        data.load(0, rng())
    (tmp_path / "a.png").write_bytes(b"<html>")
    with pytest.raises(BadSample, match=r"a\.png"):
        data.load(0, rng())
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadSample, match=r"a\.png"):
        data.load(0, rng())


def test_truncated_photographs_are_stepped_over_until_there_are_too_many(tmp_path: Path) -> None:
    content = coco_file()
    content["images"][1]["file_name"] = "b.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    data = CocoDetection(*written(tmp_path, content))
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadSample, match=r"b\.jpg"):
        data.load(1, rng())
    feed = Feed(data, seed=0, batch_size=2, max_bad=0.5)
    images, targets = next(feed.steps(0, 1))[0]
    assert [target["image_id"] for target in targets] == [70, 70] and len(feed.bad) == 1 and len(images) == 2
    with pytest.raises(DataError, match=r"1 of 2 samples cannot be read, .*b\.jpg.*--max-bad-samples"):
        next(Feed(data, seed=0, batch_size=2, max_bad=0).steps(0, 1))


def test_photographs_are_not_turned_because_boxes_are_in_stored_pixels(tmp_path: Path) -> None:
    images, annotations = written(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", exif=exif)
    assert CocoDetection(images, annotations).load(0, rng())[0].shape == (3, 30, 40)


def test_a_data_set_travels_to_a_worker(tmp_path: Path) -> None:
    data = pickle.loads(pickle.dumps(CocoDetection(*written(tmp_path))))  # noqa: S301, our own bytes
    assert data.load(1, rng())[1]["labels"].tolist() == [0]


def test_the_fingerprint_follows_the_file_and_which_images_are_used(tmp_path: Path) -> None:
    first, again = (CocoDetection(*written(tmp_path)).fingerprint for _ in range(2))
    (tmp_path / "ignore.txt").write_text("a.png\n")
    fewer = CocoDetection(*written(tmp_path), ignore_file=tmp_path / "ignore.txt").fingerprint
    content = coco_file()
    content["annotations"][0]["bbox"][0] += 1
    changed = CocoDetection(*written(tmp_path, content)).fingerprint
    assert first == again and len({first, fewer, changed}) == 3 and len(first) == 64


def test_an_annotation_takes_at_most_60_bytes(tmp_path: Path) -> None:
    content = coco_file()
    content["annotations"] = [{**content["annotations"][0], "id": n, "segmentation": [[0] * 8]} for n in range(2000)]
    data = CocoDetection(*written(tmp_path, content))
    columns = [*vars(data).values(), *vars(data.table).values()]
    assert sum(c.nbytes for c in columns if isinstance(c, np.ndarray)) / 2000 < 60


# -- leaving images out -------------------------------------------------------------------------


def test_ignored_empty_and_missing_images_are_left_out_and_counted(tmp_path: Path) -> None:
    content = coco_file()
    content["images"] += [
        {"id": 6, "file_name": "gone.png", "width": 9, "height": 9},
        {"id": 7, "file_name": "bad.png", "width": 9, "height": 9},
        {"id": 8, "file_name": "sub/../empty.png", "width": 9, "height": 9},
    ]
    images, annotations = written(tmp_path, content)
    Image.new("RGB", (9, 9)).save(tmp_path / "empty.png")
    (tmp_path / "ignore.txt").write_text("bad.png\nnever-there.png\n")
    options: dict[str, Any] = {"ignore_file": tmp_path / "ignore.txt", "allow_missing": 1}
    data = CocoDetection(images, annotations, **options)
    assert data.image_ids == [70, 5, 8] and len(data.notes) == 3 and len(data.target(2)["boxes"]) == 0
    data = CocoDetection(images, annotations, drop_empty=True, **options)
    assert data.image_ids == [70, 5] and [t.split()[0] for t in data.notes] == ["1"] * 4
    assert data.target(1)["boxes"].tolist() == [[2, 3, 12, 14]]


def test_missing_images_are_named_with_their_count(tmp_path: Path) -> None:
    content = coco_file()
    content["images"] += [{"id": 100 + n, "file_name": f"no{n}.png", "width": 9, "height": 9} for n in range(7)]
    with pytest.raises(DataError, match=r"7 of the 9 images .* no0.png, no1.png, .* no6.png; .*missing-images 7"):
        CocoDetection(*written(tmp_path, content), allow_missing=6)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "sub/../../a.png"])
def test_a_file_name_that_leaves_the_image_folder_is_refused(tmp_path: Path, name: str) -> None:
    content = coco_file()
    content["images"][0]["file_name"] = name
    with pytest.raises(DataError, match=r"image 70 .* must stay in"):
        CocoDetection(*written(tmp_path, content))


# -- what can be wrong --------------------------------------------------------------------------


def test_a_missing_file_broken_json_and_other_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the annotations .*nowhere\.json"):
        read_coco(tmp_path / "nowhere.json")
    for text, says in [
        ("{", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
    ]:
        with pytest.raises(DataError, match=says):
            read_coco(written(tmp_path, text)[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bbox": [1, 2, 3]}, "annotation 9 has the bbox .* four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 9 has the bbox .* four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 9 has the bbox .* four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "annotation 9 has the bbox .* four finite numbers"),
        ({"bbox": None}, "annotation 9 has the bbox null"),
        ({"bbox": ...}, "annotation 9 has no bbox"),
        ({"id": ...}, "annotation number 1 has no id"),
        ({"id": 1}, "annotation 1 has an id that appears twice"),
        ({"id": 2**70}, ".* has the id 1180591620717411303424 where"),
        ({"image_id": 6}, "annotation 9 belongs to image 6, which is not listed"),
        ({"image_id": "seventy"}, 'annotation 9 has the image_id "seventy" where'),
        ({"image_id": 70.5}, "annotation 9 has the image_id 70.5 where"),
        ({"image_id": ...}, "annotation number 1 has no image_id"),
        ({"category_id": 4}, "annotation 9 has category 4, which is not listed"),
        ({"category_id": 3.5}, "annotation 9 has the category_id 3.5"),
        ({"category_id": ...}, "annotation 9 has no category_id"),
        ({"category_id": "cat"}, 'annotation 9 has the category_id "cat" where a whole number of at most 53 bits'),
        ({"area": "big"}, 'annotation 9 has the area "big" where a number'),
    ],
)
def test_a_wrong_annotation_is_named_with_file_and_id(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    content = coco_file()
    first = content["annotations"][0]
    content["annotations"][0] = {k: v for k, v in {**first, **change}.items() if v is not ...}
    with pytest.raises(DataError, match=f"instances.json: {says}"):
        CocoDetection(*written(tmp_path, content))


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("images", {"id": 5}, "the image id 5 appears twice"),
        ("images", {"id": "x"}, "image x has no integer id"),
        ("images", {"file_name": None}, "image 70 has no file_name"),
        ("images", {"height": 0}, "image 70 has no height and width"),
        ("categories", {"id": 3}, "the category id 3 appears twice"),
        ("categories", {"id": "dog"}, "the category .* needs an integer id"),
        ("categories", {"name": "cat"}, "the category name 'cat' appears twice"),
        ("categories", {"name": None}, "needs an integer id and a name"),
        ("categories", {"name": "  "}, "needs an integer id and a name"),
    ],
)
def test_a_wrong_image_or_category_is_named(tmp_path: Path, part: str, change: dict[str, Any], says: str) -> None:
    content = coco_file()
    content[part][0].update(change)
    with pytest.raises(DataError, match=f"instances.json: .*{says}"):
        CocoDetection(*written(tmp_path, content))


def test_a_file_without_usable_boxes_is_refused(tmp_path: Path) -> None:
    content = coco_file()
    content["annotations"] = []
    with pytest.raises(DataError, match="has no boxes"):
        CocoDetection(*written(tmp_path, content))
    content = coco_file()
    content["annotations"] = content["annotations"][2:]
    with pytest.raises(DataError, match="no usable boxes"):
        CocoDetection(*written(tmp_path, content))


# -- folders and real files ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train2017", "train"])
def test_a_coco_folder_is_found_by_split(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / f"annotations/instances_{name}.json").write_text("{}")
    assert coco_layout(tmp_path, "train") == (tmp_path / name, tmp_path / f"annotations/instances_{name}.json")
    with pytest.raises(DataError, match=r"neither val2017/ .* nor val/"):
        coco_layout(tmp_path, "val")


@needs_real_data
def test_real_coco_and_blood_cells_are_read(tmp_path: Path) -> None:
    coco = CocoDetection(*coco_layout(REAL / "coco-tiny", "train"), classes=ClassMap.from_file(CLASSES / "coco.txt"))
    assert len(coco) == 80 and coco.is_target.sum() == 699 and coco.classes.source_ids[-1] == 90
    assert coco.notes == ["6 annotations are crowds (iscrowd), not trained on and not counted in evaluation"]
    for index in range(0, 80, 8):
        image, target = coco.load(index, rng())
        assert image.shape[-2:] == coco.height_width(index) and len(target["boxes"]) == len(target["labels"]) > 0
    cells = CocoDetection(*coco_layout(REAL / "bccd", "train"))
    assert len(cells) == 205 and cells.notes == ["1 box is narrower than 1 pixel, dropped"]
