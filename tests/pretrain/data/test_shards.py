"""A shard gives every one of its samples, by number, or is refused by name; it is never silently shorter."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from pretrain.data.shards import ShardSet, find_shards
from shared.errors import BadSample, DataError
from shared.feeding.plan import rng_for
from tests.pretrain.data.of_shards import keep, picture, samples, write_tar

pytestmark = pytest.mark.usefixtures("cache")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_every_sample_is_found_by_its_number(folder):
    data = ShardSet(find_shards(folder, "train"), keep)
    assert data.sizes == [5, 3] and len(data) == 8 and data.num_classes == 8
    assert data.labels.tolist() == list(range(8))
    for n in (7, 0, 5, 4):
        image, label = data.load(n, rng_for(0, 0, n))
        assert label == n and image.shape == (3, 5, 6 + n) and image[:, 0, 0].tolist() == [n * 20, 10, 20]
        assert bytes(data.read(n)) == picture(n)
        assert data.name(n) == f"train-00000{int(n > 4)}.tar:{n:04d}"


def test_the_view_gets_the_random_numbers_of_the_sample(folder):
    data = ShardSet(find_shards(folder, "val"), lambda image, rng: torch.tensor(rng.integers(1000, size=3)))
    expected = rng_for(4, 2, 1).integers(1000, size=3)
    assert data.load(1, rng_for(4, 2, 1))[0].tolist() == expected.tolist()


def test_views_and_labels_are_stacked_and_tuples_of_views_stay_tuples(folder):
    data = ShardSet(find_shards(folder, "train"), lambda image, rng: image[:, :4, :4])
    views, labels = data.collate([data.load(i, rng_for(0, 0, i)) for i in (2, 6)])
    assert views.shape == (2, 3, 4, 4) and views.dtype == torch.uint8
    assert labels.tolist() == [2, 6] and labels.dtype == torch.int64
    data.view = lambda image, rng: (image[:, :4, :4], (image[:, :2, :2],))
    (large, (small,)), _ = data.collate([data.load(i, rng_for(0, 0, i)) for i in (2, 6)])
    assert large.shape == (2, 3, 4, 4) and small.shape == (2, 3, 2, 2)


def test_an_undecodable_image_is_a_bad_sample_with_its_name(folder):
    write_tar(folder / "train-000001.tar", [("a/b.jpg", b"\xff\xd8\xff nothing"), ("a/b.cls", b"1")])
    data = ShardSet(find_shards(folder, "train"), keep)
    with pytest.raises(BadSample) as bad:
        data.load(5, rng_for(0, 0, 5))
    assert bad.value.name == "train-000001.tar:a/b" and "JPEG" in bad.value.reason


def test_a_shard_set_goes_on_in_forked_and_pickled_copies(folder):
    data = ShardSet(find_shards(folder, "train"), keep)
    first = data.read(3)
    assert pickle.loads(pickle.dumps(data)).read(3) == first  # noqa: S301 - what a spawned worker does
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int([data.read(n) for n in (6, 3)] != [picture(6), first])
        finally:
            os._exit(code)
    assert data.read(6) == picture(6)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_few_files_stay_open_however_many_shards_there_are(tmp_path):
    shards = [write_tar(tmp_path / f"{n:03d}.tar", samples(n % 9, 1)) for n in range(90)]
    data = ShardSet(shards, keep)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(90):
        data.read(n)
    assert len(os.listdir("/proc/self/fd")) - before <= 64


def test_webdataset_reads_the_same_samples(folder):
    wds = pytest.importorskip("webdataset")
    shards = find_shards(folder, "train")
    data = ShardSet(shards, keep)
    theirs = list(wds.WebDataset(shards, shardshuffle=False))
    assert [(s["__key__"], s["png"], int(s["cls"])) for s in theirs] == [
        (data.name(n).partition(":")[2], bytes(data.read(n)), int(data.labels[n])) for n in range(len(data))
    ]


# -- shards of others -------------------------------------------------------------------------------------------------


def test_other_members_are_ignored_and_never_decoded(tmp_path):
    extra = [("0.json", b"{"), ("0.txt", b"x"), ("README", b"x"), ("0.pkl", b"c__builtin__\nexit\n("), (".0.jpg", b"")]
    path = write_tar(tmp_path / "a.tar", [*extra, *samples(0, 2), ("0000.seg.png", picture(3))])
    assert ShardSet([path], keep).sizes == [2]


def test_long_names_capital_extensions_folders_and_scattered_members_are_understood(tmp_path):
    long = "d.ir/" * 30 + "n" * 120
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        files = [
            (f"{long}.JPEG", picture(1, "JPEG")),
            ("b\u00e9.PNG", picture(2)),
            (f"{long}.cls", b"\xef\xbb\xbf1\r\n"),
        ]
        path = write_tar(tmp_path / f"{form}.tar", [*files, ("b\u00e9.cls", b"0")], format=form)
        with tarfile.open(path, "a", format=form) as tar:
            folder = tarfile.TarInfo("folder.jpg")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        data = ShardSet([path], keep)
        assert data.labels.tolist() == [1, 0] and data.name(0) == f"{path.name}:{long}"
        assert data.name(1) == f"{path.name}:b\u00e9"
        assert data.load(0, rng_for(0, 0, 0))[0].shape == (3, 5, 7)


def test_shards_without_classes_are_for_methods_that_need_none(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.webp", picture(1, "WEBP")), ("b.png", picture(2))])
    assert ShardSet([path], keep, labeled=False).labels.tolist() == [-1, -1]
    with pytest.raises(DataError, match="has no classes"):
        ShardSet([path], keep)


ODD = {
    "no class": ([*samples(0, 2), ("c.png", picture(1))], "'c' in shard .* has no class"),
    "no image": ([*samples(0, 2), ("c.cls", b"1")], "'c' in shard .* has a class but no jpg"),
    "word": ([("c.png", picture(1)), ("c.cls", b"cat")], ":c is 'cat', not a number"),
    "negative": ([("c.png", picture(1)), ("c.cls", b"-1")], ":c is '-1', not a number"),
    "fraction": ([("c.png", picture(1)), ("c.cls", b"1.5")], ":c is '1.5', not a number"),
    "empty class": ([("c.png", picture(1)), ("c.cls", b"")], ":c is '', not a number"),
    "twice": ([*samples(0, 2), ("0001.png", picture(1))], "two members for key '0001'"),
    "two images": ([*samples(0, 2), ("0001.jpg", picture(1))], "two members for key '0001'"),
    "dots": ([*samples(0, 2), ("my.cat.jpg", picture(1))], "'my.cat.jpg' in shard .* first dot"),
    "nothing": ([("a.txt", b"")], "contains no jpg"),
    "empty": ([], "contains no jpg"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_shard_is_refused_naming_shard_and_key(kind, tmp_path):
    files, sentence = ODD[kind]
    path = write_tar(tmp_path / "odd.tar", files)
    with pytest.raises(DataError, match=sentence) as refusal:
        ShardSet([path], keep)
    assert "odd.tar" in str(refusal.value) and not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_place_of_images_are_refused(kind, tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(0, 1))
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = kind, "0000.png"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"'b.png' in shard .*a.tar"):
        ShardSet([path], keep)


def test_a_class_beyond_the_network_or_the_class_list_is_refused_naming_the_key(folder):
    with pytest.raises(DataError, match=r"class 5 of train-000001\.tar:0005 is outside the 5 classes"):
        ShardSet(find_shards(folder, "train"), keep, num_classes=5)
    (folder / "classes.txt").write_text("".join(f"name {n}\n" for n in range(7)))
    with pytest.raises(DataError, match=r"class 7 of train-000001\.tar:0007"):
        ShardSet(find_shards(folder, "train"), keep, num_classes=100)
    data = ShardSet(find_shards(folder, "val"), keep)
    assert data.num_classes == 7 and data.classes == [f"name {n}" for n in range(7)]


# -- finding shards ---------------------------------------------------------------------------------------------------


def names(shards: list[str]) -> list[str]:
    return [Path(shard).name for shard in shards]


def test_a_folder_has_its_splits_by_name(folder):
    assert names(find_shards(folder, "train")) == ["train-000000.tar", "train-000001.tar"]
    assert names(find_shards(folder, "val")) == ["val-000000.tar"]
    assert len(find_shards(folder, None)) == 3


def test_foreign_names_are_train_unless_they_mention_another_split(tmp_path):
    for name in (
        "imagenet1k-validation-00.tar",
        "imagenet1k-train-00.tar",
        "extra.tar",
        "x_test_1.tar",
        "trainable.tar",
    ):
        (tmp_path / name).touch()
    assert names(find_shards(tmp_path, "train")) == ["extra.tar", "imagenet1k-train-00.tar", "trainable.tar"]
    assert names(find_shards(tmp_path, "val")) == ["imagenet1k-validation-00.tar"]


def test_files_globs_ranges_and_lists_are_spelled_out(folder):
    first, second = (str(folder / f"train-00000{n}.tar") for n in (0, 1))
    assert find_shards(first, "train") == [first]
    assert find_shards(f"{folder}/train-*.tar", "train") == [first, second]
    assert find_shards(f"{folder}/train-{{000000..000001}}.tar", "train") == [first, second]
    assert find_shards(f"{second}::{first}", "train") == [second, first]
    assert find_shards(first, "val") == []
    assert find_shards("https://host/a-{08..10}.tar", "train") == [
        f"https://host/a-{n}.tar" for n in ("08", "09", "10")
    ]


def test_an_image_folder_is_sent_to_pack(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="is an image folder: pack it first with `pretrain pack FOLDER OUT`"):
        find_shards(tmp_path, "train")


@pytest.mark.parametrize(
    "path", ["pipe:touch {}/made", "pipe://touch {}/made", "ssh://a/b.tar", "github://x", "PIPE:ls", "reference://b"]
)
def test_no_scheme_but_known_ones_is_followed_and_no_process_is_started(path, tmp_path):
    path = path.format(tmp_path)
    for shards in (path, f"{path}::{path}", f"https://host/a.tar::{path}"):
        with pytest.raises(DataError, match="local files or addresses that start with https://"):
            find_shards(shards, "train")
    assert not (tmp_path / "made").exists()


def test_missing_paths_and_empty_folders_are_refused(tmp_path, folder):
    for path, sentence in (
        (tmp_path / "nowhere", "there is nothing at"),
        (f"{tmp_path}/no-*.tar", "there is nothing at"),
        (f"{folder}/train-{{000000..000002}}.tar", "there is nothing at .*000002"),
        (f"{folder}/train-{{000009..000002}}.tar", "write it as .000000..000009."),
        (f"{folder}::https://host/a.tar", "mixes"),
        ("", "not|neither"),
    ):
        with pytest.raises(DataError, match=sentence):
            find_shards(path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"contains no \.tar shards"):
        find_shards(tmp_path / "empty", "train")
    (tmp_path / "empty" / "val-0.tar").touch()
    with pytest.raises(DataError, match="no shard of split 'train'"):
        find_shards(tmp_path / "empty", "train")
