"""Stored proposals: what is written is read, by image id; other images, other weights and damage are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection.data.coco import CocoDetection
from detection.data.proposal_parts import ProposalParts
from detection.data.proposals import Proposals, find_proposals
from shared.errors import DataError

MAKER = {"arch": "unidetector_cln-tiny", "tag": "cln", "digest": "0123456789ab"}
FACTS = {"weights": json.dumps(MAKER), "settings": "{}"}
CATEGORIES = {1: "cat", 7: "dog"}


@pytest.fixture
def coco(tmp_path: Path, write_coco: Any) -> CocoDetection:
    write_coco(tmp_path / "images", tmp_path / "train.json", CATEGORIES, count=5)
    return CocoDetection(tmp_path / "images", tmp_path / "train.json")


def rows_of(image_id: int, count: int | None = None) -> np.ndarray:
    """Some boxes with falling scores; none for image 3."""
    count = (0 if image_id == 3 else 4 + image_id) if count is None else count
    corners = np.random.default_rng(image_id).random((count, 2)) * 40
    scores = np.linspace(1, 0.5, count)[:, None]
    return np.concatenate((corners, corners + 20, scores), 1).astype(np.float32)


def stored(coco: CocoDetection, path: Path, **told: str) -> Path:
    parts = ProposalParts(path, coco.table, {**FACTS, **told})
    for image_id in coco.image_ids:
        if image_id not in parts:
            parts.add(image_id, rows_of(image_id))
    return parts.close()


def test_what_is_written_is_read_by_image_id(coco: CocoDetection, tmp_path: Path) -> None:
    found = Proposals.open(stored(coco, tmp_path / "p.safetensors"))
    for image_id in reversed(coco.image_ids):
        assert np.array_equal(found.of(image_id), rows_of(image_id))
    assert found.weights == MAKER and found.facts["annotations"] == "train.json"
    assert found.counts(np.array([3, 1])).tolist() == [0, 5]


def test_parts_are_joined_in_order_of_ids_whatever_their_order(
    coco: CocoDetection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detection.data.proposal_parts.PART", 2)
    whole = stored(coco, tmp_path / "p.safetensors")
    parts = ProposalParts(tmp_path / "q.safetensors", coco.table, FACTS)
    for image_id in reversed(coco.image_ids):
        parts.add(image_id, rows_of(image_id))
    assert parts.close().read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_stopped_run_continues_and_ends_with_the_same_bytes(
    coco: CocoDetection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detection.data.proposal_parts.PART", 2)
    first = ProposalParts(tmp_path / "p.safetensors", coco.table, FACTS)
    for image_id in coco.image_ids[:3]:  # the third one is lost with the process
        first.add(image_id, rows_of(image_id))
    assert not (tmp_path / "p.safetensors").exists()
    again = ProposalParts(tmp_path / "p.safetensors", coco.table, FACTS)
    assert [i in again for i in coco.image_ids] == [True, True, False, False, False]
    assert (
        stored(coco, tmp_path / "p.safetensors").read_bytes() == stored(coco, tmp_path / "q.safetensors").read_bytes()
    )


def test_unfinished_proposals_of_other_weights_are_not_continued_and_finished_ones_not_overwritten(
    coco: CocoDetection, tmp_path: Path
) -> None:
    ProposalParts(tmp_path / "p.safetensors", coco.table, FACTS)
    with pytest.raises(DataError, match="unfinished proposals of other weights"):
        ProposalParts(tmp_path / "p.safetensors", coco.table, {**FACTS, "weights": "{}"})
    stored(coco, tmp_path / "q.safetensors")
    with pytest.raises(DataError, match="never overwritten; give another --output"):
        ProposalParts(tmp_path / "q.safetensors", coco.table, FACTS)


def test_targets_have_the_proposals_of_their_image(coco: CocoDetection, tmp_path: Path) -> None:
    before = coco.fingerprint
    stored(coco, tmp_path / "proposals" / "p.safetensors")
    coco.take_proposals(tmp_path / "proposals")
    for index, image_id in enumerate(coco.image_ids):
        assert torch.equal(coco.target(index)["proposals"], torch.from_numpy(rows_of(image_id)))  # pyright: ignore
    assert any("1 image has no proposals, trained on their objects alone" in note for note in coco.notes), coco.notes
    assert any("unidetector_cln-tiny cln@012345" in note for note in coco.notes)
    assert coco.fingerprint != before
    again = pickle.loads(pickle.dumps(coco))  # noqa: S301 - as it is sent to workers
    assert torch.equal(again.target(0)["proposals"], coco.target(0)["proposals"])  # pyright: ignore


def test_truth_is_the_objects_own_boxes(coco: CocoDetection) -> None:
    coco.take_proposals(Path("truth"))
    target = coco.target(1)
    assert torch.equal(target["proposals"][:, :4], target["boxes"])  # pyright: ignore
    assert target["proposals"][:, 4].tolist() == [1.0] * len(target["boxes"])  # pyright: ignore


def test_other_labels_of_the_same_images_take_the_same_proposals(
    coco: CocoDetection, tmp_path: Path, write_coco: Any
) -> None:
    stored(coco, tmp_path / "p.safetensors")
    write_coco(tmp_path / "images", tmp_path / "other.json", {1: "cat"}, count=4)
    other = CocoDetection(tmp_path / "images", tmp_path / "other.json")
    for given in (tmp_path / "p.safetensors", tmp_path):
        assert isinstance(find_proposals(given, other.table), Proposals)


def test_an_image_that_is_missing_is_refused_with_its_id(coco: CocoDetection, tmp_path: Path, write_coco: Any) -> None:
    stored(coco, tmp_path / "p.safetensors")
    write_coco(tmp_path / "more", tmp_path / "more.json", CATEGORIES, count=7)
    more = CocoDetection(tmp_path / "more", tmp_path / "more.json")
    with pytest.raises(DataError, match=r"has no image 6 of .*more.json, and 2 images are missing"):
        more.take_proposals(tmp_path / "p.safetensors")
    with pytest.raises(
        DataError, match=r"has proposals of train.json, and not of the images of .*more.json.*detect propose"
    ):
        more.take_proposals(tmp_path)


@pytest.mark.parametrize("what", ["file_name", "width"])
def test_other_images_with_the_same_ids_are_refused(coco: CocoDetection, tmp_path: Path, what: str) -> None:
    stored(coco, tmp_path / "p.safetensors")
    words = json.loads((tmp_path / "train.json").read_text())
    words["images"][1][what] = "another.png" if what == "file_name" else 64
    if what == "file_name":
        (tmp_path / "images" / "another.png").write_bytes(coco.read(1))
    (tmp_path / "other.json").write_text(json.dumps(words))
    other = CocoDetection(tmp_path / "images", tmp_path / "other.json")
    with pytest.raises(DataError, match="has proposals of other images: image 2 has another name or size"):
        other.take_proposals(tmp_path / "p.safetensors")


def test_damage_is_found_in_the_index_and_in_the_boxes(coco: CocoDetection, tmp_path: Path) -> None:
    path = stored(coco, tmp_path / "p.safetensors")
    whole = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(whole[:8], "little")
    for place, message in ((start, "its index is not"), (len(whole) - 1, "the boxes of image 5 were changed")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            Proposals.open(path).of(5)
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match="cannot be read as proposals"):
        Proposals.open(path)


def test_nothing_there_and_other_files_are_refused_with_the_command(coco: CocoDetection, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(DataError, match="no file or folder of proposals.*detect propose --output"):
        coco.take_proposals(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has proposals of nothing"):
        coco.take_proposals(tmp_path / "empty")
    save_file({"x": np.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="is not a file of proposals"):
        coco.take_proposals(tmp_path / "weights.safetensors")


def test_ids_beyond_what_floats_hold_stay_apart(tmp_path: Path, write_coco: Any) -> None:
    write_coco(tmp_path / "images", tmp_path / "train.json", CATEGORIES, count=2)
    words = json.loads((tmp_path / "train.json").read_text())
    big = {1: 2**53, 2: 2**53 + 1}
    for entry in words["images"]:
        entry["id"] = big[entry["id"]]
    for entry in words["annotations"]:
        entry["image_id"] = big[entry["image_id"]]
    (tmp_path / "big.json").write_text(json.dumps(words))
    coco = CocoDetection(tmp_path / "images", tmp_path / "big.json")
    parts = ProposalParts(tmp_path / "p.safetensors", coco.table, FACTS)
    for number, image_id in enumerate(coco.image_ids):
        parts.add(image_id, rows_of(number, 3 + number))
    found = Proposals.open(parts.close())
    assert [len(found.of(i)) for i in (2**53, 2**53 + 1)] == [3, 4]
