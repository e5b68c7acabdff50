"""Remote shards: the same samples as local ones, shared out evenly, and damage or foreign schemes refused."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pretrain.data.shards import find_shards
from pretrain.data.stream import RemoteShards
from shared.errors import DataError

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the program curl is not here")


def picture(n: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 5), (n, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def samples(first: int, count: int) -> list[tuple[str, bytes]]:
    numbers = range(first, first + count)
    return [f for n in numbers for f in ((f"{n}.png", picture(n)), (f"{n}.json", b"{"), (f"{n}.cls", b"%d" % n))]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder, and the address at which it is served."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def first_pixel(image: torch.Tensor, rng) -> torch.Tensor:
    return image[:, 0, 0]


def numbers(data: RemoteShards, epoch: int = 0) -> list[int]:
    data.set_epoch(epoch)
    drawn = list(data)
    assert all(view.tolist() == [label, 10, 20] for view, label in drawn)
    return [label for _, label in drawn]


@needs_curl
def test_an_epoch_holds_every_sample_in_an_order_of_its_own_that_can_be_repeated(server):
    folder, address = server
    for n in range(4):
        write_tar(folder / f"train-{n}.tar", samples(10 * n, 10))
    urls = find_shards(f"{address}/train-{{0..3}}.tar", "train")
    data = RemoteShards(urls, first_pixel, seed=1, epoch_samples=40, buffer=15)
    first, second = numbers(data, 0), numbers(data, 1)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second != sorted(second) and numbers(data, 0) == first
    assert numbers(RemoteShards(urls, first_pixel, seed=2, epoch_samples=40, buffer=15)) != first
    views, labels = data.collate(list(data)[:3])
    assert views.shape == (3, 3) and views.dtype == torch.uint8 and labels.dtype == torch.int64


@needs_curl
def test_processes_and_workers_share_the_shards_and_end_together(server):
    folder, address = server
    for n in range(4):
        write_tar(folder / f"{n}.tar", samples(10 * n, 10 if n else 3))
    urls = [f"{address}/{n}.tar" for n in range(4)]
    parts = []
    for rank in range(2):
        data = RemoteShards(urls, first_pixel, seed=1, epoch_samples=40, rank=rank, world=2)
        parts.append([label for _, label in DataLoader(data, batch_size=None, num_workers=2)])
    assert [len(part) for part in parts] == [20, 20]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == {0, 1, 2, *range(10, 40)}


@needs_curl
def test_too_few_shards_for_the_workers_are_refused(server):
    _, address = server
    data = RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=10, world=2)
    with pytest.raises(DataError, match="1 shards cannot be distributed over 2 workers"):
        list(data)


@needs_curl
@pytest.mark.parametrize("damage", ["member", "boundary", "header", "flip", "no end", "no tar", "missing"])
def test_damaged_shards_are_refused_by_address(damage, server):
    folder, address = server
    whole = write_tar(folder / "a.tar", samples(0, 30))
    with tarfile.open(folder / "a.tar") as tar:
        headers = [member.offset for member in tar]
        end = tar.offset
    flipped = bytearray(whole)
    flipped[headers[5]] ^= 1
    content = {
        "member": whole[: headers[5] + 520],
        "boundary": whole[: headers[6]],
        "header": whole[: headers[6] + 100],
        "flip": bytes(flipped),
        "no end": whole[:end],
        "no tar": b"<html>" * 500,
    }
    (folder / "a.tar").unlink()
    if damage != "missing":
        (folder / "a.tar").write_bytes(content[damage])
    data = RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=31)
    with pytest.raises(
        DataError, match="curl ended with code" if damage == "missing" else "damaged at byte"
    ) as refusal:
        list(data)
    assert f"{address}/a.tar" in str(refusal.value)


@needs_curl
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([("a.png", picture(1))], "a has no class"),
        ([("a.cls", b"1")], "a has a class but no image"),
        ([("a.png", picture(1)), ("a.cls", b"x")], "is 'x', not a number"),
        ([("a.png", picture(1)), ("a.cls", b"7")], "class 7 of .*a is outside the 5 classes"),
        ([("a.png", picture(1)), ("a.png", picture(1)), ("a.cls", b"1")], "duplicate"),
        ([("a.txt", b"1")], "contains no jpg"),
        ([], "contains no jpg"),
    ],
)
def test_odd_shards_are_refused_by_name(files, sentence, server):
    folder, address = server
    write_tar(folder / "a.tar", files)
    with pytest.raises(DataError, match=sentence):
        list(RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=9, num_classes=5))


@needs_curl
def test_damaged_images_are_stepped_over_until_they_are_too_many(server, caplog):
    folder, address = server
    write_tar(folder / "a.tar", [*samples(0, 30), ("bad.png", b"\x89PNG"), ("bad.cls", b"1")])
    data = RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=30)
    assert sorted(numbers(data)) == list(range(30))
    assert all("a.tar:bad" in record.getMessage() for record in caplog.records)
    write_tar(folder / "a.tar", [(f"{n}.{kind}", b"1") for n in range(40) for kind in ("png", "cls")])
    with pytest.raises(DataError, match="11 of 11 images cannot be read"):
        list(data)


@needs_curl
def test_pickles_are_not_decoded_and_unlabeled_shards_serve_methods_without_labels(server):
    folder, address = server
    write_tar(folder / "a.tar", [("a.pkl", b"cbuiltins\nexit\n(tR."), ("a.png", picture(3)), ("a.pyd", b"x")])
    data = RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=2, labeled=False)
    assert [label for _, label in data] == [-1, -1]


@needs_curl
def test_the_environment_cannot_turn_an_address_into_a_command(server, monkeypatch):
    folder, address = server
    write_tar(folder / "a.tar", samples(0, 2))
    monkeypatch.setenv("GOPEN_REWRITE", f"{address}=pipe:touch {folder}/made; cat ")
    assert len(list(RemoteShards([f"{address}/a.tar"], first_pixel, seed=0, epoch_samples=2))) == 2
    assert not (folder / "made").exists()


@pytest.mark.parametrize("url", ["pipe:touch made", "file:///a.tar", "ssh://a/b.tar", "a.tar", "-"])
def test_nothing_but_an_address_is_streamed(url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="which is no address; give a local path"):
        RemoteShards([url], first_pixel, seed=0, epoch_samples=1)
    assert not list(tmp_path.iterdir())
