"""Whether a test is on training images: by the hashes beside the weights, or by a training annotation file.

Most images of LVIS's validation are in COCO's training set, so who trains on the one and tests on the other tests on
what the network has seen.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.annotations.coco_json import CocoTable, read_image_list
from detection.data.coco import CocoDetection
from shared.errors import plural
from shared.weights.card import Exported
from shared.weights.seen import among, hashes_of, read_seen

TOLERATED = 0.01  # of the images: hashes of 32 bits are equal by chance now and then
OLD_NAME = re.compile(r"^COCO_(train|val|test)\d{4}_")


def seen_in_training(dataset: CocoDetection, exported: Exported) -> list[str]:
    """A warning if more than 1 % of the images are, by their content, among those the weights were trained on."""
    known = read_seen(exported.path)
    if known is None:
        return []
    again = among(hashes_of(dataset.photographs.marks), known)
    return _warning(dataset, again, f"those that {exported} was trained on")


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
