"""The built-in demo data: scikit-learn's digit scans pasted on its photos. Nothing is downloaded.

    scans (1797 of 8x8)  -> four disjoint pools
    photographs (2)      -> left part for training, right part for validation

    shards/   train-*.tar val-*.tar classes.txt   one digit in a 48x48 crop: many images, many scans
    scenes/   train/ train.json val/ val.json     6 to 14 small digits in a 192x192 scene: few images, few scans
              panoptic_train.json panoptic_train/ panoptic segmentation: digits and background
    demo.json                                     version; written last, when the data is complete

The scenes alone are too few to learn ten digits in any color on any background; the shards are enough. The demo shows
this difference. The same library versions produce the same bytes.
"""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from shared.errors import UsageError

log = logging.getLogger(__name__)

VERSION = 4
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIRST_CATEGORY_ID = 11  # category ids are 11 to 20, so that a forgotten class map shows
CROP, SCENE = 32, 192
NUM_CROPS = {"train": 6000, "val": 1000}
NUM_SCENES = {"train": 120, "val": 60}
CROPS_PER_SHARD = 500
# fractions of the scans of each class; scenes are validated on scans not used in training
POOLS = {"shards/train": 0.68, "shards/val": 0.10, "scenes/train": 0.08, "scenes/val": 0.14}
TRAIN_COLUMNS = 0.6  # of each photograph, from the left

GROUND = 1  # category and segment of the background, in the panoptic files
INK = 0.3  # minimum coverage of a pixel of the digit
TIPS = ("top", "right_tip", "bottom", "left_tip")  # keypoints of a digit: the extreme points of its ink

Box = tuple[int, int, int, int]  # x0 y0 x1 y1, in pixels, the far sides excluded


class Digit(NamedTuple):
    """One digit of a scene: its class, the box around its ink, and the ink (height, width) from 0 to 1."""

    label: int
    box: Box
    ink: np.ndarray


class DemoPaths(NamedTuple):
    """Paths of the demo data."""

    root: Path
    shards: Path
    train_images: Path
    train_json: Path
    val_images: Path
    val_json: Path


class Sources(NamedTuple):
    """Sources of a split: scans by class, each (N, 8, 8) from 0 to 1, and photos."""

    scans: list[np.ndarray]
    photos: list[Image.Image]


def demo_data(root: Path) -> DemoPaths:
    """The demo data in `root`, created on first use (a few seconds).

    Raises:
        UsageError: scikit-learn is missing, or `root` cannot be written or contains other files.
    """
    root = Path(root)
    if not is_complete(root):
        if root.is_file() or (root.is_dir() and any(root.iterdir()) and not (root / "demo.json").is_file()):
            raise UsageError(f"{root} exists and is not the demo data; move it away, or give --data-path")
        scans, photos = open_sources()
        log.info("creating the demo data in %s", root)
        try:
            make_aside(root, scans, photos)
        except OSError as error:
            raise UsageError(
                f"cannot write the demo data to {root} ({error.strerror or error}); "
                "set CHORDATE_CACHE to a writable folder, or give --data-path"
            ) from error
    scenes = root / "scenes"
    return DemoPaths(
        root, root / "shards", scenes / "train", scenes / "train.json", scenes / "val", scenes / "val.json"
    )


