"""The files of an uncompressed tar, read in place, each accounted for like those of a folder.

tar -> members -> links resolved inside the tar -> files with their offsets
               -> a link to what the tar does not contain is refused if it may stand for images
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pretrain.data.layout import IMAGES
from pretrain.data.tree import Tree
from shared.errors import DataError
from shared.feeding.tar import members

STEPS = 40  # links to links


class Archive(NamedTuple):
    """Files and folders of a tar, and by file its (offset, size) in bytes."""

    tree: Tree
    places: dict[PurePosixPath, tuple[int, int]]


def read_archive(place: Path) -> Archive:
    """The files of a tar.

    Raises:
        DataError: it is damaged, or has a link to something that it does not contain.
    """
    places: dict[PurePosixPath, tuple[int, int]] = {}
    links: dict[PurePosixPath, PurePosixPath] = {}
    folders: set[PurePosixPath] = set()
    left_out: list[tuple[str, str]] = []
    for member in members(place):
        path = _inside(PurePosixPath(member.name))
        if path in places:
            left_out.append((str(path), "replaced by a later member of the same name"))
        if member.isdir():
            folders.add(path)
        elif member.issym() or member.islnk():
            base = path.parent if member.issym() and not member.linkname.startswith("/") else PurePosixPath()
            links[path] = _inside(base / member.linkname)
        elif member.issparse():
            left_out.append((str(path), "sparse in the tar; make the tar without --sparse"))
        elif member.isreg():
            places[path] = (member.offset_data, member.size)
        else:
            left_out.append((str(path), "not a regular file"))
    folders |= {parent for path in places for parent in path.parents}
    for path in links:
        target = _resolved(path, links, places)
        if target in places:
            places[path] = places[target]
        elif target in folders:
            left_out.append((str(path), f"a link to folder '{target}', which is read as well"))
        elif path.suffix and path.suffix[1:].lower() not in IMAGES:
            left_out.append((str(path), f"a link to '{links[path]}', which the tar does not contain"))
        else:
            raise DataError(
                f"'{path}' in {place} is a link to '{links[path]}', which the tar does not contain; "
                f"make the tar with --dereference, or pack the folder itself"
            )
    return Archive(Tree(list(places), sorted(folders - {PurePosixPath()}), left_out), places)


def _resolved(path: PurePosixPath, links: dict, places: dict) -> PurePosixPath | None:
    """What a path inside the tar stands for; None if its links lead in a circle."""
    for _ in range(STEPS):
        if path in places:
            return path
        if (link := next((part for part in (path, *path.parents) if part in links), None)) is None:
            return path
        path = _inside(links[link] / path.relative_to(link))
    return None


def _inside(path: PurePosixPath) -> PurePosixPath:
    """A path without `/` and `..`, as it is below the top of the tar."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part not in ("/", "."):
            parts.append(part)
    return PurePosixPath(*parts)
