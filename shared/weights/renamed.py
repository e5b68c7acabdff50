"""A safetensors file with a prefix removed from the names of its tensors, and back to the same bytes.

    model.safetensors  ->  without_prefix  ->  the same tensors as `conv1.weight`, for `net.conv1.weight`
                                               names.json: the header of the original
                       <-  with_header     <-  both

Only the header is written anew, so the bytes of the tensors are copied as they are and nothing is held in memory.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import BinaryIO

from shared.errors import WeightsError

MOST = 100_000_000  # bytes of a header, as safetensors allows


def without_prefix(source: Path, target: Path, header: Path, prefix: str) -> None:
    """Write `source` with shorter names to `target`, and its own header to `header`.

    Raises:
        WeightsError: it is no safetensors file, or a name has another prefix.
    """
    with source.open("rb") as file:
        original = read_header(file, source)
        try:
            entries = json.loads(original)
        except ValueError:
            raise WeightsError(f"{source} is not a safetensors file; export the weights again") from None
        other = [name for name in entries if name != "__metadata__" and not name.startswith(prefix)]
        if other:
            raise WeightsError(f"{source} has a tensor {other[0]} beside those of {prefix}; export the weights again")
        # what is in __metadata__ stays; timm's loaders of PyTorch weights want the format there
        renamed = {name.removeprefix(prefix): entry for name, entry in entries.items()}
        renamed = {"__metadata__": {"format": "pt"}} | renamed
        text = json.dumps(renamed, separators=(",", ":")).encode()
        write(target, text + b" " * (-len(text) % 8), file)  # the tensors begin at a multiple of 8
    header.write_bytes(original)


def with_header(source: Path, header: Path, target: Path) -> None:
    """Write the tensors of `source` under a header that was kept. The result is to be verified by its sha256."""
    if header.stat().st_size > MOST:
        raise WeightsError(f"{header} is too large for a list of tensors; pull the weights again")
    with source.open("rb") as file:
        read_header(file, source)
        write(target, header.read_bytes(), file)


def read_header(file: BinaryIO, path: Path) -> bytes:
    """The header of a safetensors file; the tensors follow."""
    size = int.from_bytes(file.read(8), "little")
    header = file.read(size) if size <= MOST else b""
    if not size or len(header) != size:
        raise WeightsError(f"{path} is not a safetensors file; copy or export the weights again")
    return header


def write(path: Path, header: bytes, rest: BinaryIO) -> None:
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        shutil.copyfileobj(rest, file, 1 << 22)
