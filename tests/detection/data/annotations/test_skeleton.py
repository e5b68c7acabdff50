"""Skeletons: from a category, a YAML or a number; sides by name; sigmas from anywhere, of the right count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from detection.data.annotations.skeleton import PERSON, Skeleton, mirrored_by_name, other_side, usable_lines
from shared.errors import DataError

PERSONS = Skeleton.from_words({"keypoints": list(PERSON), "skeleton": [[16, 14], [1, 2]]}, "a category")
HAND = Skeleton.from_words({"keypoints": ["wrist", "left_tip", "right_tip"]}, "a hand")


def test_cocos_person_gets_pycocotools_sigmas_and_cocos_mirror_image() -> None:
    import numpy as np
    from pycocotools.cocoeval import Params

    assert np.allclose(PERSONS.sigmas, Params("keypoints").kpt_oks_sigmas) and PERSONS.is_person
    assert PERSONS.mirrored == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert PERSONS.edges == ((15, 13), (0, 1)) and len(PERSONS) == 17
    shuffled = Skeleton.from_words({"keypoints": list(PERSON)[::-1]}, "a category")
    assert shuffled.sigmas == PERSONS.sigmas[::-1] and shuffled.is_person


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("left_eye", "right_eye"),
        ("Eye-Right", "Eye-left"),
        ("L_Eye", "r_Eye"),
        ("eye_l", "eye_r"),
        ("hand.R", "hand.l"),
        ("leftEye", "rightEye"),
        ("REar", "lEar"),
        ("eyeL", "eyer"),
        ("Front_Left_Paw", "Front_right_Paw"),
        ("nose", "nose"),
        ("Lip", "Lip"),
        ("leg", "leg"),
        ("tail", "tail"),
    ],
)
def test_the_other_side_is_told_from_the_name(name: str, other: str) -> None:
    assert other_side(name) == other


def test_a_point_without_a_partner_stays_and_mirroring_twice_changes_nothing() -> None:
    names = ["nose", "left_eye", "R_Ear", "bright", "l_Ear", "RIGHT_EYE", "left_hip"]
    mirrored = mirrored_by_name(names)
    assert mirrored == (0, 5, 4, 3, 2, 1, 6)
    assert [mirrored[i] for i in mirrored] == list(range(7))


def test_a_skeleton_survives_the_card_and_a_coco_category() -> None:
    odd = Skeleton.from_words(
        {"keypoints": ["a", "b", "c"], "skeleton": [["a", "c"]], "flip_pairs": [["c", "b"]], "sigmas": [0.1, 0.2, 0.3]},
        "odd",
    )
    assert odd.mirrored == (0, 2, 1) and odd.edges == ((0, 2),) and odd.sigmas == (0.1, 0.2, 0.3)
    for skeleton in (PERSONS, HAND, odd, Skeleton.numbered(4)):
        assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton
        assert Skeleton.from_words(json.loads(json.dumps(skeleton.to_words())), "again") == skeleton
    assert PERSONS.to_words().keys() == {"keypoints", "skeleton"}  # nothing COCO does not know


def test_a_yaml_file_says_everything_or_just_how_many(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("keypoints: [top, l, r]\nskeleton: [[top, l], [1, 3]]\nsigmas: 0.05\n")
    told = Skeleton.from_yaml(tmp_path / "s.yaml")
    assert told == Skeleton(("top", "l", "r"), ((0, 1), (0, 2)), (0, 2, 1), (0.05,) * 3)
    (tmp_path / "n.yaml").write_text("keypoints: 2")
    told = Skeleton.from_yaml(tmp_path / "n.yaml")
    assert told.names == ("1", "2") and told.sigmas == (0.1, 0.1) and told.mirrored == (0, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read .*s.yaml"),
        ("keypoints: [a, b", "cannot read .*s.yaml"),
        ("!!python/object/apply:os.mkdir [marker]", "cannot read .*s.yaml"),
        ("- a\n- b", "s.yaml has no skeleton; write 'keypoints:'"),
        ("skeleton: [[1, 2]]", "s.yaml has no list of names under 'keypoints'"),
        ("keypoints: [a, 3]", "has no list of names"),
        ("keypoints: 0", "has no list of names"),
        ("keypoints: [a, a]", "has two keypoints with the same name"),
        (
            "{keypoints: [a, b], skeleton: [[0, 1]]}",
            r"s.yaml: skeleton has \[\[0, 1\]\], not pairs of the 2",
        ),
        ("{keypoints: [a, b], skeleton: [[1, 3]]}", "not pairs of the 2 keypoints"),
        ("{keypoints: [a, b], skeleton: [[a, b, a]]}", "not pairs of the 2 keypoints"),
        ("{keypoints: [a, b], skeleton: [[[1], 2]]}", "not pairs of the 2 keypoints"),
        ("{keypoints: [a, b, c], flip_pairs: [[a, b], [b, c]]}", "flip_pairs have a keypoint twice"),
        ("{keypoints: [a, b, c], sigmas: [1, 2]}", "s.yaml: sigmas gives 2 sigmas for 3 keypoints"),
    ],
)
def test_a_wrong_skeleton_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(DataError, match=says):
        Skeleton.from_yaml(tmp_path / "s.yaml")
    assert not (tmp_path / "marker").exists()  # nothing in a YAML file is run


@pytest.mark.parametrize(
    "told", [0.2, "0.2", ["0.2"], [0.2, 0.2, 0.2], {"wrist": 0.2, "left_tip": "2e-1", "right_tip": 0.2}]
)
def test_sigmas_are_one_number_or_one_each(told: Any) -> None:
    assert HAND.with_sigmas(told).sigmas == (0.2, 0.2, 0.2)
    assert HAND.with_sigmas(told).names == HAND.names and HAND.sigmas == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.json", "[0.1, 0.2, 0.3]"),
        ("s.json", '{"wrist": 0.1, "left_tip": 0.2, "right_tip": 0.3}'),
        ("s.yaml", "- 1e-1\n- 0.2\n- 0.3"),
        ("s.yaml", yaml.safe_dump({"right_tip": 0.3, "wrist": 0.1, "left_tip": 0.2})),
        ("s.txt", "0.1\n0.2\n0.3\n"),
        ("s.txt", "0.1, 0.2, 0.3"),
    ],
)
def test_sigmas_come_from_json_yaml_or_lines(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    for told in (tmp_path / name, str(tmp_path / name), [str(tmp_path / name)]):
        assert HAND.with_sigmas(told).sigmas == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([0.1, 0.2], "--oks-sigmas gives 2 sigmas for 3 keypoints; give one number, or one for each"),
        ([0.1] * 4, "gives 4 sigmas for 3 keypoints"),
        ([0.1, 0.2, 0], "has '0' where a number above 0 is expected"),
        ([0.1, 0.2, float("nan")], "has 'nan' where"),
        ([0.1, 0.2, True], "has 'True' where"),
        (float("inf"), "has 'inf' where"),
        (-1, "has '-1' where"),
        ({"wrist": 0.2}, "has no sigma for left_tip, right_tip"),
        ("nowhere.json", "cannot read nowhere.json"),
    ],
)
def test_wrong_sigmas_are_refused_with_their_count(told: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        HAND.with_sigmas(told)


def test_seventeen_keypoints_without_cocos_names_say_that_their_sigmas_are_not_cocos() -> None:
    numbered = Skeleton.numbered(17)
    assert "not have COCO's names" in numbered.notes[0] and numbered.notes[0].endswith("add --oks-sigmas coco")
    assert numbered.sigmas == (0.1,) * 17
    for given in ("coco", ("coco",)):
        assert numbered.with_sigmas(given).sigmas == PERSONS.sigmas and numbered.with_sigmas(given).notes == []
    turned = Skeleton.from_words({"keypoints": list(PERSON)[::-1]}, "a category")
    assert "by name, pycocotools by position" in turned.notes[0]
    assert turned.with_sigmas("coco").sigmas == turned.sigmas
    assert PERSONS.notes == HAND.notes == numbered.with_sigmas(0.05).notes == []
    with pytest.raises(DataError, match="asks for the sigmas of COCO's 17 keypoints, and there are 3"):
        HAND.with_sigmas(["coco"])


def test_a_file_of_the_wrong_count_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("0.1\n0.2\n")
    with pytest.raises(DataError, match=r"s\.txt gives 2 sigmas for 3 keypoints"):
        HAND.with_sigmas(tmp_path / "s.txt")


def test_sigmas_that_pycocotools_would_divide_by_ten_are_refused() -> None:
    with pytest.raises(DataError, match=r"ten times those of pycocotools.*0\.026 for 0\.26"):
        PERSONS.with_sigmas([10 * sigma for sigma in PERSONS.sigmas])
    assert PERSONS.with_sigmas(1).sigmas == (1.0,) * 17


# -- lines of COCO files ----------------------------------------------------------------------------

NAMES = ["top", "left_tip", "right_tip", "root"]


@pytest.mark.parametrize(
    ("lines", "edges", "says"),
    [
        ([[1, 2], [2, 4]], ((0, 1), (1, 3)), None),
        ([[0, 1], [1, 3]], ((0, 1), (1, 3)), "counts its keypoints from 0"),
        ([[1, 2], [2, 3]], ((0, 1), (1, 2)), None),  # valid either way: from 1, as COCO says
        ([[0, 1], [3, 4], [1, 4], [2, 4]], ((2, 3), (0, 3), (1, 3)), "1 skeleton line of category 'hand' is not"),
        ([[1, 2], [4, 17], [5, 6]], ((0, 1),), "2 skeleton lines of category 'hand' are not between two of its 4"),
        ([[1, 2], [2], [1, 2, 3], "x", None, [1.5, 2], [True, 2]], ((0, 1),), "6 skeleton lines"),
        ([["top", "root"], ["1", "2.0"], [1.0, "3"]], ((0, 3), (0, 2)), "1 skeleton line "),
        ([["top", "toe"]], (), "1 skeleton line "),
        ([], (), None),
        (None, (), None),
        ({"a": 1}, (), "1 skeleton line "),
    ],
)
def test_lines_from_0_and_of_other_points_are_understood_or_left_out(
    lines: Any, edges: tuple[tuple[int, int], ...], says: str | None
) -> None:
    told, notes = usable_lines({"name": "hand", "keypoints": NAMES, "skeleton": lines})
    assert Skeleton.from_words(told, "a hand").edges == edges
    assert len(notes) == (says is not None) and (says is None or says in notes[0])


def test_flip_pairs_count_as_the_lines_do_and_are_never_left_out() -> None:
    entry: dict[str, Any] = {"name": "hand", "keypoints": NAMES, "skeleton": [[0, 1]], "flip_pairs": [[1, 2]]}
    assert Skeleton.from_words(usable_lines(entry)[0], "a hand").mirrored == (0, 2, 1, 3)
    entry["flip_pairs"] = [[1, 9]]
    with pytest.raises(DataError, match="flip_pairs has"):
        Skeleton.from_words(usable_lines(entry)[0], "a hand")


@pytest.mark.parametrize("keypoints", [4, NAMES], ids=["a number", "names"])
def test_a_coco_file_with_such_lines_is_read_and_says_so(tmp_path: Path, keypoints: Any) -> None:
    from detection.data.annotations.coco_json import read_coco
    from tests.detection.data.of_people import people_file

    content = people_file()
    content["categories"][0].update(keypoints=keypoints, skeleton=[[0, 3], [3, 20]])
    for entry in content["annotations"]:
        entry["keypoints"] += [1, 1, 2]
    (tmp_path / "x.json").write_text(json.dumps(content))
    table = read_coco(tmp_path / "x.json", ("keypoints",))
    assert table.skeleton is not None and table.skeleton.edges == ((0, 3),)
    assert [note.split(" ")[:3] for note in table.notes] == [["the", "skeleton", "of"], ["1", "skeleton", "line"]]
