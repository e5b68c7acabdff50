"""The demo data is what it promises: deterministic, whole or absent, and fair to the comparison it is made for."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")
pytest.importorskip("webdataset")

from shared.errors import UsageError
from shared.feeding import demo


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NUM_CROPS", {"train": 120, "val": 30})
    monkeypatch.setattr(demo, "NUM_SCENES", {"train": 6, "val": 4})
    monkeypatch.setattr(demo, "CROPS_PER_SHARD", 50)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar.getmembers()]
        return {name: file.read() for name, file in files if file is not None}


def test_made_twice_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    first, second = demo.demo_data(tmp_path / "one"), demo.demo_data(tmp_path / "two")
    assert digests(first.root) == digests(second.root)
    shards, scenes = 3 + 1 + 1, 2 * (1 + 1) + 2 * (6 + 4)
    assert len(digests(first.root)) == shards + scenes + 1


def test_what_is_there_is_used_again(tmp_path: Path) -> None:
    paths = demo.demo_data(tmp_path / "demo")
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")}
    assert demo.demo_data(tmp_path / "demo") == paths
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_data_of_another_version_is_made_anew(tmp_path: Path) -> None:
    root = demo.demo_data(tmp_path / "demo").root
    fresh = digests(root)
    (root / "demo.json").write_text('{"version": 0}')
    (root / "scenes" / "train.json").unlink()
    assert digests(demo.demo_data(root).root) == fresh


def test_shards_hold_every_class_equally_as_small_rgb_pictures(tmp_path: Path) -> None:
    paths = demo.demo_data(tmp_path / "100% demo")
    assert (paths.shards / "classes.txt").read_text().split() == list(demo.CLASSES)
    labels: list[int] = []
    for shard in sorted(paths.shards.glob("train-*.tar")):
        members = read_tar(shard)
        for key in {name.split(".")[0] for name in members}:
            labels.append(int(members[f"{key}.cls"]))
            picture = Image.open(io.BytesIO(members[f"{key}.jpg"]))
            assert (picture.size, picture.mode) == ((32, 32), "RGB")
    assert np.bincount(labels).tolist() == [12] * 10


def test_scenes_are_coco_with_boxes_inside_and_ids_that_are_not_dense(tmp_path: Path) -> None:
    paths = demo.demo_data(tmp_path / "demo")
    for folder, file, count in ((paths.train_images, paths.train_json, 6), (paths.val_images, paths.val_json, 4)):
        coco = json.loads(file.read_text())
        assert [category["id"] for category in coco["categories"]] == list(range(11, 21))
        assert len(coco["images"]) == count
        for image in coco["images"]:
            assert Image.open(folder / image["file_name"]).size == (image["width"], image["height"])
            boxes = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
            assert 6 <= len(boxes) <= 14
            assert all(x >= 0 and y >= 0 and x + w <= 192 and y + h <= 192 and 12 <= h <= 28 for x, y, w, h in boxes)


def test_masks_fill_their_boxes_and_keypoints_are_the_tips_of_the_ink(tmp_path: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    coco = json.loads(demo.demo_data(tmp_path / "demo").val_json.read_text())
    assert [len(category["keypoints"]) for category in coco["categories"]] == [4] * 10
    for a in coco["annotations"]:
        runs = mask.frPyObjects(a["segmentation"], *a["segmentation"]["size"])
        assert np.abs(mask.toBbox(runs) - a["bbox"]).max() <= 1
        inked = mask.decode(runs)
        points = np.array(a["keypoints"]).reshape(4, 3)
        assert all(inked[y, x] for x, y, _ in points)
        assert points[0, 1] == np.nonzero(inked)[0].min() and points[1, 0] == np.nonzero(inked)[1].max()


def test_every_pixel_of_a_scene_is_some_digits_or_the_grounds(tmp_path: Path) -> None:
    told = demo.demo_data(tmp_path / "demo").val_json.with_name("panoptic_val.json")
    panoptic = json.loads(told.read_text())
    assert {c["id"]: c["isthing"] for c in panoptic["categories"]} == {1: 0} | dict.fromkeys(range(11, 21), 1)
    for annotation in panoptic["annotations"]:
        pixels = np.asarray(Image.open(told.with_suffix("") / annotation["file_name"]))
        areas = dict(zip(*np.unique(pixels[..., 0], return_counts=True), strict=True))
        assert areas == {info["id"]: info["area"] for info in annotation["segments_info"]}


def test_no_scan_is_in_two_pools_and_none_is_lost() -> None:
    classes = np.random.default_rng(0).integers(0, 10, 1797)
    pools = demo.split_scans(classes)
    scans = np.concatenate([scans for by_class in pools.values() for scans in by_class])
    assert sorted(scans.tolist()) == list(range(1797))
    for by_class in pools.values():
        assert all(len(scans) > 5 and (classes[scans] == label).all() for label, scans in enumerate(by_class))


def test_boxes_are_tight_around_the_ink() -> None:
    scans, _ = demo.open_sources()
    rng = np.random.default_rng(0)
    for label in range(10):
        ink = demo.draw_ink(scans["scenes/val"][label], 20, rng)
        edges = (ink[0], ink[-1], ink[:, 0], ink[:, -1])
        assert ink.shape[0] == 20
        assert all(edge.max() > 0.3 for edge in edges)


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r'needs scikit-learn: pip install "chordate\[demo\]", or give --data-path'):
        demo.demo_data(tmp_path / "demo")


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not the demo data"):
        demo.demo_data(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write the demo data to .*file"):
        demo.demo_data(tmp_path / "file" / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
