"""`detect train --vocabulary`: from the data's class names to the network, its card and the runs that start from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detection.cli import main
from detection.data.annotations.classes import ClassMap
from detection.nets import detector
from detection.recipe import ModelConfig
from detection.training.vocabularies import AskedSet, check_asked, is_told, own_vocabularies, spoken_for
from detection.vocabulary.shipped import CLIP
from detection.vocabulary.table import Vocabulary, random_vocabulary
from shared.errors import UsageError, WeightsError
from shared.weights.store import Store

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")  # of the demo data
MODEL = ModelConfig(network="unidetector", network_args={"vocabulary_width": 16})


def one(names: tuple[str, ...], asked: str | None, name: str = "coco") -> AskedSet:
    return AskedSet(name, ClassMap(names, tuple(range(3, 3 + len(names)))), np.ones(len(names), bool), asked)


def test_classes_are_bound_to_the_vectors_of_their_names(tmp_path: Path) -> None:
    random_vocabulary(["cow", "zebra", "person"], 8, 5).write(tmp_path / "known.safetensors")
    for asked, model, width in ((str(tmp_path / "known.safetensors"), "random:5", 8), (CLIP, CLIP, 1024)):
        spoken = spoken_for([one(("zebra", "Person"), asked)], MODEL)
        (found,) = spoken.found
        assert (found.names, found.model, found.width) == (("zebra", "Person"), model, width)
        assert spoken.options({"hidden": 3}) == {"hidden": 3, "vocabulary_width": width}
        (entry,) = spoken.on_card()
        assert entry["source_ids"] == [3, 4] and entry["digest"] == found.digest and entry["set"] == "coco"
    assert any("start above 100" in line for line in spoken.notes())


@pytest.mark.parametrize("asked, seed", [(None, 0), ("random:7", 7)])
def test_random_vectors_are_as_wide_as_the_network(asked: str | None, seed: int) -> None:
    spoken = spoken_for([one(("circle", "square"), asked)], MODEL)
    assert torch.equal(spoken.found[0].vectors, random_vocabulary(["circle", "square"], 16, seed).vectors)
    assert "other names cannot be asked for" in spoken.notes()[0]


def test_a_data_set_without_a_vocabulary_has_that_text_model_which_another_asks_for() -> None:
    spoken = spoken_for([one(("zebra",), None, "first"), one(("cow", "Traffic cone"), CLIP, "second")], MODEL)
    assert [found.model for found in spoken.found] == [CLIP, CLIP] and [len(found) for found in spoken.found] == [1, 2]
    with pytest.raises(
        WeightsError, match="--vocabulary random:3 is another text model than clip:RN50 of the data set"
    ):
        spoken_for([one(("zebra",), CLIP, "first"), one(("cow",), "random:3", "second")], MODEL)


def test_classes_without_a_vector_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no vector of clip:RN50 for 'quokka'"):
        spoken_for([one(("zebra", "quokka"), CLIP)], MODEL)
    random_vocabulary(["zebra"], 8).write(tmp_path / "known.safetensors")
    with pytest.raises(WeightsError, match="1 of 2 classes has no vector in the vocabulary of 1 name: 'cow'"):
        spoken_for([one(("zebra", "cow"), str(tmp_path / "known.safetensors"))], MODEL)


def test_networks_with_fixed_classes_take_none() -> None:
    assert is_told("unidetector") and not is_told("fcos")
    check_asked("unidetector", CLIP)
    check_asked("fcos", None)
    with pytest.raises(UsageError, match="fcos has a fixed number of classes.*--network unidetector"):
        check_asked("fcos", CLIP)


def train(*words: object) -> int:
    small = ["--scale", "tiny", "--limit", 2, "--epochs", 1, "--pictures", 0]
    return main(["train", "--network", "unidetector", "--backbone", "test_resnet", *map(str, (*small, *words))])


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_trained_network_keeps_its_names_and_a_run_that_starts_from_it_may_have_others(in_folder: Path) -> None:
    """The export has names and vectors; the next run finds its own names in the same text model."""
    known = random_vocabulary([*DIGITS, "cow"], 24, 5)
    known.write(in_folder / "known.safetensors")
    assert train("--vocabulary", in_folder / "known.safetensors", "--tag", "first") == 0
    first = Store(in_folder / "weights").find(None, "first", None)
    tensors = load_file(first.path / "model.safetensors")
    (own,) = own_vocabularies(first.card, tensors)
    assert own.model == "random:5" and own.digest == first.card.classes["vocabularies"][0]["digest"]
    assert torch.equal(own.vectors, known.bind(own.names).vectors)
    assert first.card.args["network_args"]["vocabulary_width"] == 24
    (in_folder / "known.safetensors").unlink()  # the weights need no other file

    assert main(["eval", "--weights", "first", "--json", "metrics.json"]) == 0
    assert "box_ap" in json.loads((in_folder / "metrics.json").read_text())
    assert train("--init-from", "first", "--tag", "second") == 0
    second = Store(in_folder / "weights").find(None, "second", None)
    assert own_vocabularies(second.card, load_file(second.path / "model.safetensors"))[0].digest == own.digest
    assert train("--init-from", "first", "--vocabulary", "random:6", "--tag", "third") == 4
    reset = ["--reset-head", "--vocabulary", "random:6", "--vocabulary-width", 24]
    assert train("--init-from", "first", *reset, "--tag", "third") == 0


@pytest.mark.slow
def test_vectors_do_not_learn(in_folder: Path) -> None:
    assert train("--tag", "plain") == 0
    exported = Store(in_folder / "weights").find(None, "plain", None)
    (own,) = own_vocabularies(exported.card, load_file(exported.path / "model.safetensors"))
    assert torch.equal(own.vectors, random_vocabulary(own.names, own.width, 0).vectors)


def test_a_card_whose_weights_lack_the_vectors_is_refused(card: Callable[..., Any]) -> None:
    entry = {"set": "coco", "names": ["cow"], "source_ids": [1], "model": CLIP, "digest": ""}
    with pytest.raises(WeightsError, match="lack the vectors of coco"):
        own_vocabularies(card(classes={"vocabularies": [entry]}), {})
    assert own_vocabularies(card(classes={}), {}) == []
    assert "vocabulary_width" in detector.options("unidetector") and isinstance(random_vocabulary(["a"]), Vocabulary)
