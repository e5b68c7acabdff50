"""The images to predict: files, folders, or the images of a COCO file.

files, folders, addresses -> ids from 1: sources as given, files of a folder by name; turned upright by EXIF
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
from detection.inference.addresses import downloaded, file_name, is_address, shown
from shared.errors import DataError, UsageError
from shared.feeding.image import BadImage, decode_image, image_header
from shared.feeding.names import DECODED, images_below
from shared.feeding.orientation import STORED

log = logging.getLogger(__name__)
OTHER_PIXELS = "results would be in other pixels than those of the file; correct its sizes, or give the right images"


class Listed(NamedTuple):
    """An image to read.

    image_id: of the COCO file, or from 1.
    path: of its file; of an image at an address, its name alone.
    upright: whether to turn it by EXIF.
    by_size: whether the size in the COCO file says so.
    address: where it is downloaded from; None for files.
    """

    image_id: int
    path: Path
    upright: bool
    by_size: bool
    address: str | None = None

    def read(self) -> bytes:
        """The bytes of the file. Raises OSError, or DataError for an address."""
        return self.path.read_bytes() if self.address is None else downloaded(self.address)


class Seen(NamedTuple):
    """An image as the network sees it.

    path: of its file; of an image at an address, its name alone.
    pixels: (3, H, W) uint8.
    upright: whether it was turned by EXIF; None where it has no EXIF orientation, or a COCO file's size tells.
    address: where it was downloaded from; None for files.
    """

    image_id: int
    path: Path
    pixels: Tensor
    upright: bool | None
    address: str | None = None


def root_of(sources: list[str]) -> Path:
    """The deepest folder that contains all sources that are no addresses; links are not resolved."""
    files = [source for source in sources if not is_address(source)]
    if not files:
        return Path.cwd()
    paths = [Path(os.path.abspath(os.path.expanduser(source))) for source in files]
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))


def pictures_of(sources: list[str], annotations: Path | None, turn: Turn = "auto") -> Iterator[Seen]:
    """Yield each image; files that cannot be read are logged and skipped.

    Args:
        sources: files, folders, and http or https addresses; with `annotations`, one folder.
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
        files = [one._replace(image_id=n) for n, one in enumerate(in_order_given(sources, turn), start=1)]
        if not files:
            raise UsageError("no images given; give image files or folders")
    read, refused = 0, None
    for listed in files:
        try:
            data = listed.read()
            pixels = decode_image(data, upright=listed.upright)
            oriented = not listed.by_size and image_header(data).orientation > STORED
        except DataError as refusal:
            refused = refused or refusal
            log.warning("skipped: %s", refusal)
            continue
        except (OSError, BadImage) as error:
            log.warning("skipped %s: %s", shown(listed.address) if listed.address else listed.path, error)
            continue
        read += 1
        turned = listed.upright if oriented else None
        yield Seen(listed.image_id, listed.path, pixels, turned, listed.address)
    if not read and refused is not None:
        raise refused
    if not read:
        first = shown(files[0].address) if files[0].address else files[0].path
        raise DataError(f"none of the {len(files)} files can be read as an image; check {first}")


def in_order_given(sources: list[str], turn: Turn) -> Iterator[Listed]:
    """The images of files, folders and addresses, not numbered yet. Raises DataError as `listed_files`."""
    for source in sources:
        if is_address(source):
            yield Listed(0, Path(file_name(source)), turn != "stored", False, source)
            continue
        for path in listed_files([source]):
            yield Listed(0, path, turn != "stored", False)


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
