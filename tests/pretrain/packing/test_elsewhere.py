"""Images at an address are packed to the bytes of local ones; what is not there is left out, what fails stops.

fsspec's file system in memory stands for a bucket.
"""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from pretrain.cli import main
from pretrain.packing.pack import pack
from shared.errors import DataError
from tests.pretrain.packing.of_images import contents, put

BUCKET = "memory://bucket/photos"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders, and the same files in a bucket, with an empty object for a folder as consoles make them."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    put(tmp_path / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat") for n in range(6)), "cat/deep/x.y.png")
    (tmp_path / "in" / "read.me").write_text("hello")
    for file in (tmp_path / "in").rglob("*.*"):
        system.pipe_file(f"/bucket/photos/{file.relative_to(tmp_path / 'in')}", file.read_bytes())
    return tmp_path / "in"


def shards_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.suffix in (".tar", ".json", ".txt", ".npy")}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_class_folders_at_an_address_become_the_shards_of_local_ones(
    jobs: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--shard-size", "4", "--val-share", "0.2", "--jobs", jobs]
    said = []
    for source, out in ((str(photos), tmp_path / "here"), (f"{BUCKET}/", tmp_path / "there")):
        assert main(["pack", source, str(out), *options]) == 0
        lines = capsys.readouterr().out.replace(str(out), "OUT").splitlines()
        said.append([line for line in lines if not line.startswith("packing ")])
    assert said[0] == said[1] and "  left out read.me: not an image" in said[0]
    assert shards_of(tmp_path / "there") == shards_of(tmp_path / "here") != {}


def test_a_local_list_names_files_at_an_address(photos: Path, tmp_path: Path) -> None:
    lines = [f"{file.relative_to(photos)} {file.parts[-2]}" for file in sorted(photos.glob("*/*.jpg"))]
    (tmp_path / "list.txt").write_text("\n".join([*lines, "dog/gone.jpg dog"]) + "\n")
    packed = pack(tmp_path / "list.txt", tmp_path / "there", root=BUCKET)
    assert packed.samples == {"train": 12}
    assert packed.skipped == [("dog/gone.jpg", "No such file or directory")]
    (tmp_path / "short.txt").write_text("\n".join(lines) + "\n")
    pack(tmp_path / "short.txt", tmp_path / "here", root=photos)
    assert contents(tmp_path / "there", "train") == contents(tmp_path / "here", "train")


def test_a_stopped_packing_goes_on_and_reads_a_changed_file_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system in memory tells no version: this one tells that of the content."""
    system = fsspec.filesystem("memory")
    find, cat, read = system.find, system.cat_file, list[str]()

    def told(path: str, detail: bool = False) -> dict:
        return {name: {**about, "ETag": str(hash(cat(name)))} for name, about in find(path, detail=True).items()}

    def failing(path: str) -> bytes:
        read.append(path)
        if len(read) == 7:
            raise ConnectionError("the line is dead")
        return cat(path)

    monkeypatch.setattr(type(system), "find", lambda self, path, detail=False: told(path))
    monkeypatch.setattr(type(system), "cat_file", lambda self, path, **_: failing(path))
    with pytest.raises(DataError, match=r"memory://bucket/photos/.* cannot be read \(the line is dead\)"):
        pack(BUCKET, tmp_path / "out", shard_size=3)
    first = read[0]
    system.pipe_file(first, cat(first) + b"\0")  # written again, after the first shard was finished
    read.clear()
    read += [""] * 7
    packed = pack(BUCKET, tmp_path / "out", shard_size=3)
    assert packed.kept == 1 and packed.samples == {"train": 13}
    assert first in read[7:] and len(read) - 7 == 10, "one shard of three is kept, the changed one is not"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("memory://bucket/nothing OUT", "there are no files below memory://bucket/nothing"),
        ("https://example.org/photos OUT", "https://example.org/photos cannot be listed; give a local path, or an"),
        ("LOCAL s3://bucket/shards", "then `pretrain upload` copies them to s3://bucket/shards"),
        (f"{BUCKET} OUT --from list", f"give a list as a local file, with --root {BUCKET}"),
        ("memory://bucket/coco OUT", "has COCO annotations, and its folders are no classes"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence(
    words: str, complaint: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/coco/annotations/instances.json", b"{}")
    fsspec.filesystem("memory").pipe_file("/bucket/coco/train2017/1.jpg", b"x")
    told = [{"OUT": str(tmp_path / "out"), "LOCAL": str(photos)}.get(word, word) for word in words.split()]
    assert main(["pack", *told]) in (2, 3)
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