def is_complete(root: Path) -> bool:
    try:
        return json.loads((root / "demo.json").read_text())["version"] == VERSION
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make_aside(root: Path, scans: dict[str, list[np.ndarray]], photos: dict[str, list[Image.Image]]) -> None:
    """Write next to `root`, then rename: a killed process leaves no partial data, two at once both succeed."""
    aside = root.with_name(f".{root.name}-{uuid.uuid4().hex[:8]}")
    try:
        for split in ("train", "val"):
            write_shards(aside / "shards", split, Sources(scans[f"shards/{split}"], photos[split]))
            write_scenes(aside / "scenes", split, Sources(scans[f"scenes/{split}"], photos[split]))
        (aside / "shards" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        (aside / "demo.json").write_text(json.dumps({"version": VERSION, "from": "scikit-learn"}) + "\n")
        if root.is_dir() and not is_complete(root):
            shutil.rmtree(root)  # of another version, or an empty folder
        try:
            aside.rename(root)
        except OSError:
            if not is_complete(root):  # otherwise another process wrote the same bytes first
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# --- sources ------------------------------------------------------------------------------------


def open_sources() -> tuple[dict[str, list[np.ndarray]], dict[str, list[Image.Image]]]:
    """Scans by pool and class, photographs by split."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError:
        raise UsageError(
            'the demo data needs scikit-learn: pip install "chordate[demo]", or give --data-path'
        ) from None
    digits: Any = load_digits()
    pools = {
        pool: [(digits.images[own] / 16).astype(np.float32) for own in by_class]
        for pool, by_class in split_scans(digits.target).items()
    }
    photos: dict[str, list[Image.Image]] = {"train": [], "val": []}
    for pixels in load_sample_images().images:
        seam = int(pixels.shape[1] * TRAIN_COLUMNS)
        photos["train"].append(Image.fromarray(pixels[:, :seam]))
        photos["val"].append(Image.fromarray(pixels[:, seam:]))
    return pools, photos


def split_scans(classes: np.ndarray) -> dict[str, list[np.ndarray]]:
    """(N,) class of each scan -> indices of the scans by pool and class; the pools are disjoint."""
    pools: dict[str, list[np.ndarray]] = {pool: [] for pool in POOLS}
    for label in range(len(CLASSES)):
        own = np.flatnonzero(classes == label)
        own = np.random.default_rng((VERSION, label)).permutation(own)
        ends = np.rint(np.cumsum(list(POOLS.values())) * len(own)).astype(int)
        for pool, part in zip(POOLS, np.split(own, ends[:-1]), strict=True):
            pools[pool].append(part)
    return pools


# --- pictures -----------------------------------------------------------------------------------


def draw_crop(sources: Sources, label: int, rng: np.random.Generator) -> Image.Image:
    """One digit of a class, inside a crop of a photo."""
    canvas = np.asarray(background(sources.photos, CROP, rng), dtype=np.float32).copy()
    ink = draw_ink(sources.scans[label], int(rng.integers(14, 29)), rng)
    x, y = (int(rng.integers(0, CROP - side + 1)) for side in reversed(ink.shape))
    paste(canvas, ink, x, y, rng)
    return to_image(canvas, rng)


def draw_scene(sources: Sources, rng: np.random.Generator) -> tuple[Image.Image, list[Digit]]:
    """A scene of 6 to 14 digits, in the order they were pasted."""
    canvas = np.asarray(background(sources.photos, SCENE, rng), dtype=np.float32).copy()
    found: list[Digit] = []
    wanted = int(rng.integers(6, 15))
    for _ in range(wanted):
        label = int(rng.integers(len(CLASSES)))
        ink = draw_ink(sources.scans[label], int(rng.integers(12, 29)), rng)
        box = find_place(ink.shape[1], ink.shape[0], [other.box for other in found], rng)
        paste(canvas, ink, box[0], box[1], rng)
        found.append(Digit(label, box, ink))
    return to_image(canvas, rng), found


def find_place(width: int, height: int, taken: list[Box], rng: np.random.Generator) -> Box:
    """A position with little overlap with existing digits; in half of the cases next to one, to form crowds."""
    while True:  # 14 digits cover at most a third of a scene, so there is always a position
        x, y = int(rng.integers(0, SCENE - width + 1)), int(rng.integers(0, SCENE - height + 1))
        if taken and rng.random() < 0.5:
            near = taken[int(rng.integers(len(taken)))]
            x, y = near[0] + int(rng.integers(-26, 27)), near[1] + int(rng.integers(-26, 27))
        box = (x, y, x + width, y + height)
        inside = x >= 0 and y >= 0 and box[2] <= SCENE and box[3] <= SCENE
        if inside and all(overlap(box, other) <= 0.12 for other in taken):
            return box


def background(photos: list[Image.Image], side: int, rng: np.random.Generator) -> Image.Image:
    """A (side, side) crop of a random photo at a random scale, flipped with probability 0.5."""
    photo = photos[int(rng.integers(len(photos)))]
    piece = int(rng.uniform(min(side, 96), min(photo.size)))
    x, y = int(rng.integers(0, photo.width - piece + 1)), int(rng.integers(0, photo.height - piece + 1))
    box = (x, y, x + piece, y + piece)
    small = photo.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=1.0)
    return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else small


def draw_ink(scans: np.ndarray, height: int, rng: np.random.Generator) -> np.ndarray:
    """A random scan of (N, 8, 8), slightly rotated, `height` pixels tall -> coverage (height, W) from 0 to 1."""
    scan = Image.fromarray((scans[int(rng.integers(len(scans)))] * 255).astype(np.uint8))
    # drawn large first, so that rotation and scaling leave smooth edges; 8 pixels become 32 of 40
    angle = math.radians(float(rng.uniform(-12, 12)))
    across, down = math.cos(angle) / 4, math.sin(angle) / 4
    turned = (across, down, 4 - 20 * (across + down), -down, across, 4 - 20 * (across - down))
    large = np.asarray(scan.transform((40, 40), Image.Transform.AFFINE, turned, Image.Resampling.BICUBIC))
    stroke = ((np.clip(large, 90, 170) - 90.0) * (255 / 80)).astype(np.uint8)
    rows, columns = np.flatnonzero(stroke.max(1) > 127), np.flatnonzero(stroke.max(0) > 127)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width = max(3, round(height * (box[2] - box[0]) / (box[3] - box[1])))
    small = Image.fromarray(stroke).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small, dtype=np.float32) / 255


def paste(canvas: np.ndarray, ink: np.ndarray, x: int, y: int, rng: np.random.Generator) -> None:
    """Draw ink (h, w) on the canvas (H, W, 3) in place, in a random color that contrasts with the background."""
    height, width = ink.shape
    under = canvas[y : y + height, x : x + width]
    gray = np.array((0.299, 0.587, 0.114), dtype=np.float32)
    here = float((under @ gray).mean())
    color = rng.uniform(0, 255, 3).astype(np.float32)
    contrast = rng.uniform(90, 160)
    wanted = here + contrast if here + contrast <= 245 and (here < 70 or rng.random() < 0.5) else here - contrast
    wanted = float(np.clip(wanted, 5, 250)) if wanted > 0 else min(here + contrast, 250.0)
    color = np.clip(color * 0.5 + (wanted - 0.5 * float(color @ gray)), 0, 255)
    under += (ink * rng.uniform(0.85, 1.0))[..., None] * (color - under)


def to_image(canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """(H, W, 3) from 0 to 255 -> image with a little noise."""
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    return Image.fromarray(np.clip(canvas + 3 * noise, 0, 255).astype(np.uint8))


def overlap(a: Box, b: Box) -> float:
    """Intersection area divided by the area of the smaller box."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(wide, 0) * max(tall, 0) / min(areas)


# --- files --------------------------------------------------------------------------------------


def write_shards(folder: Path, split: str, sources: Sources) -> None:
    """Write crops as WebDataset shards: `key.jpg` and `key.cls`, shuffled."""
    from webdataset.writer import ShardWriter

    folder.mkdir(parents=True, exist_ok=True)
    count = NUM_CROPS[split]
    labels = np.random.default_rng(seed_of(f"shards/{split}", count)).permutation(np.arange(count) % len(CLASSES))
    pattern = (
        str(folder.resolve() / f"{split}-").replace("%", "%%")
        + f"%0{len(str(math.ceil(count / CROPS_PER_SHARD)))}d.tar"
    )
    with ShardWriter(pattern, maxcount=CROPS_PER_SHARD, verbose=0, mtime=0.0) as writer:
        for i, label in enumerate(labels.tolist()):
            rng = np.random.default_rng(seed_of(f"shards/{split}", i))
            picture = jpeg(draw_crop(sources, label, rng))
            writer.write({"__key__": f"{split}{i:05d}", "jpg": picture, "cls": str(label)})


def write_scenes(folder: Path, split: str, sources: Sources) -> None:
    """Write scenes as JPEG files with COCO `instances` JSON, and `panoptic` JSON with PNGs."""
    for name in (split, f"panoptic_{split}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    maps: list[dict[str, Any]] = []
    for i in range(NUM_SCENES[split]):
        picture, digits = draw_scene(sources, np.random.default_rng(seed_of(f"scenes/{split}", i)))
        name = f"{i:04d}.jpg"
        (folder / split / name).write_bytes(jpeg(picture))
        images.append({"id": i + 1, "file_name": name, "width": SCENE, "height": SCENE})
        whose = owners(digits)
        (folder / f"panoptic_{split}" / f"{i:04d}.png").write_bytes(colored(whose))
        maps.append({"image_id": i + 1, "file_name": f"{i:04d}.png", "segments_info": segments(whose, digits)})
        for digit in digits:
            x0, y0, x1, y1 = digit.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": FIRST_CATEGORY_ID + digit.label,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": run_lengths(digit),
                    "num_keypoints": len(TIPS),
                    "keypoints": tips(digit),
                }
            )
    points = {"keypoints": TIPS, "skeleton": [[1, 2], [2, 3], [3, 4], [4, 1]]}
    categories = [{"id": FIRST_CATEGORY_ID + i, "name": name, **points} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))
    kinds = [{"id": GROUND, "name": "ground", "isthing": 0}] + [
        {"id": FIRST_CATEGORY_ID + i, "name": name, "isthing": 1} for i, name in enumerate(CLASSES)
    ]
    whole = {"images": images, "annotations": maps, "categories": kinds}
    (folder / f"panoptic_{split}.json").write_text(json.dumps(whole))


