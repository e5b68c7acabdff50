"""Proposals are written part by part beside their file, so a stopped run continues, and joined when all are there.

    add(image) -> .NAME.partial/00000.safetensors, 00001.safetensors, ...       images in the order of the data
    close()    -> NAME.safetensors, sorted by image id, written as a stream: no more than an image is held in memory

The partial folder has a stamp of the weights, the annotations and the settings; another run does not continue it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from detection.data.proposals import FORMAT, checksum, digest_of_index, names_of
from shared.errors import DataError
from shared.files import write_aside, written_aside

PART = 500  # images


class ProposalParts:
    """The unfinished file of proposals.

    Args:
        path: the file to write; must not exist.
        table: the annotation file whose images are proposed on.
        facts: weights and settings, as metadata.

    Raises:
        DataError: the file exists, or an unfinished one has other facts.
    """

    def __init__(self, path: Path, table: CocoTable, facts: dict[str, str]) -> None:
        if path.exists():
            raise DataError(f"{path} exists, and proposals are never overwritten; give another --output")
        self.path, self.table = path, table
        self.facts = {"format": FORMAT, "annotations": table.path.name, "annotations_sha256": table.sha256, **facts}
        self.folder = path.with_name(f".{path.stem}.partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp, known = json.dumps(self.facts, sort_keys=True), self.folder / "stamp.json"
        if known.is_file() and known.read_text() != stamp:
            raise DataError(
                f"{self.folder} has unfinished proposals of other weights, images or settings; finish those, or remove "
                "the folder to start again"
            )
        write_aside(known, stamp)
        for half in self.folder.glob(".*.partial.safetensors"):  # of a run that was killed
            half.unlink()
        self.where: dict[int, tuple[int, int]] = {}  # image id -> part, row in the part
        self.waiting: list[tuple[int, np.ndarray]] = []
        for number, part in enumerate(self.parts()):
            self._take(number, _column(part, "image_ids"))

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def __contains__(self, image_id: int) -> bool:
        return image_id in self.where

    def add(self, image_id: int, rows: np.ndarray) -> None:
        """The proposals (P, 5) of an image, best first, in pixels of the annotation file."""
        self.waiting.append((image_id, rows.astype(np.float32)))
        if len(self.waiting) == PART:
            self._write_part()

    def close(self) -> Path:
        """Join the parts; returns the path of the file."""
        if self.waiting:
            self._write_part()
        order = np.argsort(self.table.image_ids, kind="stable")
        ids = self.table.image_ids[order].astype(np.int64)
        parts = [_Part(path) for path in self.parts()]
        rows = [self.where[i] for i in ids.tolist()]
        counts = np.array([parts[p].counts[r] for p, r in rows], np.int64)
        first = np.append(0, np.cumsum(counts))
        checks = np.array([parts[p].checks[r] for p, r in rows], np.int64)
        sizes, names = self.table.sizes[order].astype(np.int32), names_of(self.table)[order]
        index = {"image_ids": ids, "first": first, "sizes": sizes, "names": names, "checks": checks}
        facts = {**self.facts, "sha256": digest_of_index(*index.values()), "images": str(len(ids))}
        total = int(first[-1])
        columns: dict[str, tuple[Any, tuple[int, ...], Iterator[bytes]]] = {
            name: (column.dtype, column.shape, iter([column.tobytes()])) for name, column in index.items()
        }
        columns["boxes"] = (np.float32, (total, 4), (parts[p].of("boxes", r) for p, r in rows))
        columns["scores"] = (np.float32, (total,), (parts[p].of("scores", r) for p, r in rows))
        with written_aside(self.path) as partial:
            write_stream(partial, facts | {"proposals": str(total)}, columns)
        shutil.rmtree(self.folder)
        return self.path

    def _write_part(self) -> None:
        from safetensors.numpy import save_file

        number = len(self.parts())
        ids = np.array([i for i, _ in self.waiting], np.int64)
        rows = np.concatenate([rows for _, rows in self.waiting])
        boxes, scores = np.ascontiguousarray(rows[:, :4]), np.ascontiguousarray(rows[:, 4])
        columns = {
            "image_ids": ids,
            "counts": np.array([len(rows) for _, rows in self.waiting], np.int64),
            "checks": np.array([checksum(rows[:, :4], rows[:, 4]) for _, rows in self.waiting], np.int64),
            "boxes": boxes,
            "scores": scores,
        }
        with written_aside(self.folder / f"{number:05d}.safetensors") as partial:
            save_file(columns, partial)
        self._take(number, ids)
        self.waiting = []

    def _take(self, number: int, ids: np.ndarray) -> None:
        self.where |= {image_id: (number, row) for row, image_id in enumerate(ids.tolist())}


class _Part:
    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.file = safe_open(path, "np")
        self.counts, self.checks = self.file.get_tensor("counts"), self.file.get_tensor("checks")
        self.first = np.append(0, np.cumsum(self.counts)).tolist()

    def of(self, name: str, row: int) -> bytes:
        return np.ascontiguousarray(self.file.get_slice(name)[self.first[row] : self.first[row + 1]]).tobytes()


def _column(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return file.get_tensor(name)


NAMES = {np.dtype(np.int64): "I64", np.dtype(np.int32): "I32", np.dtype(np.float32): "F32"}


def write_stream(
    path: Path, metadata: dict[str, str], columns: dict[str, tuple[Any, tuple[int, ...], Iterator[bytes]]]
) -> None:
    """Write a safetensors file whose tensors come in pieces.

    Args:
        columns: name -> dtype, shape, the pieces of its bytes in order.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, _) in columns.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, pieces in columns.values():
            for piece in pieces:
                file.write(piece)
