"""Packing keeps every image byte for byte, gives the same shards every time, and leaves OUT whole or absent."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pretrain.pack import pack
from pretrain.shards import ShardSet, find_shards
from shared.errors import DataError, UsageError


def picture(n: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6 + n % 50, 5), (n % 256, 10, 20)).save(buffer, kind)
    return buffer.getvalue()


def put(root: Path, *names: str) -> None:
    for n, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n, {".png": "PNG", ".webp": "WEBP"}.get(path.suffix, "JPEG")))


def contents(out: Path, split: str) -> dict[str, tuple[bytes, int]]:
    data = ShardSet(find_shards(out, split), lambda image, rng: image, verify=True)
    found = {data.name(n).partition(":")[2]: (bytes(data.read(n)), int(data.labels[n])) for n in range(len(data))}
    assert len(found) == len(data)
    return found


@pytest.fixture
def folder(tmp_path) -> Path:
    put(tmp_path / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat", "ant") for n in range(8)))
    return tmp_path / "in"


def test_class_folders_become_shards_with_every_byte_kept(folder, tmp_path):
    seen = []
    packed = pack(folder, tmp_path / "out", shard_size=10, progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "out" / "classes.txt").read_text() == "ant\ncat\ndog\n"
    assert packed.samples == {"train": 24} and packed.shards == 3 and packed.skipped == []
    assert packed.bytes == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert seen == [(n, 24) for n in range(1, 25)]
    found = contents(tmp_path / "out", "train")
    for n, name in enumerate(("ant", "cat", "dog")):
        for k in range(8):
            assert found[f"{name}/{k}"] == ((folder / name / f"{k}.jpg").read_bytes(), n)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"train-000000.tar", "train-000000.index.json", "train-000002.tar", "train-000002.index.json"}
    assert find_shards(tmp_path / "out", "val") == []


def test_the_same_folder_gives_the_same_shards_and_mixes_classes(folder, tmp_path):
    for out in ("a", "b"):
        pack(folder, tmp_path / out, shard_size=12)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    data = ShardSet(find_shards(tmp_path / "a", "train"), lambda image, rng: image)
    assert set(data.labels[:12]) == {0, 1, 2} == set(data.labels[12:])


def test_a_full_shard_in_bytes_ends_too(folder, tmp_path):
    assert pack(folder, tmp_path / "out", shard_bytes=1).shards == 24


@pytest.mark.parametrize("val", ["val", "validation", "test"])
def test_train_and_val_folders_become_splits_with_one_class_list(val, tmp_path):
    put(
        tmp_path / "in",
        "train/cat/1.png",
        "train/ant/1.png",
        f"{val}/cat/1.png",
        "train/ant/deep/2.webp",
        "notes/1.png",
    )
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert packed.samples == {"train": 3, "val": 1} and packed.classes == ["ant", "cat"]
    assert {key: label for key, (_, label) in contents(tmp_path / "out", "train").items()} == {
        "ant/1": 0,
        "ant/deep/2": 0,
        "cat/1": 1,
    }
    assert contents(tmp_path / "out", "val") == {"cat/1": ((tmp_path / "in" / val / "cat" / "1.png").read_bytes(), 1)}


def test_a_class_of_val_that_train_lacks_is_refused(tmp_path):
    put(tmp_path / "in", "train/cat/1.png", "val/dog/1.png")
    with pytest.raises(DataError, match="'val/dog' of val is not in train"):
        pack(tmp_path / "in", tmp_path / "out")


def test_a_class_called_train_is_a_class(tmp_path):
    put(tmp_path / "in", "train/1.png", "tram/1.png")
    assert pack(tmp_path / "in", tmp_path / "out").classes == ["train", "tram"]


def test_a_share_for_val_depends_on_names_only(tmp_path):
    put(tmp_path / "in", *(f"c{n % 3}/{n}.jpg" for n in range(300)))
    pack(tmp_path / "in", tmp_path / "a", val_share=0.2)
    val, train = contents(tmp_path / "a", "val"), contents(tmp_path / "a", "train")
    assert 30 < len(val) < 90 and len(val) + len(train) == 300 and not val.keys() & train.keys()
    put(tmp_path / "in", *(f"c{n % 3}/{n}.jpg" for n in range(300, 310)))
    pack(tmp_path / "in", tmp_path / "b", val_share=0.2)
    assert contents(tmp_path / "b", "val").keys() >= val.keys()


def test_keys_are_unique_and_end_at_no_dot(tmp_path):
    put(
        tmp_path / "in",
        "c.1/a.b.jpg",
        "c.1/a_b.jpg",
        "c.1/x.jpg",
        "c.1/x.png",
        "c.1/x.JPEG",
        "c.1/\u00e9 " + "l" * 150 + ".jpg",
    )
    pack(tmp_path / "in", tmp_path / "out")
    found = contents(tmp_path / "out", "train")
    assert len(found) == 6 and found.keys() >= {"c.1/a_b", "c.1/a_b-2", "c.1/x", "c.1/x-2", "c.1/x-3"}


@pytest.mark.parametrize("top", ["", "some/where/"])
@pytest.mark.parametrize("splits", [True, False])
def test_a_tar_of_class_folders_is_packed_like_the_folder(top, splits, tmp_path):
    names = ["train/cat/1.png", "train/ant/2.png", "test/cat/3.png"] if splits else ["cat/1.png", "ant/2.png"]
    put(tmp_path / "in", *names, "._x.png")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", arcname=top or ".")
    pack(tmp_path / "in", tmp_path / "a")
    before = {path for path in tmp_path.rglob("*") if path.suffix == ".png"}
    pack(tmp_path / "in.tar", tmp_path / "b")
    assert {path for path in tmp_path.rglob("*") if path.suffix == ".png"} == before
    assert (tmp_path / "a" / "classes.txt").read_text() == (tmp_path / "b" / "classes.txt").read_text() == "ant\ncat\n"
    assert contents(tmp_path / "a", "train") == contents(tmp_path / "b", "train")
    assert find_shards(tmp_path / "b", "val") == [str(tmp_path / "b" / "val-000000.tar")][: int(splits)]


def test_images_that_cannot_be_read_are_left_out_and_listed(folder, tmp_path):
    (folder / "ant" / "0.jpg").write_bytes(b"<html>")
    (folder / "ant" / "1.jpg").write_bytes((folder / "ant" / "1.jpg").read_bytes()[:-30])
    put(folder, "ant/x.gif", "ant/.hidden.jpg")
    (folder / "ant" / "notes.txt").write_text("no image")
    packed = pack(folder, tmp_path / "quick")
    assert packed.samples == {"train": 23} and [path for path, _ in packed.skipped] == ["ant/x.gif", "ant/0.jpg"]
    assert packed.skipped[1][1] == "not an image of a known format"
    thorough = pack(folder, tmp_path / "thorough", verify=True)
    assert thorough.samples == {"train": 22} and {path for path, _ in thorough.skipped} >= {"ant/0.jpg", "ant/1.jpg"}


def test_an_output_that_holds_something_is_refused_and_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    pack(folder, tmp_path / "out")
    with pytest.raises(DataError, match="not empty"):
        pack(folder, tmp_path / "out")
    assert len(contents(tmp_path / "out", "train")) == 24


def test_an_interrupted_packing_leaves_nothing_behind(folder, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "out", shard_size=4, progress=interrupt)
    assert os.listdir(tmp_path) == ["in"]


def test_what_is_no_folder_of_classes_is_refused_with_what_was_expected(tmp_path):
    put(tmp_path / "flat", "1.png", "2.png")
    put(tmp_path / "mixed", "train/cat/1.png", "train/2.png")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "bad", "cat/1.png")
    (tmp_path / "bad/cat/1.png").write_bytes(b"")
    for name, sentence in (
        ("flat", "1.png lies outside any class folder; expected FOLDER/<class>/<image>"),
        ("mixed", "train/2.png lies outside any class folder"),
        ("empty", "there is no jpg"),
        ("nowhere", "there is no folder or tar"),
        ("bad", "no image of .* can be read, for example .*cat/1.png.*empty file"),
    ):
        with pytest.raises(DataError, match=sentence):
            pack(tmp_path / name, tmp_path / "out")
    (tmp_path / "file.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="no plain tar"):
        pack(tmp_path / "file.tar", tmp_path / "out")
    with pytest.raises(UsageError):
        pack(tmp_path / "mixed", tmp_path / "out", shard_size=0)
    for share in (1.0, -0.1):
        with pytest.raises(UsageError):
            pack(tmp_path / "mixed", tmp_path / "out", val_share=share)
    assert not (tmp_path / "out").exists()


def test_an_unwritable_place_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        pack(folder, tmp_path / "file" / "out")
