"""A packing that was interrupted goes on to the same shards, and any number of processes writes the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import pretrain.packing.shard_writer
from pretrain.data.shard_index import index_places
from pretrain.packing.pack import pack
from shared.errors import DataError, Stopped
from tests.pretrain.packing.of_images import contents, picture, put


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def stop_at(count: int):
    def interrupt(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return interrupt


def test_a_packing_interrupted_before_its_first_shard_leaves_nothing_behind(folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "out", shard_size=4, progress=stop_at(3))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_packing_goes_on_with_the_shards_it_has(jobs, folder, tmp_path):
    pack(folder, tmp_path / "straight", shard_size=4)
    with pytest.raises(
        Stopped, match="packing was interrupted; 3 finished shards kept, run the same command again to continue"
    ):
        pack(folder, tmp_path / "out", shard_size=4, progress=stop_at(15))
    assert sorted(os.listdir(tmp_path)) == [".out.partial", "in", "straight"]
    seen = []
    packed = pack(folder, tmp_path / "out", shard_size=4, jobs=jobs, progress=lambda *done: seen.append(done))
    assert packed.kept == 3 and packed.shards == 6 and packed.samples == {"train": 24}
    assert min(seen) >= (12, 24) and seen[-1] == (24, 24)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "straight")
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "straight"]


def test_half_written_files_of_a_killed_packing_are_not_in_its_shards(folder, tmp_path):
    pack(folder, tmp_path / "straight", shard_size=4)
    with pytest.raises(Stopped):
        pack(folder, tmp_path / "out", shard_size=4, progress=stop_at(15))
    for name in (".train-000003.index.json.77", "train-000009.tar.partial"):
        (tmp_path / ".out.partial" / "shards" / name).write_bytes(b"half")
    assert pack(folder, tmp_path / "out", shard_size=4).kept == 3
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "straight")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_packing_goes_on_to_the_same_bytes(jobs, folder, tmp_path):
    pack(folder, tmp_path / "straight", shard_size=2)

    def kill(done: int, total: int) -> None:
        if len(list((tmp_path / ".out.partial" / "notes").glob("*.json"))) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            quick = pretrain.packing.shard_writer.image_size
            pretrain.packing.shard_writer.image_size = lambda data: (time.sleep(0.02), quick(data))[1]
            pack(folder, tmp_path / "out", shard_size=2, jobs=jobs, progress=kill)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    packed = pack(folder, tmp_path / "out", shard_size=2)
    assert 2 <= packed.kept < 12 == packed.shards
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "straight")


def test_a_killed_packing_does_not_believe_what_changed_since(folder, tmp_path):
    with pytest.raises(Stopped):
        pack(folder, tmp_path / "out", shard_size=4, progress=stop_at(15))
    shards = sorted((tmp_path / ".out.partial" / "shards").glob("*.tar"))
    first = next(name for name in folder.rglob("*.jpg") if name.read_bytes() in shards[0].read_bytes())
    first.write_bytes(picture(99, "JPEG"))
    shards[1].write_bytes(shards[1].read_bytes()[:-512])
    assert pack(folder, tmp_path / "out", shard_size=4).kept == 1
    assert picture(99, "JPEG") in [data for data, _ in contents(tmp_path / "out", "train").values()]
    pack(folder, tmp_path / "straight", shard_size=4)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "straight")


@pytest.mark.parametrize("renamed", range(4))
def test_a_packing_killed_while_it_closes_gaps_between_shards_goes_on_to_the_same_bytes(
    renamed, folder, tmp_path, monkeypatch
):
    one_bad = next(name for name in folder.rglob("*.jpg") if name.stem == "5")
    one_bad.write_bytes(b"<html>")
    pack(folder, tmp_path / "straight", shard_size=1)
    left = iter(range(renamed))

    def places(shard):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return index_places(shard)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("pretrain.packing.pack.index_places", places)
        pack(folder, tmp_path / "out", shard_size=1)
    assert pack(folder, tmp_path / "out", shard_size=1).samples == {"train": 23}
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "straight")


def test_an_unfinished_packing_of_something_else_is_not_mixed_in(folder, tmp_path):
    with pytest.raises(Stopped):
        pack(folder, tmp_path / "out", shard_size=4, progress=stop_at(15))
    put(tmp_path / "other", "cat/1.jpg")
    for place, size in ((folder, 5), (tmp_path / "other", 4)):
        with pytest.raises(DataError, match=r"\.out\.partial has an unfinished packing of other images or with other"):
            pack(place, tmp_path / "out", shard_size=size)
    assert pack(folder, tmp_path / "out", shard_size=4).kept == 3


def test_two_packings_of_one_folder_do_not_meet(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.feeding.unfinished.PATIENCE", 0.0)

    def meet(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another packing is writing to"):
            pack(folder, tmp_path / "out")

    pack(folder, tmp_path / "out", progress=meet)
    assert len(contents(tmp_path / "out", "train")) == 24


@pytest.mark.parametrize("options", [{}, {"val_share": 0.3, "short_side": 4, "verify": True}])
def test_any_number_of_jobs_writes_the_same_bytes(options, folder, tmp_path):
    for n in range(4):  # a shard without a readable image leaves no gap in the numbers
        (folder / "ant" / f"{n}.jpg").write_bytes(b"<html>")
    one = pack(folder, tmp_path / "one", shard_size=1, jobs=1, **options)
    several = pack(folder, tmp_path / "several", shard_size=1, jobs=3, **options)
    assert one == several and sum(one.samples.values()) == 20 == one.shards and len(one.skipped) == 4
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "several")
    numbers = sorted(int(path.stem[-6:]) for path in (tmp_path / "one").glob("train-*.tar"))
    assert numbers == list(range(one.samples["train"]))


def test_a_refusal_in_a_process_arrives_as_its_sentence(folder, tmp_path, monkeypatch):
    def refuse(self, entry):
        raise DataError(f"{entry.name} is no good; take another")

    monkeypatch.setattr("pretrain.packing.shard_writer.Reader.read", refuse)
    with pytest.raises(DataError, match=r"^\w+/\d.jpg is no good; take another$"):
        pack(folder, tmp_path / "out", shard_size=4, jobs=2)
    assert os.listdir(tmp_path) == ["in"]
