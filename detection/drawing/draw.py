"""Draw detections in the color of their class, and the ground truth in white.

    image, detections, truth -> draw_detections -> a picture
    pictures                 -> sheet           -> one picture

True boxes are dashed, true masks outlined, true skeletons white; how masks and skeletons are drawn is on the page
`shapes`. A true box that no shown detection agrees with is named, so misses and confusions can be read off.
Small images are enlarged until their labels can be read. Text is in Pillow's own font: nothing is looked for on disk.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from detection.drawing.shapes import Points, draw_mask, draw_skeleton, read_patches, read_points

if TYPE_CHECKING:
    from torch import Tensor

    from detection.data.annotations.skeleton import Skeleton
    from detection.data.masks.paste import Patch
    from detection.types import Detections, Target

COVER = 0.4  # opacity of masks
SMALLEST_SIDE = 640  # minimum long side of a picture, pixels
FIELDS = ("boxes", "labels", "scores", "masks", "keypoints")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x0 y0 x1 y1, in pixels of the picture


class Labeled(NamedTuple):
    """One object of a picture."""

    box: Box
    label: int
    score: float
    mask: Patch | None = None
    points: Points | None = None


def draw_detections(
    image: Tensor,
    detections: Detections,
    names: Sequence[str],
    *,
    truth: Target | None = None,
    min_score: float = 0.3,
    skeleton: Skeleton | None = None,
    labeled: int | None = None,
) -> Image.Image:
    """uint8 (3, H, W) and its detections -> a picture of at least 640 pixels on its long side.

    Args:
        names: class names by label; other labels are shown as numbers.
        truth: true objects, in the same pixels.
        min_score: detections below are not shown.
        skeleton: the lines between keypoints.
        labeled: how many detections get a label, the best ones; None for all.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    scale = max(1.0, SMALLEST_SIDE / max(picture.size))
    if scale > 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    found = read_objects(detections, scale, picture.size, min_score)
    true = [] if truth is None else read_objects(truth, scale, picture.size)
    width = max(2, round(max(picture.size) / 400))
    draw_shapes(picture, found, true, () if skeleton is None else skeleton.edges, width)

    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12.0, max(picture.size) / 50))
    taken: list[Box] = []
    best = found if labeled is None else sorted(found, key=lambda each: -each.score)[:labeled]
    for each in best:
        text = f"{class_name(names, each.label)} {each.score:.2f}"
        taken.append(draw_label(pen, each.box, text, class_color(each.label), font, picture.size, taken))
    for each in true:
        if not any(each.label == other.label and overlap(each.box, other.box) >= 0.5 for other in found):
            text = class_name(names, each.label)
            taken.append(draw_label(pen, each.box, text, WHITE, font, picture.size, taken))
    return picture


