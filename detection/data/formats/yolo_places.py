"""Where the images of a YOLO data set are: what data.yaml says, as far as it is true on this machine, or the folders.

path: /content/data   train: ../train/images    ->  SRC/train/images, if neither of the two is as it says
train: train.txt                                ->  the images of a list
no YAML: images/train, train/images, train, or images alone beside the labels; names in classes.txt
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from detection.data.annotations.json_values import whole_number
from detection.data.annotations.skeleton import Skeleton
from detection.data.formats.pictures import split_of
from detection.data.formats.records import SPLIT_OF, Asked
from shared.errors import DataError
from shared.feeding.layouts import YOLO, layout_of
from shared.feeding.names import images_below

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "classes.names", "predefined_classes.txt")
WHERE = "give the folder that holds data.yaml, images and labels"


@dataclass
class Places:
    """What is known before any label is read.

    Args:
        root: the folder of the data set.
        names: of the classes.
        told_by: the file that says the names, for messages.
        splits: image files by split.
        missing: images of lists that are not there.
        points: K keypoints of 2 or 3 numbers each; () for none.
        skeleton: the keys of a COCO category about keypoints, or {}.
        ids: category ids that a file converted from COCO had.
    """

    root: Path
    names: list[str]
    told_by: Path | str
    splits: dict[str, list[Path]]
    missing: list[str] = field(default_factory=list)
    points: tuple[int, ...] = ()
    skeleton: dict[str, Any] = field(default_factory=dict)
    ids: list[int] | None = None
    notes: list[str] = field(default_factory=list)


def find_places(source: Path, asked: Asked) -> Places:
    """Read data.yaml, or look at the folders. Raises DataError."""
    file = yaml_of(source)
    if file is None:
        return places_of_folders(source, asked)
    content = read_yaml(file)
    root = file.parent
    names: list[str] = list(asked.classes or names_in(content.get("names"), file))
    places = Places(root, names, "--class-file" if asked.classes else file, {})
    entries = {split: content[split] for split in ("train", "val", "test") if content.get(split)}
    for split, told in entries.items():
        images = [
            image for entry in listed(told, split, file) for image in images_of(entry, split, content, file, places)
        ]
        if images:
            places.splits[split] = sorted(dict.fromkeys(images))
    if "train" in places.splits and places.splits.get("val") == places.splits["train"]:
        places.notes.append(f"val left out: {file.name} gives it the images of train")
        del places.splits["val"]
    if not entries:
        places.splits, found = splits_of_folder(root)
        places.notes += found
    if not any(places.splits.values()):
        raise DataError(f"{file} leads to no images; copy them beside it, as its train and val say")
    if content.get("kpt_shape") is not None:
        add_keypoints(places, content, file)
    ids = content.get("coco_ids")
    if isinstance(ids, list) and len(ids) == len(names) and len({*map(whole_number, ids)} - {None}) == len(names):
        places.ids = [int(value) for value in ids]
    return places


def yaml_of(source: Path) -> Path | None:
    """The YAML of a data set; None if it has none. Raises DataError for several, or nothing there."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise DataError(f"there is nothing at {source}; {WHERE}")
    files = [file for ending in ("*.yaml", "*.yml") for file in sorted(source.glob(ending)) if layout_of(file) == YOLO]
    first = [file for file in files if file.stem in ("data", "dataset")] or files
    if len(first) > 1:
        raise DataError(
            f"{source} has {first[0].name} and {first[1].name}; give one of the two files instead of the folder"
        )
    return first[0] if first else None


def read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"cannot read {file} ({' '.join(str(error).split())[:120]}); correct it") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} is not the YAML of a YOLO data set: it has no names; {WHERE}")
    return content


def names_in(told: Any, file: Path) -> list[str]:
    """`names` as a list or as {0: name, 1: name}."""
    if isinstance(told, dict):
        numbers = {whole_number(key): name for key, name in told.items()}
        if set(numbers) != set(range(len(told))):
            raise DataError(f"{file} has names that do not count 0, 1, 2 ...; give each number its name")
        told = [numbers[place] for place in range(len(told))]
    if not isinstance(told, list) or not told:
        raise DataError(f"{file} has no names of classes; add `names: [...]`, or give --class-file with one a line")
    for name in told:
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise DataError(
                f"{file} has the name {str(name)[:40]}, which is no text (YAML reads yes, no, on and off as true and "
                "false); put names in quotes"
            )
    return [str(name).strip() for name in told]


