"""Parts of a COCO file with fewer labels: 10 % inside 30 % inside all, drawn class by class.

objects by image and class, seed -> an order of the images, of which every beginning has its share of each class
a COCO file, images to keep      -> the same file with these images and their annotations
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.json_values import read_json_bytes
from shared.errors import DataError
from shared.files import write_aside


def read_labels(path: Path) -> dict[str, Any]:
    """The content of a COCO file. Raises DataError if it is none."""
    try:
        content = json.loads(read_json_bytes(path, "the training annotations", "a COCO JSON"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); give a COCO file") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise DataError(f"{path} has no lists of images and annotations; give a COCO file")
    return content


def nested_order(content: dict[str, Any], seed: int) -> list[int]:
    """Places of all images, so that the images of every class are spread evenly over the order.

    An image counts for the rarest of its classes; those without objects are a class of their own.
    """
    images = {str(image["id"]): place for place, image in enumerate(content["images"])}
    has: list[set[str]] = [set() for _ in images]
    for each in content["annotations"]:
        if str(each.get("image_id")) in images:
            has[images[str(each["image_id"])]].add(str(each.get("category_id")))
    count: dict[str, int] = {}
    for own in has:
        for name in own:
            count[name] = count.get(name, 0) + 1
    rarest = [min(own, key=lambda name: (count[name], name)) if own else "" for own in has]
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place in rng.permutation(len(has)).tolist():
        places.setdefault(rarest[place], []).append(place)
    keys = {}
    for name in sorted(places):
        start = rng.random()  # or all classes would start at once
        keys |= {place: (rank + start) / len(places[name]) for rank, place in enumerate(places[name])}
    return sorted(keys, key=lambda place: (keys[place], place))


def write_part(content: dict[str, Any], places: list[int], path: Path) -> None:
    """Write the file with these images only, in its own order; a file that is there has been written whole."""
    if path.exists():
        return
    keep = {str(content["images"][place]["id"]) for place in places}
    part = {
        **content,
        "images": [image for image in content["images"] if str(image["id"]) in keep],
        "annotations": [each for each in content["annotations"] if str(each.get("image_id")) in keep],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, json.dumps(part))
