"""What an ablation runs: pairs that differ in one thing, nested shares of labels, the same steps, parts that add up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.ablation.commands import part_from
from detection.ablation.labels import nested_order, read_labels, write_part
from detection.ablation.plan import Study, check_study, part_of, runs, trials, words
from shared.errors import DataError, UsageError


def study(folder: Path, **told: Any) -> Study:
    at = {"train": (folder / "images", folder / "train.json"), "val": (folder / "val", folder / "val.json")}
    asked: dict[str, Any] = {"arms": ("scratch", "vicreg"), "seeds": 2, "fractions": (0.25, 1.0), "grid": (0.3, 1.0)}
    places = {"out": folder / "out", "recipe": folder / "recipe.yaml", "weights_dir": folder / "weights"}
    return Study(**places, **at, **{**asked, "epochs": 8, "lr": 0.01, "longer": 1.0, **told})


def as_dict(command: list[str]) -> dict[str, str]:
    pairs = [word for word in command if word not in ("--no-backbone-pretrained", "--resume")]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_a_pair_differs_in_the_backbones_weights_and_its_name_alone(tmp_path: Path) -> None:
    asked = study(tmp_path)
    factors = dict.fromkeys(asked.arms, 1.0)
    by_place: dict[tuple[float, int], list[dict[str, str]]] = {}
    for run in runs(asked, factors):
        by_place.setdefault((run.fraction, run.seed), []).append(as_dict(words(asked, run, run.fraction)))
    assert len(by_place) == 4
    for scratch, tagged in by_place.values():
        different = {flag for flag in scratch.keys() | tagged.keys() if scratch.get(flag) != tagged.get(flag)}
        assert different == {"--backbone-tag", "--name", "--tag"}


def test_every_run_takes_as_many_steps_and_a_longer_one_more(tmp_path: Path) -> None:
    asked = study(tmp_path, arms=("scratch", "vicreg", "scratch+"), longer=3.0)
    listed = runs(asked, dict.fromkeys(asked.arms, 1.0))
    epochs = {run.name: int(as_dict(words(asked, run, run.fraction))["--epochs"]) for run in listed}
    assert epochs["scratch-100pct-seed0"] == epochs["vicreg-100pct-seed1"] == 8
    assert epochs["scratch-25pct-seed0"] == 32 and epochs["scratch-longer-25pct-seed0"] == 96


def test_trials_see_training_images_only(tmp_path: Path) -> None:
    asked = study(tmp_path)
    listed = trials(asked)
    assert [(run.arm, run.factor) for run in listed] == [(arm, f) for arm in asked.arms for f in asked.grid]
    told = as_dict(words(asked, listed[0], 0.25))
    assert told["--val-path"] == str(asked.train[0]) and told["--coco-val-json-path"].endswith("trial-val.json")
    assert told["--lr"] == "0.003"
    assert trials(study(tmp_path, grid=(1.0,))) == []


def test_parts_are_all_runs_once_and_names_are_different(tmp_path: Path) -> None:
    asked = study(tmp_path, arms=("scratch", "a", "a+b"), seeds=3)
    listed = runs(asked, dict.fromkeys(asked.arms, 1.0))
    parts = [part_of(listed, (number, 4)) for number in (1, 2, 3, 4)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in listed)
    assert len({run.name for run in [*listed, *trials(asked)]}) == len(listed) + len(trials(asked))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"arms": ("vicreg", "mim")}, "add `scratch` to --arms"),
        ({"arms": ("scratch",)}, "at least one other"),
        ({"seeds": 1}, "one seed cannot tell"),
        ({"fractions": (1.0, 1.0)}, "has one twice"),
    ],
)
def test_what_no_runs_could_answer_is_refused(told: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        check_study(study(tmp_path, **told))


def test_part_is_read_or_refused() -> None:
    assert part_from(None) == (1, 1) and part_from("3/8") == (3, 8)
    for text in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(UsageError, match="the third of eight"):
            part_from(text)


# --- labels -------------------------------------------------------------------------------------


def content(classes: list[list[int]]) -> dict[str, Any]:
    """Image n has objects of these classes."""
    annotations = [
        {"id": 100 * n + k, "image_id": n, "category_id": c} for n, own in enumerate(classes) for k, c in enumerate(own)
    ]
    return {"images": [{"id": n} for n in range(len(classes))], "annotations": annotations, "categories": [], "info": 7}


@given(st.integers(0, 99), st.sampled_from([0.1, 0.3, 0.5]))
@settings(max_examples=25)
def test_every_beginning_has_its_share_of_each_class(seed: int, fraction: float) -> None:
    classes = [[1]] * 100 + [[1, 2]] * 40 + [[3]] * 10 + [[]] * 30
    order = nested_order(content(classes), seed)
    assert sorted(order) == list(range(180))
    few = order[: round(fraction * 180)]
    for rarest, total in (((1,), 100), ((1, 2), 40), ((3,), 10), ((), 30)):
        there = sum(tuple(classes[place]) == rarest for place in few)
        assert abs(there - fraction * total) <= 2


def test_seeds_choose_differently_and_a_seed_always_the_same() -> None:
    told = content([[n % 3] for n in range(60)])
    assert nested_order(told, 1) == nested_order(told, 1) != nested_order(told, 2)


def test_a_part_keeps_everything_of_its_images(tmp_path: Path) -> None:
    whole = content([[1], [1, 2], [2]])
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    read = read_labels(tmp_path / "whole.json")
    write_part(read, [2, 1], tmp_path / "labels/part.json")
    part = json.loads((tmp_path / "labels/part.json").read_text())
    assert [image["id"] for image in part["images"]] == [1, 2] and part["info"] == 7
    assert Counter(each["image_id"] for each in part["annotations"]) == {1: 2, 2: 1}
    write_part(read, [0], tmp_path / "labels/part.json")
    assert json.loads((tmp_path / "labels/part.json").read_text()) == part, "what is there is not written again"


def test_a_file_that_is_not_coco_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="no lists of images and annotations"):
        read_labels(tmp_path / "list.json")
