"""Names from lists, files and words, and what a text model is told for each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from detection.data.annotations.aliases import read_aliases
from detection.vocabulary.names import LISTS, Names, nearest, read_names, spoken
from detection.vocabulary.table import Vocabulary, random_vocabulary
from shared.errors import DataError
from shared.text import plain


@pytest.mark.parametrize(
    "name, said",
    [
        ("traffic_light", "traffic light"),
        ("bow_(weapon)", "bow (weapon)"),
        ("Moniter/TV", "Moniter or TV"),
        ("Tape Measur/ Ruler", "Tape Measur or Ruler"),
        ("Cigar/Cigarette ", "Cigar or Cigarette"),
        ("salt+pepper, ground", "salt pepper ground"),
        ("zebra", "zebra"),
    ],
)
def test_a_text_model_is_told_words_and_not_the_signs_of_a_file(name: str, said: str) -> None:
    assert spoken(name) == said


@pytest.mark.parametrize("name, count", [("coco", 80), ("objects365", 365), ("lvis", 1203)])
def test_lists_that_come_with_the_program(name: str, count: int) -> None:
    found = read_names(name)
    assert isinstance(found, Names) and len(found.names) == count == len({plain(word) for word in found.names})


def test_categories_of_annotations_are_names_by_id(tmp_path: Path) -> None:
    content = {"images": [], "categories": [{"id": 7, "name": "zebra"}, {"id": 2, "name": "traffic_cone"}]}
    (tmp_path / "some.json").write_text(json.dumps(content))
    (tmp_path / "some.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    for name in ("some.json", "some.json.gz"):
        assert read_names(str(tmp_path / name)) == Names(("traffic_cone", "zebra"), (2, 7), name)


def test_words_files_and_vocabularies_are_told_apart(tmp_path: Path) -> None:
    assert read_names("zebra, traffic cone") == Names(("zebra", "traffic cone"))
    assert read_names("Moniter/TV") == Names(("Moniter/TV",))
    (tmp_path / "own.txt").write_text("zebra\n\ntraffic cone \n")
    assert read_names(str(tmp_path / "own.txt"))[:2] == (("zebra", "traffic cone"), ())
    random_vocabulary(["zebra"]).write(tmp_path / "own.safetensors")
    assert isinstance(read_names(str(tmp_path / "own.safetensors")), Vocabulary)


@pytest.mark.parametrize(
    "asked, says",
    [
        ("zebra,,cow", "name 2 of 3 is empty"),
        ("zebra,cow,zebra", "'zebra' is there twice"),
        ("{}/absent.txt", "cannot read the class file"),
        ("{}/absent.json", "cannot read the categories"),
        ("{}/vectors.npy", "vectors and no names; .* --from"),
        ("{}/twice.txt", "'cow' twice"),
        ("{}/list.json", "has no categories"),
        ("{}/none.json", "has no categories"),
        ("{}/twice.json", "the category name 'cow' appears twice"),
        ("{}/absent", "there is no file"),
    ],
)
def test_what_holds_no_names_is_refused(tmp_path: Path, asked: str, says: str) -> None:
    (tmp_path / "twice.txt").write_text("cow\nzebra\ncow\n")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "none.json").write_text('{"categories": []}')
    (tmp_path / "twice.json").write_text('{"categories": [{"id": 1, "name": "cow"}, {"id": 2, "name": "cow"}]}')
    with pytest.raises(DataError, match=says):
        read_names(asked.format(tmp_path))


def test_the_nearest_names_are_spelled_alike_or_share_a_word() -> None:
    known = ("car", "Sports Car", "zebra", "cow", "cabinet")
    assert nearest("zebras", known) == ["zebra"]
    assert nearest("red car", known) == ["car", "Sports Car"]
    assert nearest("sports car, red", known)[0] == "Sports Car"
    assert nearest("quokka", known) == []


def test_aliases_lead_both_ways_and_are_known_names() -> None:
    aliases = read_aliases()
    assert aliases.of("Sofa") == ("couch",) and aliases.of("couch") == ("sofa",)
    assert set(aliases.of("tv")) == {"television_set", "Moniter/TV"} and aliases.of("zebra") == ()
    known = {plain(name) for listed in LISTS for name in read_names(listed).names}
    assert all(plain(one) in known or plain(other) in known for one, other in aliases.pairs)
    assert len(aliases.pairs) > 25


def test_a_line_that_is_no_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aliases.txt"
    for line in ("sofa", "sofa = couch = settee", "sofa ="):
        path.write_text(f"# of our own\ncow = cattle\n{line}\n")
        with pytest.raises(DataError, match=r"line 3: .* is not `name = name`"):
            read_aliases(path)
    with pytest.raises(DataError, match="cannot read the aliases"):
        read_aliases(tmp_path / "absent.txt")
