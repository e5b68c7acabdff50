"""Image files beside their annotations: sizes that agree, photographs that are turned, the same one twice.

    headers of all images -> the size in the annotations is the stored one         -> pixels as stored
                          -> only that of the picture turned by its EXIF           -> turned when it is decoded
                          -> both: square, by 180 degrees, mirrored                -> as the entry or the flags say,
                                                                                      else as stored, as COCO does
                          -> neither, or no image                                  -> bad, with its reason

Annotations without sizes, one JSON for each image, are on the turned picture where their boxes fit no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from shared.errors import DataError, UsageError
from shared.feeding.headers import Headers, Picture, read_headers
from shared.feeding.orientation import STORED
from shared.files import cache_dir

Turn = Literal["auto", "upright", "stored"]
NAMED = 3  # bad images to list in a message
ROUNDING = 1.0  # pixels that a box may reach over the edge and still count as inside


@dataclass(frozen=True)
class Photographs:
    """The images of a table, as their headers are.

    table: with the sizes of the pictures that the boxes are on.
    turned: (I,) bool, apply the EXIF orientation when decoding.
    by_size: (I,) bool, whether the size alone says so; if not, copies of the annotations must say it too.
    marks: (I,) uint64, equal for equal files; 0 for those that are no image, or too large.
    bad: sentences about images that cannot be used, by row: no image, or of another size than the annotations say.
    notes: for the log.
    """

    table: CocoTable
    turned: np.ndarray
    by_size: np.ndarray
    marks: np.ndarray
    bad: dict[int, str]
    notes: list[str]

    @property
    def another_size(self) -> list[int]:
        """The bad rows that are images, of another size than the annotations say."""
        return [row for row in self.bad if self.marks[row]]

    def select(self, keep: np.ndarray, table: CocoTable) -> Photographs:
        """(I,) bool -> these images, whose table is `table`."""
        rows = np.cumsum(keep) - 1
        bad = {int(rows[row]): sentence for row, sentence in self.bad.items() if keep[row]}
        columns = self.turned[keep], self.by_size[keep], self.marks[keep]
        return Photographs(table, *columns, bad, self.notes)


def chosen(*, upright: bool, as_stored: bool) -> Turn:
    """--upright and --as-stored as one value. Raises UsageError for both."""
    if upright and as_stored:
        raise UsageError("--upright and --as-stored contradict each other; give one of them")
    return "upright" if upright else "stored" if as_stored else "auto"


def look_at(table: CocoTable, pictures: Sequence[Picture], turn: Turn = "auto") -> Photographs:
    """Read the headers of a table's images and decide which of them are turned.

    Args:
        pictures: where the image of each row is.
        turn: for images whose size does not tell.
    """
    headers = read_headers(pictures, cache_dir() / "headers")
    usable = np.ones(len(pictures), dtype=bool)
    usable[list(headers.reasons)] = False
    oriented = usable & (headers.orientations > STORED)
    sized = np.ones(len(pictures), dtype=bool) if table.unsized is None else ~table.unsized
    stored, upright = ((table.sizes == sizes).all(axis=1) for sizes in (headers.sizes, headers.upright))
    unsized_turned = np.zeros(len(pictures), dtype=bool)
    if not sized.all() and turn == "auto":
        unsized_turned = _fit_turned_only(table, headers) & ~sized & oriented
    by_size = sized & (stored != upright) | unsized_turned
    entry = np.full(len(pictures), -1) if table.upright is None else table.upright
    wanted = np.where(entry >= 0, entry > 0, turn == "upright")
    turned = oriented & np.where(by_size, upright | unsized_turned, wanted)
    sizes = np.where(turned[:, None], headers.upright, headers.sizes)
    bad = {row: f"{pictures[row].path}: {reason}" for row, reason in headers.reasons.items()}
    for row in np.flatnonzero(usable & sized & ~stored & ~upright).tolist():
        (height, width), (told_height, told_width) = headers.sizes[row].tolist(), table.sizes[row].tolist()
        name = table.file_names[row].decode()
        bad[row] = f"{name}: is {width}x{height}, but the annotations say {told_width}x{told_height}"
    known = usable & ~sized
    if known.any():
        table = replace(table, sizes=np.where(known[:, None], sizes, table.sizes).astype(np.int32))
    notes = _notes(turned, by_size, oriented & ~by_size & (entry < 0), oriented & ~turned & by_size, sized, turn)
    return Photographs(table, turned, by_size | ~oriented, np.where(usable, headers.marks, 0), bad, notes)


def unseen(table: CocoTable) -> Photographs:
    """The images of a table without looking at them: none is turned, and none is bad."""
    nothing = np.zeros(len(table.image_ids), dtype=bool)
    return Photographs(table, nothing, ~nothing, np.zeros(len(table.image_ids), np.uint64), {}, [])


def _fit_turned_only(table: CocoTable, headers: Headers) -> np.ndarray:
    """(I,) bool: boxes and labeled keypoints fit the turned picture, and do not fit the stored one."""
    count = len(table.image_ids)
    far = np.zeros((count, 2))
    np.maximum.at(far, table.image_of, table.boxes[:, :2] + table.boxes[:, 2:])
    if table.keypoints is not None and table.keypoints.shape[1]:
        points = np.where(table.keypoints[..., 2:] > 0, table.keypoints[..., :2], 0).max(axis=1)
        np.maximum.at(far, table.image_of, points)
    stored, upright = ((far <= sizes[:, ::-1] + ROUNDING).all(axis=1) for sizes in (headers.sizes, headers.upright))
    return np.logical_and(upright, ~stored)


def _notes(
    turned: np.ndarray, by_size: np.ndarray, undecided: np.ndarray, kept: np.ndarray, sized: np.ndarray, turn: Turn
) -> list[str]:
    notes = []
    if count := int((turned & by_size & sized).sum()):
        notes.append(f"{_images(count)} turned upright by EXIF, as the size in the annotations says")
    if count := int((turned & by_size & ~sized).sum()):
        notes.append(f"{_images(count)} turned upright by EXIF, as the boxes fit no other way")
    if turn == "upright" and (count := int(kept.sum())):
        notes.append(f"{_images(count)} read as stored, as the size in the annotations says")
    if count := int(undecided.sum()):
        which = "an EXIF orientation that no size in the annotations tells (square, turned by 180 degrees, or no size)"
        done = {
            "auto": "read as stored; --upright turns them, --as-stored confirms",
            "upright": "turned by --upright",
            "stored": "read as stored by --as-stored",
        }[turn]
        notes.append(f"{count} image{'s have' if count > 1 else ' has'} {which}: {done}")
    return notes


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"


def upright_said(seen: Photographs) -> CocoTable:
    """The table, with what its copies must say of images whose size does not tell."""
    plain = seen.table.upright is None and not (seen.turned & ~seen.by_size).any()
    if plain:
        return seen.table
    return replace(seen.table, upright=np.where(seen.by_size, -1, seen.turned).astype(np.int8))


def listed_bad(seen: Photographs, then: str, rows: Sequence[int] | None = None) -> list[str]:
    """A note about the bad images, or some of them, if there are any; `then` is what becomes of them."""
    rows = sorted(seen.bad if rows is None else rows)
    if not rows:
        return []
    sentences = "; ".join(seen.bad[row] for row in rows[:NAMED])
    more = f"; and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    count, total = len(rows), len(seen.turned)
    return [f"{count} of the {total} images of {seen.table.path} cannot be used ({sentences}{more}); {then}"]


def check_usable(seen: Photographs, way_out: str, *, share: float = 0.0) -> list[str]:
    """A note about the bad images, if they are few.

    Args:
        way_out: end of the message.
        share: of the images that may be bad; one may be in any case, unless it is 0.

    Raises:
        DataError: there are too many.
    """
    if len(seen.bad) > (max(1, share * len(seen.turned)) if share else 0):
        raise DataError(listed_bad(seen, way_out)[0])
    return listed_bad(seen, "they are skipped")
