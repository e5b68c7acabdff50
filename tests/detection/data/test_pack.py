"""Shards of a COCO file: the same samples in the same order, the same truth, whole or absent, never overwritten."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.cli import main
from detection.data import pack as packing
from detection.data.annotations.classes import ClassMap
from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection, coco_layout
from detection.data.pack import pack
from detection.eval.coco import CocoEvaluator
from detection.types import Detections
from shared.errors import BadSample, DataError, Stopped, UsageError
from shared.feeding.feed import Feed
from shared.feeding.parts import Part
from tests.detection.data.of_coco import IMAGES, REAL, rng
from tests.detection.data.of_people import people, people_file


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# -- the same data --------------------------------------------------------------------------------


def test_training_on_shards_sees_the_same_samples_in_the_same_order(coco: tuple[Path, Path], shards: Path) -> None:
    augment = build_augment("ssd", size=(40, 48))
    feeds = [
        Feed(CocoDetection(*place, augment=augment), seed=5, batch_size=3, micro_batches=2, max_bad=0.5)
        for place in (coco, (shards, None))
    ]
    for ours, theirs in zip(feeds[0].steps(0, 5), feeds[1].steps(0, 5), strict=True):
        for (images, targets), (others, their_targets) in zip(ours, theirs, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(images, others, strict=True))
            for target, their in zip(targets, their_targets, strict=True):
                assert target.keys() == their.keys() and all(same(target[name], their[name]) for name in target)
    assert len(feeds[0].bad) == len(feeds[1].bad) == 1


def test_evaluation_sees_crowds_areas_and_odd_boxes_and_scores_the_same(coco: tuple[Path, Path], shards: Path) -> None:
    folder, packed = CocoDetection(*coco), CocoDetection(shards, None)
    assert folder.ground_truth() == packed.ground_truth() and folder.notes == packed.notes
    assert any(a["iscrowd"] for a in packed.ground_truth()["annotations"])
    scores = []
    for data in (folder, packed):
        evaluator, noise = CocoEvaluator(data, "pycocotools"), torch.Generator().manual_seed(1)
        for index, image_id in enumerate(data.image_ids):
            target = data.target(index)
            boxes = target["boxes"] + torch.randn(target["boxes"].shape, generator=noise)
            found = Detections(boxes=boxes, labels=target["labels"], scores=torch.rand(len(boxes), generator=noise))
            evaluator.add(image_id, found, (1.0, 1.0))
        scores.append(evaluator.summary())
    assert scores[0] == scores[1] and 0.2 < scores[0]["box_ap"] < 1


def test_image_files_are_kept_byte_for_byte_with_their_size_and_name(coco: tuple[Path, Path], shards: Path) -> None:
    folder, packed = CocoDetection(*coco), CocoDetection(shards, None)
    for index in range(IMAGES):
        assert bytes(packed.read(index)) == folder.path(index).read_bytes()
        assert packed.height_width(index) == folder.height_width(index)
    assert packed.table.file_names.tolist() == folder.table.file_names.tolist()
    with pytest.raises(BadSample, match=r"8\.jpg"):
        packed.load(8, rng())


@pytest.mark.parametrize("options", [{"drop_empty": True}, {"classes": ClassMap.binary()}, {"limit": 3}])
def test_options_mean_the_same_for_shards(coco: tuple[Path, Path], shards: Path, options: dict[str, Any]) -> None:
    (shards.parent / "ignore.txt").write_text("sub/3.png\n2.jpg\n")
    options = {**options, "ignore_file": shards.parent / "ignore.txt"}
    folder, packed = CocoDetection(*coco, **options), CocoDetection(shards, None, **options)
    assert packed.image_ids == folder.image_ids and packed.notes == folder.notes and packed.classes == folder.classes
    for index in range(len(folder)):
        assert all(same(value, packed.target(index)[name]) for name, value in folder.target(index).items())  # pyright: ignore
        assert packed.read(index) == folder.read(index)


def test_shards_travel_to_a_worker(shards: Path) -> None:
    data = CocoDetection(shards, None)
    data.read(0)
    again = pickle.loads(pickle.dumps(data))  # noqa: S301, our own bytes
    assert again.read(5) == data.read(5)


def test_the_same_shards_have_the_same_fingerprint_and_others_another(coco: tuple[Path, Path], shards: Path) -> None:
    again = shards.parent / "again"
    pack(*coco, again, shard_size=4)
    assert CocoDetection(shards, None).fingerprint == CocoDetection(again, None).fingerprint
    assert (again / "000001.tar").read_bytes() == (shards / "000001.tar").read_bytes()
    (again / "000002.tar").unlink()
    assert CocoDetection(shards, None).fingerprint != CocoDetection(again, None).fingerprint


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
def test_real_photographs_come_back_the_same(tmp_path: Path) -> None:
    for name, split in (("coco-tiny", "val"), ("bccd", "val")):
        images, annotations = coco_layout(REAL / name, split)
        pack(images, annotations, tmp_path / name, shard_size=30)
        folder, packed = CocoDetection(images, annotations), CocoDetection(tmp_path / name, None)
        assert folder.ground_truth() == packed.ground_truth() and folder.notes == packed.notes
        for index in range(0, len(folder), 7):
            assert torch.equal(folder.load(index, rng())[0], packed.load(index, rng())[0])


FINDS = (("masks",), ("keypoints",), ("masks", "keypoints"), ())


@pytest.mark.parametrize("finds", FINDS)
def test_masks_and_keypoints_come_back_the_same_in_training_and_in_evaluation(tmp_path: Path, finds: tuple) -> None:
    content = people_file()
    content["annotations"][0]["keypoints"] = [10.1, 1 / 3, 2, 6, 10, 1, 14, 10, 2]
    content["annotations"] += [
        {**content["annotations"][0], "id": 300, "bbox": [5, 5, 9, 9], "segmentation": [[5, 5, 14 / 3, 5, 14, 14.25]]},
        {**content["annotations"][0], "id": 301, "bbox": [5, 5, 8, 9], "segmentation": [[90, 90, 95, 95, 95, 90]]},
    ]
    content["images"].append({"id": 9, "file_name": "empty.png", "width": 20, "height": 20})
    place = people(tmp_path / "coco", content)
    pack(*place, tmp_path / "shards", shard_size=1)
    options: dict[str, Any] = {"finds": finds, "augment": build_augment("lsj", size=(64, 64)), "min_keypoints": None}
    options["copy_paste"] = finds == ("masks",)
    folder, packed = CocoDetection(*place, **options), CocoDetection(tmp_path / "shards", None, **options)
    assert folder.ground_truth() == packed.ground_truth() and folder.notes == packed.notes
    assert folder.skeleton == packed.skeleton and folder.image_ids == packed.image_ids and folder.finds == finds
    for index in range(len(folder)):
        for key in range(5):
            ours, theirs = (data.load(index, np.random.default_rng(key)) for data in (folder, packed))
            assert torch.equal(ours[0], theirs[0]) and ours[1].keys() == theirs[1].keys() >= set(finds)
            assert all(same(value, theirs[1][name]) for name, value in ours[1].items())  # pyright: ignore


def test_a_mask_that_an_annotation_lacks_does_not_keep_the_others_from_being_packed(tmp_path: Path) -> None:
    content = people_file()
    content["annotations"][1]["segmentation"] = []
    pack(*people(tmp_path / "coco", content), tmp_path / "shards")
    assert len(CocoDetection(tmp_path / "shards", None, finds=("keypoints",))) == 2
    with pytest.raises(DataError, match="has no segmentation"):
        CocoDetection(tmp_path / "shards", None, finds=("masks",))


def test_sigmas_and_sides_of_a_skeleton_are_packed(tmp_path: Path) -> None:
    content = people_file()
    content["categories"][0].update(keypoints=["a", "b", "c"], flip_pairs=[[2, 3]], sigmas=[0.2, 0.3, 0.4])
    content["categories"].append({"id": 2, "name": "dog"})
    place = people(tmp_path / "coco", content)
    pack(*place, tmp_path / "shards")
    folder, packed = (
        CocoDetection(*place, finds=("keypoints",)),
        CocoDetection(tmp_path / "shards", None, finds=("keypoints",)),
    )
    assert packed.skeleton == folder.skeleton and getattr(packed.skeleton, "mirrored", None) == (0, 2, 1)
    assert packed.table.skeletons.keys() == {1} and packed.classes == folder.classes


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
def test_real_people_come_back_with_masks_and_keypoints(tmp_path: Path) -> None:
    place, finds = coco_layout(REAL / "coco-keypoints", "train", "coco_kp"), ("masks", "keypoints")
    pack(*place, tmp_path / "people", shard_size=30)
    folder, packed = CocoDetection(*place, finds=finds), CocoDetection(tmp_path / "people", None, finds=finds)
    assert folder.ground_truth() == packed.ground_truth() and folder.skeleton == packed.skeleton
    for index in range(0, len(folder), 9):
        ours, theirs = folder.load(index, rng())[1], packed.load(index, rng())[1]
        assert ours.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in ours.items())  # pyright: ignore


# -- packing --------------------------------------------------------------------------------------


def test_a_stopped_packing_goes_on_with_the_shards_that_are_missing(
    coco: tuple[Path, Path], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = shards.parent / "stopped", []
    real = packing.write_shard

    def write(shard: Path, *args: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        real(shard, *args)

    monkeypatch.setattr(packing, "write_shard", write)
    with pytest.raises(Stopped, match="2 finished shards kept"):
        pack(*coco, out, shard_size=4)
    assert not out.exists()
    with pytest.raises(DataError, match="unfinished packing of other images or with other options"):
        pack(*coco, out, shard_size=5)
    monkeypatch.setattr(packing, "write_shard", real)
    packed = pack(*coco, out, shard_size=4)
    assert (packed.shards, packed.kept) == (3, 2)
    for file in shards.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(shards)) and not list(out.parent.glob(".*partial"))


def test_parts_settled_are_the_files_of_one_packing(coco: tuple[Path, Path], shards: Path) -> None:
    out = shards.parent / "in_parts"
    with pytest.raises(DataError, match="there are no parts of"):
        pack(*coco, out, shard_size=4, settle=True)
    counted = [pack(*coco, out, shard_size=4, part=Part(number, 2)) for number in (2, 1, 1)]
    assert [(some.images, some.shards, some.kept) for some in counted] == [(4, 1, 0), (7, 2, 0), (7, 2, 2)]
    first = out.parent / ".in_parts.partial" / "shards" / "000000.tar"
    first.unlink()
    (first.parent / "000001.boxes.npz").unlink()
    with pytest.raises(DataError, match="1 of 3 shards of .* missing .*, of --part 1/2; run these parts again"):
        pack(*coco, out, shard_size=4, settle=True)
    again = pack(*coco, out, shard_size=4, part=Part(1, 2))
    assert again.kept == 1 and not out.exists() and again.annotations + counted[0].annotations == 30
    whole = pack(*coco, out, shard_size=4, settle=True)
    assert (whole.images, whole.annotations, whole.shards) == (11, 30, 3)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in shards.iterdir()
    }


def test_images_that_the_annotations_do_not_name_are_listed(coco: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(coco[0], images)
    (images / "more").mkdir()
    for stranger in ("more/one.jpg", "two.PNG", "notes.txt"):
        (images / stranger).write_bytes(b"")
    packed = pack(images, coco[1], tmp_path / "out")
    assert "not packed, since the annotations do not name them: 2 images, more/one.jpg, two.PNG" in packed.notes
    assert not any("not packed" in note for note in pack(*coco, tmp_path / "again").notes)


def test_what_is_there_is_never_overwritten(coco: tuple[Path, Path], shards: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in shards.iterdir()}
    with pytest.raises(DataError, match="already exists and is not empty"):
        pack(*coco, shards)
    assert {file: file.stat().st_mtime_ns for file in shards.iterdir()} == before


def test_missing_images_and_empty_shards_are_refused(coco: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--shard-size is below 1"):
        pack(*coco, tmp_path / "out", shard_size=0)
    (coco[0] / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 11 images .* 2\.jpg"):
        pack(*coco, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    assert pack(*coco, tmp_path / "out", allow_missing=1).images == IMAGES - 1
    assert CocoDetection(tmp_path / "out", None).image_ids == CocoDetection(*coco, allow_missing=1).image_ids


def test_names_in_shards_are_those_of_the_annotations_wherever_the_files_lay(tmp_path: Path) -> None:
    from tests.detection.data.of_objects365 import NAMES, objects365

    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
    pack(tmp_path, objects365(tmp_path), tmp_path / "out")
    (tmp_path / "ignore.txt").write_text(NAMES[1])
    assert CocoDetection(tmp_path / "out", None, ignore_file=tmp_path / "ignore.txt").image_ids == [1, 3]


# -- from the command line ------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str]:
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_packing_and_scoring_by_command(
    coco: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco[0] / "8.jpg").write_bytes((coco[0] / "7.jpg").read_bytes())
    code, told = said(capsys, "pack", *coco, tmp_path / "both" / "val", "--shard-size", 4)
    assert code == 0 and "packed 11 images with 30 annotations of 4 classes into 3 shards" in told, told
    code, told = said(capsys, "pack", *coco, tmp_path / "both" / "val")
    assert code == 3 and "never" not in told and "already exists" in told
    scores = []
    for words in (("--val-path", coco[0], "--coco-val-json-path", coco[1]), ("--val-path", tmp_path / "both/val")):
        code, told = said(capsys, "eval", "--results", "truth", *words, "--json", tmp_path / "scores.json")
        assert code == 0, told
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    assert scores[0] == scores[1]


FLAGS = [
    "--network",
    "fcos",
    "--backbone",
    "test_resnet",
    "--width",
    "64",
    "--depth",
    "1",
    "--size",
    "64",
    "--dry-run",
    "--dry-steps",
    "0",
]


@pytest.mark.parametrize("layout", ["one folder each", "train and val in one"])
def test_a_dry_run_takes_shards_where_it_takes_a_coco_folder(
    coco: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, in_folder: Path
) -> None:
    for split in ("train", "val"):
        pack(*coco, tmp_path / "both" / split, shard_size=4)
    words = ["--data-path", tmp_path / "both"]
    if layout == "one folder each":
        words = ["--data-path", tmp_path / "both/train", "--val-path", tmp_path / "both/val"]
    flags = FLAGS
    code, told = said(capsys, "train", *flags, *words)
    assert code == 0 and "11 training images, 11 validation images" in told, told
    code, told = said(capsys, "train", *flags, *words[:1], tmp_path / "both/train")
    assert code == 0 and "11 training images, 0 validation images" in told, told
    code, told = said(capsys, "train", *flags, *words[:2], "--val-path", coco[0])
    assert code == 2 and "a folder of shards" in told
