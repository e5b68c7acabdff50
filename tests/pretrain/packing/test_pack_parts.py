"""A packing in parts, in any order and killed at will, ends in the files of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.packing.pack import pack
from shared.errors import DataError, UsageError
from shared.feeding.parts import Part
from tests.pretrain.packing.of_images import picture

ROOT = Path(__file__).parents[3]


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def packed_at_once(folder: Path, out: Path, **options) -> dict[str, bytes]:
    pack(folder, out, jobs=2, **options)
    return bytes_of(out)


def test_parts_in_any_order_and_settled_are_the_files_of_two_jobs(folder, tmp_path):
    for n in range(4):  # a shard without a readable image leaves no gap in the numbers
        (folder / "ant" / f"{n}.jpg").write_bytes(b"<html>")
    options = {"shard_size": 1, "val_share": 0.3, "short_side": 4, "fingerprints": True}
    straight = packed_at_once(folder, tmp_path / "straight", **options)
    for number in (3, 1, 2):
        some = pack(folder, tmp_path / "out", part=Part(number, 3), **options)
        assert some.shards + len(some.skipped) == 8 and not (tmp_path / "out").exists()
    whole = pack(folder, tmp_path / "out", settle=True, **options)
    assert sum(whole.samples.values()) == 20 and len(whole.skipped) == 4 and whole.kept == 0
    assert bytes_of(tmp_path / "out") == straight
    assert sorted(os.listdir(tmp_path)) == ["in", "out", "straight"]


def test_parts_write_at_the_same_time_and_are_not_waited_for(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.feeding.unfinished.PATIENCE", 0.0)
    straight = packed_at_once(folder, tmp_path / "straight", shard_size=4)
    half = tmp_path / ".out.partial" / "shards" / "train-000000.tar.elsewhere-7.partial"

    def meanwhile(done: int, total: int) -> None:
        if done == 1:
            half.write_bytes(b"half")  # of a part that is being written elsewhere, or was killed
            pack(folder, tmp_path / "out", shard_size=4, part=Part(2, 2))
            assert half.is_file()
            with pytest.raises(DataError, match="another packing is writing to"):
                pack(folder, tmp_path / "out", shard_size=4, settle=True)
            pack(folder, tmp_path / "out", shard_size=4, part=Part(1, 2))  # the same part again, by mistake

    pack(folder, tmp_path / "out", shard_size=4, part=Part(1, 2), progress=meanwhile)
    pack(folder, tmp_path / "out", shard_size=4, settle=True)
    assert bytes_of(tmp_path / "out") == straight


def test_a_part_that_is_killed_goes_on_and_settling_names_the_parts_that_are_missing(folder, tmp_path):
    straight = packed_at_once(folder, tmp_path / "straight", shard_size=2)
    with pytest.raises(DataError, match="there are no parts of .*out to settle"):
        pack(folder, tmp_path / "out", shard_size=2, settle=True)
    pack(folder, tmp_path / "out", shard_size=2, part=Part(2, 4))
    notes = tmp_path / ".out.partial" / "notes"
    child = os.fork()
    if child == 0:
        try:
            die = lambda done, total: len(list(notes.iterdir())) < 4 or os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            pack(folder, tmp_path / "out", shard_size=2, part=Part(1, 4), progress=die)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    lacking = "8 of 12 shards of .*out are missing or not those of this input, of --part 1/4, 3/4, 4/4; run these parts"
    with pytest.raises(DataError, match=lacking):
        pack(folder, tmp_path / "out", shard_size=2, settle=True)
    assert pack(folder, tmp_path / "out", shard_size=2, part=Part(1, 4)).kept == 1
    assert pack(folder, tmp_path / "out", shard_size=2, part=Part(1, 1)).kept == 6  # the rest in another division
    pack(folder, tmp_path / "out", shard_size=2, settle=True)
    assert bytes_of(tmp_path / "out") == straight


def test_settling_believes_no_shard_of_other_images_or_options(folder, tmp_path):
    pack(folder, tmp_path / "out", shard_size=4, part=Part(1, 2))
    with pytest.raises(DataError, match="other images or with other options"):
        pack(folder, tmp_path / "out", shard_size=5, part=Part(2, 2))
    pack(folder, tmp_path / "out", shard_size=4, part=Part(2, 2))
    shards = sorted((tmp_path / ".out.partial" / "shards").glob("*.tar"))
    first = next(name for name in folder.rglob("*.jpg") if name.read_bytes() in shards[0].read_bytes())
    first.write_bytes(picture(99, "JPEG"))
    shards[1].write_bytes(shards[1].read_bytes()[:-512])
    next(shards[2].parent.glob("train-000002.digests-*.npy")).unlink()
    with pytest.raises(DataError, match="3 of 6 shards .* of --part 1/2, 2/2;"):
        pack(folder, tmp_path / "out", shard_size=4, settle=True)
    for number in (1, 2):
        pack(folder, tmp_path / "out", shard_size=4, part=Part(number, 2))
    pack(folder, tmp_path / "out", shard_size=4, settle=True)
    assert bytes_of(tmp_path / "out") == packed_at_once(folder, tmp_path / "straight", shard_size=4)


def test_a_full_disk_beside_a_shard_is_not_taken_for_a_finished_one(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left on device"):
        patch.setattr("pretrain.packing.shard_writer.write_digests", lambda *_: None)
        pack(folder, tmp_path / "out", shard_size=4, part=Part(1, 2))
    assert not list((tmp_path / ".out.partial").rglob("*.partial"))
    assert pack(folder, tmp_path / "out", shard_size=4, part=Part(1, 2)).kept == 0


def test_an_array_job_by_command(folder, tmp_path, capsys):
    words = [str(folder), str(tmp_path / "out"), "--shard-size", "12", "--jobs", "1"]
    code = "import sys; from pretrain.cli import main; sys.exit(main(sys.argv[1:]))"
    other = subprocess.Popen([sys.executable, "-c", code, "pack", *words, "--part", "2/3"], cwd=ROOT)
    assert main(["pack", *words, "--part", "3/3"]) == 0
    assert "this was part 3/3: it has no shards, since there are fewer than parts; after all" in capsys.readouterr().out
    assert main(["pack", *words, "--part", "1/3"]) == 0
    assert "this was part 1/3: after all parts, run the same command with --settle" in capsys.readouterr().out
    assert other.wait() == 0
    assert main(["pack", *words, "--settle"]) == 0
    assert "packed 24 train images of 3 classes into 2 shards in" in capsys.readouterr().out
    for part in ("0/3", "4/3", "3", "1/0", "-1/3"):
        assert main(["pack", *words, f"--part={part}"]) == 2 and "is no part; parts count" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--settle comes after all parts"):
        pack(folder, tmp_path / "new", part=Part(1, 2), settle=True)
