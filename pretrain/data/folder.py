"""Labeled images in class folders, as a data set for the feed.

    FOLDER/<class>/...               one set
    FOLDER/train|val/<class>/...     two, with the classes of train      (validation or test serve as val)

Images, classes and splits are determined as in `pretrain pack`, so a folder and the shards packed from it have the same
classes in the same order. Pack it for long training: shards are read many times faster.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.layout import Item, layout
from pretrain.data.restart_markers import decoded_view
from pretrain.data.shards import PIECE, stacked
from pretrain.data.tree import walk
from shared.errors import BadSample, plural
from shared.feeding.image import BadImage

log = logging.getLogger(__name__)
View = Callable[[Tensor, np.random.Generator], Any]


class ImageFolder:
    """The images of one split.

    Args:
        folder: folder of the items.
        items: paths inside it, with their classes.
        classes: class names by label.
        view: (3, H, W) uint8 pixels and a random generator -> a tensor, or a tuple of them.
    """

    def __init__(self, folder: Path, items: list[Item], classes: list[str], view: View) -> None:
        self.folder, self.classes, self.view = folder, classes, view
        self.paths = [str(item.path) for item in items]
        self.labels = np.array([item.label for item in items], dtype=np.int64)
        self.sizes, self.num_classes = [len(items)], len(classes)
        self.file_sizes = np.array([(folder / path).stat().st_size for path in self.paths], dtype=np.int64)
        lines = (f"{path} {label} {size}\n" for (path, label), size in zip(self, self.file_sizes.tolist(), strict=True))
        self.fingerprint = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Any:
        return zip(self.paths, self.labels.tolist(), strict=True)

    def name(self, index: int) -> str:
        return str(self.folder / self.paths[index])

    def read(self, index: int) -> bytearray:
        """The bytes of one image file; none if it cannot be read."""
        with suppress(OSError):
            return bytearray((self.folder / self.paths[index]).read_bytes())
        return bytearray()

    def piece(self, index: int) -> bytes:
        """Up to PIECE bytes from the middle of one image file; none if it cannot be read."""
        with suppress(OSError), (self.folder / self.paths[index]).open("rb") as file:
            file.seek(max(int(self.file_sizes[index]) - PIECE, 0) // 2)
            return file.read(PIECE)
        return b""

    def load(self, index: int, rng: np.random.Generator) -> tuple[Any, int]:
        """One sample: its view and its label. Raises BadSample."""
        try:
            data = bytearray((self.folder / self.paths[index]).read_bytes())
            return decoded_view(data, self.view, rng), int(self.labels[index])
        except BadImage as error:
            raise BadSample(self.name(index), str(error)) from None
        except OSError as error:
            raise BadSample(self.name(index), error.strerror or str(error)) from None

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Samples -> (views stacked to (B, 3, H, W) uint8, or a tuple of such; labels (B,) int64)."""
        return stacked([view for view, _ in samples]), torch.tensor([label for _, label in samples])


def image_folders(folder: Path, view: View) -> tuple[ImageFolder, ImageFolder | None]:
    """Training images, and validation images if the folder has some.

    Raises:
        DataError: no images, an image outside the class folders, or a class of val that train lacks.
    """
    found = layout(walk(folder), str(folder))
    for note in found.notes:
        log.info("%s: %s", folder, note)
    if found.skipped:
        name, reason = found.skipped[0]
        log.warning("%s of %s not used, for example %s: %s", plural(len(found.skipped), "image"), folder, name, reason)
    train, val = (ImageFolder(folder, found.splits[split], found.classes, view) for split in ("train", "val"))
    return train, val if len(val) else None
