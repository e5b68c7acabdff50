"""Joining names: equal ones are joined, aliases only suggested; each file is read by its own names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.cli import main
from detection.data.annotations.aliases import Aliases
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.joins import propose, read_join
from shared.errors import DataError

A, B = {1: "traffic light", 2: "tv", 3: "mouse", 9: "cat"}, {4: "Traffic_Light", 5: "Moniter/TV", 7: "dog", 8: "Dog"}


def file_of(path: Path, categories: dict[int, str]) -> Path:
    entries = [{"id": i, "name": name} for i, name in categories.items()]
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": [], "categories": entries}))
    return path


@pytest.fixture
def proposal(tmp_path: Path) -> Path:
    files = [str(file_of(tmp_path / "a.json", A)), str(file_of(tmp_path / "b.json", B))]
    aliases = tmp_path / "aliases.txt"
    aliases.write_text("tv = Moniter/TV\n")
    assert main(["join-classes", *files, "--output", str(tmp_path / "map.yaml"), "--aliases", str(aliases)]) == 0
    return tmp_path / "map.yaml"


def test_equal_names_are_joined_and_aliases_are_marked_and_not_joined(proposal: Path) -> None:
    classes, notes = read_join(proposal)
    assert classes.names == ("traffic light", "tv", "mouse", "cat", "Moniter/TV", "dog", "Dog")
    assert classes.joined["b"] == {
        "Traffic_Light": "traffic light",
        "Moniter/TV": "Moniter/TV",
        "dog": "dog",
        "Dog": "Dog",
    }
    assert "- {join: no, a: tv, b: Moniter/TV}" in proposal.read_text() and "1 suggested pair" in notes[0]


def test_an_accepted_pair_becomes_one_class(proposal: Path) -> None:
    proposal.write_text(proposal.read_text().replace("join: no,", "join: yes,"))
    classes, notes = read_join(proposal)
    assert classes.names == ("traffic light", "tv", "mouse", "cat", "dog", "Dog") and not notes
    assert classes.joined["b"]["Moniter/TV"] == "tv"


def test_each_file_is_bound_by_its_own_names(proposal: Path) -> None:
    classes, _ = read_join(proposal)
    for categories in (A, B):
        bound, labels = classes.bind(categories, set(categories), Path("x.json"))
        assert {c: bound.names[label] for c, label in labels.items()} == {
            c: {"Traffic_Light": "traffic light"}.get(name, name) for c, name in categories.items()
        }
        assert all(bound.source_ids[label] == c for c, label in labels.items())
    again = ClassMap.from_dict(json.loads(json.dumps(classes.to_dict())))
    assert again == classes
    with pytest.raises(DataError, match=r"does not say what 'owl' of the data set '[ab]' is"):
        classes.bind({**B, 11: "owl"}, {4, 11}, Path("x.json"))
    assert 11 not in classes.bind({**B, 11: "owl"}, {4}, Path("x.json"))[1]  # nothing is annotated as it


def test_one_word_for_two_things_stays_two_classes() -> None:
    classes = ClassMap(("mouse", "rodent"), (1, 2), joined={"a": {"mouse": "mouse"}, "b": {"mouse": "rodent"}})
    assert classes.only("b").bind({1: "mouse"}, {1}, Path("x"))[1] == {1: 1}
    assert classes.only("a").bind({1: "mouse"}, {1}, Path("x"))[1] == {1: 0}
    with pytest.raises(DataError, match="name the data set"):
        classes.bind({1: "mouse"}, {1}, Path("x"))


def test_three_files() -> None:
    sets = {"a": ["car", "sofa"], "b": ["Car", "couch"], "c": ["CAR", "Couch"]}
    classes, suggested = propose(sets, Aliases([("couch", "sofa")]))
    assert classes[0] == {"name": "car", "a": "car", "b": "Car", "c": "CAR"}
    assert suggested == [{"join": False, "a": "sofa", "b": "couch"}]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("classes:", "klasses:", "is not a class map"),
        ("{name: cat, a: cat}", "{name: cat, a: mouse}", "'mouse' of a is in two lines"),
        ("{name: cat, a: cat}", "{name: cat, z: cat}", "correct it"),
        ("{name: cat, a: cat}", "{name: no, a: cat}", "correct it"),
        ("join: no, a: tv", "join: yes, a: television", "no line of 'classes' has"),
    ],
)
def test_mistakes_in_the_file_are_named(proposal: Path, old: str, new: str, sentence: str) -> None:
    proposal.write_text(proposal.read_text().replace(old, new))
    with pytest.raises(DataError, match=sentence):
        read_join(proposal)


def test_what_is_there_is_not_overwritten(proposal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, files = proposal.read_bytes(), [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["join-classes", *files, "--output", str(proposal)]) == 2
    assert main(["join-classes", *files, "--names", "one", "--output", str(tmp_path / "other.yaml")]) == 2
    assert main(["join-classes", *files, "--names", "x", "x", "--output", str(tmp_path / "other.yaml")]) == 2
    assert main(["join-classes", *files, "--names", "name", "b", "--output", str(tmp_path / "other.yaml")]) == 2
    assert proposal.read_bytes() == before and not (tmp_path / "other.yaml").exists()
    assert "not overwritten" in capsys.readouterr().err
