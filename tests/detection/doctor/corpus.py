"""Small data sets for the doctor: a clean one, others that are clean too, and spoilt ones with what is wrong."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.masks.paste import codec

NAMES = {1: "kite", 2: "traffic cone", 3: "boat"}
WIDTH, HEIGHT = 64, 48
POINTS = {"keypoints": ["left", "right"], "skeleton": [[1, 2]]}


@dataclass
class Corpus:
    """A COCO folder of 8 training and 3 validation images, each with an object of every class and its polygon."""

    root: Path
    train: dict[str, Any]
    val: dict[str, Any]

    @classmethod
    def make(cls, root: Path) -> Corpus:
        made = {}
        for seed, (split, count) in enumerate((("train", 8), ("val", 3))):
            (root / split).mkdir(parents=True)
            made[split] = listing(root / split, count, seed)
        return cls(root, made["train"], made["val"])

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The training annotations."""
        return self.train["annotations"]

    def write(self) -> None:
        (self.root / "annotations").mkdir()
        for split in ("train", "val"):
            text = json.dumps(getattr(self, split))
            (self.root / "annotations" / f"instances_{split}.json").write_text(text)

    def photograph(self, number: int, split: str = "train") -> Path:
        return self.root / split / f"{number}.png"


def listing(folder: Path, count: int, seed: int) -> dict[str, Any]:
    rng, images, annotations = np.random.default_rng(seed), [], []
    for number in range(1, count + 1):
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for k, category in enumerate(NAMES):
            x, y, w, h = 2 + 23 * k, 4 + number, 12 + k, 18 + number
            told = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": [x, y, w, h]}
            ring = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append({**told, "area": w * h, "iscrowd": 0, "segmentation": [ring]})
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


Change = Callable[[Corpus], None]
SPOILT: dict[str, tuple[Change, set[str]]] = {}
CLEAN: dict[str, Change] = {}


def spoilt(*kinds: str) -> Callable[[Change], Change]:
    """Decorator: a change that makes a clean data set wrong in these ways, and in no others."""

    def offer(change: Change) -> Change:
        SPOILT[change.__name__] = (change, set(kinds))
        return change

    return offer


def clean(change: Change) -> Change:
    """Decorator: a change after which nothing is wrong."""
    CLEAN[change.__name__] = change
    return change


# --- nothing is wrong with these ------------------------------------------------------------------


@clean
def as_made(data: Corpus) -> None:
    pass


@clean
def ids_with_holes(data: Corpus) -> None:
    for part in (data.train, data.val):
        for entry in part["categories"]:
            entry["id"] = entry["id"] * 7
        for entry in part["annotations"]:
            entry["category_id"] *= 7


@clean
def ids_from_zero(data: Corpus) -> None:
    for part in (data.train, data.val):
        for entry in part["categories"]:
            entry["id"] -= 1
        for entry in part["annotations"]:
            entry["category_id"] -= 1


@clean
def without_masks_and_areas(data: Corpus) -> None:
    for entry in [*data.objects, *data.val["annotations"]]:
        del entry["segmentation"], entry["area"]


@clean
def with_crowds(data: Corpus) -> None:
    region = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    region[2:40, 3:60] = 1
    runs = codec.encode(region)
    told = {"counts": runs["counts"].decode(), "size": [HEIGHT, WIDTH]}
    crowd = {"image_id": 1, "category_id": 1, "bbox": [3, 2, 57, 38], "area": 57 * 38, "iscrowd": 1}
    data.objects.append({"id": 900, **crowd, "segmentation": told})


@clean
def boxes_on_the_edge(data: Corpus) -> None:
    for entry in data.objects[:3]:
        entry["bbox"], entry["area"] = [0, 0, WIDTH, HEIGHT], WIDTH * HEIGHT
        del entry["segmentation"]


@clean
def images_without_objects(data: Corpus) -> None:
    data.train["annotations"] = [entry for entry in data.objects if entry["image_id"] > 3]


@clean
def with_keypoints(data: Corpus) -> None:
    for part in (data.train, data.val):
        for entry in part["categories"]:
            entry |= POINTS
        for entry in part["annotations"]:
            x, y, w, h = entry["bbox"]
            entry |= {"keypoints": [x, y, 2, x + w, y + h, 1], "num_keypoints": 2}


@clean
def turned_as_the_sizes_say(data: Corpus) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(data.photograph(1)).transpose(Image.Transpose.ROTATE_90).convert("RGB").save(
        data.root / "train" / "1.jpg", exif=exif
    )
    data.photograph(1).unlink()
    data.train["images"][0]["file_name"] = "1.jpg"


@clean
def gray_and_palette(data: Corpus) -> None:
    for number, mode in ((1, "L"), (2, "P"), (3, "RGBA")):
        Image.open(data.photograph(number)).convert(mode).save(data.photograph(number))


