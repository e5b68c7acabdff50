"""Shards of COCO data, also those of other programs, are indexed once; damaged ones are refused by name."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.coco import CocoDetection
from detection.data.pack import pack
from detection.data.shards import holds_shards, read_shards
from shared.errors import DataError
from tests.detection.data.of_coco import IMAGES, rng
from tests.detection.data.of_people import people

# -- as files -------------------------------------------------------------------------------------


def test_shards_follow_the_webdataset_convention_in_cocos_words(coco: tuple[Path, Path], shards: Path) -> None:
    assert holds_shards(shards) and not holds_shards(coco[0])
    with tarfile.open(shards / "000000.tar") as tar:
        assert tar.getnames()[:2] == ["000000001000.json", "000000001000.png"] and len(tar.getnames()) == 8
        told = json.load(tar.extractfile("000000000993.json"))  # pyright: ignore
    assert told["image_id"] == 993 and told["file_name"] == "1.jpg" and told["annotations"][2]["iscrowd"] == 1
    assert told.keys() == {"image_id", "file_name", "height", "width", "annotations"}


def test_shards_of_another_hand_are_indexed_on_first_open_and_believed_after(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = CocoDetection(shards, None)
    for index in shards.glob("*.npz"):
        index.unlink()
    after = CocoDetection(shards, None)
    assert after.ground_truth() == before.ground_truth() and after.fingerprint == before.fingerprint
    monkeypatch.setattr("detection.data.shards.build_index", None)
    assert CocoDetection(shards, None).image_ids == before.image_ids


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for index in shards.glob("*.npz"):
        index.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if self.parent == shards and "w" in mode:
            raise PermissionError(13, "read-only")
        return real(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert len(CocoDetection(shards, None)) == IMAGES
    assert not list(shards.glob("*.npz")) and len(list((tmp_path / "cache").rglob("*.boxes.npz"))) == 3


def rewritten(shard: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """The shard with members changed or left out, its index gone."""
    with tarfile.open(shard) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]  # pyright: ignore
    with tarfile.open(shard, "w") as tar:
        for member in members:
            if (new := change(*member)) is not None:
                entry = tarfile.TarInfo(new[0])
                entry.size = len(new[1])
                tar.addfile(entry, io.BytesIO(new[1]))
    shard.with_suffix(".boxes.npz").unlink()


def told_otherwise(**change: Any) -> Callable[[str, bytes], tuple[str, bytes]]:
    def rewrite(name: str, data: bytes) -> tuple[str, bytes]:
        return (name, json.dumps({**json.loads(data), **change}).encode() if name.endswith(".json") else data)

    return rewrite


BOX = {"id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name, data: None if name.endswith("993.json") else (name, data), "'000000000993' in shard .* an image"),
        (
            lambda name, data: None if name.endswith("993.jpg") else (name, data),
            "'000000000993' in shard .* the reverse",
        ),
        (lambda name, data: (name, b"{" if name.endswith("json") else data), "json is not readable JSON"),
        (lambda name, data: (name, b"[]" if name.endswith("json") else data), "describes no image"),
        (lambda name, data: (name.replace("0993", "1000"), data), "two members for key '000000001000'"),
        (told_otherwise(annotations=None), "has no list 'annotations'"),
        (told_otherwise(image_id="seven"), 'annotation 1 has the image_id "seven"'),
        (told_otherwise(image_id=7), "the image id 7 appears twice"),
        (told_otherwise(width=0), "has no height and width"),
        (told_otherwise(annotations=[{**BOX, "bbox": [1, 2, float("nan"), 4]}]), "four finite numbers"),
        (told_otherwise(annotations=[{**BOX, "category_id": 55}]), "category 55, which is not listed"),
    ],
)
def test_odd_shards_are_refused_with_their_name(shards: Path, change: Any, says: str) -> None:
    rewritten(shards / "000000.tar", change)
    with pytest.raises(DataError, match=says) as refusal:
        read_shards(shards)
    assert "000000.tar" in str(refusal.value)


def test_damaged_changed_and_doubled_shards_are_refused(shards: Path) -> None:
    whole = (shards / "000001.tar").read_bytes()
    (shards / "000001.tar").write_bytes(whole[:-3000])
    with pytest.raises(DataError, match=r"shard .*000001\.tar is damaged .* index says"):
        read_shards(shards)
    (shards / "000001.tar").write_bytes(b"x" + whole[1:])
    with pytest.raises(DataError, match=r"the index of shard .*000001\.tar belongs to another one"):
        read_shards(shards)
    (shards / "000001.tar").write_bytes(whole)
    (shards / "000001.boxes.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"000001\.boxes\.npz is not a usable shard index"):
        read_shards(shards)
    (shards / "000001.boxes.npz").unlink()
    (shards / "000009.tar").write_bytes(whole)
    with pytest.raises(DataError, match="has the image .* twice"):
        read_shards(shards)


def test_an_index_that_holds_python_objects_is_not_run(shards: Path) -> None:
    np.savez(shards / "000000.boxes.npz", version=np.array([object()], dtype=object))
    with pytest.raises(DataError, match="not a usable shard index"):
        read_shards(shards)


def test_a_shard_that_becomes_shorter_while_it_is_read_is_named(shards: Path) -> None:
    data = CocoDetection(shards, None)
    os.truncate(shards / "000002.tar", 100)
    with pytest.raises(DataError, match=r"000002\.tar is damaged"):
        data.load(IMAGES - 1, rng())


# -- masks and keypoints ---------------------------------------------------------------------------


def test_indices_of_masks_and_keypoints_are_opened_only_when_asked_for(tmp_path: Path) -> None:
    pack(*people(tmp_path / "coco"), tmp_path / "shards")
    assert {file.name for file in (tmp_path / "shards").glob("*.npz")} == {
        f"000000.{kind}.npz" for kind in ("boxes", "masks", "keypoints")
    }
    (tmp_path / "shards/000000.masks.npz").write_bytes(b"PK nonsense")
    assert len(CocoDetection(tmp_path / "shards", None, finds=("keypoints",))) == 2
    with pytest.raises(DataError, match=r"000000\.masks\.npz is not a usable shard index"):
        CocoDetection(tmp_path / "shards", None, finds=("masks",))
    (tmp_path / "shards/000000.masks.npz").unlink()
    there = read_shards(tmp_path / "shards", None)
    assert there.masks is None and there.keypoints is not None
    assert CocoDetection(tmp_path / "shards", None, finds=("masks",)).table.masks is not None
    assert (tmp_path / "shards/000000.masks.npz").is_file()


def test_shards_of_boxes_alone_say_so_when_more_is_asked_for(shards: Path) -> None:
    with pytest.raises(DataError, match=r"000000\.tar: annotation 1 has no segmentation, which a network"):
        CocoDetection(shards, None, finds=("masks",))
    with pytest.raises(DataError, match="has no keypoints; give annotations"):
        CocoDetection(shards, None, finds=("keypoints",))
