"""Vocabularies: names stay with their vectors, and what cannot be one is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detection.vocabulary.table import Vocabulary, check_same, from_matrix, random_vocabulary
from shared.errors import DataError, UsageError, WeightsError

NAMES = ("traffic light", "Moniter/TV", "bow_(weapon)", "zebra")


def some(names: tuple[str, ...] = NAMES, width: int = 6, model: str = "clip:RN50", **told) -> Vocabulary:
    torch.manual_seed(0)
    return Vocabulary(names, torch.randn(len(names), width), model, **told)


def test_binding_puts_the_rows_in_the_order_of_the_names_that_are_asked_for() -> None:
    known = some(spoken=("traffic light", "Moniter or TV", "bow (weapon)", "zebra"), source_ids=(4, 3, 2, 1))
    bound = known.bind(["Zebra", "traffic_light", "bow_(weapon)"], (7, 8, 9))
    assert bound.names == ("Zebra", "traffic_light", "bow_(weapon)") and bound.source_ids == (7, 8, 9)
    assert bound.spoken == ("zebra", "traffic light", "bow (weapon)") and bound.model == "clip:RN50"
    assert torch.equal(bound.vectors, known.vectors[[3, 0, 2]])


def test_a_spelling_that_several_names_share_finds_none_of_them() -> None:
    known = some(("bow_(weapon)", "Bow weapon"))
    assert known.find("bow_(weapon)") == 0 and known.find("Bow weapon") == 1
    assert known.find("bowweapon") == 1  # without case and blanks it is one of them
    assert known.find("bow-weapon") is None
    assert some(("marker+", "marker-")).find("marker-") == 1


def test_names_without_a_vector_are_refused_with_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"2 of 3 classes have no vector.* 'zebras', did you mean 'zebra'.*quokka"):
        some().bind(["zebras", "zebra", "quokka"])


def test_joining_keeps_the_first_row_of_a_name_and_adds_the_others() -> None:
    first = some(("traffic light", "zebra"), source="first", license="MIT")
    second = random_vocabulary(["cow", "Traffic_Light"], 6)
    second = Vocabulary(second.names, second.vectors, "clip:RN50", source="second", license="MIT")
    both = first.join(second)
    assert both.names == ("traffic light", "zebra", "cow")
    assert torch.equal(both.vectors, torch.cat([first.vectors, second.vectors[:1]]))
    assert (both.source, both.license) == ("first; second", "MIT")
    with pytest.raises(WeightsError, match=r"text model random:0 .* of clip:RN50"):
        first.join(random_vocabulary(["cow"], 6))
    with pytest.raises(WeightsError, match="7 numbers, and the one it is joined to 6"):
        first.join(some(("cow",), width=7))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    known = some(spoken=("a", "b", "c", "d"), source_ids=(4, 3, 2, 1), source="here", templates=("{}.", "a {}."))
    known.write(tmp_path / "some" / "known.safetensors")
    read = Vocabulary.read(tmp_path / "some" / "known.safetensors")
    for name in ("names", "spoken", "source_ids", "source", "templates", "model", "digest", "license"):
        assert getattr(read, name) == getattr(known, name)
    assert torch.equal(read.vectors, known.vectors)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        known.write(tmp_path / "some" / "known.safetensors")
    with pytest.raises(UsageError, match=r"as \.safetensors"):
        known.write(tmp_path / "known.npy")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["known.safetensors"]


def test_half_precision_is_kept_where_it_loses_nothing(tmp_path: Path) -> None:
    whole = some()
    half = Vocabulary(NAMES, whole.vectors.half(), "clip:RN50")
    for name, known in (("whole", whole), ("half", half)):
        known.write(tmp_path / f"{name}.safetensors")
        stored = load_file(tmp_path / f"{name}.safetensors")["vectors"]
        assert stored.dtype == (torch.float16 if name == "half" else torch.float32)
        assert Vocabulary.read(tmp_path / f"{name}.safetensors").digest == known.digest
    assert half.vectors.dtype == torch.float32 and torch.allclose(half.vectors, whole.vectors, atol=1e-3)
    assert half.digest != whole.digest


@pytest.mark.parametrize(
    "names, says",
    [
        ((), "there are none"),
        (("cat", " "), "name 2 of 2 is empty"),
        (("cat", "dog", "cat"), "'cat' is there twice"),
    ],
)
def test_names_are_told_and_differ(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Vocabulary(names, torch.ones(len(names), 4), "minilm")
    with pytest.raises(DataError, match=says):
        random_vocabulary(names)


@pytest.mark.parametrize(
    "vectors, says",
    [
        (torch.ones(3, 4), "2 names and 3 vectors"),
        (torch.ones(2), "a matrix of real numbers, one row a name; these are 2 torch.float32"),
        (torch.ones(2, 4, dtype=torch.int64), "real numbers.*int64"),
        (torch.tensor([[1.0, 2], [0, 0]]), "1 vector is zero: 'dog'"),
        (torch.tensor([[float("nan"), 2], [float("inf"), 0]]), "2 vectors are not finite: 'cat', 'dog'"),
    ],
)
def test_vectors_are_one_of_each_name_finite_and_not_zero(vectors: torch.Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Vocabulary(("cat", "dog"), vectors, "minilm")


def test_another_model_or_width_than_the_weights_is_refused_with_exit_code_4() -> None:
    check_same("clip:RN50", 6, some(), "the weights")
    for model, width, says in (("minilm", 6, "of the text model clip:RN50 and the weights of minilm"), (
        "clip:RN50", 5, "vectors of 6 numbers, and the weights 5")):  # fmt: skip
        with pytest.raises(WeightsError, match=says) as refused:
            check_same(model, width, some(), "the weights")
        assert refused.value.exit_code == 4


def test_a_matrix_of_another_program_needs_its_names(tmp_path: Path) -> None:
    vectors = some().vectors
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    torch.save(vectors, tmp_path / "vectors.pth")
    for name in ("vectors.npy", "vectors.pth"):
        read = from_matrix(tmp_path / name, NAMES, model="clip:RN50", source="there")
        assert torch.equal(read.vectors, vectors) and read.names == NAMES and read.source == "there"
    with pytest.raises(DataError, match="vectors and no names; give the names"):
        from_matrix(tmp_path / "vectors.npy", None, model="clip:RN50")
    with pytest.raises(DataError, match=r"vectors\.npy: there are 3 names and 4 vectors"):
        from_matrix(tmp_path / "vectors.npy", NAMES[:3], model="clip:RN50")


def test_files_that_hold_something_else_are_not_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"cat": 1}], dtype=object), allow_pickle=True)
    torch.save({"weight": torch.ones(2)}, tmp_path / "state.pth")
    (tmp_path / "text.npy").write_text("cat, dog")
    for name in ("objects.npy", "state.pth", "text.npy", "absent.npy"):
        with pytest.raises(DataError, match=f"{name} holds no matrix of vectors"):
            from_matrix(tmp_path / name, NAMES, model="clip:RN50")


def test_a_file_that_is_no_vocabulary_or_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "known.safetensors"
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    for name, says in (("text", "cannot read"), ("absent", "cannot read"), ("weights", "not a vocabulary")):
        with pytest.raises(DataError, match=says):
            Vocabulary.read(tmp_path / f"{name}.safetensors")

    some().write(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="its digest differs"):
        Vocabulary.read(path)
    path.write_bytes(content.replace(b"zebra", b"horse"))
    with pytest.raises(DataError, match="its digest differs"):
        Vocabulary.read(path)
    for change, says in (({"names": "[1, 2]"}, "damaged"), ({"names": "["}, "damaged"), ({"names": "[]"}, "none")):
        told = {"format": "chordate-vocabulary-1", "model": "minilm", "names": json.dumps(NAMES), **change}
        save_file({"vectors": torch.ones(4, 2)}, path, metadata=told)
        with pytest.raises(DataError, match=says):
            Vocabulary.read(path)


def test_random_vectors_belong_to_names_whatever_stands_beside_them() -> None:
    first, second = random_vocabulary(NAMES, 8, 3), random_vocabulary(["zebra", "Traffic_Light"], 8, 3)
    assert torch.equal(second.vectors, first.vectors[[3, 0]]) and first.model == "random:3"
    assert torch.allclose(first.vectors.norm(dim=1), torch.ones(4), atol=1e-6)
    assert not torch.allclose(first.vectors, random_vocabulary(NAMES, 8, 4).vectors, atol=0.1)
    golden = torch.tensor([0.0974, -0.1489, 0.4015, 0.8984])
    assert torch.allclose(random_vocabulary(["zebra"], 4, 7).vectors[0], golden, atol=1e-4)
