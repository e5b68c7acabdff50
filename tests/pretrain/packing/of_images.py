"""Folders of small images, and what the shards packed from them contain."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from pretrain.data.shards import ShardSet, find_shards


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
