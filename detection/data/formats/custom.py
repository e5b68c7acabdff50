"""Annotations of one's own: one JSON for each image, as `--dataset custom` reads them.

SRC/train/{images,annotations} -> train        SRC/test/{images,annotations}, or val -> val
"""

from __future__ import annotations

from pathlib import Path

from detection.data.annotations.custom import read_custom
from detection.data.annotations.files import custom_layout
from detection.data.formats import reader
from detection.data.formats.coco import of_table
from detection.data.formats.records import Asked, DataSet
from shared.errors import DataError


@reader("custom")
def read_custom_folder(source: Path, asked: Asked) -> DataSet:
    """Read train, test or both.

    Raises:
        DataError: a file is missing or wrong.
    """
    present = [
        split for split, name in (("train", "train"), ("val", "test"), ("val", "val")) if (source / name).is_dir()
    ]
    data: DataSet | None = None
    for split in dict.fromkeys(present or ["train"]):
        images, annotations = custom_layout(source, split)
        part = of_table(read_custom(annotations, images, None), images, split)
        data = part if data is None else data
        data.splits |= part.splits
        check_same_keypoints(source, data, part)
    assert data is not None
    return data


def check_same_keypoints(source: Path, data: DataSet, part: DataSet) -> None:
    """Raise DataError if two splits have different numbers of keypoints."""
    counts = {len(words["keypoints"]) for one in (data, part) for words in one.skeletons.values()}
    if len(counts) > 1:
        raise DataError(
            f"{source} has {' and '.join(map(str, sorted(counts)))} keypoints per object; give all the same number"
        )
    data.skeletons |= part.skeletons
