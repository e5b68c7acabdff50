"""The vectors that come with the program are CLIP's, each beside its own name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from detection.vocabulary.names import Names, read_names
from detection.vocabulary.shipped import CLIP, shipped, table_path
from detection.vocabulary.table import Vocabulary, from_matrix
from shared.errors import DataError, WeightsError
from shared.text import plain

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "nowhere")) / "unidetector-embeddings"
with_real_files = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no unidetector-embeddings")


def table() -> Vocabulary:
    found = shipped(CLIP)
    assert found is not None
    return found


def names(listed: str) -> tuple[str, ...]:
    found = read_names(listed)
    assert isinstance(found, Names)
    return found.names


def test_every_name_of_the_three_lists_has_a_vector() -> None:
    assert (len(table()), table().width, table().model) == (1473, 1024, "clip:RN50")
    assert len({plain(name) for listed in ("coco", "objects365", "lvis") for name in names(listed)}) == 1395
    for listed in ("coco", "objects365", "lvis"):
        bound = table().bind(names(listed))
        assert bound.names == names(listed) and len(bound.vectors) == len(bound.names)


def test_it_says_where_it_is_from_and_fits_a_package() -> None:
    assert "UniDetector" in table().source and "Apache-2.0" in table().license and len(table().templates) == 81
    assert table_path(CLIP).stat().st_size < 3.2e6
    assert shipped("minilm") is None


@pytest.mark.parametrize(
    "name, others", [("zebra", {"horse", "cow", "giraffe", "elephant"}), ("couch", {"bed", "chair", "bench"})]
)
def test_names_of_similar_things_are_near(name: str, others: set[str]) -> None:
    coco = table().bind(names("coco"))
    rows = F.normalize(coco.vectors)
    order = (rows @ rows[coco.names.index(name)]).argsort(descending=True)[1:4]
    assert {coco.names[row] for row in order.tolist()} <= others | {"dining table", "toilet", "sheep"}
    assert coco.names[int(order[0])] in others


def matrix(stem: str, listed: tuple[str, ...]) -> Vocabulary:
    return from_matrix(REAL / f"{stem}_rn50_manyprompt.npy", listed, model=CLIP)


def names_of_first_lvis() -> tuple[str, ...]:
    content = json.loads((REAL.parent / "coco-eval" / "lvis_val_100.json").read_text())
    return tuple(entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"]))


@with_real_files
def test_it_is_what_the_four_files_say() -> None:
    first = matrix("coco", names("coco"))
    parts = [("objects365", names("objects365")), ("lvis_v1", names("lvis")), ("lvis_v0.5", names_of_first_lvis())]
    for stem, listed in parts:
        first = first.join(matrix(stem, listed))
    assert first.digest == table().digest
    assert len(table().bind(names_of_first_lvis())) == 1230


@with_real_files
def test_names_of_objects365_stand_beside_their_own_vectors() -> None:
    """Rows that nearly equal one of COCO or LVIS bear its name, so the list is in the order of the rows."""
    theirs = matrix("objects365", names("objects365"))
    others = [*names("coco"), *names("lvis")]
    known = torch.cat([matrix("coco", names("coco")).vectors, matrix("lvis_v1", names("lvis")).vectors])
    cosines, nearest = (F.normalize(theirs.vectors) @ F.normalize(known).T).max(1)
    same = [
        (name, others[row])
        for name, cosine, row in zip(theirs.names, cosines.tolist(), nearest.tolist(), strict=True)
        if cosine > 0.985
    ]
    strangers = {name for name, other in same if plain(name) != plain(other)}
    assert len(same) > 180 and strangers <= {"Ballon", "Other Fish", "Chopsticks"}


@with_real_files
def test_vectors_of_one_lvis_under_names_of_the_other_are_refused() -> None:
    with pytest.raises(DataError, match="1,203 names and 1,230 vectors"):
        matrix("lvis_v0.5", names("lvis"))
    first = matrix("lvis_v0.5", names_of_first_lvis())
    with pytest.raises(WeightsError, match="54 of 1,203 classes have no vector"):
        first.bind(names("lvis"))
