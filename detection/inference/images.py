"""The photographs a person names: files, folders of them, or those of a COCO file.

files and folders            -> ids from 1 in the order of their names, turned upright
one folder, and a COCO file  -> the file's ids, pixels as they are stored
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from detection.data.coco import CocoDetection
from shared.errors import DataError, UsageError
from shared.feeding.image import BadImage, decode_image

log = logging.getLogger(__name__)
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def root_of(sources: list[str]) -> Path:
    """The folder that holds all the images: the one that is named, or the nearest above several."""
    paths = [Path(source).expanduser().resolve() for source in sources]
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))


def pictures_of(
    sources: list[str], annotations: Path | None, images: type[CocoDetection] = CocoDetection
) -> Iterator[tuple[int, Path, Tensor]]:
    """(image id, file, uint8 pixels) of everything asked for; a file that cannot be read is named and passed over.

    Args:
        images: what reads the annotations.
    """
    if annotations is not None:
        if len(sources) != 1:
            raise UsageError("with --coco-json-path name one folder, that of its images")
        dataset = images(Path(sources[0]), annotations)
        files = [(image_id, dataset.path(index)) for index, image_id in enumerate(dataset.image_ids)]
    else:
        files = list(enumerate(listed_files(sources), start=1))
    read = 0
    for image_id, path in files:
        try:
            picture = decode_image(path.read_bytes(), upright=annotations is None)
        except (OSError, BadImage) as error:
            log.warning("passed over %s: %s", path, error)
            continue
        read += 1
        yield image_id, path, picture
    if not read:
        raise DataError(f"none of the {len(files)} files can be read as an image; look at {files[0][1]}")


def listed_files(sources: list[str]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
            if not inside:
                raise DataError(f"{path} holds no image; name a folder of {', '.join(IMAGES[:4])} files")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(
                f"there is no file {path}; name images, a folder of them, or a folder with --coco-json-path"
            )
    if not files:
        raise UsageError("name the images to look at: files, or a folder")
    return files
