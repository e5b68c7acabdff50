"""`detect vocabulary`: from names, files and vectors to one file, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.cli import main
from detection.vocabulary.table import Vocabulary, random_vocabulary
from tests.detection.vocabulary.of_clip import small_clip


def run(*words: object) -> int:
    return main(["vocabulary", *map(str, words)])


def test_words_are_looked_up_among_the_names_that_come_with_the_program(tmp_path: Path, capsys) -> None:
    assert run("zebra,traffic cone", "--output", tmp_path / "two.safetensors", "--offline") == 0
    made = Vocabulary.read(tmp_path / "two.safetensors")
    assert made.names == ("zebra", "traffic cone") and made.width == 1024 and made.model == "clip:RN50"
    said = capsys.readouterr().out
    assert "2 names with vectors of 1024 numbers, of clip:RN50" in said
    assert "most alike: zebra and traffic cone 0.67 (cosines; 0.67 on average)" in said


def test_annotations_give_names_and_ids(tmp_path: Path) -> None:
    categories = [{"id": 9, "name": "zebra"}, {"id": 3, "name": "bow_(weapon)"}]
    (tmp_path / "lvis.json").write_text(json.dumps({"categories": categories}))
    assert run(tmp_path / "lvis.json", "-o", tmp_path / "made.safetensors") == 0
    made = Vocabulary.read(tmp_path / "made.safetensors")
    assert made.names == ("bow_(weapon)", "zebra") and made.source_ids == (3, 9)


def test_vectors_of_other_programs_are_joined_by_name(tmp_path: Path, capsys) -> None:
    for number, names in enumerate((["zebra", "traffic light"], ["cow", "traffic_light"])):
        (tmp_path / f"{number}.txt").write_text("\n".join(names))
        np.save(tmp_path / f"{number}.npy", np.full((2, 4), number + 1, np.float16))
    texts, matrices = ([tmp_path / f"{number}{end}" for number in (0, 1)] for end in (".txt", ".npy"))
    output = tmp_path / "both.safetensors"
    assert run(*texts, "--from", *matrices, "--text-model", "own", "--source", "here", "-o", output) == 0
    made = Vocabulary.read(output)
    assert made.names == ("zebra", "traffic light", "cow") and made.vectors[:, 0].tolist() == [1, 1, 2]
    assert (made.model, made.source) == ("own", "here")
    assert "1 name that others equal by letters and digits left out" in capsys.readouterr().out


def test_a_text_model_speaks_the_names(tmp_path: Path, capsys) -> None:
    pytest.importorskip("open_clip")
    torch.save(small_clip().state_dict(), tmp_path / "small.pt")
    words = ["traffic_light,zebra", "--text-model", "clip", "--text-weights", tmp_path / "small.pt"]
    assert run(*words, "-o", tmp_path / "made.safetensors") == 0
    made = Vocabulary.read(tmp_path / "made.safetensors")
    assert made.model.startswith("clip:RN-") and made.spoken == ("traffic light", "zebra") and made.width == 16
    assert "1 told to the text model in other words: traffic_light: traffic light" in capsys.readouterr().out


def test_random_vectors_for_tests(tmp_path: Path) -> None:
    assert run("zebra", "--text-model", "random:3", "--width", 8, "-o", tmp_path / "one.safetensors") == 0
    made = Vocabulary.read(tmp_path / "one.safetensors")
    assert torch.equal(made.vectors, random_vocabulary(["zebra"], 8, 3).vectors)


@pytest.mark.parametrize(
    "words, code, says",
    [
        ("quokka -o {}/a.safetensors", 4, "no vector of clip:RN50 for 'quokka'"),
        ("zebra,zebra -o {}/a.safetensors", 3, "'zebra' is there twice"),
        ("zebra -o {}/a.npy", 2, "written as .safetensors"),
        ("zebra -o {}/there.safetensors", 2, "nothing is overwritten"),
        ("{}/v.npy -o {}/a.safetensors", 3, "vectors and no names"),
        ("zebra --from {}/v.npy -o {}/a.safetensors", 2, "--from needs the text model"),
        ("zebra,cow --from {}/v.npy --text-model own -o {}/a.safetensors", 3, "2 names and 1 vector"),
        ("zebra --from {}/v.npy {}/v.npy --text-model own -o {}/a.safetensors", 2, "2 files for 1 lists"),
        ("zebra --text-model clip -o {}/a.safetensors", 2, "needs the file of its weights"),
        ("zebra --text-model bert -o {}/a.safetensors", 2, "no text model 'bert'"),
        ("{}/there.safetensors zebra -o {}/a.safetensors", 4, "text model clip:RN50"),
        ("zebra --templates {}/t.txt -o {}/a.safetensors", 2, "for a text model that speaks them"),
    ],
)
def test_refusals(tmp_path: Path, words: str, code: int, says: str, capsys) -> None:
    np.save(tmp_path / "v.npy", np.ones((1, 4), np.float32))
    random_vocabulary(["cow"], 4).write(tmp_path / "there.safetensors")
    (tmp_path / "t.txt").write_text("a {}")
    assert run(*words.replace("{}", str(tmp_path)).split()) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "a.safetensors").exists()