def listed(told: Any, split: str, file: Path) -> list[str]:
    entries = told if isinstance(told, list) else [told]
    if not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{file} has the {split} {str(told)[:60]}; it can be a folder, a list file, or several of them")
    return entries


def images_of(entry: str, split: str, content: dict[str, Any], file: Path, places: Places) -> list[Path]:
    """The images of a folder or list file that data.yaml names. Raises DataError if there is none."""
    place = place_of(entry, content.get("path"), file.parent)
    if place is None:
        if split == "test":
            places.notes.append(f"test left out: {file.name} says {entry}, which is not there")
            return []
        raise DataError(
            f"{file} says that {split} is {entry}, which is neither there nor below {file.parent}; copy it there, or "
            f"correct the line"
        )
    told = Path(str(content.get("path") or ""), entry)
    if place != (file.parent / told) and place.resolve() != (file.parent / told).resolve():
        places.notes.append(f"{split}: {file.name} says {told}, read from {place}")
    if place.is_dir():
        return images_below(place).images
    images: list[Path] = []
    for line in place.read_text("utf-8-sig", "replace").splitlines():
        if line := line.strip():
            image = place_of(line, content.get("path"), place.parent) or place_of(line, None, file.parent)
            images += [image] if image is not None else []
            places.missing += [line] if image is None else []
    return images


def place_of(entry: str, path: Any, root: Path) -> Path | None:
    """Where an entry of data.yaml is: as it says, else the longest end of it that is below the folder of data.yaml."""
    inside = Path(*PureWindowsPath(entry).parts) if "\\" in entry else Path(entry)
    said = [root / str(path) / inside] if path else []
    for place in (*said, root / inside):
        if place.exists():
            return place
    parts = [part for part in (*Path(str(path or "")).parts, *inside.parts) if part not in ("..", ".", "/")]
    ends = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((place for place in ends if place.exists() and place != root), None)


def add_keypoints(places: Places, content: dict[str, Any], file: Path) -> None:
    """kpt_shape, flip_idx and kpt_names. Raises DataError."""
    shape = content["kpt_shape"]
    whole = [whole_number(value) for value in shape] if isinstance(shape, list) else []
    if len(whole) != 2 or not whole[0] or whole[0] < 1 or whole[1] not in (2, 3):
        raise DataError(f"{file} has the kpt_shape {str(shape)[:40]}; it is [keypoints, 2 or 3], correct it")
    count, each = int(whole[0]), int(whole[1])
    places.points = (count, each)
    told = content.get("kpt_names")
    told = next(iter(told.values()), None) if isinstance(told, dict) else told
    words: dict[str, Any] = {"keypoints": count}
    if isinstance(told, list) and len(told) == count:
        words["keypoints"] = [str(name) for name in told]
        if isinstance(content.get("skeleton"), list):
            words["skeleton"] = content["skeleton"]
    flips = content.get("flip_idx")
    if isinstance(flips, list) and sorted(flips, key=str) == sorted(range(count), key=str):
        words["flip_pairs"] = [[a + 1, b + 1] for a, b in enumerate(flips) if a < b]
    places.skeleton = Skeleton.from_words(words, f"{file}: kpt_shape").to_words()


def places_of_folders(source: Path, asked: Asked) -> Places:
    """A folder without a YAML. Raises DataError."""
    splits, notes = splits_of_folder(asked.images or source)
    if not any(splits.values()):
        raise DataError(f"{asked.images or source} has no images; {WHERE}, or the images with --images")
    if asked.classes:
        return Places(source, list(asked.classes), "--class-file", splits, notes=notes)
    labels = source / "labels"
    folders = (source, labels, *(part / split for part in (source, labels) for split in SPLIT_OF))
    for file in (folder / name for folder in folders for name in NAME_FILES):
        if file.is_file():
            names = [line.strip() for line in file.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
            return Places(source, names, file, splits, notes=notes)
    raise DataError(
        f"{source} has no names of its classes, neither in data.yaml nor in classes.txt; give --class-file with one "
        "name per line, from class 0 on"
    )


def splits_of_folder(source: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Images by the folder that names their split, and notes; all are training images where none does."""
    found = images_below(source)
    splits: dict[str, list[Path]] = {}
    for image in found.images:
        splits.setdefault(split_of(image, source), []).append(image)
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, found.notes
