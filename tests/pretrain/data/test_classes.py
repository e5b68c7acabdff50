"""Labels mean what the class names next to them say, in every source, in training and validation, or are refused."""

from __future__ import annotations

import functools
import http.server
import logging
import shutil
import tarfile
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pretrain.data.classes import read_classes
from pretrain.data.labeled import open_labeled
from pretrain.data.shards import ShardSet, find_shards
from pretrain.data.stream import RemoteShards, remote_classes
from pretrain.recipe import PretrainRecipe
from pretrain.training.train import class_lines, open_data
from shared.errors import DataError
from shared.feeding.image import decode_image
from shared.feeding.limit import limited
from shared.recipes.recipe import make

COLORS = {"ant": 10, "bee": 20, "cat": 30, "dog": 40}
OURS = ["ant", "bee", "cat"]


def shard(path: Path, classes: list[str] | None, labels: dict[str, int]) -> str:
    """A shard with an image of each of these names and labels, next to a class list; returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, label in labels.items():
            buffer = BytesIO()
            Image.new("RGB", (8, 8), (COLORS[name], 0, 0)).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("cls", b"%d" % label)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    if classes is not None:
        (path.parent / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return str(path.parent)


def keep(image: Any, rng: Any) -> Any:
    return image


def read(samples: Any) -> dict[str, str]:
    """The name that the label of each image stands for, by the name that its color stands for."""
    colors = {value: name for name, value in COLORS.items()}
    loaded = [samples.load(n, None) for n in range(sum(samples.sizes))]
    return {colors[int(image[0, 0, 0])]: samples.classes[label] for image, label in loaded}


def opened(data_path: Any, val_path: Any = None, **more: Any) -> Any:
    values = {"data_path": str(data_path), "val_path": val_path and str(val_path), "method": "supervised"}
    return open_data(make(PretrainRecipe, values | more))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("theirs", "labels"),
    [
        (["cat", "bee", "ant"], {"ant": 2, "bee": 1, "cat": 0}),  # another order
        (["bee", "cat"], {"bee": 0, "cat": 1}),  # fewer
        (["dog", "cat", "ant", "bee"], {"bee": 3, "cat": 1}),  # more, of which no image is
        (["Bee ", "c at", "ANT"], {"ant": 2, "cat": 1}),  # other case and blanks
    ],
)
@pytest.mark.parametrize("method", ["supervised", "vicreg"])
def test_validation_labels_are_those_of_their_names(theirs: list, labels: dict, method: str, tmp_path: Path) -> None:
    train = shard(tmp_path / "t" / "train-0.tar", OURS, {"ant": 0, "bee": 1, "cat": 2})
    val = shard(tmp_path / "v" / "val-0.tar", theirs, labels)
    data = opened(train, val, method=method)
    assert data.classes == OURS and data.num_classes == 3
    asked = data.val if method == "supervised" else open_labeled(train, val, keep).asked
    assert asked.num_classes == 3 and read(asked) == {name: name for name in labels}


def test_sources_are_joined_by_name_with_the_names_that_only_the_second_has(tmp_path: Path) -> None:
    one = shard(tmp_path / "one" / "a-0.tar", ["ant", "bee"], {"ant": 0, "bee": 1})
    two = shard(tmp_path / "two" / "b-0.tar", ["cat", "ant", "dog"], {"cat": 0, "ant": 1, "dog": 2})
    val = shard(tmp_path / "val" / "c-0.tar", ["dog", "cat", "bee"], {"dog": 0, "cat": 1, "bee": 2})
    data = opened(f"{one}::{two}", val)
    assert data.classes == ["ant", "bee", "cat", "dog"] and data.num_classes == 4
    assert read(data.train) == read(ShardSet(find_shards(f"{two}::{one}", "train"), keep)) == {n: n for n in COLORS}
    assert read(data.val) == {"dog": "dog", "cat": "cat", "bee": "bee"}
    before = data.train.fingerprint
    (tmp_path / "two" / "classes.txt").write_text("dog\nant\ncat\n")
    assert opened(f"{one}::{two}").train.fingerprint != before, "a resumed run must notice"


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        ((OURS, {"ant": 0}), (None, {"ant": 0}), "only label numbers, so they cannot be matched; put a classes.txt"),
        ((None, {"ant": 0}), (OURS, {"ant": 0}), "only label numbers, so they cannot be matched; put a classes.txt"),
        ((OURS, {"ant": 0}), (["ant", "dog"], {"ant": 0, "dog": 1}), "do not have class dog; give"),
        ((OURS, {"ant": 0}), (["bee", "ant", "ant"], {"ant": 2}), "'ant' is listed twice in the validation images"),
        ((["ant", "Ant"], {"ant": 0}), (["ant"], {"ant": 0}), "'ant' is listed twice in the class list"),
        ((None, {"ant": 0, "bee": 1}), (None, {"ant": 0, "bee": 2}), "class 2 of val-0.tar:bee is outside the 2"),
        ((OURS, {"ant": 0}), (["ant"], {"ant": 0, "bee": 1}), "class 1 of val-0.tar:bee is outside the 1 classes"),
    ],
)
def test_what_cannot_be_matched_is_refused(train: tuple, val: tuple, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        opened(shard(tmp_path / "t" / "train-0.tar", *train), shard(tmp_path / "v" / "val-0.tar", *val))


def test_sources_with_and_without_names_are_refused_where_labels_count(tmp_path: Path) -> None:
    one = shard(tmp_path / "one" / "a-0.tar", OURS, {"ant": 0, "bee": 1})
    two = shard(tmp_path / "two" / "b-0.tar", None, {"cat": 0})
    with pytest.raises(DataError, match=rf"put a classes.txt into {two}, one name per line"):
        opened(f"{one}::{two}")
    assert len(opened(f"{one}::{two}", method="vicreg").train) == 3
    with pytest.raises(DataError, match="so their classes cannot be matched"):
        open_labeled(f"{one}::{two}", one, keep)


def test_a_list_that_is_the_same_may_repeat_a_name_and_identical_lists_need_no_matching(tmp_path: Path) -> None:
    twice = ["crane", "bee", "crane"]  # as ImageNet has
    train = shard(tmp_path / "t" / "train-0.tar", twice, {"ant": 0, "bee": 1, "cat": 2})
    val = shard(tmp_path / "v" / "val-0.tar", twice, {"cat": 2})
    assert opened(train, val).val.labels.tolist() == [2]


def test_split_folders_share_the_list_of_the_folder_around_them(tmp_path: Path) -> None:
    shard(tmp_path / "d" / "Train" / "0.tar", None, {"ant": 0, "cat": 2})
    shard(tmp_path / "d" / "val" / "0.tar", None, {"cat": 2})
    (tmp_path / "d" / "classes.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\ncat\r\n\r\n")
    data = opened(tmp_path / "d" / "Train", tmp_path / "d" / "val")
    assert data.classes == OURS and read(data.val) == {"cat": "cat"}
    assert read_classes(tmp_path) is None


def test_classes_without_an_image_are_said(tmp_path: Path) -> None:
    train = shard(tmp_path / "t" / "train-0.tar", OURS, {"ant": 0, "cat": 2})
    val = shard(tmp_path / "v" / "val-0.tar", OURS, {"bee": 1, "cat": 2})
    data = opened(train, val)
    assert class_lines(data) == ["no training image is of 1 class: bee", "no validation image is of 1 class: ant"]
    few = data._replace(train=limited(data.train, 1), val=None)
    assert class_lines(few) == ["no training image is of 2 classes: bee, cat"]
    assert not class_lines(opened(train, val, method="vicreg")._replace(num_classes=None))


# -- remote -----------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="the program curl is not here")
def test_streamed_shards_have_the_names_next_to_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard(tmp_path / "one" / "0.tar", ["bee", "ant"], {"ant": 1, "bee": 0})
    shard(tmp_path / "two" / "0.tar", ["cat", "bee"], {"cat": 0, "bee": 1})
    bare = shard(tmp_path / "bare" / "0.tar", None, {"cat": 0})
    val = shard(tmp_path / "val" / "0.tar", ["cat", "bee"], {"cat": 0, "bee": 1})
    handler = functools.partial(Quiet, directory=str(tmp_path))
    caplog.set_level(logging.INFO)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        urls = [f"{address}/one/0.tar", f"{address}/two/0.tar"]
        data = opened("::".join(urls), val, samples=4)
        stream: RemoteShards = data.train
        assert stream.classes == data.classes == ["bee", "ant", "cat"] and data.num_classes == 3
        found = [(image[0, 0, 0].item(), label) for url in urls for image, label in few(stream, url)]
        assert sorted(found) == [(10, 1), (20, 0), (20, 0), (30, 2)]
        assert data.val.labels.tolist() == [2, 0] and "matched by name" in caplog.text
        assert remote_classes([f"{address}/bare/0.tar?key=1"]) == {f"{address}/bare": None}
        with pytest.raises(DataError, match=r"put a classes\.txt next to those shards"):
            opened(f"{address}/bare/0.tar", val, samples=4, num_classes=2)
        assert opened(f"{address}/bare/0.tar", bare, samples=4, num_classes=2).num_classes == 2
        server.shutdown()


def few(stream: RemoteShards, url: str) -> list:
    return [(decode_image(data, upright=True), label) for _, data, label in stream.samples(url)]
