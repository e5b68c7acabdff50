"""Every file under the input is in a shard, or listed with its reason; folders that may be two things are refused."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.data.shards import find_shards
from pretrain.packing.pack import Packed, pack
from shared.errors import DataError
from tests.pretrain.data.test_tfrecord import photo, write_records
from tests.pretrain.packing.of_images import contents, picture, put


def accounted(place: Path, packed: Packed) -> dict[str, str]:
    """Files that were not packed with their reasons, after checking that the sums are right."""
    if place.is_dir():
        there = sum(len(names) for _, _, names in os.walk(place))
    else:
        with tarfile.open(place) as tar:
            there = len(tar.getnames())
    rest = dict(packed.left_out)
    assert len(rest) == len(packed.left_out)
    folders = [name for name in rest if (place / name).is_dir()] if place.is_dir() else []
    assert sum(packed.samples.values()) + len(rest) - len(folders) == there
    return rest


@pytest.mark.parametrize("val", ["valid", "dev", "Val", "VALIDATION", "test", "Testing"])
@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
def test_split_folders_are_known_by_other_words(train: str, val: str, tmp_path: Path) -> None:
    put(tmp_path / "in", f"{train}/ant/1.png", f"{train}/bee/2.png", f"{val}/bee/3.png")
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert packed.samples == {"train": 2, "val": 1} and packed.classes == ["ant", "bee"]
    assert packed.notes == [f"the validation images are those of folder '{val}'"] and not packed.left_out
    assert [label for _, label in contents(tmp_path / "out", "val").values()] == [1]


def test_everything_that_is_not_packed_is_listed_with_its_reason(tmp_path: Path) -> None:
    put(tmp_path / "in", "train/ant/1.png", "train/ant/2.gif", "train/ant/.3.png", "val/ant/4.png", "loose.png")
    put(tmp_path / "in", "test/ant/5.png", "spare/6.png", ".git/x/7.png")
    for name in ("train/ant/notes.txt", "readme", "train/ant/8.mp4"):
        (tmp_path / "in" / name).write_text("")
    (tmp_path / "in" / "train" / "bee").mkdir()
    os.mkfifo(tmp_path / "in" / "train" / "ant" / "9.png")
    (tmp_path / "in" / "train" / "ant" / "10.png").symlink_to("nowhere.png")
    packed = pack(tmp_path / "in", tmp_path / "out")
    rest = accounted(tmp_path / "in", packed)
    assert rest == {
        "train/ant/2.gif": "shards can contain jpg, jpeg, png, webp",
        "test/ant/5.png": "in folder 'test' beside 'train'",
        "spare/6.png": "in folder 'spare' beside 'train'",
        "loose.png": "in no folder beside 'train'",
        "train/ant/.3.png": "hidden",
        ".git/x/7.png": "hidden",
        "train/ant/notes.txt": "not an image",
        "train/ant/8.mp4": "not an image",
        "readme": "not an image",
        "train/ant/9.png": "not a regular file",
        "train/ant/10.png": "a link to nothing",
    }
    assert packed.notes == ["no image in 1 folder among the classes: bee"]
    lines = (tmp_path / "out" / "left_out.tsv").read_text().splitlines()
    assert dict(line.split("\t") for line in lines) == rest


def test_the_command_shows_the_sums_and_where_the_whole_list_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    put(tmp_path / "in", "ant/1.png", *(f"ant/{n}.gif" for n in range(22)))
    (tmp_path / "in" / "ant" / os.fsdecode(b"\xff\x1b[31m.txt")).write_text("")
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "  24 files or records found: 1 packed, 23 left out (22 shards can contain jpg" in said
    assert "; 1 not an image)" in said and f"  and 3 more, listed in {tmp_path}/out/left_out.tsv" in said
    assert "\x1b" not in said and "\\udcff\\x1b[31m.txt" in (tmp_path / "out" / "left_out.tsv").read_text()
    put(tmp_path / "all", "ant/1.png")
    main(["pack", str(tmp_path / "all"), str(tmp_path / "out2")])
    assert "  1 files or records found: 1 packed\n" in capsys.readouterr().out
    assert not (tmp_path / "out2" / "left_out.tsv").exists()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("train/steam/1.png bus/city/2.png", "'train' in .* may be a split or, like bus, a class"),
        ("train/a/1.png Training/a/2.png", "has Training and train for the same split"),
        ("train/a/1.png val/a/2.png valid/a/3.png", "has val and valid for the same split"),
        ("train/1.png val/2.png", "has train, val, but no folder train with training images"),
        ("val/a/1.png test/a/2.png", "has test, val, but no folder train"),
        ("train.X1/a/1.png train.X2/b/2.png val.X/a/3.png", "look like splits"),
        ("a/train/1.png a/val/2.png b/train/3.png", "'a' in .* has splits inside a class"),
        ("ant/1.png bee/2.png test/ant/3.png", "'test' in .* has class folders that are beside it as well"),
        ("train/a/1.png val/2.png", "val/2.png is not in a class folder"),
        ("line\nbreak/1.png", "has a line break or is not UTF-8; rename it"),
        (os.fsdecode(b"\xff/1.png"), "has a line break or is not UTF-8; rename it"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused(names: str, sentence: str, tmp_path: Path) -> None:
    put(tmp_path / "in", *names.split(" "))
    with pytest.raises(DataError, match=sentence):
        pack(tmp_path / "in", tmp_path / "out")


def test_classes_called_like_a_split_stay_classes_and_are_said(tmp_path: Path) -> None:
    put(tmp_path / "in", "test/1.png", "tube/2.png", "train/3.png")
    packed = pack(tmp_path / "in", tmp_path / "a")
    assert packed.classes == ["test", "train", "tube"] and packed.samples == {"train": 3}
    assert packed.notes == ["folder 'test' is packed as a class", "folder 'train' is packed as a class"]
    put(tmp_path / "deep", "train/val/1.png", "train/test/2.png", "val/val/3.png")
    packed = pack(tmp_path / "deep", tmp_path / "b")
    assert packed.classes == ["test", "val"] and packed.samples == {"train": 2, "val": 1}


def test_test_images_without_classes_beside_train_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "in", "train/a/1.png", "test/2.png", "test/3.png")
    rest = accounted(tmp_path / "in", pack(tmp_path / "in", tmp_path / "out"))
    assert set(rest.values()) == {"in folder 'test' beside 'train', which has no class folders"} and len(rest) == 2


def test_classes_without_a_training_image_are_said(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "l.txt").write_text("1.png 0\n2.png 3\n")
    packed = pack(tmp_path / "l.txt", tmp_path / "out")
    assert packed.notes == ["no training image is of 2 classes: 1, 2"]


def test_test_records_and_files_beside_records_are_listed(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_records(tmp_path / "in" / f"{name}-00000-of-00001", [photo(1, 1), photo(2, 2)])
    (tmp_path / "in" / "notes.md").write_text("")
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert packed.samples == {"train": 2}
    assert packed.left_out == [("test-00000-of-00001", "a file of the test split"), ("notes.md", "not a TFRecord")]
    with pytest.raises(DataError, match="only TFRecords of a test split"):
        pack(tmp_path / "in" / "test-00000-of-00001", tmp_path / "out2")


# -- links ------------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    put(tmp_path / "in", "ant/1.png", "bee/2.png")
    put(tmp_path / "elsewhere", "3.png")
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "dog").symlink_to("cat")
    (tmp_path / "in" / "ant" / "loop").symlink_to("..")
    (tmp_path / "in" / "ant" / "here").symlink_to(".")
    (tmp_path / "in" / "ant" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "a_bee").symlink_to("bee")
    (tmp_path / "elsewhere" / "back").symlink_to("../in")
    (tmp_path / "in" / "ant" / "4.png").symlink_to("../bee/2.png")
    packed = pack(tmp_path / "in", tmp_path / "out")
    assert packed.classes == ["ant", "bee", "cat"] and packed.samples == {"train": 4}
    assert contents(tmp_path / "out", "train").keys() == {"ant/1", "ant/4", "bee/2", "cat/3"}
    around, read = "a link to a folder that it is in", "a link to folder '{}', which is read as well"
    assert dict(packed.others) == {
        "ant/here": around,
        "ant/loop": around,
        "ant/up": around,
        "a_bee": read.format("bee"),
        "dog": read.format("cat"),
        "cat/back": read.format("."),
    }


def a_tar(path: Path, links: dict[str, tuple[bytes, str]], **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./in/{name.replace('_', '/')}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return path


def test_links_inside_a_tar_are_resolved(tmp_path: Path) -> None:
    links = {
        "./in/bee/hard.png": (tarfile.LNKTYPE, "./in/ant/1.png"),
        "./in/bee/soft.png": (tarfile.SYMTYPE, "../ant/1.png"),
        "./in/bee/twice.png": (tarfile.SYMTYPE, "soft.png"),
        "./in/bee/through.png": (tarfile.SYMTYPE, "../cat/2.png"),
        "./in/cat": (tarfile.SYMTYPE, "bee"),
        "./in/bee/readme.txt": (tarfile.SYMTYPE, "/etc/passwd"),
        "./in/bee/pipe": (tarfile.FIFOTYPE, ""),
    }
    packed = pack(a_tar(tmp_path / "in.tar", links, ant_1=picture(1), bee_2=picture(2)), tmp_path / "out")
    found = contents(tmp_path / "out", "train")
    assert {key: data[0] == picture(1) for key, data in found.items()} == {
        "ant/1": True,
        "bee/2": False,
        "bee/hard": True,
        "bee/soft": True,
        "bee/through": False,
        "bee/twice": True,
    }
    assert {name: reason.partition(",")[0] for name, reason in accounted(tmp_path / "in.tar", packed).items()} == {
        "in/cat": "a link to folder 'in/bee'",
        "in/bee/readme.txt": "a link to 'etc/passwd'",
        "in/bee/pipe": "not a regular file",
    }


@pytest.mark.parametrize(
    ("name", "target"),
    [("in/ant/2.png", "/data/2.png"), ("in/ant/2.png", "2.png"), ("in/bee", "../elsewhere"), ("in/ant/2.png", "3.png")],
)
def test_links_to_what_a_tar_does_not_contain_are_refused(name: str, target: str, tmp_path: Path) -> None:
    tar = a_tar(tmp_path / "in.tar", {name: (tarfile.SYMTYPE, target)}, ant_1=picture(1))
    with pytest.raises(
        DataError, match=rf"'{name}' in .* is a link to .* which the tar does not contain; make the tar"
    ):
        pack(tar, tmp_path / "out")


def test_the_last_member_of_a_name_counts_as_when_a_tar_is_extracted(tmp_path: Path) -> None:
    with tarfile.open(a_tar(tmp_path / "in.tar", {}, ant_1=picture(1)), "a") as tar:
        member = tarfile.TarInfo("in/ant/1.png")
        member.size = len(picture(2))
        tar.addfile(member, io.BytesIO(picture(2)))
    packed = pack(tmp_path / "in.tar", tmp_path / "out")
    assert contents(tmp_path / "out", "train")["ant/1"][0] == picture(2)
    assert packed.others == [("in/ant/1.png", "replaced by a later member of the same name")]


# -- shards -----------------------------------------------------------------------------------------------------------


def test_a_glob_over_several_splits_is_divided_as_the_folder_is(tmp_path: Path) -> None:
    put(tmp_path / "in", "train/a/1.png", "dev/a/2.png")
    pack(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "val-000000.tar").rename(tmp_path / "out" / "dev-000000.tar")
    (tmp_path / "out" / "test-000000.tar").touch()
    names = {
        split: [Path(shard).name for shard in find_shards(f"{tmp_path}/out/*.tar", split)] for split in ("train", "val")
    }
    assert names == {"train": ["train-000000.tar"], "val": ["dev-000000.tar"]}
    assert len(find_shards(f"{tmp_path}/out/d*.tar", "train")) == 1, "given by name"
    with pytest.raises(DataError, match="no shard of split 'train'"):
        find_shards(f"{tmp_path}/out/[dt]e*.tar", "train")