def owners(digits: list[Digit]) -> np.ndarray:
    """(SCENE, SCENE) uint8: 1 for the background, k + 2 for digit k."""
    whose = np.full((SCENE, SCENE), GROUND, dtype=np.uint8)
    for k, digit in enumerate(digits):
        x0, y0, x1, y1 = digit.box
        whose[y0:y1, x0:x1][digit.ink > INK] = k + 2
    return whose


def segments(whose: np.ndarray, digits: list[Digit]) -> list[dict[str, Any]]:
    """COCO `segments_info` of a segment map."""
    infos = []
    for number in np.unique(whose).tolist():
        down, across = np.nonzero(whose == number)
        x, y = int(across.min()), int(down.min())
        box = [x, y, int(across.max()) + 1 - x, int(down.max()) + 1 - y]
        category = GROUND if number == GROUND else FIRST_CATEGORY_ID + digits[number - 2].label
        infos.append({"id": number, "category_id": category, "area": len(down), "bbox": box, "iscrowd": 0})
    return infos


def colored(whose: np.ndarray) -> bytes:
    """A segment map as PNG in COCO's encoding: id = R + 256 G + 65536 B."""
    buffer = io.BytesIO()
    Image.fromarray(np.dstack((whose, np.zeros_like(whose), np.zeros_like(whose)))).save(buffer, "PNG")
    return buffer.getvalue()


def run_lengths(digit: Digit) -> dict[str, Any]:
    """Uncompressed COCO RLE of a digit's ink in its scene: column-major, background first."""
    canvas = np.zeros((SCENE, SCENE), dtype=bool)
    x0, y0, x1, y1 = digit.box
    canvas[y0:y1, x0:x1] = digit.ink > INK
    column = canvas.ravel(order="F")
    ends = np.flatnonzero(np.diff(column, prepend=False))
    return {"size": [SCENE, SCENE], "counts": np.diff(ends, prepend=0, append=len(column)).tolist()}


def tips(digit: Digit) -> list[int]:
    """The keypoints TIPS as x, y, visibility."""
    down, across = np.nonzero(digit.ink > INK)
    ends = [down.argmin(), across.argmax(), down.argmax(), across.argmin()]
    x0, y0, _, _ = digit.box
    return [int(number) for end in ends for number in (x0 + across[end], y0 + down[end], 2)]


def seed_of(pool: str, index: int) -> tuple[int, int, int]:
    return VERSION, list(POOLS).index(pool), index


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