@clean
def ids_as_text_and_floats(data: Corpus) -> None:
    for entry in data.objects:
        entry["image_id"] = float(entry["image_id"])


# --- what is wrong with a file --------------------------------------------------------------------


@spoilt("file")
def cut_off(data: Corpus) -> None:
    data.train = {"images": data.train["images"]}


@spoilt("image-entry")
def an_image_without_a_size(data: Corpus) -> None:
    del data.train["images"][2]["height"]


@spoilt("image-entry")
def an_image_without_a_name(data: Corpus) -> None:
    data.train["images"][2]["file_name"] = ""


@spoilt("image-id-twice", "annotation-without-image")
def two_images_of_one_id(data: Corpus) -> None:
    data.train["images"][1]["id"] = 1


@spoilt("image-listed-twice")
def one_file_as_two_images(data: Corpus) -> None:
    data.train["images"].append({**data.train["images"][0], "id": 77})


@spoilt("category-entry")
def a_category_without_a_name(data: Corpus) -> None:
    for part in (data.train, data.val):
        part["categories"][1]["name"] = ""


@spoilt("category-id-twice", "category-not-listed", "class-not-in-training")
def two_categories_of_one_id(data: Corpus) -> None:
    data.train["categories"][1]["id"] = 1


@spoilt("category-name-twice")
def two_categories_of_one_name(data: Corpus) -> None:
    for part in (data.train, data.val):
        part["categories"].append({"id": 4, "name": "kite"})
        for entry in part["annotations"][:3]:
            entry["category_id"] = 4 if entry["category_id"] == 1 else entry["category_id"]


@spoilt("annotation-entry")
def a_box_of_three_numbers(data: Corpus) -> None:
    data.objects[4]["bbox"] = data.objects[4]["bbox"][:3]


@spoilt("annotation-entry")
def a_box_of_words(data: Corpus) -> None:
    data.objects[4]["bbox"][0] = "left"


@spoilt("annotation-entry")
def a_box_that_is_infinite(data: Corpus) -> None:
    data.objects[4]["bbox"][2] = float("inf")


@spoilt("annotation-id-twice")
def two_annotations_of_one_id(data: Corpus) -> None:
    data.objects[4]["id"] = data.objects[3]["id"]


@spoilt("annotation-without-image")
def an_annotation_of_no_image(data: Corpus) -> None:
    data.objects[4]["image_id"] = 4711


@spoilt("category-not-listed")
def an_annotation_of_no_category(data: Corpus) -> None:
    data.objects[7]["category_id"] = 9


@spoilt("no-objects")
def only_crowds_everywhere(data: Corpus) -> None:
    for entry in data.objects:
        entry["iscrowd"] = 1


# --- boxes, masks, keypoints ----------------------------------------------------------------------


@spoilt("box-format")
def corners_for_sizes(data: Corpus) -> None:
    for entry in data.objects:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]


@spoilt("box-format")
def centers_for_corners(data: Corpus) -> None:
    for entry in data.objects:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x + w / 2, y + h / 2, w, h]


@spoilt("box-format")
def shares_for_pixels(data: Corpus) -> None:
    for entry in data.objects:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


@spoilt("box-outside")
def a_box_over_the_edge(data: Corpus) -> None:
    data.objects[2]["bbox"][2] = 90
    del data.objects[2]["segmentation"], data.objects[2]["area"]


@spoilt("box-degenerate")
def a_box_without_a_height(data: Corpus) -> None:
    data.objects[5]["bbox"][3] = 0


@spoilt("box-degenerate")
def a_box_beside_its_image(data: Corpus) -> None:
    data.objects[5]["bbox"][0] = 400


@spoilt("object-twice")
def an_object_annotated_twice(data: Corpus) -> None:
    data.objects.append({**data.objects[0], "id": 900})


@spoilt("area")
def areas_that_are_all_one(data: Corpus) -> None:
    for entry in data.objects:
        entry["area"] = 1


@spoilt("mask-not-in-box")
def a_mask_of_another_object(data: Corpus) -> None:
    data.objects[0]["segmentation"] = data.objects[1]["segmentation"]


@spoilt("mask")
def a_polygon_of_two_points(data: Corpus) -> None:
    data.objects[0]["segmentation"] = [[1, 2, 3, 4]]


@spoilt("mask")
def a_mask_of_another_size(data: Corpus) -> None:
    runs = codec.encode(np.ones((10, 10), np.uint8, order="F"))
    data.objects[0]["segmentation"] = {"counts": runs["counts"].decode(), "size": [10, 10]}


@spoilt("mask-empty")
def a_mask_beside_its_image(data: Corpus) -> None:
    ring = data.objects[0]["segmentation"][0]
    data.objects[0]["segmentation"] = [[value + 500 for value in ring]]


