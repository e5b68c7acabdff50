"""Whether a test is on images that the weights have seen: in pretraining, in training, or in a list of annotations.

    digests beside the weights (shared/weights/seen.py)   of backbones   -> the leak certificate: none seen, or which
                                                          of detectors   -> a warning of `detect eval`
    a file of training annotations (--against)            ids and names  -> a warning

Most images of LVIS's validation are in COCO's training set, so who trains on the one and tests on the other tests on
what the network has seen.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from detection.data.annotations.coco_json import CocoTable, read_image_list
from detection.data.coco import CocoDetection
from shared.errors import DataError, plural
from shared.feeding.fingerprint import BITS, SIDE, small_picture
from shared.feeding.image import BadImage
from shared.weights.card import Exported, listed
from shared.weights.lookalikes import limit_of, look_for
from shared.weights.seen import MARK, Seen, among, read_digests, record_of

TOLERATED = 0.01  # of the images that the detector was trained on
OLD_NAME = re.compile(r"^COCO_(train|val|test)\d{4}_")
THREADS = 8  # that decode images


# --- seen in pretraining ---------------------------------------------------------------------


class Leak(NamedTuple):
    """A validation image that was seen: row, name, bits that differ (of 192; None for the same file), and by what."""

    row: int
    name: str
    bits: int | None
    by: str

    def __str__(self) -> str:
        return f"{self.name} ({'the same file' if self.bits is None else plural(self.bits, 'bit')})"


@dataclass(frozen=True)
class Certificate:
    """Whether validation images were seen in pretraining.

    images: validation images. leaks: those that were seen, by row. compared: images of pretraining that were compared
    with, 0 if nothing is known of them. nearest: bits to the most similar other picture, None if none is near.
    limit: bits up to which a picture is the same; None if only files were compared.
    unknown: what could not be compared, and why: a sentence each.
    """

    images: int
    leaks: list[Leak]
    compared: int
    nearest: int | None
    limit: int | None
    unknown: list[str]

    @property
    def clean(self) -> bool:
        """Nothing was seen, as far as is known."""
        return not self.leaks

    def lines(self) -> list[str]:
        """The certificate as sentences."""
        return ([self._verdict()] if self.compared else []) + self.unknown

    def _verdict(self) -> str:
        among_them = f"among {plural(self.compared, 'image')}"
        if self.leaks:
            count = f"{len(self.leaks):,} of {plural(self.images, 'validation image')}"
            named = listed([str(leak) for leak in self.leaks], 10)
            return f"{count} were seen in pretraining, {among_them}: {named}; metrics say little about other images"
        if self.limit is None:
            how = "the same file; copies that were changed were not looked for"
        else:
            near = f"nearest: {self.nearest} of {BITS} bits" if self.nearest is not None else "none is near"
            how = f"{near}; {self.limit} or fewer are the same picture"
        return f"none of {plural(self.images, 'validation image')} was seen in pretraining, {among_them} ({how})"


def certificate(dataset: CocoDetection, exported: Exported) -> Certificate:
    """Look for the images of a data set among those that weights, or their ancestors, were pretrained on."""
    record, unknown = record_of(exported), []
    entries = [] if record is None else zip(record.entries, record.files, strict=True)
    leaks: dict[int, Leak] = {}
    pictures, compared, limits, nearest = None, 0, [], []
    for entry, path in [(entry, path) for entry, path in entries if entry.kind == "backbone"]:
        if (digests := read_digests(entry, path)) is None:
            unknown.append(f"{path} is missing or damaged: whether images were seen by {entry.by} is not known")
            continue
        compared += len(digests)
        same = among(dataset.photographs.marks, digests)
        leaks |= {row: _leak(dataset, row, None, entry) for row in np.flatnonzero(same).tolist() if row not in leaks}
        if digests.shape[1] == MARK:
            unknown.append(_without_fingerprints(entry))
            continue
        pictures = small_pictures(dataset) if pictures is None else pictures
        found, limit = look_for(pictures, digests), limit_of(len(pictures), len(digests))
        limits.append(limit)
        near = found.distances <= limit
        for row in np.flatnonzero(near & ~same).tolist():
            leaks.setdefault(row, _leak(dataset, row, int(found.distances[row]), entry))
        nearest += found.distances[(found.rows >= 0) & ~near & ~same].tolist()
    if not compared and not unknown:
        unknown.append(_nothing_known(exported))
    ordered = [leaks[row] for row in sorted(leaks)]
    return Certificate(len(dataset), ordered, compared, min(nearest, default=None), min(limits, default=None), unknown)


def _leak(dataset: CocoDetection, row: int, bits: int | None, entry: Seen) -> Leak:
    return Leak(row, dataset.path(row).name, bits, entry.by)


def _without_fingerprints(entry: Seen) -> str:
    where = entry.data or "SHARDS"
    return (
        f"the images of {entry.by} have no fingerprints, so changed copies were not looked for; "
        f"`pretrain fingerprint {where}` writes some for the next pretraining"
    )


def _nothing_known(exported: Exported) -> str:
    card = exported.card
    if not card.parents and not card.recipe.get("backbone_pretrained") and card.method == "detection":
        return "no image was seen in pretraining: the backbone started from random weights"
    return (
        f"whether images were seen in pretraining is not known: {exported} and its ancestors have no digests of their "
        f"images, as weights of others, and those of shards without digests, have none"
    )


def small_pictures(dataset: CocoDetection) -> np.ndarray:
    """(N, 64, 64) uint8 of all images; plain for those that cannot be decoded."""

    def one(row: int) -> np.ndarray:
        try:
            return small_picture(dataset.read(row))
        except (OSError, BadImage, DataError):
            return np.zeros((SIDE, SIDE), np.uint8)

    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(one, range(len(dataset)))))


# --- seen in training ------------------------------------------------------------------------


def seen_in_training(dataset: CocoDetection, exported: Exported) -> list[str]:
    """A warning if more than 1 % of the images are, by their content, among those the detector was trained on."""
    record = record_of(exported)
    entries = [] if record is None else zip(record.entries, record.files, strict=True)
    known = [read_digests(entry, path) for entry, path in entries if entry.kind == "detector"]
    marks = dataset.photographs.marks
    again = [among(marks, digests) for digests in known if digests is not None]
    return _warning(dataset, np.any(again, axis=0), f"those that {exported} was trained on") if again else []


def listed_in(dataset: CocoDetection, training: Path) -> list[str]:
    """A warning if more than 1 % of the images are listed, by id and name, in a file of training annotations."""
    known = set(_keys(read_image_list(training)))
    again = np.array([key in known for key in _keys(dataset.table)], dtype=bool)
    return _warning(dataset, again, f"those of {training}")


def _keys(table: CocoTable) -> list[tuple[int, str]]:
    """The id of each image and its file name, without folder and the prefix that COCO had in 2014."""
    names = (OLD_NAME.sub("", PurePosixPath(name.decode()).name) for name in table.file_names)
    return list(zip(table.image_ids.tolist(), names, strict=True))


def _warning(dataset: CocoDetection, again: np.ndarray, where: str) -> list[str]:
    count, total = int(again.sum()), len(again)
    if count <= TOLERATED * total:
        return []
    return [
        f"{count:,} of the {plural(total, 'image')} to evaluate on are among {where}, such as "
        f"{dataset.path(int(again.argmax())).name}: the metrics say little about other images"
    ]
