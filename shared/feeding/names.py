"""Names of image files: which endings are images, and which files are nobody's photographs.

photo.JPG                                     an image that can be decoded
photo.heic, photo.dng                         an image that must be converted first
._photo.jpg, .thumbnails/photo.jpg            hidden: previews and notes of other programs
.ipynb_checkpoints/photo-checkpoint.jpg       the same
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from shared.errors import plural

DECODED = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "ppm", "pgm", "pbm", "jfif", "jpe")
UNDECODED = ("heic", "heif", "jp2", "jxl", "psd", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "svg")
IN_SHARDS = ("jpg", "jpeg", "png", "webp")  # of those that are decoded, the ones that shards for pretraining hold


def ending_of(name: str) -> str:
    """`a.b.JPG` -> `jpg`; `.jpg` has none."""
    return os.path.splitext(name)[1][1:].lower()


def is_image(name: str) -> bool:
    """True for a file name whose ending is that of an image that can be decoded."""
    return ending_of(name) in DECODED


def is_hidden(name: str) -> bool:
    """True for the name of a hidden file or folder."""
    return name.startswith(".")


class Found(NamedTuple):
    """Image files below a folder, sorted, and notes about those that were skipped."""

    images: list[Path]
    notes: list[str]


def images_below(folder: Path) -> Found:
    """All image files below a folder, without hidden ones. Links are followed, each folder once."""
    images: list[Path] = []
    hidden, undecoded = 0, []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above, or to one that was read
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in [name for name in folders if is_hidden(name)]:
            folders.remove(name)
            hidden += sum(is_image(inner) for _, _, files in os.walk(Path(place, name)) for inner in files)
        folders.sort()
        for name in names:
            if is_image(name) and is_hidden(name):
                hidden += 1
            elif is_image(name):
                images.append(Path(place, name))
            elif ending_of(name) in UNDECODED:
                undecoded.append(ending_of(name))
    notes = []
    if hidden:
        notes.append(f"{plural(hidden, 'hidden image')} in {folder} skipped, such as previews of other programs")
    if undecoded:
        kinds = ", ".join(f".{kind}" for kind in sorted(set(undecoded)))
        notes.append(f"{plural(len(undecoded), 'image')} in {folder} skipped: {kinds} is not read; convert to JPEG")
    return Found(sorted(images), notes)
