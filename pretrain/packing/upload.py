"""`pretrain upload SHARDS s3://bucket/shards`: a finished folder of shards to an address, where training streams it.

    SHARDS -> OUT/uploading, with what is to come -> every file, its size compared -> OUT/uploading removed

While that mark is there, training refuses the folder, so nobody takes a part for the whole. A stopped upload goes on
with the files that are missing, as long as SHARDS is as it was; what else is at the address is never overwritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain.data.remote import MARK, PACKAGES, opened_system, scheme_of, unreadable
from pretrain.data.shards import find_shards
from shared.errors import DataError, UsageError
from shared.feeding.unchanged import SEEN


def upload(folder: Path, address: str, progress: Callable[[int, int], None]) -> tuple[int, int]:
    """(files of the folder, those of them that were there already).

    Args:
        progress: called with the bytes that are there and their total.

    Raises:
        UsageError: an address that fsspec does not write to.
        DataError: no shards in the folder; other files at the address; it cannot be reached or does not take a file.
    """
    if scheme_of(address) not in PACKAGES:
        raise UsageError(f"'{address}' is no address to upload to; they start with {'://, '.join(PACKAGES)}://")
    find_shards(folder, None)
    files = sorted(place for place in folder.iterdir() if place.is_file() and place.name[0] != "." and is_of_set(place))
    sizes = {place.name: place.stat().st_size for place in files}
    word = hashlib.sha256(repr([(p.name, sizes[p.name], p.stat().st_mtime_ns) for p in files]).encode()).hexdigest()
    system, path = opened_system(address.rstrip("/"))
    try:
        there = begun(system, path, word, address)
        total, done = sum(sizes.values()), 0
        for place in files:
            if there.get(place.name) != sizes[place.name]:
                system.put_file(str(place), f"{path}/{place.name}")
                system.invalidate_cache()
                if (size := system.size(f"{path}/{place.name}")) != sizes[place.name]:
                    raise DataError(f"{address}/{place.name} has {size} bytes after its upload; run the command again")
            done += sizes[place.name]
            progress(done, total)
        system.rm_file(f"{path}/{MARK}")
    except DataError:
        raise
    except Exception as error:
        raise unreadable(address, error) from None
    return len(files), sum(there.get(name) == size for name, size in sizes.items())


def is_of_set(place: Path) -> bool:
    return not place.name.endswith((SEEN, ".partial"))


def begun(system: Any, path: str, word: str, address: str) -> dict[str, int]:
    """Put the mark, if this upload has not begun before -> sizes of what is there, by name.

    Raises:
        DataError: there are files of something else.
    """
    system.invalidate_cache()
    found = system.find(path, detail=True)
    there = {str(name).rpartition("/")[2]: about["size"] for name, about in found.items()}
    if not there:
        system.pipe_file(f"{path}/{MARK}", word.encode())
    elif MARK not in there or system.cat_file(f"{path}/{MARK}").decode() != word:
        raise DataError(
            f"{address} has files already, which are not of an unfinished upload of this folder; give another address, "
            f"or remove them first"
        )
    return there
