"""Small shards written by hand, tar member by tar member."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image


def picture(n: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6 + n, 5), (n * 20, 10, 20)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, files: list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(first: int, count: int) -> list[tuple[str, bytes]]:
    return [
        file
        for n in range(first, first + count)
        for file in ((f"{n:04d}.png", picture(n)), (f"{n:04d}.cls", str(n).encode()))
    ]


def keep(image, rng):
    return image
