"""Images of a written data set: links to where they are, so that none is copied, moved or changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from detection.data.formats.records import Photo
from shared.errors import DataError


def link(place: Path, target: Path, final: Path) -> None:
    """Make a link to a folder or file.

    Args:
        place: where it is written.
        target: what it leads to.
        final: where it is when the data set is renamed; the link is relative, so that both may move together.

    Raises:
        DataError: this disk has no links.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    lies = final.parent.resolve()
    try:
        place.symlink_to(os.path.relpath(target.resolve(), lies), target_is_directory=target.is_dir())
    except (OSError, NotImplementedError, ValueError) as error:
        raise DataError(
            f"cannot link {final} to {target} ({error}); give an --output on a disk that has symbolic links"
        ) from None


def names_below(photos: Sequence[Photo]) -> dict[Path, Photo]:
    """Photographs by their paths below the folder that holds them all."""
    folder = os.path.commonpath([os.path.abspath(photo.file.parent) for photo in photos])
    return {Path(os.path.relpath(os.path.abspath(photo.file), folder)): photo for photo in photos}
