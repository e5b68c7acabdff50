"""`detect doctor`: everything that can be known about a data set before it is trained on.

places -> read_file -> photographs -> objects, classes -> training against validation -> facts -> Sheet
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection.data.coco import read_table
from detection.data.photographs import Turn, chosen
from detection.doctor.facts import amounts, balance, examine_sizes
from detection.doctor.kinds import KINDS
from detection.doctor.objects import examine_classes, examine_objects
from detection.doctor.pictures import Seen, examine_copies, examine_photographs
from detection.doctor.pixels import examine_lookalikes
from detection.doctor.reading import Read, read_file
from detection.doctor.splits import examine_classes_of_both
from detection.recipe import DataConfig
from detection.training.datasets import Place, places
from shared.errors import DataError, plural
from shared.findings import Sheet


class Part(NamedTuple):
    """One of training and validation, as far as it could be read.

    targets: (A,) bool: the objects that training would use.
    """

    place: Place
    read: Read
    seen: Seen | None
    targets: np.ndarray


class Examined(NamedTuple):
    """A sheet, and what mending needs.

    overlapping: ids of the training images that are in validation too.
    """

    sheet: Sheet
    parts: dict[str, Part]
    overlapping: list[int]

    def files(self) -> list[Path]:
        """The annotation files that were read."""
        return [part.place.annotations.resolve() for part in self.parts.values() if part.place.annotations is not None]


def examine(
    config: DataConfig,
    title: str,
    *,
    network: str = "faster_rcnn",
    need_images: bool = True,
    pixels: bool = False,
) -> Examined:
    """Look at training and validation data.

    Args:
        config: where they are, as for training; `size` and `max_size` are the network's input.
        network: for the size of its input.
        need_images: look for the photographs and read their headers.
        pixels: decode them.

    Raises:
        UsageError, DataError: there is no data set at these places.
    """
    sheet, turn = Sheet(title, KINDS), chosen(upright=config.upright, as_stored=config.as_stored)
    training, validation = places(config)
    parts: dict[str, Part] = {}
    for where, place in (("training", training), ("validation", validation)):
        if place is None:
            sheet.add("no-validation", where, "there is no validation data")
            continue
        compared = pixels and training is not None and validation is not None
        part = part_of(place, where, sheet, turn, need_images=need_images, pixels=pixels, compared=compared)
        if part is not None:
            parts[where] = part
    train, val = parts.get("training"), parts.get("validation")
    overlapping: list[int] = []
    if train is not None and train.seen is not None:
        overlapping = examine_copies(train.seen, None if val is None else val.seen, sheet)
        if val is not None and val.seen is not None and train.seen.looked and val.seen.looked:
            known = np.flatnonzero(np.isin(train.read.table.image_ids, overlapping)).tolist()
            examine_lookalikes(train.seen, train.seen.looked, val.seen, val.seen.looked, known, sheet)
    elif val is not None and val.seen is not None:
        examine_copies(val.seen, None, sheet)
    if train is not None and val is not None:
        examine_classes_of_both(train.read, val.read, train.targets, val.targets, sheet)
    for where, part in parts.items():
        examine_classes(part.read, part.targets, where, sheet, training=where == "training")
    if train is not None and train.targets.any():
        table = train.read.table
        size = None if config.size is None else (config.size[0], config.size[-1])
        sheet.facts["objects of training"] = amounts(table, train.targets)
        sheet.facts["objects of training"] += examine_sizes(table, train.targets, network, size, config.max_size, sheet)
        sheet.facts["classes of training"] = balance(table, train.targets)
    return Examined(sheet, parts, overlapping)


def part_of(
    place: Place, where: str, sheet: Sheet, turn: Turn, *, need_images: bool, pixels: bool, compared: bool
) -> Part | None:
    """Read and look at one part; None if nothing of it can be used."""
    path = place.annotations
    if path is None or path.is_dir():
        read = in_another_format(place, where, sheet)
    else:
        read = read_file(path, where, sheet)
    if read is None:
        return None
    table = read.table
    counts = [plural(len(table.image_ids), "image"), plural(len(table.boxes), "annotation")]
    counts.append(plural(len(table.categories), "class"))
    sheet.looked_at.append(f"{where}: {path or place.images}, {', '.join(counts)}")
    seen = None
    if need_images and table.spots is None:
        seen = examine_photographs(read, place.images, where, sheet, turn, pixels=pixels, compared=compared)
    usable = read if seen is None else seen.read_
    targets = examine_objects(usable, where, sheet)
    return Part(place, usable, seen, targets)


def in_another_format(place: Place, where: str, sheet: Sheet) -> Read | None:
    """Shards, and one JSON for each image: read as training reads them, up to the first thing that is wrong."""
    try:
        table = read_table(place.images, place.annotations, None)
    except DataError as refusal:
        sheet.refused("file", where, refusal)
        return None
    rows = np.arange(len(table.boxes))
    return Read(table, rows, rows, [], {})
