"""Packing keeps every image byte for byte, whatever the images come from, and leaves OUT whole or absent."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from pretrain.cli import main
from pretrain.data.shards import ShardSet, find_shards
from pretrain.packing.pack import pack
from shared.errors import DataError, UsageError
from tests.pretrain.packing.of_images import contents, picture, put


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


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_names_images_and_their_classes(folder, tmp_path):
    lines = ["# images", "dog/1.jpg big dog", "cat/0.jpg cat", "", "ant/3.jpg\tan ant", "dog/2.jpg\tbig dog"]
    lines[1] = lines[1].replace(" big dog", "\tbig dog")
    (folder / "list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    packed = pack(folder / "list.txt", tmp_path / "out")
    assert packed.samples == {"train": 4} and packed.classes == ["an ant", "big dog", "cat"]
    assert contents(tmp_path / "out", "train") == {
        name: ((folder / f"{name}.jpg").read_bytes(), label)
        for name, label in (("ant/3", 0), ("dog/1", 1), ("dog/2", 1), ("cat/0", 2))
    }


def test_numbers_in_a_list_stand_for_themselves_and_paths_may_hold_spaces(folder, tmp_path):
    put(folder, "a b/c d.png")
    (tmp_path / "here.lst").write_text("dog/1.jpg 3\na b/c d.png 0\nant/x.gif 1\nant/0.jpg 03\nant/none.jpg 1\n")
    packed = pack(tmp_path / "here.lst", tmp_path / "out", root=folder)
    assert packed.classes == ["0", "1", "2", "3"] and packed.samples == {"train": 3}
    assert packed.skipped == [
        ("ant/x.gif", "shards can contain jpg, jpeg, png, webp"),
        ("ant/none.jpg", "No such file or directory"),
    ]
    found = {key: label for key, (_, label) in contents(tmp_path / "out", "train").items()}
    assert found == {"dog/1": 3, "a b/c d": 0, "ant/0": 3}
    assert ShardSet(find_shards(tmp_path / "out", "train"), lambda image, rng: image).num_classes == 4


def test_paths_of_a_list_from_anywhere_make_keys_that_stay_inside(folder, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "l.txt").write_text(f"../in/dog/1.jpg 0\n{folder}/dog/2.jpg 1\n./../in/dog//1.JPG 1\n")
    (folder / "dog" / "1.JPG").write_bytes(picture(7, "JPEG"))
    pack(tmp_path / "sub" / "l.txt", tmp_path / "out")
    keys = contents(tmp_path / "out", "train").keys()
    assert keys == {"in/dog/1", "in/dog/1-2", str(folder)[1:] + "/dog/2"}


def test_a_list_splits_a_share_off_for_val_and_needs_no_class_twice(tmp_path):
    put(tmp_path / "in", *(f"{n}.jpg" for n in range(60)))
    (tmp_path / "in" / "l.txt").write_text("".join(f"{n}.jpg {n % 3}\n" for n in range(60)))
    packed = pack(tmp_path / "in" / "l.txt", tmp_path / "out", val_share=0.3)
    assert packed.samples["train"] + packed.samples["val"] == 60 and packed.samples["val"] > 5
    assert ShardSet(find_shards(tmp_path / "out", "val"), lambda image, rng: image).num_classes == 3


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("1.jpg\n", "line 1 of .* is '1.jpg'; write `path label`"),
        ("1.jpg 0\n\n2.jpg\t\n", "line 3 of"),
        ("1.jpg 0\n2.jpg 0\n1.jpg 1\n", "line 3 of .* repeats '1.jpg' of line 1; keep one"),
        ("0 1.jpg\n", "'0' in .* is not a jpg, jpeg, png, webp file; a line is `path label`"),
        ("1.jpg 1000000\n", "has a class 1000000; numbers count from 0"),
        ("# nothing\n1.gif 0\n", "lists no jpg"),
        ("none.jpg 0\n", "no image of .* can be read, for example none.jpg: No such file"),
    ],
)
def test_a_list_that_is_none_is_refused_with_the_line(text, sentence, tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DataError, match=sentence):
        pack(tmp_path / "l.txt", tmp_path / "out")
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_what_there_is_can_be_said_where_names_do_not_tell(folder, tmp_path):
    (tmp_path / "names").write_text("dog/1.jpg 0\n")
    assert pack(tmp_path / "names", tmp_path / "a", kind="list", root=folder).samples == {"train": 1}
    with pytest.raises(UsageError, match="--root is for lists"):
        pack(folder, tmp_path / "b", root=folder)
    with pytest.raises(DataError, match="there are no TFRecords at"):
        pack(folder, tmp_path / "b", kind="tfrecord")
    with pytest.raises(DataError, match="there is no list"):
        pack(tmp_path / "none.txt", tmp_path / "b")


# -- shrinking --------------------------------------------------------------------------------------------------------


def large(path: Path, kind: str, size: tuple[int, int] = (120, 90), **options) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))
    image.save(path, kind, **options)
    return path.read_bytes()


def test_larger_images_are_shrunk_to_the_short_side_and_others_stay_byte_for_byte(tmp_path):
    root = tmp_path / "in" / "c"
    large(root / "large.jpg", "JPEG", subsampling=0)
    tall = large(root / "tall.png", "PNG", (60, 150))
    small = large(root / "small.jpg", "JPEG", (200, 30))
    large(root / "w.webp", "WEBP", lossless=True)
    packed = pack(tmp_path / "in", tmp_path / "out", short_side=60)
    assert packed.shrunk == 2 and packed.samples == {"train": 4}
    found = {key: data for key, (data, _) in contents(tmp_path / "out", "train").items()}
    assert found["c/tall"] == tall and found["c/small"] == small
    for name in ("large", "w"):
        image, before = Image.open(io.BytesIO(found[f"c/{name}"])), Image.open(next(root.glob(f"{name}.*")))
        assert image.size == (80, 60) and image.format == before.format
        expected = np.asarray(before.convert("RGB").resize((80, 60), Image.Resampling.BICUBIC), int)
        assert np.abs(np.asarray(image.convert("RGB"), int) - expected).max() <= (0 if name == "w" else 12)
    image = Image.open(io.BytesIO(found["c/large"]))
    assert isinstance(image, JpegImageFile) and get_sampling(image) == 0  # color in full, as before
    assert image.quantization[0][0] == 2  # quality 95


def test_shrunk_images_are_upright_and_gray_stays_gray(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    large(tmp_path / "in" / "c" / "turned.jpg", "JPEG", exif=exif)
    gray = Image.new("L", (100, 100), 77)
    gray.save(tmp_path / "in" / "c" / "gray.jpg")
    pack(tmp_path / "in", tmp_path / "out", short_side=45)
    found = {key: Image.open(io.BytesIO(data)) for key, (data, _) in contents(tmp_path / "out", "train").items()}
    assert found["c/turned"].size == (45, 60) and not found["c/turned"].getexif()
    assert found["c/gray"].mode == "L" and found["c/gray"].getpixel((3, 3)) == 77


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(folder, tmp_path, capsys):
    large(folder / "cat" / "large.png", "PNG")
    put(folder, "ant/x.gif")
    words = ["pack", str(folder), str(tmp_path / "out"), "--short-side", "50", "--jobs", "2", "--shard-size", "5"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "packing 100 %" in said and "packed 25 train images of 3 classes into 5 shards in" in said
    assert "  1 of 25 were shrunk to 50 pixels\n  left out ant/x.gif: shards can contain jpg" in said
    for flag in ("--jobs", "--short-side"):
        assert main(["pack", str(folder), str(tmp_path / "out2"), flag, "0"]) == 2
        assert f"argument {flag}: the value is 0; it must be from 1 to" in capsys.readouterr().err


def test_restart_markers_without_jpegtran_are_refused_with_where_to_get_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["pack", str(folder), str(tmp_path / "out"), "--restart-markers"]) == 2
    said = capsys.readouterr().err
    assert "the program jpegtran, which is not installed; install it (Debian and Ubuntu: libjpeg-turbo-progs" in said
    assert os.listdir(tmp_path) == ["in"]


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_classes_is_refused_with_what_was_expected(tmp_path):
    put(tmp_path / "flat", "1.png", "2.png")
    put(tmp_path / "mixed", "train/cat/1.png", "train/2.png")
    (tmp_path / "empty").mkdir()
    put(tmp_path / "bad", "cat/1.png")
    (tmp_path / "bad/cat/1.png").write_bytes(b"")
    for name, sentence in (
        ("flat", "1.png is not in a class folder; expected FOLDER/<class>/<image>"),
        ("mixed", "train/2.png is not in a class folder"),
        ("empty", "there is no jpg"),
        ("nowhere", "there is no folder or tar"),
        ("bad", "no image of .* can be read, for example .*cat/1.png.*empty file"),
    ):
        with pytest.raises(DataError, match=sentence):
            pack(tmp_path / name, tmp_path / "out")
    (tmp_path / "file.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="not an uncompressed tar"):
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
