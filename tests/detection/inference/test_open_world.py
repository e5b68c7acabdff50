"""Counts of a first pass: calibration by hand, no division by zero, and no count of other weights or names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detection.data.annotations.classes import ClassMap
from detection.eval.results import Found
from detection.inference import open_world
from detection.inference.open_world import OpenWorld, ask, calibration, counted, read_counts, with_counts, write_counts
from shared.errors import DataError, UsageError, WeightsError

NAMES = ("cat", "dog", "owl")


def trained(network: str = "unidetector_regions", digest: str = "0123456789ab", **told: Any) -> Any:
    """What of a trained detector is looked at."""
    vectors = told.get("vectors", torch.eye(3))
    vocabularies = SimpleNamespace(current=0, vectors=lambda _: vectors)
    card = SimpleNamespace(args={"network": network}, data={})
    return SimpleNamespace(
        exported=SimpleNamespace(card=card, digest=digest),
        classes=ClassMap(told.get("names", NAMES), (5, 9, 7)),
        task=SimpleNamespace(detector=SimpleNamespace(vocabularies=vocabularies)),
        device=torch.device("cpu"),
    )


@pytest.fixture(autouse=True)
def stage_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_world, "takes_proposals", lambda network: network == "unidetector_regions")


def test_rare_detections_weigh_more_and_none_weighs_as_one() -> None:
    factors = calibration([0, 1, 100], 0.6)
    least = 100**-0.6
    mean = (1 + 1 + least) / 3
    assert factors.tolist() == pytest.approx([1 / mean, 1 / mean, least / mean])
    assert factors.mean().item() == pytest.approx(1)


def test_nothing_detected_at_all_changes_nothing() -> None:
    assert calibration([0, 0, 0], 0.6).tolist() == [1, 1, 1] and calibration([3, 5, 7], 0).tolist() == [1, 1, 1]


def found(*categories: int) -> Found:
    return Found(np.array([[0, 0, 9, 9, 0.5, category] for category in categories], dtype=float).reshape(-1, 6))


def test_detections_of_all_images_are_counted_by_label() -> None:
    assert counted({1: found(5, 5, 7), 2: found(), 3: found(7, 4)}, (5, 9, 7)) == [2, 0, 2]
    assert counted({}, (5, 9)) == [0, 0]


def test_counts_are_read_by_the_weights_and_names_that_were_counted(tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.json", [2, 0, 2], 3, trained())
    assert read_counts(tmp_path / "counts.json", trained()) == [2, 0, 2]
    ask(one := trained(), OpenWorld(calibrate=0.6, prior=tmp_path / "counts.json"))
    assert torch.equal(one.task.detector.calibration, calibration([2, 0, 2], 0.6))


@pytest.mark.parametrize(
    ("told", "whose"),
    [
        ({"digest": "ba9876543210"}, "other weights"),
        ({"names": ("cat", "dog", "emu")}, "other names"),
        ({"vectors": torch.eye(3).flip(0)}, "names with other vectors"),
    ],
)
def test_a_prior_of_others_is_refused(told: dict[str, Any], whose: str, tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.json", [2, 0, 2], 3, trained())
    with pytest.raises(WeightsError, match=f"was counted with {whose} than these; count again with"):
        read_counts(tmp_path / "counts.json", trained(**told))


@pytest.mark.parametrize(
    "change", [{"counts": [1, 2]}, {"counts": [1, -2, 3]}, {"counts": [1, 2.5, 3]}, {"format": "x"}]
)
def test_what_are_no_counts_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.json", [2, 0, 2], 3, trained())
    words = json.loads((tmp_path / "counts.json").read_text()) | change
    (tmp_path / "counts.json").write_text(json.dumps(words))
    with pytest.raises(DataError, match="no counts of detections"):
        read_counts(tmp_path / "counts.json", trained())
    for text in ("[]", "{", "3"):
        (tmp_path / "counts.json").write_text(text)
        with pytest.raises(DataError, match="cannot be read as counts"):
            read_counts(tmp_path / "counts.json", trained())


@pytest.mark.parametrize(
    ("how", "beta", "best"),
    [
        (OpenWorld(), 1.0, None),
        (OpenWorld(new_names=True), 0.3, 100),
        (OpenWorld(new_names=True, beta=1.0), 1.0, None),
        (OpenWorld(beta=0.5), 0.5, 100),
        (OpenWorld(beta=0.5, best=7), 0.5, 7),
    ],
)
def test_new_names_are_scored_with_the_proposals_own_score(how: OpenWorld, beta: float, best: int | None) -> None:
    ask(one := trained(), how)
    detector = one.task.detector
    assert (detector.beta, detector.best_proposals, detector.calibration) == (beta, best, None)


@pytest.mark.parametrize(
    "how",
    [
        OpenWorld(beta=0.3),
        OpenWorld(best=9),
        OpenWorld(calibrate=0.6),
        OpenWorld(prior=Path("p")),
        OpenWorld(counts=Path("p")),
    ],
)
def test_networks_with_their_own_proposals_have_no_such_score(how: OpenWorld) -> None:
    with pytest.raises(UsageError, match="is for networks on stored proposals, and fcos makes its own"):
        ask(trained("fcos"), how)
    ask(trained("fcos"), OpenWorld())


def test_flags_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--prior needs --calibrate"):
        ask(trained(), OpenWorld(prior=tmp_path))
    with pytest.raises(UsageError, match="--counts counts without calibration"):
        ask(trained(), OpenWorld(prior=tmp_path, calibrate=0.6, counts=tmp_path))


def test_without_a_prior_a_first_pass_is_counted_and_a_second_one_calibrated(tmp_path: Path) -> None:
    one, passes = trained(), []

    def evaluated() -> Any:
        passes.append(getattr(one.task.detector, "calibration", None))
        return SimpleNamespace(found={1: found(5, 5, 7)})

    ask(one, how := OpenWorld(calibrate=0.6, counts=tmp_path / "counts.json"))
    with_counts(evaluated, one, how)
    assert passes[0] is None and torch.equal(passes[1], calibration([2, 0, 1], 0.6))
    assert read_counts(tmp_path / "counts.json", one) == [2, 0, 1]
