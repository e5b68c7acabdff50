"""A detector that is told its classes by name is asked for others, and for those of an annotation file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import backbone
from detection.inference import trained
from detection.inference.predict import Predictions, predict
from detection.inference.told import ask_for, ask_for_classes
from detection.nets import detector
from detection.recipe import DataConfig
from detection.vocabulary.shipped import CLIP, shipped
from detection.vocabulary.table import Vocabulary, random_vocabulary
from shared.errors import UsageError, WeightsError
from shared.weights.store import Store

NAMES = ("person", "zebra")
TINY = {"region": "layers", "width": 16, "hidden": 16, "regions": 16, "min_score": 0.0, "soft_floor": 0.0}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with a sofa, a zebra and a quokka each; ids of categories have gaps."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    images = [{"id": 10 + n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in range(2)]
    categories = [{"id": 2, "name": "quokka"}, {"id": 5, "name": "Zebra"}, {"id": 9, "name": "sofa"}]
    annotations = [
        {
            "id": 3 * n + k,
            "image_id": 10 + n,
            "category_id": category["id"],
            "bbox": [4 + 8 * k, 4, 20, 30],
            "area": 600,
        }
        for n in range(2)
        for k, category in enumerate(categories, 1)
    ]
    for image in images:
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / image["file_name"])
    content = {"images": images, "annotations": [{**a, "iscrowd": 0} for a in annotations], "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def opened(store: Store, card: Callable[..., Any]) -> Callable[..., trained.Trained]:
    """An export of a small network of random weights with the vocabulary NAMES, opened."""

    def build(network: str = "unidetector", vocabulary: Vocabulary | None = None) -> trained.Trained:
        table = shipped(CLIP)
        assert table is not None
        known = vocabulary or table.bind(NAMES)
        told = network == "unidetector"
        options: dict[str, Any] = TINY | {"vocabulary_width": known.width} if told else {"width": 64}
        torch.manual_seed(0)
        net: Any = detector.build(network, backbone.build("test_resnet"), len(known), **options)
        classes: dict[str, Any] = {"names": list(known.names), "source_ids": [1, 2]}
        if told:
            net.vocabularies.speak([known.vectors])
            entry = {"set": "coco", "names": list(known.names), "source_ids": [1, 2]}
            classes["vocabularies"] = [entry | {"model": known.model, "digest": known.digest}]
        args = {"network": network, "network_args": options, "backbone": "test_resnet", "backbone_args": {}}
        recipe = {"size": [64, 64], "max_size": None, "multiscale": False, "aug_type": "hflip"}
        arch = f"{network}-test_resnet"
        store.put(net, card(arch=arch, kind="detector", args=args, classes=classes, recipe=recipe))
        return trained.Trained(next(e for e in store.all() if e.card.arch == arch), torch.device("cpu"))

    return build


def evaluated(
    opened: trained.Trained, coco: Path, vocabulary: str | None, save: Path | None = None
) -> dict[str, float]:
    config = DataConfig(data_path=coco, coco_json_path=coco / "annotations.json", vocabulary=vocabulary)
    return trained.evaluate(config, opened, batch_size=2, workers=0, size=None, save=save)


def test_weights_bring_their_vocabulary_and_need_no_other_file(opened: Callable[..., trained.Trained]) -> None:
    own = opened()
    (known,) = own.vocabularies
    table = shipped(CLIP)
    assert table is not None
    assert torch.equal(known.vectors, table.bind(NAMES).vectors) and known.names == NAMES
    assert known.digest == own.exported.card.classes["vocabularies"][0]["digest"]


def test_the_order_of_names_changes_labels_and_nothing_else(opened: Callable[..., trained.Trained]) -> None:
    own, picture = opened(), torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    ask_for(own, "zebra,traffic cone,cow")
    assert own.classes.names == ("zebra", "traffic cone", "cow") and own.classes.source_ids == (1, 2, 3)
    first = own.task.detect([picture])[0]
    ask_for(own, "cow,zebra,traffic cone")
    second = own.task.detect([picture])[0]
    assert len(first["scores"]) and torch.allclose(first["scores"], second["scores"], atol=1e-6)

    def sums(found: Any, label: int) -> list[float]:
        rows = found["labels"] == label
        return [round(found["scores"][rows].sum().item(), 4), int(rows.sum())]

    assert [sums(first, label) for label in (0, 1, 2)] == [sums(second, label) for label in (1, 2, 0)]


def test_classes_of_a_file_are_found_under_the_ids_of_the_file(
    opened: Callable[..., trained.Trained], coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        metrics = evaluated(opened(), coco, CLIP, tmp_path / "found.json")
    assert "2 of 3 classes are bound to names: Zebra = Zebra, sofa = sofa" in caplog.text
    assert "1 have no name, and are never found: quokka" in caplog.text
    assert {entry["category_id"] for entry in json.loads((tmp_path / "found.json").read_text())} == {5, 9}
    assert metrics["ap of quokka"] == 0  # it counts, and is never found


def test_asked_for_names_alone_are_evaluated(
    opened: Callable[..., trained.Trained], coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = opened()
    metrics = evaluated(own, coco, "zebra,couch", tmp_path / "found.json")
    assert "1 are not asked for, and no part of the evaluation: quokka" in caplog.text
    assert "ap of quokka" not in metrics or not metrics["ap of quokka"] >= 0
    assert {entry["category_id"] for entry in json.loads((tmp_path / "found.json").read_text())} == {5, 9}
    assert own.task.called is not None and own.task.called.tolist() == [1, 2]


def test_without_a_vocabulary_the_weights_own_is_asked(
    opened: Callable[..., trained.Trained], coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        evaluated(opened(), coco, None)
    assert "1 of 3 classes are bound to names: Zebra = zebra" in caplog.text


def test_a_text_model_or_width_of_another_kind_is_refused(
    opened: Callable[..., trained.Trained], coco: Path, tmp_path: Path
) -> None:
    random_vocabulary(NAMES, 1024).write(tmp_path / "random.safetensors")
    Vocabulary(("Zebra",), torch.ones(1, 512), CLIP).write(tmp_path / "narrow.safetensors")
    own = opened()
    for asked, says in (
        ("minilm", "--vocabulary minilm is another text model than clip:RN50"),
        (str(tmp_path / "random.safetensors"), "of the text model random:0 and the weights"),
        (str(tmp_path / "narrow.safetensors"), "vectors of 512 numbers, and the weights .* 1024"),
        ("cow,person", "none of the 3 classes of the annotations"),
        ("quokka", "no vector of clip:RN50 for 'quokka'"),
    ):
        with pytest.raises(WeightsError, match=says) as refused:
            evaluated(own, coco, asked)
        assert refused.value.exit_code == 4


def test_networks_with_fixed_classes_cannot_be_asked(opened: Callable[..., trained.Trained], coco: Path) -> None:
    with pytest.raises(UsageError, match="fcos has a fixed number of classes"):
        evaluated(opened("fcos"), coco, "zebra")
    with pytest.raises(UsageError, match="use --network unidetector"):
        ask_for(opened("fcos"), "zebra")


def test_pictures_of_names_that_a_person_typed(
    opened: Callable[..., trained.Trained], coco: Path, tmp_path: Path
) -> None:
    own = opened(vocabulary=random_vocabulary(NAMES, 32, 3))
    lines = predict(
        own,
        [str(coco / "0.png")],
        tmp_path / "found",
        annotations=None,
        min_score=None,
        size=None,
        max_size=None,
        vocabulary="quokka,zebra",
    )
    content = json.loads((tmp_path / "found" / "images.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "quokka"}, {"id": 2, "name": "zebra"}]
    assert "1 picture" in lines[0]
    for asked, score, most, shown in ((True, None, 20, 0.0), (True, 0.1, None, 0.0), (False, None, None, 0.3)):
        made = Predictions(tmp_path / f"{asked} {score}", own, score, annotate=False, asked=asked)
        assert (made.most, made.shown) == (most, shown)


def test_classes_of_several_data_sets_are_those_of_the_one_that_has_the_most(
    opened: Callable[..., trained.Trained], coco: Path
) -> None:
    own = opened()
    table = shipped(CLIP)
    assert table is not None
    others = table.bind(["sofa", "zebra"])
    own.vocabularies.append(others)
    net: Any = own.task.detector
    data = trained.CocoDetection(coco, coco / "annotations.json")
    ask_for_classes(own, data, None)
    assert own.task.called is not None and own.task.called.tolist() == [1, 2]
    assert torch.equal(net.vocabularies.vectors(0), others.bind(["zebra", "sofa"]).vectors)
