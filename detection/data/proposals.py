"""Stored proposals: the boxes of each image of an annotation file, by image id, read from disk one image at a time.

    NAME.safetensors   image_ids (I,) int64, sorted      sizes (I, 2) int32 height, width     names (I,) int64 crc32
                       first (I + 1,) int64 offsets      checks (I,) int64 crc32 of an image's boxes and scores
                       boxes (P, 4) float32 x0 y0 x1 y1 in pixels of the annotation file, best first within an image
                       scores (P,) float32 from 0 to 1
                       metadata: the weights that made them, the annotation file and its sha256, `sha256` of the index

Ids, file names and sizes of the images must be those of the annotations. The index is verified when the file is opened,
the boxes of an image when they are read. `truth` in place of a file: the objects' own boxes, with score 1.

Shape letters: I images, P proposals of all images.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.targets import note
from shared.errors import DataError

FORMAT = "chordate-proposals-1"
INDEX = ("image_ids", "first", "sizes", "names", "checks")  # tensors that are read whole
TRUTH = "truth"
MOST = 2000  # proposals of an image that a network gets


class Proposals:
    """The proposals of one file. It can be sent to other processes; each opens the file by itself.

    Raises:
        DataError: it is not a file of proposals, or was changed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.handle = path, None
        self.facts = read_facts(path)
        index = self.opened()
        self.image_ids, self.first, self.sizes, self.names, self.checks = (index.get_tensor(name) for name in INDEX)
        if digest_of_index(self.image_ids, self.first, self.sizes, self.names, self.checks) != self.facts["sha256"]:
            raise DataError(f"{path} is damaged: its index is not the one it was written with; {AGAIN}")

    @classmethod
    def open(cls, path: Path) -> Proposals:
        return cls(path)

    @property
    def weights(self) -> dict[str, str]:
        """{arch, tag, digest} of the weights that made them."""
        return json.loads(self.facts["weights"])

    @property
    def digest(self) -> str:
        """Digest of the content."""
        return self.facts["sha256"]

    def of(self, image_id: int) -> np.ndarray:
        """(P, 5) float32 as x0 y0 x1 y1 score, best first. Raises DataError for another image or damaged boxes."""
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            raise DataError(f"{self.path} has no image {image_id}; {AGAIN}")
        start, stop = self.first[row : row + 2].tolist()
        file = self.opened()
        boxes, scores = file.get_slice("boxes")[start:stop], file.get_slice("scores")[start:stop]
        if checksum(boxes, scores) != self.checks[row]:
            raise DataError(f"{self.path} is damaged: the boxes of image {image_id} were changed; {AGAIN}")
        return np.concatenate((boxes, scores[:, None]), 1)

    def check(self, table: CocoTable) -> None:
        """Raise DataError unless every image of the annotations is here, under its name and with its size."""
        rows = np.searchsorted(self.image_ids, table.image_ids).clip(max=len(self.image_ids) - 1)
        missing = self.image_ids[rows] != table.image_ids
        if missing.any():
            raise DataError(
                f"{self.path} has no image {table.image_ids[missing][0]} of {table.path}, and {int(missing.sum())} "
                f"images are missing in all; {AGAIN} on that file"
            )
        other = (self.names[rows] != names_of(table)) | (self.sizes[rows] != table.sizes).any(1)
        if other.any():
            raise DataError(
                f"{self.path} has proposals of other images: image {table.image_ids[other][0]} has another name or "
                f"size than in {table.path}; {AGAIN} on that file"
            )

    def counts(self, image_ids: np.ndarray) -> np.ndarray:
        """(I,) proposals of each of these images."""
        rows = np.searchsorted(self.image_ids, image_ids)
        return self.first[rows + 1] - self.first[rows]

    def opened(self) -> Any:
        """The file, opened once in each process."""
        if self.handle is None:
            from safetensors import safe_open

            self.handle = safe_open(self.path, "np")
        return self.handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handle": None}


Source = Proposals | Literal["truth"]
AGAIN = "make them again with `detect propose`"


def stored_for(image_id: int, objects: Tensor, source: Source) -> Tensor:
    """(P, 5) proposals of an image with objects (N, 4), before any augmentation."""
    if isinstance(source, Proposals):
        return torch.from_numpy(source.of(image_id)[:MOST])
    return torch.cat((objects, objects.new_ones(len(objects), 1)), 1)


def find_proposals(path: Path, table: CocoTable) -> Source:
    """The proposals of an annotation file: `path` itself, or the file of a folder that was made on it.

    Raises:
        DataError: there is none, or it is of other images.
    """
    if str(path) == TRUTH:
        return TRUTH
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        named = {file: read_facts(file) for file in files}
        fits = [file for file in files if named[file]["annotations_sha256"] == table.sha256]
        fits = fits or [file for file in files if holds(file, table)]
        if not fits:
            there = ", ".join(facts["annotations"] for facts in named.values()) or "nothing"
            raise DataError(
                f"{path} has proposals of {there}, and not of the images of {table.path}; make them with `detect "
                f"propose --weights TAG --output {path}` and the data's flags"
            )
        path = fits[0]
    elif not path.is_file():
        raise DataError(
            f"there is no file or folder of proposals {path}; make it with `detect propose --output {path}`"
        )
    found = Proposals.open(path)
    found.check(table)
    return found


def holds(path: Path, table: CocoTable) -> bool:
    """Whether a file has proposals of every image of the annotations."""
    try:
        Proposals.open(path).check(table)
    except DataError:
        return False
    return True


def notes_on_proposals(source: Source, table: CocoTable) -> list[str]:
    """Who made them, and how many images have none."""
    if not isinstance(source, Proposals):
        return ["proposals are the true boxes"]
    counts = source.counts(table.image_ids)
    made = "{arch} {tag}@{digest:.6}".format(**source.weights)
    notes = [f"{int(counts.sum()):,} proposals of {made} from {source.path}, {counts.mean():.0f} an image"]
    without = "no proposals, trained on their objects alone"
    return notes + note(int((counts == 0).sum()), "image has", "images have", without)


def read_facts(path: Path) -> dict[str, str]:
    """The metadata of a file of proposals. Raises DataError if it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as proposals ({error}); {AGAIN}") from None
    if facts.get("format") != FORMAT or not {"weights", "annotations", "annotations_sha256", "sha256"} <= facts.keys():
        raise DataError(f"{path} is not a file of proposals; {AGAIN}")
    return facts


def names_of(table: CocoTable) -> np.ndarray:
    """(I,) int64: checksum of each image's file name, without folders."""
    return np.array([zlib.crc32(PurePosixPath(name.decode()).name.encode()) for name in table.file_names], np.int64)


def checksum(boxes: np.ndarray, scores: np.ndarray) -> int:
    """crc32 of the boxes (P, 4) and scores (P,) of an image."""
    return zlib.crc32(np.ascontiguousarray(scores).tobytes(), zlib.crc32(np.ascontiguousarray(boxes).tobytes()))


def digest_of_index(*columns: np.ndarray) -> str:
    """sha256 of the index, which has a checksum of every image."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
