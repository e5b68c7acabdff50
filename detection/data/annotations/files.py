"""Finding annotations and images: the layouts of data set folders, and alternative locations of image files.

    coco     ROOT/train2017, or train     ROOT/annotations/instances_train2017.json
    coco_kp  the same                     ROOT/annotations/person_keypoints_train2017.json
    both     ROOT/train                   ROOT/train/_annotations.coco.json; valid or test, as Roboflow exports them
    lvis     ROOT/train2017 and val2017   ROOT/annotations/lvis_v1_train.json, or lvis_v0.5_train.json, or in ROOT
    custom   ROOT/train/images            ROOT/train/annotations/*.json, one for each image; test instead of val

    images/v1/patch3/b.jpg -> ROOT/images/v1/patch3/b.jpg, else ROOT/patch3/b.jpg, else ROOT/b.jpg
    train\\b.jpg            -> ROOT/train\\b.jpg, else ROOT/train/b.jpg and so on, since Windows writes \\ for /

Objects365 is unpacked in any of these three ways. Each folder is listed once, since the file system may be remote. A
file annotations/NAME.json may be gzipped, as NAME.json.gz.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.lvis import VERSIONS
from detection.data.annotations.other_layouts import why_not_coco
from shared.errors import DataError, UsageError
from shared.recipes.registry import suggest

STEMS = {"coco": "instances", "coco_kp": "person_keypoints"}
OTHERS = ("lvis", "custom")  # with layouts of their own
BESIDE = "_annotations.coco.json"  # beside the images of a split
SPLIT = re.compile(r"(train|val|test)20\d\d")  # folders of COCO's photographs
NAMED = 10  # missing images to list in an error


def coco_layout(root: Path, split: str, dataset: str = "coco") -> tuple[Path, Path]:
    """Images and annotations of a split ('train' or 'val') of a folder.

    Args:
        dataset: coco, coco_kp, lvis or custom. The images of LVIS are in the folder itself: a split has some of both.

    Raises:
        UsageError: an unknown kind of data set.
        DataError: the folder does not have this layout.
    """
    root = Path(root)
    if dataset == "custom":
        return custom_layout(root, split)
    if dataset == "lvis":
        return lvis_layout(root, split)
    if dataset not in STEMS:
        raise UsageError(
            f"no data set '{dataset}'{suggest(dataset, [*STEMS, *OTHERS])}; give one of {', '.join([*STEMS, *OTHERS])}"
        )
    stem = STEMS[dataset]
    for name in (f"{split}2017", split):
        images, annotations = root / name, json_or_gz(root / "annotations" / f"{stem}_{name}.json")
        if images.is_dir() and annotations.is_file():
            return images, annotations
    for name in ("train",) if split == "train" else ("valid", "val", "validation", "test"):
        if (root / name / BESIDE).is_file():
            return root / name, root / name / BESIDE
    raise DataError(
        why_not_coco(
            root,
            f"neither {split}2017/ with annotations/{stem}_{split}2017.json nor {split}/ with "
            f"annotations/{stem}_{split}.json",
        )
    )


def lvis_layout(root: Path, split: str) -> tuple[Path, Path]:
    """The COCO folder itself, and its LVIS annotations of a split, in annotations/ or beside it."""
    names = [f"lvis_{version}_{split}.json" for version in VERSIONS]
    for file in (json_or_gz(folder / name) for name in names for folder in (root / "annotations", root)):
        if file.is_file():
            return root, file
    raise DataError(
        f"{root} has no annotations/{names[0]}; give the COCO folder, with train2017/ and val2017/, as --data-path, "
        f"and LVIS's annotations with --coco-{'val-' if split == 'val' else ''}json-path"
    )


def json_or_gz(path: Path) -> Path:
    """The path of a JSON file, or of the gzipped file beside it if that alone is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def custom_layout(root: Path, split: str) -> tuple[Path, Path]:
    """ROOT/train and ROOT/test, or val, each with images/ and annotations/ of one JSON for each image."""
    names = ("train",) if split == "train" else ("test", split)
    for name in names:
        images, annotations = root / name / "images", root / name / "annotations"
        if images.is_dir() and annotations.is_dir():
            return images, annotations
    raise DataError(
        f"{root} has no {' nor '.join(f'{name}/images with {name}/annotations' for name in names)}; "
        "put the images and one JSON with the same name for each there"
    )


