"""The photographs of one annotation file: there, readable, of the size that the annotations say, once.

file names -> files in the folder -> headers -> turned by EXIF, another size, unreadable
                                  -> pixels, on request: damage behind the header
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detection.data.annotations.files import find_photographs
from detection.data.photographs import Photographs, Turn, look_at
from detection.doctor.objects import only
from detection.doctor.pixels import Looked, look_at_pixels
from detection.doctor.reading import Read
from detection.training.data_notes import same_files
from shared.errors import DataError, plural
from shared.feeding.headers import Picture
from shared.feeding.names import is_hidden, is_image
from shared.findings import Sheet


class Seen:
    """The photographs of a file, and their annotations.

    read: of those that are in the folder.
    missing: places in the list 'images' of those that are not, by their ids.
    looked: what their pixels are; None if they were not decoded.
    """

    def __init__(self, read: Read, folder: Path, photographs: Photographs, missing: list[int]) -> None:
        self.read_, self.folder, self.photographs, self.missing = read, folder, photographs, missing
        self.looked: Looked | None = None

    def __len__(self) -> int:
        return len(self.read_.table.image_ids)

    def name(self, row: int) -> str:
        return self.read_.table.file_names[row].decode(errors="replace")

    def read(self, row: int) -> bytes:
        """The bytes of one file."""
        return (self.folder / self.name(row)).read_bytes()

    def ids(self, rows: Sequence[int]) -> list[int]:
        """Image ids."""
        return self.read_.table.image_ids[list(rows)].tolist()


def examine_photographs(
    read: Read, folder: Path, where: str, sheet: Sheet, turn: Turn, *, pixels: bool, compared: bool = False
) -> Seen | None:
    """Look at every photograph; None if none is there.

    Args:
        turn: for images whose size does not tell which way they are turned.
        pixels: decode all of them, too.
        compared: with those of the other split.
    """
    table = read.table
    listed = table.image_ids
    names = dict(zip(listed.tolist(), table.file_names.tolist(), strict=True))
    try:
        found, _ = find_photographs(table, folder, len(listed))
    except DataError as refusal:
        sheet.refused("file-name", where, refusal)
        return None
    missing = np.setdiff1d(listed, found.image_ids).tolist()
    some = [names[image_id].decode(errors="replace") for image_id in missing[:100]]
    what = f"{len(missing):,} of the {plural(len(listed), 'image')} not in {folder}"
    sheet.add("image-missing", where, what, len(missing), some)
    if not len(found.image_ids):
        return None
    kept = only(read, np.isin(listed, found.image_ids))._replace(table=found)
    inside = os.path.join(folder, "")
    photographs = look_at(found, [Picture(inside + name.decode()) for name in found.file_names.tolist()], turn)
    seen = Seen(kept._replace(table=photographs.table), folder, photographs, missing)
    for note in photographs.notes:
        sheet.add("orientation" if "no size in the annotations tells" in note else "turned", where, note)
    sizes = set(photographs.another_size)
    damaged = {row: sentence for row, sentence in photographs.bad.items() if row not in sizes}
    if pixels:
        training = where == "training"
        seen.looked = look_at_pixels(seen, damaged, prints=compared and training, pictures=compared and not training)
        damaged |= seen.looked.damaged
    what = f"{plural(len(damaged), 'image')} cannot be read"
    words = [damaged[row].replace(f"{folder}/", "") for row in sorted(damaged)]
    sheet.add("image-unreadable", where, what, len(damaged), words)
    words = [photographs.bad[row] for row in sorted(sizes)]
    sheet.add("image-size", where, f"{plural(len(sizes), 'image')} of another size than annotated", len(sizes), words)
    seen.missing += seen.ids(sorted(damaged))
    unlisted(seen, where, sheet)
    return seen


def unlisted(seen: Seen, where: str, sheet: Sheet) -> None:
    """Note images that the annotations do not list, in the folders of those that they do."""
    known: dict[str, set[str]] = {}
    for row in range(len(seen)):
        folder, name = os.path.split(seen.name(row))
        known.setdefault(folder, set()).add(name)
    files = [
        name
        for folder, names in sorted(known.items())
        for name in sorted(os.listdir(seen.folder / folder))
        if name not in names and is_image(name) and not is_hidden(name)
    ]
    what = f"{plural(len(files), 'image')} of the folder not in the annotations"
    sheet.add("image-not-listed", where, what, len(files), files)


def examine_copies(train: Seen, val: Seen | None, sheet: Sheet) -> list[int]:
    """Add findings about photographs that come twice, by their content; ids of training images of validation."""
    sets = [train] if val is None else [train, val]
    groups = same_files(sets)
    for which, where in enumerate(("training", "validation")[: len(sets)]):
        doubled = [[row for one, row in rows if one == which] for rows in groups]
        doubled = [rows for rows in doubled if len(rows) > 1 and len({sets[which].name(row) for row in rows}) > 1]
        words = [" and ".join(sets[which].name(row) for row in rows[:2]) for rows in doubled]
        extra = sum(len(rows) - 1 for rows in doubled)
        what = f"{plural(extra, 'image')} repeat another one, byte for byte"
        sheet.add("image-twice", where, what, extra, words)
    both = [rows for rows in groups if {which for which, _ in rows} == {0, 1}]
    if val is None or not both:
        return []
    words = [" and ".join(sets[which].name(row) for which, row in (rows[0], rows[-1])) for rows in both]
    count = sum(sum(which == 1 for which, _ in rows) for rows in both)
    what = f"{count:,} of the {plural(len(val), 'validation image')} also in training, byte for byte"
    sheet.add("overlap", "training and validation", what, count, words)
    return train.ids([row for rows in both for which, row in rows if which == 0])
