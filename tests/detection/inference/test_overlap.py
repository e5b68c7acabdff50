"""A test on training images is noticed, by their content or by a training file; and LVIS's side of `detect eval`."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import backbone
from detection.data.coco import CocoDetection
from detection.inference import trained
from detection.inference.for_lvis import limit_of
from detection.inference.overlap import certificate, listed_in, seen_in_training
from detection.nets import detector
from detection.recipe import DataConfig
from detection.training.datasets import seen_by
from shared.errors import DataError, UsageError
from shared.feeding.fingerprint import fingerprints, small_picture
from shared.feeding.headers import mark_of
from shared.weights.card import Exported
from shared.weights.seen import digests_of, read_digests, record_of, write_digests
from shared.weights.store import Store
from tests.shared.feeding.of_pictures import jpeg

HOW: dict[str, Any] = {"batch_size": 4, "workers": 0, "size": None, "save": None}


def folder_of(root: Path, seeds: list[int], *, lvis: bool = False, first: int = 1) -> Path:
    """A COCO folder `val2017` with one photograph of noise for each seed, an object in each, and its annotations."""
    (root / "val2017").mkdir(parents=True)
    images, annotations = [], []
    for number, seed in enumerate(seeds, start=first):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"val2017/{number:012d}.png")
        image = {"id": number, "height": 40, "width": 60}
        url = f"http://images.cocodataset.org/val2017/{number:012d}.png"
        lists = {"coco_url": url, "neg_category_ids": [2], "not_exhaustive_category_ids": []}
        images.append({**image, **lists} if lvis else {**image, "file_name": f"{number:012d}.png"})
        box = {"image_id": number, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        annotations.append({"id": number, **box})
    names = [
        {"id": 1, "name": "acorn" if lvis else "person", "frequency": "r"},
        {"id": 2, "name": "kite", "frequency": "f"},
    ]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "lvis_v1_val.json").write_text(json.dumps(content))
    return root


def opened(root: Path, lvis: bool = False) -> CocoDetection:
    return CocoDetection(root if lvis else root / "val2017", root / "lvis_v1_val.json", lvis=lvis)


@pytest.fixture
def weights(store: Store, card: Callable[..., Any], tmp_path: Path) -> Callable[..., Exported]:
    """An export of random weights that were trained on the photographs of some seeds."""

    def build(names: tuple[str, ...], seeds: list[int], parent: Exported | None = None, **more: Any) -> Exported:
        train = opened(folder_of(tmp_path / f"train{len(list(store.all()))}", seeds))
        net = detector.build("fcos", backbone.build("test_resnet"), len(names), width=64, min_score=0.0)
        args = {"network": "fcos", "network_args": {"width": 64, "min_score": 0.0}, "backbone": "test_resnet"}
        recipe = {"size": [64, 64], "aug_type": "hflip", **more}
        classes = {"names": list(names), "source_ids": list(range(1, len(names) + 1))}
        own = card(arch="fcos-test_resnet", kind="detector", args=args, classes=classes, recipe=recipe)
        (run := tmp_path / f"run{len(list(store.all()))}").mkdir()
        return store.put(net, own, seen=seen_by([train], [parent], run, arch=own.arch, tag=own.tag))

    return build


def test_photographs_of_the_training_are_recognized_under_other_names(
    weights: Callable[..., Exported], tmp_path: Path
) -> None:
    exported = weights(("person",), [*range(10)])
    again = opened(folder_of(tmp_path / "test", [100, 7, 101, 3], first=50))
    (sentence,) = seen_in_training(again, exported)
    assert sentence.startswith("2 of the 4 images to evaluate on are among those that fcos-test_resnet")
    assert "such as 000000000051.png" in sentence
    assert not seen_in_training(opened(folder_of(tmp_path / "new", [200, 201])), exported)
    shutil.copytree(exported.path, tmp_path / "copy")
    assert seen_in_training(again, Exported(tmp_path / "copy", exported.card))
    next((tmp_path / "copy").glob("seen-*.npy")).unlink()
    assert not seen_in_training(again, Exported(tmp_path / "copy", exported.card))


def test_weights_remember_what_those_they_started_from_have_seen(
    weights: Callable[..., Exported], tmp_path: Path
) -> None:
    start = weights(("person",), [1, 2, 3])
    later = weights(("person",), [4, 5], parent=start)
    assert [entry["images"] for entry in later.card.seen] == [2, 3]
    for seeds, count in (([1, 2, 9], 2), ([3, 4, 5], 3)):
        (sentence,) = seen_in_training(opened(folder_of(tmp_path / str(seeds), seeds)), later)
        assert sentence.startswith(f"{count} of the 3 images")


@pytest.fixture
def pretrained(store: Store, card: Callable[..., Any], tmp_path: Path) -> Callable[..., Exported]:
    """A backbone that was pretrained on the photographs of some seeds, with or without fingerprints."""

    def build(seeds: list[int], *, fingerprinted: bool = True, quality: int | None = None) -> Exported:
        dataset = opened(folder_of(tmp_path / f"photos{len(list(store.all()))}", seeds))
        files = [bytes(dataset.read(row)) for row in range(len(dataset))]
        if quality is not None:
            files = [jpeg(Image.open(io.BytesIO(file)), quality) for file in files]
        marks = np.array([mark_of(file, len(file)) for file in files], np.uint64)
        prints = fingerprints(np.stack([small_picture(file) for file in files])) if fingerprinted else None
        own = card(arch="test_resnet")
        record = write_digests(tmp_path, digests_of(marks, prints), kind="backbone", arch=own.arch, tag=own.tag)
        return store.put(backbone.build("test_resnet"), own, seen=record)

    return build


def test_the_certificate_says_that_no_image_was_seen_in_pretraining(
    weights: Callable[..., Exported], pretrained: Callable[..., Exported], tmp_path: Path
) -> None:
    detector = weights(("person",), [50, 51], parent=pretrained([1, 2, 3]))
    clean = certificate(opened(folder_of(tmp_path / "clean", [7, 8])), detector)
    assert clean.clean and clean.compared == 3 and clean.limit == 40
    (sentence,) = clean.lines()
    assert sentence.startswith("none of 2 validation images was seen in pretraining, among 3 images (n")
    assert "40 or fewer are the same picture" in sentence


def test_the_certificate_names_images_that_are_the_same_file_or_the_same_picture(
    weights: Callable[..., Exported], pretrained: Callable[..., Exported], tmp_path: Path
) -> None:
    test = opened(folder_of(tmp_path / "test", [7, 1, 8]))
    for backbone_, what in ((pretrained([1, 2]), "the same file"), (pretrained([1, 2], quality=60), "bits")):
        found = certificate(test, weights(("person",), [50], parent=backbone_))
        (leak,) = found.leaks
        assert not found.clean and leak.row == 1 and leak.name == "000000000002.png"
        (sentence,) = found.lines()
        assert sentence.startswith("1 of 3 validation images were seen in pretraining, among 2 images: 0")
        assert what in sentence
        assert certificate(test, backbone_).leaks == found.leaks  # a backbone can be asked too


def test_what_is_not_known_is_said(
    weights: Callable[..., Exported],
    pretrained: Callable[..., Exported],
    store: Store,
    card: Callable[..., Any],
    tmp_path: Path,
) -> None:
    test = opened(folder_of(tmp_path / "test", [7, 1]))
    marks_only = certificate(test, pretrained([1, 2], fingerprinted=False))
    assert [leak.bits for leak in marks_only.leaks] == [None]
    assert "have no fingerprints" in marks_only.lines()[1]
    older = certificate(test, store.put(backbone.build("test_resnet"), card(arch="test_resnet", tag="older")))
    (sentence,) = older.lines()
    assert older.clean and sentence.startswith(
        "whether images were seen in pretraining is not known: test_resnet older"
    )
    scratch = weights(("person",), [1])
    (sentence,) = certificate(test, replace(scratch, card=replace(scratch.card, method="detection"))).lines()
    assert sentence == "no image was seen in pretraining: the backbone started from random weights"
    damaged = pretrained([1, 2])
    record = record_of(damaged)
    assert record is not None and read_digests(record.entries[0], record.files[0]) is not None
    record.files[0].write_bytes(b"damaged")
    lost = certificate(test, damaged)
    assert lost.compared == 0 and "is missing or damaged" in lost.lines()[0]


def test_one_percent_is_tolerated_and_more_is_not(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 4, "width": 4} for n in range(1, 201)]
    }
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content |= {"annotations": [box], "categories": [{"id": 1, "name": "it"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    data = CocoDetection(tmp_path, tmp_path / "all.json", need_images=False)
    for count, warns in ((0, False), (2, False), (3, True)):
        same = content["images"][:count] or [{"id": 900, "file_name": "other.png", "height": 4, "width": 4}]
        prefixed = [{**image, "file_name": f"x/COCO_train2014_{image['file_name']}"} for image in same]
        other = [{**image, "id": image["id"] + 1} for image in content["images"][50:]]  # the names alone say nothing
        (tmp_path / "train.json").write_text(json.dumps({"images": prefixed + other}))
        assert bool(listed_in(data, tmp_path / "train.json")) is warns


def test_evaluation_warns_and_takes_300_detections_for_lvis_unless_told(
    weights: Callable[..., Exported], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported, root = weights(("acorn", "kite"), [1, 2, 3]), folder_of(tmp_path / "lvis", [3, 8], lvis=True)
    limits = [limit_of(exported.card, kind, most) for kind, most in (("lvis", None), ("coco", None), ("lvis", 7))]
    assert limits == [{"max_detections": 300}, {}, {"max_detections": 7}]
    opened_weights = trained.Trained(exported, torch.device("cpu"), limits[0])
    config = DataConfig(data_path=root, dataset="lvis", eval_backend="pycocotools")
    with caplog.at_level(logging.WARNING):
        metrics = trained.evaluate(config, opened_weights, **HOW, against=root / "lvis_v1_val.json")
    told = [record.getMessage() for record in caplog.records]
    assert any("1 of the 2 images to evaluate on are among those that fcos" in sentence for sentence in told)
    assert any("2 of the 2 images to evaluate on are among those of" in sentence for sentence in told)
    assert next(iter(metrics)) == "box_ap" and {"box_ap_rare", "box_ar300", "ap of acorn"} <= metrics.keys()
    recall = trained.evaluate(DataConfig(data_path=root, dataset="lvis", class_agnostic=True), opened_weights, **HOW)
    assert next(iter(recall)) == "box_ar100" and "ar100 of acorn" in recall


def test_files_of_lvis_and_detectors_of_coco_and_the_reverse_are_told_apart(
    weights: Callable[..., Exported], tmp_path: Path
) -> None:
    root, coco = folder_of(tmp_path / "lvis", [3], lvis=True), folder_of(tmp_path / "coco", [4])
    of_coco = trained.Trained(weights(("person", "kite"), [1]), torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"is an LVIS file, and fcos-test_resnet .* knows 2 classes of other annotations"
    ):
        trained.evaluate(DataConfig(data_path=root, dataset="lvis"), of_coco, **HOW)
    of_lvis = trained.Trained(weights(("acorn", "kite"), [1], dataset="lvis"), torch.device("cpu"))
    place: dict[str, Any] = {"val_path": coco / "val2017", "coco_val_json_path": coco / "lvis_v1_val.json"}
    with pytest.raises(DataError, match=r"was trained on LVIS and knows its 2 classes.*'person'"):
        trained.evaluate(DataConfig(**place, dataset="coco"), of_lvis, **HOW)
    with pytest.raises(DataError, match="is an LVIS file.*add --dataset lvis"):
        trained.evaluate(
            DataConfig(data_path=root, val_path=root, coco_val_json_path=root / "lvis_v1_val.json"), of_lvis, **HOW
        )
    with pytest.raises(DataError, match="is not an LVIS file"):
        trained.evaluate(DataConfig(data_path=coco, dataset="lvis"), of_lvis, **HOW)


def test_a_network_without_classes_keeps_its_limit_and_one_without_a_limit_is_told_none(
    card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = card(kind="detector", args={"network": "unidetector_cln", "network_args": {}})
    assert limit_of(own, "lvis", None) == {} and limit_of(own, "lvis", 5) == {"max_detections": 5}
    monkeypatch.setattr("detection.inference.for_lvis.detector.options", lambda network: {})
    assert limit_of(own, "lvis", None) == {}
    with pytest.raises(UsageError, match="remove --max-detections"):
        limit_of(own, "coco", 5)