@spoilt("mask-outside", "mask-not-in-box")
def a_mask_over_the_edge(data: Corpus) -> None:
    x, y, _, h = data.objects[2]["bbox"]
    data.objects[2]["segmentation"] = [[x, y, x + 70, y, x + 70, y + h, x, y + h]]


@spoilt("keypoint-outside")
def a_keypoint_beside_its_image(data: Corpus) -> None:
    with_keypoints(data)
    data.objects[3]["keypoints"][0] = 500


@spoilt("keypoints")
def a_keypoint_too_few(data: Corpus) -> None:
    with_keypoints(data)
    data.objects[3]["keypoints"] = data.objects[3]["keypoints"][:3]


@spoilt("keypoint-count")
def a_number_of_keypoints_that_is_wrong(data: Corpus) -> None:
    with_keypoints(data)
    data.objects[3]["num_keypoints"] = 1


@spoilt("skeleton")
def categories_of_other_keypoints(data: Corpus) -> None:
    with_keypoints(data)
    data.train["categories"][0] |= {"keypoints": ["top", "bottom"]}


# --- classes --------------------------------------------------------------------------------------


@spoilt("class-without-objects")
def a_class_that_nothing_is_of(data: Corpus) -> None:
    for part in (data.train, data.val):
        part["categories"].append({"id": 4, "name": "zebra"})


@spoilt("only-crowds", "class-not-learned")
def a_class_of_crowds(data: Corpus) -> None:
    for entry in data.objects:
        entry["iscrowd"] = int(entry["category_id"] == 3)


@spoilt("classes-alike")
def a_class_in_two_spellings(data: Corpus) -> None:
    for part in (data.train, data.val):
        part["categories"].append({"id": 4, "name": "Kite"})
        for entry in part["annotations"][::6]:
            entry["category_id"] = 4


@spoilt("class-not-in-training")
def a_class_of_validation_alone(data: Corpus) -> None:
    data.val["categories"].append({"id": 4, "name": "zebra"})
    data.val["annotations"][0]["category_id"] = 4


@spoilt("class-not-learned", "class-without-objects")
def a_class_without_training_objects(data: Corpus) -> None:
    data.train["annotations"] = [entry for entry in data.objects if entry["category_id"] != 2]


@spoilt("class-order")
def classes_numbered_in_another_order(data: Corpus) -> None:
    for entry in data.val["categories"]:
        entry["id"] = 4 - entry["id"]
    for entry in data.val["annotations"]:
        entry["category_id"] = 4 - entry["category_id"]


# --- photographs ----------------------------------------------------------------------------------


@spoilt("image-missing")
def a_photograph_that_is_gone(data: Corpus) -> None:
    data.photograph(3).unlink()


@spoilt("file-name")
def a_name_outside_the_folder(data: Corpus) -> None:
    data.train["images"][2]["file_name"] = "../../secret.png"


@spoilt("image-unreadable")
def a_photograph_that_is_text(data: Corpus) -> None:
    data.photograph(3).write_text("no picture")


@spoilt("image-unreadable")
def a_photograph_cut_off(data: Corpus) -> None:
    content = data.photograph(3).read_bytes()
    data.photograph(3).write_bytes(content[: len(content) // 2])  # behind its header: found with --pixels


@spoilt("image-size")
def a_photograph_of_another_size(data: Corpus) -> None:
    Image.open(data.photograph(3)).resize((100, 80)).save(data.photograph(3))


@spoilt("orientation")
def a_photograph_upside_down(data: Corpus) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(data.photograph(3)).save(data.photograph(3), exif=exif)


@spoilt("image-twice")
def a_copy_under_another_name(data: Corpus) -> None:
    shutil.copy(data.photograph(1), data.photograph(2))


@spoilt("overlap")
def a_photograph_of_both_splits(data: Corpus) -> None:
    shutil.copy(data.photograph(1), data.photograph(2, "val"))


@spoilt("near-overlap")
def a_copy_in_validation_encoded_again(data: Corpus) -> None:
    rng = np.random.default_rng(5)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    smooth.save(data.photograph(1))
    smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data.root / "val" / "2.jpg", quality=60)
    data.photograph(2, "val").unlink()
    data.val["images"][1]["file_name"] = "2.jpg"


@spoilt("object-too-small")
def an_object_smaller_than_a_pixel_of_the_input(data: Corpus) -> None:
    Image.new("RGB", (3200, 2400)).save(data.photograph(1))
    data.train["images"][0] |= {"width": 3200, "height": 2400}
    data.objects[0] |= {"bbox": [2, 4, 3, 3], "area": 9}
    del data.objects[0]["segmentation"]


def packed(data: Corpus) -> None:
    """Its training annotations, gzipped."""
    path = data.root / "annotations" / "instances_train.json"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
