"""The index of a shard: byte offsets of its images, built by reading the whole tar once.

    open_index(shard) -> the index next to it or in the cache; built and saved if there is none

A shard is an uncompressed tar of `key.jpg|jpeg|png|webp` and `key.cls` (a number from 0), the WebDataset convention;
other members are ignored. A truncated or damaged shard raises DataError with its name and the byte offset.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.data.contents import Contents
from shared.errors import DataError
from shared.feeding.tar import damaged, index_places, members, sha256_of, write_first
from shared.feeding.unchanged import HeaderDigest, header_digest

log = logging.getLogger(__name__)

VERSION = 1  # of the index
HEAD = 4096  # bytes at the start of a shard, to detect a rewritten shard of the same size
LABELS = ("cls",)  # extensions of members whose content is part of the index


class ChangedShard(DataError):
    """A shard that is not the one its index was built from."""


class ShardIndex(NamedTuple):
    """N images of a shard: keys (N,) as bytes; offsets, sizes and, if it has any, labels (N,) int64."""

    sha256: str
    keys: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None


def open_index(shard: Path, *, verify: bool = False, keep: bool = True) -> ShardIndex:
    """Read the index of a shard, or build it.

    Args:
        verify: compare the shard with the sha256 in its index, which reads it completely.
        keep: write an index that was built beside the shard.

    Raises:
        DataError: the shard is missing, damaged or invalid, or was changed after its index was built.
    """
    if not shard.is_file() or not os.access(shard, os.R_OK):
        raise DataError(f"there is no readable shard {shard}; check --data-path")
    found = [(place, *_read_index(place)) for place in index_places(shard) if place.is_file()]
    if not (complete := [each for each in found if "headers" in each[1]]):  # else it is of an earlier version
        log.info("indexing shard %s", shard)
        document = build_index(shard)
        text = json.dumps(document, separators=(",", ":"))
        if keep:
            write_first(index_places(shard), lambda aside: aside.write_text(text, encoding="utf-8"))
        return _from_document(document)
    place, document, index = complete[0]
    anew = f"if the shard is correct, delete {place} to index it again"
    if document["bytes"] != shard.stat().st_size:
        raise damaged(shard, shard.stat().st_size, f"it ends there, but its index says {document['bytes']}; {anew}")
    if document["head"] != sha256_of(shard, HEAD) or document["headers"] != header_digest(shard, LABELS):
        raise ChangedShard(f"shard {shard} was changed after its index was built; {anew}")
    if verify and document["sha256"] != sha256_of(shard):
        raise ChangedShard(f"the sha256 of shard {shard} differs from its index, so it was changed or damaged; {anew}")
    return index


def build_index(shard: Path) -> dict[str, Any]:
    """Read a shard from start to end -> its index as written to disk."""
    images: dict[str, tuple[str, int, int]] = {}
    classes: dict[str, int] = {}
    contents = Contents(shard)
    with HeaderDigest(shard, LABELS) as digest:
        for member in members(shard):
            digest.add(member)
            if (named := contents.add(member)) is None:
                continue
            key, extension = named
            if extension == "cls":
                text = os.pread(digest.file.fileno(), min(member.size, 64), member.offset_data)
                classes[key] = parse_class(text, f"{shard}:{key}")
            else:
                images[key] = (extension, member.offset_data, member.size)
    contents.complete()
    return {
        "version": VERSION,
        "bytes": shard.stat().st_size,
        "head": sha256_of(shard, HEAD),
        "headers": digest.hexdigest(),
        "sha256": sha256_of(shard),
        "key": list(images),
        "ext": [extension for extension, _, _ in images.values()],
        "offset": [offset for _, offset, _ in images.values()],
        "size": [size for _, _, size in images.values()],
        "class": [classes[key] for key in images] if classes else None,
    }


def parse_class(text: bytes, name: str) -> int:
    words = text.decode("utf-8-sig", errors="replace").strip()
    if not (words.isascii() and words.isdigit() and len(words) < 10):
        raise DataError(f"the class of {name} is '{words[:20]}', not a number from 0; correct its .cls member")
    return int(words)


def _read_index(place: Path) -> tuple[dict[str, Any], ShardIndex]:
    try:
        document = json.loads(place.read_bytes())
        texts = (document["head"], document["sha256"], document.get("headers", ""))
        if document["version"] != VERSION or any(type(text) is not str for text in texts):
            raise ValueError("another version")
        return document, _from_document(document)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise DataError(f"{place} is not a usable shard index ({error}); delete it to index the shard again") from None


def _from_document(document: dict[str, Any]) -> ShardIndex:
    keys = np.array([os.fsencode(key) for key in document["key"]], dtype=np.bytes_)
    offsets, sizes = np.array(document["offset"], dtype=np.int64), np.array(document["size"], dtype=np.int64)
    labels = None if document["class"] is None else np.array(document["class"], dtype=np.int64)
    columns = [keys, offsets, sizes, *([] if labels is None else [labels])]
    if len(keys) != len(document["ext"]) or any(column.shape != keys.shape for column in columns):
        raise ValueError("its columns differ in length")
    if min(column.min() for column in columns[1:]) < 0 or (offsets + sizes).max() > document["bytes"]:
        raise ValueError("it points outside its shard")
    return ShardIndex(document["sha256"], keys, offsets, sizes, labels)
