"""The images to predict: files, folders, or the images of a COCO file.

files and folders        -> ids from 1: sources as given, files of a folder by name; turned upright by EXIF
a folder and a COCO file -> ids of the file; turned where the size in the file says so, refused where none fits
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from detection.data.coco import CocoDetection
from detection.data.photographs import Turn, listed_bad
from shared.errors import DataError, UsageError
from shared.feeding.image import BadImage, decode_image, image_header
from shared.feeding.names import DECODED, images_below
from shared.feeding.orientation import STORED

log = logging.getLogger(__name__)
OTHER_PIXELS = "results would be in other pixels than those of the file; correct its sizes, or give the right images"


class Listed(NamedTuple):
    """An image to read.

    image_id: of the COCO file, or from 1.
    path: of its file.
    upright: whether to turn it by EXIF.
    by_size: whether the size in the COCO file says so.
    """

    image_id: int
    path: Path
    upright: bool
    by_size: bool


class Seen(NamedTuple):
    """An image as the network sees it.

    pixels: (3, H, W) uint8.
    upright: whether it was turned by EXIF; None where it has no EXIF orientation, or a COCO file's size tells.
    """

    image_id: int
    path: Path
    pixels: Tensor
    upright: bool | None


def root_of(sources: list[str]) -> Path:
    """The deepest folder that contains all sources; links are not resolved."""
    paths = [Path(os.path.abspath(os.path.expanduser(source))) for source in sources]
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))


def pictures_of(sources: list[str], annotations: Path | None, turn: Turn = "auto") -> Iterator[Seen]:
    """Yield each image; files that cannot be read are logged and skipped.

    Args:
        sources: files and folders; with `annotations`, one folder.
        annotations: a COCO or panoptic file, of which the images alone are read.
        turn: whether to apply the EXIF orientation; "auto" does, but with `annotations` only where the size says so.

    Raises:
        UsageError: no sources, or several with `annotations`.
        DataError: a missing file, a folder without images, no readable image, or images of another size than in the
            COCO file.
    """
    if annotations is not None:
        files = in_coco_file(sources, annotations, turn)
    else:
        files = [Listed(n, path, turn != "stored", False) for n, path in enumerate(listed_files(sources), start=1)]
    read = 0
    for image_id, path, upright, by_size in files:
        try:
            data = path.read_bytes()
            pixels = decode_image(data, upright=upright)
            oriented = not by_size and image_header(data).orientation > STORED
        except (OSError, BadImage) as error:
            log.warning("skipped %s: %s", path, error)
            continue
        read += 1
        yield Seen(image_id, path, pixels, upright if oriented else None)
    if not read:
        raise DataError(f"none of the {len(files)} files can be read as an image; check {files[0].path}")


def in_coco_file(sources: list[str], annotations: Path, turn: Turn) -> list[Listed]:
    """The images of a COCO file. Raises DataError if one has another size than the file says."""
    if len(sources) != 1:
        raise UsageError("--coco-json-path needs the folder of its images; give exactly one folder")
    dataset = CocoDetection(Path(sources[0]), annotations, images_only=True, turn=turn)
    seen = dataset.photographs
    if wrong := listed_bad(seen, OTHER_PIXELS, seen.another_size):
        raise DataError(wrong[0])
    for note in seen.notes:
        log.info("%s", note)
    columns = zip(dataset.image_ids, seen.turned.tolist(), seen.by_size.tolist(), strict=True)
    return [Listed(i, dataset.path(row), upright, by_size) for row, (i, upright, by_size) in enumerate(columns)]


def listed_files(sources: list[str]) -> list[Path]:
    """Files of the sources; folders are searched recursively, without hidden files.

    Raises:
        UsageError: no sources.
        DataError: a missing file, or a folder without images.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(os.path.expanduser(source))
        if path.is_dir():
            inside, notes = images_below(path)
            for note in notes:
                log.info("%s", note)
            if not inside:
                skipped = f" ({'; '.join(notes)})" if notes else ""
                raise DataError(f"{path} contains no images{skipped}; give a folder of {', '.join(DECODED[:4])} files")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(
                f"there is no file {path}; give images, a folder of images, or a folder and --coco-json-path"
            )
    if not files:
        raise UsageError("no images given; give image files or folders")
    return files
