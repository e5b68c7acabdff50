"""`--scale tiny` runs every recipe to its end: a dozen steps of the same shape, and weights under a tag."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import detection.cli
from pretrain import cli
from shared.recipes.files import load, recipe_names
from shared.weights.store import Store

IMAGES, CLASSES = 24, 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen training and a few validation pictures of three colors, where the demo data would be."""
    from torchvision.io import encode_jpeg
    from webdataset.writer import ShardWriter

    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 6)):
        with ShardWriter(str(folder / f"{split}-%d.tar"), maxcount=IMAGES, verbose=0) as writer:
            for i in range(count):
                pixels = rng.integers(0, 120, (3, 80, 100), np.uint8)
                pixels[i % CLASSES] += 120
                picture: Any = encode_jpeg(torch.from_numpy(pixels))
                writer.write({"__key__": f"{split}{i:04d}", "jpg": bytes(picture.numpy()), "cls": str(i % CLASSES)})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names("pretrain"))
def test_every_pretraining_recipe_has_a_small_form_that_runs_to_its_end(
    name: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.feeding.demo.demo_data", lambda _: SimpleNamespace(shards=shards))
    places = ["--output-dir", str(tmp_path / "runs"), "--weights-dir", str(tmp_path / "weights")]
    told = ["--recipe", name, "--scale", "tiny", "--device", "cpu", "--offline", "--threads", "1", *places]
    assert cli.main(["train", *told]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    steps = [row for row in rows(run) if row["kind"] == "train"]
    assert 6 <= steps[-1]["step"] <= 12
    assert all(isinstance(row["loss"], float) for row in steps), "a loss that is not finite is written as null"
    (exported,) = Store(tmp_path / "weights").all()
    assert exported.card.finished and exported.card.tag.endswith("tiny")


REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "nowhere"))


def runs() -> list[tuple[str, bool]]:
    """Recipes, and whether on photographs: where there are any, each is run on those, and one of each kind of
    annotations on the demo data too, which has all kinds for all networks alike."""
    names = recipe_names("detect")
    if not (REAL / "coco-tiny").is_dir():
        return [(name, False) for name in names]
    return [(name, True) for name in names] + [(name, False) for name in sorted(of_each_kind(names))]


def of_each_kind(names: list[str]) -> set[str]:
    """The first recipe of those that learn boxes, masks, keypoints and panoptic segments."""
    values = {name: load(name, "detect")[0] for name in reversed(names)}
    return set({(own.get("dataset", "coco"), "mask" in own["network"]): name for name, own in values.items()}.values())


def photographs_for(name: str) -> list[str]:
    """Where the photographs lie that have what a recipe learns."""
    kind = load(name, "detect")[0].get("dataset", "coco")
    if kind == "coco_panoptic":
        return ["--data-path", str(REAL / "panoptic-sample")]
    if kind == "coco_kp":
        people, told = REAL / "coco-keypoints/train2017", "annotations/person_keypoints_train2017.json"
        both = [f"--data-path={people}", f"--val-path={people}"]
        return [*both, *(f"--coco-{val}json-path={people.parent / told}" for val in ("", "val-"))]
    return ["--data-path", str(REAL / "coco-tiny")]


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory, write_coco: Callable) -> SimpleNamespace:
    """Eight small pictures of three things, where the demo data would be."""
    root = tmp_path_factory.mktemp("scenes")
    write_coco(root / "train", root / "train.json", {2: "red", 5: "green", 7: "blue"}, 8)
    both = {"train_images": root / "train", "train_json": root / "train.json"}
    return SimpleNamespace(**both, val_images=root / "train", val_json=root / "train.json")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "photographs"), runs())
def test_every_detection_recipe_has_a_small_form_that_runs_to_its_end(
    name: str, photographs: bool, few_scenes: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.feeding.demo.demo_data", lambda _: few_scenes)
    places = ["--output-dir", str(tmp_path / "runs"), "--weights-dir", str(tmp_path / "weights")]
    places += photographs_for(name) if photographs else []
    told = ["--recipe", name, "--scale", "tiny", "--device", "cpu", "--offline", "--threads", "1", *places]
    assert detection.cli.main(["train", *told]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    steps = [row for row in rows(run) if row["kind"] == "train"]
    assert 1 <= steps[-1]["step"] <= 12
    assert all(isinstance(row["loss"], float) for row in steps), "a loss that is not finite is written as null"
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert metrics.keys() & {"box_ap", "box_ar100"}, "AP, or recall of a network without classes"
    (exported,) = Store(tmp_path / "weights").all()
    assert exported.card.finished and exported.card.tag.endswith("tiny") and exported.card.kind == "detector"


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
