"""Panoptic results: pictures, and COCO's panoptic JSON with its PNGs.

    detections -> panoptic_map -> coco_segments: ids (H, W), segments_info -> PanopticFolder: panoptic.json, PNGs
                                                                           -> draw_panoptic: a picture

Ids are chosen so that PNGs have the colors of the classes, slightly different for each segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects
from torch import Tensor

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.panoptic_json import IDS, NO_SEGMENT, write_ids
from detection.drawing.draw import class_color
from detection.parts.query.mask_queries import Segmented
from detection.parts.query.panoptic import SURE, PanopticMap, panoptic_map
from detection.types import Detections
from shared.files import write_json, written_aside

OFF = 0x0D0713  # color difference between segments of a class
VEIL = 0.55  # opacity of segments in a picture


def coco_segments(
    found: PanopticMap, source_ids: Sequence[int], isthing: Sequence[bool]
) -> tuple[np.ndarray, list[dict]]:
    """A panoptic map -> (H, W) int32 ids and COCO's segments_info.

    Args:
        source_ids: category id by label.
        isthing: by label.
    """
    numbers = found.numbers.cpu().numpy()
    ids = np.zeros(len(found.segments) + 1, np.int32)
    areas = np.bincount(numbers.ravel(), minlength=len(ids)).tolist()
    infos = []
    for segment, where in zip(found.segments, find_objects(numbers, max_label=len(ids) - 1), strict=True):
        red, green, blue = class_color(segment.label)
        own = red + 256 * green + 65536 * blue
        while own in ids or own == NO_SEGMENT:
            own = (own + OFF) % IDS
        ids[segment.number] = own
        rows, columns = where
        infos.append(
            {
                "id": own,
                "category_id": source_ids[segment.label],
                "isthing": int(isthing[segment.label]),
                "score": segment.score,
                "area": areas[segment.number],
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "iscrowd": 0,
            }
        )
    return ids[numbers], infos


class PanopticFolder:
    """Writes FOLDER/panoptic.json, and FOLDER/panoptic/ with a PNG for each image.

    Args:
        folder: an existing folder.
        classes: class map of the labels.
        isthing: by label.
    """

    def __init__(self, folder: Path, classes: ClassMap, isthing: Sequence[bool]) -> None:
        self.folder, self.classes, self.isthing = Path(folder), classes, isthing
        self.pngs = self.folder / "panoptic"
        self.pngs.mkdir()
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(
        self,
        image_id: int,
        name: str,
        picture: Tensor,
        detections: Detections,
        min_score: float = SURE,
        *,
        upright: bool | None = None,
    ) -> Image.Image:
        """Write the PNG of one image, uint8 (3, H, W), and return its picture.

        Args:
            name: its file name.
            detections: with `segments`.
            upright: whether the picture was turned by EXIF, written to the JSON; None to write nothing.
        """
        size = (picture.shape[-2], picture.shape[-1])
        found = panoptic_map(cast(Segmented, detections), self.isthing, size, min_score=min_score)
        ids, infos = coco_segments(found, self.classes.source_ids, self.isthing)
        png = f"{image_id:012d}.png"
        with written_aside(self.pngs / png) as partial:
            partial.write_bytes(write_ids(ids))
        own = {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        self.images.append(own if upright is None else {**own, "upright": upright})
        self.annotations.append({"image_id": image_id, "file_name": png, "segments_info": infos})
        named = dict(zip(self.classes.source_ids, self.classes.names, strict=True))
        return draw_panoptic(picture, ids, infos, named)

    def close(self) -> Path:
        """Write the JSON; returns its path."""
        categories_of = zip(self.classes.source_ids, self.classes.names, self.isthing, strict=True)
        categories = [{"id": i, "name": name, "isthing": int(thing)} for i, name, thing in categories_of]
        path = self.folder / "panoptic.json"
        write_json(path, {"images": self.images, "annotations": self.annotations, "categories": categories})
        return path


def draw_panoptic(
    picture: Tensor, ids: np.ndarray, infos: Sequence[dict[str, Any]], names: dict[int, str]
) -> Image.Image:
    """Image uint8 (3, H, W), segment ids (H, W), segments_info -> a picture with names of larger segments."""
    pixels = picture.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    mixed = np.where((ids == NO_SEGMENT)[..., None], pixels, (1 - VEIL) * pixels + VEIL * colors)
    edge = np.zeros(ids.shape, dtype=bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    mixed[edge] = 255
    image = Image.fromarray(mixed.astype(np.uint8))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(max(11.0, max(image.size) / 55))
    for info in sorted(infos, key=lambda info: info["area"]):
        if info["area"] * 400 < ids.size:
            continue
        rows, columns = np.nonzero(ids == info["id"])
        middle = len(rows) // 2  # rows are sorted, so this is a pixel near the middle row
        row = rows[middle]
        column = int(np.median(columns[rows == row]))
        text = names.get(info["category_id"], str(info["category_id"]))
        pen.text((column, int(row)), text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return image