def draw_shapes(
    picture: Image.Image,
    found: Sequence[Labeled],
    true: Sequence[Labeled],
    edges: Sequence[tuple[int, int]],
    width: int,
) -> None:
    """Draw masks, then boxes, then skeletons, the best on top; matched ground truth is fainter."""
    thin = max(1, width // 2)
    for each in reversed(found):
        if each.mask is not None:
            draw_mask(picture, each.mask, class_color(each.label), cover=COVER, width=thin)
    for each in true:
        if each.mask is not None:
            draw_mask(picture, each.mask, class_color(each.label), cover=0.0 if found else COVER, width=0)
            draw_mask(picture, each.mask, WHITE, cover=0.0, width=thin)
    pen = ImageDraw.Draw(picture)
    for each in reversed(found):
        pen.rectangle(each.box, outline=class_color(each.label), width=width)
    for each in true:
        draw_dashes(pen, each.box, thin)
    for each in true:
        if each.points is not None:
            draw_skeleton(pen, each.points, edges, WHITE, thin if found else width)
    for each in reversed(found):
        if each.points is not None:
            draw_skeleton(pen, each.points, edges, lighter(class_color(each.label)), width)


def sheet(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """A grid of pictures, row by row, each centered in its cell; at least one picture."""
    columns, gap = min(columns, len(pictures)), 6
    width = max(picture.width for picture in pictures)
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    page = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), (24, 24, 24))
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for i, picture in enumerate(row):
            x = gap + i * (width + gap) + (width - picture.width) // 2
            page.paste(picture, (x, y + (height - picture.height) // 2))
        y += height + gap
    return page


# --- objects ------------------------------------------------------------------------------------


def read_objects(
    source: Detections | Target, scale: float, size: tuple[int, int], min_score: float = 0.0
) -> list[Labeled]:
    """Objects of the image, scaled to a picture of (width, height) `size`; invalid boxes are skipped."""
    keep = source["boxes"].isfinite().all(-1)
    if "scores" in source:
        keep &= source["scores"] >= min_score
    fields: Any = source
    kept: Any = {name: fields[name][keep] for name in FIELDS if name in fields}
    labels = kept["labels"].tolist()
    scores = kept["scores"].tolist() if "scores" in kept else [1.0] * len(labels)
    masks = read_patches(kept, scale, size) if "masks" in kept else [None] * len(labels)
    points = read_points(kept, scale) if "keypoints" in kept else [None] * len(labels)
    right, bottom = size[0] - 1, size[1] - 1
    inside: list[Labeled] = []
    for corners, label, score, mask, own in zip(kept["boxes"].tolist(), labels, scores, masks, points, strict=True):
        x0, y0, x1, y1 = (value * scale for value in corners)
        box = (max(0.0, x0), max(0.0, y0), min(right, x1), min(bottom, y1))
        if box[0] <= box[2] and box[1] <= box[3]:
            inside.append(Labeled(box, label, score, mask, own))
    return inside


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    both = cover(a, b)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def cover(a: Box, b: Box) -> float:
    """Intersection area."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


# --- ink ----------------------------------------------------------------------------------------


def draw_dashes(pen: ImageDraw.ImageDraw, box: Box, width: int) -> None:
    """A white dashed box, black between the dashes, visible on any background."""
    x0, y0, x1, y1 = (round(side) for side in box)
    pen.rectangle((x0, y0, x1, y1), outline=BLACK, width=width)
    dash = 4 * width + 2
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, max(y0, y1 - width + 1)):
            pen.rectangle((x, y, min(x + dash, x1), y + width - 1), fill=WHITE)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, max(x0, x1 - width + 1)):
            pen.rectangle((x, y, x + width - 1, min(y + dash, y1)), fill=WHITE)


def draw_label(
    pen: ImageDraw.ImageDraw,
    box: Box,
    text: str,
    color: Color,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: Sequence[Box],
) -> Box:
    """Draw a label at the corner of the box where it covers the fewest other labels -> its rectangle."""
    # whole pixels, since Pillow cuts off the top of text at negative fractions
    _, top, _, bottom = (round(side) for side in pen.textbbox((0, 0), "Ag|", font=font))
    pad = max(2, (bottom - top) // 5)
    wide, tall = math.ceil(pen.textlength(text, font=font)) + 2 * pad, bottom - top + 2 * pad
    x0, y0, x1, y1 = (round(side) for side in box)
    corners = (
        (x0, y0 - tall),  # above the box, below it, inside it, next to it
        (x0, y1),
        (x1 - wide, y0 - tall),
        (x1 - wide, y1),
        (x0, y0),
        (x1, y0),
        (x0 - wide, y0),
    )
    places = []
    for x, y in corners:
        x, y = max(0, min(x, size[0] - wide)), max(0, min(y, size[1] - tall))
        places.append((x, y, x + wide, y + tall))
    best = min(places, key=lambda place: sum(cover(place, other) for other in taken))
    pen.rectangle(best, fill=color)
    pen.text((best[0] + pad, best[1] + pad - top), text, fill=readable_on(color), font=font)
    return best


def class_name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def class_color(label: int) -> Color:
    """The color of a class; consecutive classes have distant hues."""
    hue = (0.58 + label * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.65, 0.5)[label // 8 % 2], (0.95, 0.8)[label // 4 % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def lighter(color: Color) -> Color:
    """Half way to white, visible on a mask of the same color."""
    red, green, blue = ((255 + part) // 2 for part in color)
    return red, green, blue


def readable_on(color: Color) -> Color:
    """Black on light colors, white on dark ones."""
    red, green, blue = color
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE
