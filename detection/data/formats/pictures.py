"""Finding the photographs that labels name: by path, else by name, else by the nearest folder; none outside is found.

images/a.jpg, C:\\photos\\a.jpg, a -> Pictures(SRC).find(...) -> SRC/train/images/a.jpg
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detection.data.formats.records import SPLIT_OF, Asked, some
from shared.errors import DataError, plural
from shared.feeding.names import images_below

MASKS = ("masks", "segmentationclass", "segmentationobject")
PART_OF = re.compile(r"obj_([a-z]+)_data")  # folders of YOLO 1.1, as CVAT writes them


class Pictures:
    """All images below a folder, listed once; those that were asked for are remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = images_below(folder)
        self.images, self.notes = [image for image in found.images if not of_masks(image, folder)], found.notes
        self.by_name: dict[str, list[Path]] = {}
        self.by_stem: dict[str, list[Path]] = {}
        for image in self.images:
            self.by_name.setdefault(image.name, []).append(image)
            self.by_stem.setdefault(image.stem, []).append(image)
        self.taken: dict[Path, Path] = {}  # image -> the label file that has it

    def find(self, told: str, labels: Path, *, stem: str | None = None) -> Path | None:
        """The image that a label file means; None if it is not there.

        Args:
            told: the name or path in the label file, of any system.
            labels: the label file, whose folder decides between images of one name.
            stem: a name without an ending, for a file that names another image, or none.

        Raises:
            DataError: several images are meant equally, or two label files mean the same one.
        """
        parts = [part for part in told.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        choices = self.by_name.get(parts[-1], []) if parts else []
        if not choices and stem is not None:
            choices, parts = self.by_stem.get(stem, []), [*parts[:-1], stem]
        if not choices:
            return None
        near = labels.parent.parts
        ranked = sorted(choices, key=lambda image: rank(image, parts, near), reverse=True)
        best = ranked[0]
        if len(ranked) > 1 and rank(best, parts, near) == rank(ranked[1], parts, near):
            raise DataError(
                f"{labels} may mean {ranked[0]} or {ranked[1]}; give images different names, or put one folder of "
                "images beside its labels"
            )
        return best

    def take(self, image: Path, labels: Path) -> None:
        """Remember whose image this is. Raises DataError if another label file has it."""
        if image in self.taken:
            raise DataError(f"{self.taken[image]} and {labels} both label {image}; remove one of them")
        self.taken[image] = labels

    def unlabeled(self) -> list[Path]:
        """Images that no label file has, which are background."""
        return [image for image in self.images if image not in self.taken]


def of_masks(image: Path, folder: Path) -> bool:
    """True for an image of masks, in a folder that is called so in VOC or Open Images."""
    return any(part.lower() in MASKS for part in image.relative_to(folder).parts[:-1])


def rank(image: Path, told: Sequence[str], near: Sequence[str]) -> tuple[int, int]:
    """How well an image fits: folders that its path shares with the told path, then with that of the labels, from
    either end: images/train/a.jpg is nearer to labels/train/a.txt than images/val/a.jpg."""
    folders = image.parent.parts
    backwards = folders[::-1]
    return common(backwards, told[-2::-1]), common(folders, near) + common(backwards, near[::-1])


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many first parts are equal."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def split_of(path: Path, root: Path) -> str:
    """train, val or test, by the first folder of a path that says so; else train."""
    inside = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
    for part in map(str.lower, inside[:-1]):
        named = PART_OF.fullmatch(part)
        if (split := SPLIT_OF.get(named[1] if named else part)) is not None:
            return split
    return "train"


def check_missing(missing: Sequence[object], asked: Asked, where: Path, what: str = "") -> list[str]:
    """A note about labels whose image is not there. Raises DataError if there are more than may be.

    Args:
        what: "image" where images are listed, and not label files found.
    """
    if not missing:
        return []
    verb = "is" if len(missing) == 1 else "are"
    count = f"{plural(len(missing), what)} that {verb} not there" if what else plural(len(missing), "label file")
    count += "" if what else " without an image"
    if len(missing) > asked.allow_missing:
        raise DataError(
            f"{where} has {count}, such as {some(missing)}; copy the rest of the images, or add "
            f"--allow-missing-images {len(missing)} to leave them out"
        )
    return [f"{count} left out, such as {some(missing)}"]


def background(count: int) -> list[str]:
    """A note about images without labels."""
    return [f"{plural(count, 'image')} without a label file kept as background, without objects"] if count else []
