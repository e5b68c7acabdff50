"""The images to predict: files, folders, or the images of a COCO file.

files and folders        -> ids from 1: sources as given, files of a folder by name; EXIF orientation is applied
a folder and a COCO file -> ids of the file; EXIF orientation is ignored, as in COCO
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
    """The deepest folder that contains all sources."""
    paths = [Path(source).expanduser().resolve() for source in sources]
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in paths]))


def pictures_of(
    sources: list[str], annotations: Path | None, images: type[CocoDetection] = CocoDetection
) -> Iterator[tuple[int, Path, Tensor]]:
    """Yield (image id, file, uint8 pixels (3, H, W)); files that cannot be read are logged and skipped.

    Args:
        sources: files and folders; with `annotations`, one folder.
        annotations: a COCO file.
        images: class that reads the annotations.

    Raises:
        UsageError: no sources, or several with `annotations`.
        DataError: a missing file, a folder without images, or no readable image.
    """
    if annotations is not None:
        if len(sources) != 1:
            raise UsageError("--coco-json-path needs the folder of its images; give exactly one folder")
        dataset = images(Path(sources[0]), annotations)
        files = [(image_id, dataset.path(index)) for index, image_id in enumerate(dataset.image_ids)]
    else:
        files = list(enumerate(listed_files(sources), start=1))
    read = 0
    for image_id, path in files:
        try:
            picture = decode_image(path.read_bytes(), upright=annotations is None)
        except (OSError, BadImage) as error:
            log.warning("skipped %s: %s", path, error)
            continue
        read += 1
        yield image_id, path, picture
    if not read:
        raise DataError(f"none of the {len(files)} files can be read as an image; check {files[0][1]}")


def listed_files(sources: list[str]) -> list[Path]:
    """Files of the sources, folders searched recursively.

    Raises:
        UsageError: no sources.
        DataError: a missing file, or a folder without images.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
            if not inside:
                raise DataError(f"{path} contains no images; give a folder of {', '.join(IMAGES[:4])} files")
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
