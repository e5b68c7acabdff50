"""What a shard must contain: the checks of its members, the same for an index and for a stream.

    members, one by one -> key and extension of images and classes; links and repeated keys are refused
    at the end          -> all images have a class or none has; no image is hidden behind a dot in its key

A key ends at the first dot of a file name, as WebDataset has it. `a.seg.png` next to `a.jpg` is one more member of
sample `a` and ignored; `a.1.jpg` is an image whose key has a dot, which would be lost, and is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from tarfile import TarInfo
from typing import Any

from pretrain.data.layout import IMAGES, OTHER_IMAGES
from shared.errors import DataError, plural
from shared.feeding.tar import split_name

log = logging.getLogger(__name__)


class Contents:
    """Checks of one shard.

    Args:
        shard: path or address, for messages.
    """

    def __init__(self, shard: Any) -> None:
        self.shard = shard
        self.images: set[str] = set()
        self.classes: set[str] = set()
        self.dotted: dict[str, dict[str, str]] = {}  # by what follows the first dot: member names by key
        self.stems: dict[str, set[str]] = {"image": set(), "cls": set()}  # of dotted names, up to the last dot
        self.unread: Counter[str] = Counter()  # images of other formats, by extension

    def add(self, member: TarInfo) -> tuple[str, str] | None:
        """Key and extension if this is an image or a class, else None.

        Raises:
            DataError: it is a link or sparse, its key repeats, or has a dot.
        """
        key, extension = split_name(member.name)
        if member.isdir():
            return None
        if "." in extension:
            self._dot(member.name, key, extension)
        if extension in OTHER_IMAGES:
            self.unread[extension] += 1
        if extension not in (*IMAGES, "cls"):
            return None
        if not member.isreg() or member.issparse():
            raise DataError(f"'{member.name}' in shard {self.shard} is a link or sparse; write it as a plain file")
        known = self.classes if extension == "cls" else self.images
        if key in known:
            raise DataError(
                f"shard {self.shard} has two members for key '{key}', a duplicate at byte {member.offset}; keep one"
            )
        known.add(key)
        return key, extension

    def _dot(self, name: str, key: str, extension: str) -> None:
        last = extension.rpartition(".")[2]
        if last not in (*IMAGES, "cls"):
            return
        stem, kind = name.rpartition(".")[0], "cls" if last == "cls" else "image"
        self.stems[kind].add(stem)
        if all(stem in stems for stems in self.stems.values()):  # an image and its class
            raise self._hidden(name)
        self.dotted.setdefault(extension, {})[key] = name

    def _hidden(self, name: str) -> DataError:
        return DataError(
            f"'{name}' in shard {self.shard} has a dot in its key, which ends at the first dot; rename it, or pack the "
            f"images again with `pretrain pack`"
        )

    def complete(self) -> None:
        """The checks at the end of the shard. Raises DataError."""
        images, classes, shard = self.images, self.classes, self.shard
        formats = ", ".join(IMAGES)
        for extension, names in self.dotted.items():
            if lost := next((name for key, name in names.items() if key not in images), None):
                raise self._hidden(lost)
            if extension[0].isdigit() or 2 * len(names) < len(images):  # not a member that most samples have
                raise self._hidden(next(iter(names.values())))
            log.info("ignored %s '.%s' of shard %s", plural(len(names), "member"), extension, shard)
        if alone := next((key for key in classes if key not in images), None):
            raise DataError(f"'{alone}' in shard {shard} has a class but no {formats}; add one or remove it")
        if classes and (bare := next((key for key in images if key not in classes), None)):
            raise DataError(f"'{bare}' in shard {shard} has no class; add '{bare}.cls' or remove all .cls members")
        if not images:
            raise DataError(f"shard {shard} contains no {formats}; remove it or check --data-path")
        if self.unread:
            log.warning(
                "ignored %s in shard %s, of formats that are not read: %s",
                plural(self.unread.total(), "image"),
                shard,
                ", ".join(sorted(self.unread)),
            )