def find_photographs(table: CocoTable, root: Path, allow_missing: int) -> tuple[CocoTable, list[str]]:
    """The table of the existing images with their actual paths, and notes for the log.

    Raises:
        DataError: more than `allow_missing` images are missing, or a name is outside the folder.
    """
    names = [name.decode() for name in table.file_names]
    places = _places(table, names, root)
    changed = [index for index, place in enumerate(places) if place and place != names[index]]
    taken = Counter(places) if changed else Counter()
    for index in changed:  # two images with the same base name cannot be the same file
        if taken[places[index]] > 1:
            places[index] = None
    moved = [index for index in changed if places[index] != with_slashes(names[index])]
    present = np.array([place is not None for place in places])
    missing = [name for name, place in zip(names, places, strict=True) if place is None]
    if len(missing) > allow_missing:
        folders = _folders_not_there(missing, root)
        if folders:
            where = " and ".join(f"{folder}/" for folder in folders)
            raise DataError(
                f"{len(missing)} of the {len(names)} images of {table.path} are in {where}, which "
                f"{'is' if len(folders) == 1 else 'are'} not under {root}; give the COCO folder that holds both "
                "train2017/ and val2017/"
            )
        raise DataError(
            f"{len(missing)} of the {len(names)} images of {table.path} are not in {root}, such as "
            f"{', '.join(missing[:NAMED])}; check the image folder, or add --allow-missing-images {len(missing)}"
        )
    notes = []
    if count := sum(places[index] is not None for index in moved):
        notes.append(f"{count} image{'s are' if count > 1 else ' is'} in another folder than the annotations say")
    if count := sum(places[index] is not None for index in set(changed) - set(moved)):
        notes.append(f"{count} file name{'s have' if count > 1 else ' has'} \\ between folders, read as /")
    if missing:
        notes.append(f"{len(missing)} image{'s are' if len(missing) > 1 else ' is'} missing on disk and skipped")
    if changed:
        table = replace(table, file_names=np.array([(place or "").encode() for place in places]))
    return table.select(present), notes


def count_missing(table: CocoTable, root: Path) -> int:
    """How many images of a table are not in the folder."""
    return _places(table, [name.decode() for name in table.file_names], root).count(None)


def _folders_not_there(missing: list[str], root: Path) -> list[str]:
    """Folders of COCO that all missing images are in, none of which is there; none if some image is elsewhere."""
    folders = sorted({name.partition("/")[0] for name in missing})
    coco = all(SPLIT.fullmatch(folder) and not (root / folder).is_dir() for folder in folders)
    return folders if coco else []


def _places(table: CocoTable, names: list[str], root: Path) -> list[str | None]:
    """Each image's path inside the folder; None if it is missing."""
    listings: dict[str, set[str]] = {}
    places: list[str | None] = []
    for image_id, name in zip(table.image_ids.tolist(), names, strict=True):
        if _is_plainly_there(name, root, listings):
            places.append(name)
            continue
        inside = with_slashes(name)
        if os.path.isabs(inside) or os.path.normpath(inside).split(os.sep)[0] == "..":
            raise DataError(f"{table.path}: image {image_id} has the file_name '{name}'; it must stay in {root}")
        places.append(next((place for place in _candidates(name) if _is_there(place, root, listings)), None))
    return places


def _candidates(name: str) -> Iterator[str]:
    """The file name as given, then with / for \\, then with its patch folder only, then without a folder."""
    yield name
    if (slashed := with_slashes(name)) != name:
        yield slashed
    *folders, base = slashed.split("/")
    patches = [folder for folder in folders if re.fullmatch(r"patch\d+", folder)]
    if patches:
        yield f"{patches[-1]}/{base}"
    yield base


def with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _is_there(place: str, root: Path, listings: dict[str, set[str]]) -> bool:
    return _is_listed(*os.path.split(os.path.normpath(place)), root, listings)


def _is_plainly_there(place: str, root: Path, listings: dict[str, set[str]]) -> bool:
    """The same for a name that needs no further look, as most are; False does not say that it is not there."""
    folder, _, base = place.rpartition("/")
    inside = place[0] != "/" and ".." not in folder and "\\" not in place
    return inside and _is_listed(folder, base, root, listings)


def _is_listed(folder: str, base: str, root: Path, listings: dict[str, set[str]]) -> bool:
    if folder not in listings:
        path = root / folder
        listings[folder] = set(os.listdir(path)) if path.is_dir() else set()
    return base in listings[folder]
