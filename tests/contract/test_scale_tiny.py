"""`--scale tiny` runs every pretraining recipe to its end: a dozen steps of the same shape, and weights under a tag."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pretrain import cli
from shared.recipe import recipe_names
from shared.store import Store

IMAGES, CLASSES = 24, 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dozen training and a few validation pictures of three colours, where the demo data would be."""
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
    monkeypatch.setattr("shared.demo.demo_data", lambda _: SimpleNamespace(shards=shards))
    places = ["--output-dir", str(tmp_path / "runs"), "--weights-dir", str(tmp_path / "weights")]
    told = ["--recipe", name, "--scale", "tiny", "--device", "cpu", "--offline", "--threads", "1", *places]
    assert cli.main(["train", *told]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    steps = [row for row in rows(run) if row["kind"] == "train"]
    assert 6 <= steps[-1]["step"] <= 12
    assert all(isinstance(row["loss"], float) for row in steps), "a loss that is not finite is written as null"
    (exported,) = Store(tmp_path / "weights").all()
    assert exported.card.finished and exported.card.tag.endswith("tiny")


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
