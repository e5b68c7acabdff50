"""Whether a file is still the one that an index of it describes.

    file -> size and times of its last change, as when it was last looked at -> the digest remembered from then
                                                 otherwise -> what the digest is of, read again and remembered

The digest of a shard is of all that an index is made of: name, kind, place, size and time of every member, and the
content of labels. It costs one small read per member, and only after the file was written, copied or moved. That of
another file is of its bytes. A size or a time of modification alone can be the same for another content; the time of
change (ctime) cannot be set.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from shared.feeding.tar import index_places, members, sha256_of, split_name, write_first

SEEN = ".seen"  # ending of the file with times and digest
RECENT = 2.0  # seconds; a later change within a file system's clock tick would leave the same times


class HeaderDigest:
    """sha256 of the headers of a tar's members, and of the content of those with certain extensions.

    Args:
        shard: the tar.
        labels: extensions without a dot, as in `split_name`.
    """

    def __init__(self, shard: Path, labels: Collection[str]) -> None:
        self.labels, self.sha256 = labels, hashlib.sha256()
        self.file = shard.open("rb")

    def __enter__(self) -> HeaderDigest:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, member: tarfile.TarInfo) -> None:
        about = (member.name, member.type, member.linkname, member.offset_data, member.size, member.mtime)
        self.sha256.update(os.fsencode(repr(about)))
        if member.isreg() and split_name(member.name)[1] in self.labels:
            self.sha256.update(os.pread(self.file.fileno(), member.size, member.offset_data))

    def hexdigest(self) -> str:
        return self.sha256.hexdigest()


def header_digest(shard: Path, labels: Collection[str]) -> str:
    """The digest of a shard as it is now. Raises DataError if a header is damaged."""

    def read() -> str:
        with HeaderDigest(shard, labels) as digest:
            for member in members(shard, end_too=False):
                digest.add(member)
        return digest.hexdigest()

    return remembered(shard, f".{'-'.join(sorted(labels))}{SEEN}", read)


def content_digest(path: Path) -> str:
    """sha256 of the bytes of a file as it is now. Raises OSError."""
    return remembered(path, f"{path.suffix}{SEEN}", lambda: sha256_of(path))


def times_of(path: Path) -> str:
    """Size and times of the last change, equal as long as a file is not written. Raises OSError."""
    return _times(path.stat())


def _times(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def remembered(path: Path, ending: str, read: Callable[[], str]) -> str:
    """The digest of a file that `read` found when its times were those of now, else what it finds now.

    Args:
        ending: of the file that remembers it, as `index_places` takes it.
    """
    status = path.stat()
    times, places = _times(status), index_places(path, ending)
    for place in places:  # one that came along with a copied folder has other times
        with suppress(OSError, ValueError):
            known, _, remembered = place.read_text(encoding="ascii").rpartition(" ")
            if known == times and remembered:
                return remembered
    found = read()
    if time.time() - max(status.st_ctime, status.st_mtime) > RECENT:
        write_first(places, lambda aside: aside.write_text(f"{times} {found}", encoding="ascii"))
    return found
