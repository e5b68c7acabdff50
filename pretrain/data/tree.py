"""All files below a folder, each accounted for.

folder -> its real folders -> then links to folders, each target once and never in a circle
       -> files (links to files are followed), folders, and what is neither, with the reason
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from shared.errors import DataError
from shared.feeding.layouts import COCO, CSV, CVAT, LABELME, OPEN_IMAGES, VOC, YOLO, layout_of


class Tree(NamedTuple):
    """Relative paths of files and folders; what is not a file, or is a link not followed, with reasons."""

    files: list[PurePosixPath]
    folders: list[PurePosixPath]
    left_out: list[tuple[str, str]]


def refuse_detection_data(folder: Path) -> None:
    """Raise DataError for a data set of detection, whose folders are splits and not classes."""
    found = layout_of(folder)
    if found in (COCO, YOLO, VOC, CVAT, LABELME, OPEN_IMAGES, CSV):
        raise DataError(
            f"{folder} is a {found} data set for detection, whose folders are no classes; use `detect train`, or, to "
            "pretrain on its images without labels, list them in a text file, one `path 0` per line, and pack that"
        )


def walk(folder: Path) -> Tree:
    """All files below a folder.

    Raises:
        DataError: there is no such folder, one below it cannot be read, or it is a data set of detection.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder or tar {folder}; check the path")
    refuse_detection_data(folder)
    tree, seen = Tree([], [], []), dict[tuple[int, int], PurePosixPath]()
    links = list(_real(folder, PurePosixPath(), tree, seen))
    while links:
        inside = links.pop(0)
        target = Path(os.path.realpath(folder / inside))
        around = Path(os.path.realpath((folder / inside).parent))
        if target in (around, *around.parents):
            tree.left_out.append((str(inside), "a link to a folder that it is in"))
        elif (known := seen.get(_identity(target))) is not None:
            tree.left_out.append((str(inside), f"a link to folder '{known}', which is read as well"))
        else:
            tree.folders.append(inside)
            links += _real(folder, inside, tree, seen)
    return tree


def _real(folder: Path, start: PurePosixPath, tree: Tree, seen: dict[tuple[int, int], PurePosixPath]) -> Iterator:
    """Add everything below `start` to the tree, except links to folders, which are yielded."""
    waiting = [start]
    while waiting:
        inside = waiting.pop()
        if _identity(folder / inside) in seen:  # a real folder below a followed link that was read by another way
            tree.left_out.append((str(inside), f"the same folder as '{seen[_identity(folder / inside)]}'"))
            continue
        seen[_identity(folder / inside)] = inside
        try:
            with os.scandir(folder / inside) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"cannot read folder {folder / inside}: {error.strerror}; check permissions") from None
        for entry in entries:
            path = inside / entry.name
            kind = _kind(entry)
            if kind == "link":
                yield path
            elif kind == "folder":
                tree.folders.append(path)
                waiting.append(path)
            elif kind == "file":
                tree.files.append(path)
            else:
                tree.left_out.append((str(path), kind))


def _kind(entry: os.DirEntry[str]) -> str:
    """'file', 'folder', 'link' (to a folder), or the reason why it is none of these."""
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        return error.strerror or "cannot be read"
    return "a link to nothing" if entry.is_symlink() else "not a regular file"


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
