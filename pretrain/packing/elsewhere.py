"""Images at an address that fsspec opens, for `pretrain pack`: what is there, and the bytes of one.

    s3://bucket/photos -> one listing of the store -> files as paths below the address, their sizes
                                                   -> a number that is another when a file was written again
    s3://bucket/photos/dog/1.jpg -> its bytes, or one sentence

A store without such a number (an entity tag, a time) is taken to be unchanged. Whatever a file system raises is one
sentence with the address; only a file that is not there any more is left to the caller, who leaves it out.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pretrain.data.remote import PACKAGES, opened_system, scheme_of, unreadable
from pretrain.data.tree import Tree
from shared.errors import DataError, UsageError

CHANGED_BY = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified")


class Placed(NamedTuple):
    """A file at an address: where, its bytes, and a number of its version, 0 if the store tells none."""

    address: str
    size: int
    changed: int


def is_address(place: object) -> bool:
    """Whether images are listed and read by fsspec there; not of https, where nothing can be listed."""
    return isinstance(place, str) and scheme_of(place) in PACKAGES


def check_source(place: str) -> None:
    """Raise UsageError for an address that cannot be listed."""
    if scheme_of(place) is not None and not is_address(place):
        raise UsageError(
            f"{place} cannot be listed; give a local path, or an address that starts with {'://, '.join(PACKAGES)}://"
        )


def tree_at(address: str) -> tuple[Tree, dict[PurePosixPath, Placed]]:
    """All files below an address, and where each is.

    Raises:
        DataError: nothing is there, it cannot be reached, or it is a data set of detection.
    """
    system, root = opened_system(address.rstrip("/"))
    try:
        found = system.find(root, detail=True)
    except Exception as error:
        raise unreadable(address, error) from None
    scheme, places = address.partition("://")[0], dict[PurePosixPath, Placed]()
    above = PurePosixPath(root.strip("/"))
    for name, about in found.items():
        inside = PurePosixPath(name.strip("/"))
        if not name.endswith("/") and inside != above:  # stores keep empty objects for folders
            where = f"{scheme}://{name.lstrip('/')}"
            places[inside.relative_to(above)] = Placed(where, int(about.get("size") or 0), version(about))
    if not places:
        raise DataError(f"there are no files below {address}; check the address")
    if any(path.parts[0] == "annotations" and path.suffix == ".json" for path in places):
        raise DataError(
            f"{address} has COCO annotations, and its folders are no classes; list its images in a local text file, "
            "one `path 0` per line, and pack that with --root"
        )
    folders = {above for path in places for above in path.parents if above.parts}
    return Tree(sorted(places), sorted(folders), []), places


def version(about: dict[str, Any]) -> int:
    """A number that follows from what a store says of a file's content or time; 0 if it says nothing."""
    told = next((about[name] for name in CHANGED_BY if about.get(name)), None)
    return 0 if told is None else int.from_bytes(hashlib.sha256(str(told).encode()).digest()[:7])


def read_at(address: str) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: it is not there.
        DataError: anything else, since the next file would fare alike.
    """
    system, path = opened_system(address)
    try:
        return system.cat_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address) from None
    except Exception as error:
        raise unreadable(address, error) from None
