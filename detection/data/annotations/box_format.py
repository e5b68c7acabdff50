"""Boxes in another format than the file's: recognized from all boxes of a file together, and refused by name.

    COCO is x y width height in pixels; a whole file of these is refused instead:
        x0 y0 x1 y1            the other corner instead of a size; y0 x0 y1 x1 likewise
        cx cy width height     the center instead of a corner
        0 to 1                 shares of the image instead of pixels; of masks and keypoints too

Each is refused only if the boxes, read as COCO's, leave their images and fit when read as the other. A few odd boxes
among others are clipped or dropped (`targets.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import DataError

if TYPE_CHECKING:
    from detection.data.annotations.coco_json import CocoTable

NEARLY_ALL = 0.99  # of the boxes fit the other format; the rest are mistakes
MANY = 20  # boxes from which a few outside are evidence; with fewer, it takes more of them
SHARES, CORNERS, TURNED, CENTERS = "shares of the image", "x0 y0 x1 y1", "y0 x0 y1 x1", "cx cy width height"
WAYS_OUT = {
    CORNERS: "[x0, y0, x1 - x0, y1 - y0]",
    TURNED: "[x0, y0, x1 - x0, y1 - y0]",
    CENTERS: "[cx - width / 2, cy - height / 2, width, height]",
}
SLACK = 1.0  # pixels that a box of any format may reach outside
FAR = 0.1  # of the image's side: outside by more than a careless drawing


def check_box_format(table: CocoTable) -> None:
    """Raise DataError if the boxes of a whole file are in another format than COCO's."""
    if (table.sizes > 2).all():
        check_boxes(table.boxes, table.sizes[table.image_of][:, ::-1], str(table.path))
    elif are_shares(table.boxes):
        raise shares_instead(table.boxes, str(table.path))


def check_boxes(boxes: np.ndarray, limit: np.ndarray, where: str) -> None:
    """Raise DataError if all boxes together are in another format than x y width height in pixels.

    Args:
        boxes: (N, 4).
        limit: (N, 2), width and height of each box's image in pixels.
        where: the file, for the message.
    """
    found = format_of(boxes, limit)
    if found == SHARES:
        raise shares_instead(boxes, where)
    if found is None:
        return
    over = boxes[:, :2] + boxes[:, 2:] - limit
    raise DataError(
        f"{where}: the boxes are {found}, such as {_shown(boxes, over / limit)}: read as COCO's x y width height, "
        f"{(over > SLACK).any(axis=1).mean():.0%} of them reach outside their images; write each as {WAYS_OUT[found]}"
    )


def format_of(boxes: np.ndarray, limit: np.ndarray) -> str | None:
    """The format of all boxes together, of WAYS_OUT or SHARES; None for x y width height in pixels, or no boxes.

    Args:
        boxes: (N, 4).
        limit: (N, 2), width and height of each box's image in pixels.
    """
    if are_shares(boxes):
        return SHARES
    if not len(boxes):
        return None
    low, high, many = boxes[:, :2], boxes[:, 2:], len(boxes) >= MANY
    over = low + high - limit
    far, outside = (over > FAR * limit).any(axis=1).mean(), (over > SLACK).any(axis=1).mean()
    wide = limit + SLACK
    ordered = (low >= -SLACK).all(axis=1) & (high >= low).all(axis=1) & bool(far > (0.05 if many else 1 / 3))
    centered = (low - high / 2 >= -SLACK).all(axis=1) & (low + high / 2 <= wide).all(axis=1) & (high > 0).all(axis=1)
    if _nearly_all(ordered & (high <= wide).all(axis=1)):
        return CORNERS
    if _nearly_all(ordered & (high <= wide[:, ::-1]).all(axis=1)):
        return TURNED
    if many and outside > 0.1 and _nearly_all(centered):
        return CENTERS
    return None


def in_pixels(boxes: np.ndarray, limit: np.ndarray, found: str) -> np.ndarray:
    """(N, 4) boxes of a format of `format_of`, and the (N, 2) sizes of their images -> x y width height in pixels."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if found == SHARES:
        return boxes * np.hstack((limit, limit))
    if found == CENTERS:
        return np.hstack((first - second / 2, second))
    if found == TURNED:
        first, second = first[:, ::-1], second[:, ::-1]
    return np.hstack((first, second - first))


def shares_instead(boxes: np.ndarray, where: str) -> DataError:
    """The refusal of boxes that are shares of the image."""
    return DataError(
        f"{where}: the boxes are shares of the image from 0 to 1, such as {_shown(boxes)}, where pixels "
        "belong; multiply x and width by the image's width, y and height by its height"
    )


def fit_turned_only(boxes: np.ndarray, limit: np.ndarray, image: np.ndarray) -> list[int]:
    """The images whose boxes leave them, and fit if the image is turned by 90 degrees.

    Args:
        boxes: (N, 4) as x y width height.
        limit: (N, 2), width and height of each box's image in pixels.
        image: (N,), which image each box is of.

    Returns:
        Image numbers in order; empty unless most of the images that boxes leave by far are such.
    """
    ends = boxes[:, :2] + boxes[:, 2:]
    gone = np.unique(image[(ends - limit > FAR * limit).any(axis=1)])
    strange = ((boxes[:, :2] < -SLACK) | (ends > limit[:, ::-1] + SLACK)).any(axis=1)
    turned = np.setdiff1d(gone, image[strange])
    return turned.tolist() if 2 * len(turned) > len(gone) else []


def check_corners(table: CocoTable) -> None:
    """Raise DataError if a table read from corners x1 y1 x2 y2 was of x y width height."""
    boxes, limit = table.boxes, table.sizes[table.image_of][:, ::-1]
    given = boxes[:, :2] + boxes[:, 2:]
    inverted = (boxes[:, 2:] < 0).any(axis=1).mean() if len(boxes) else 0.0
    if inverted > 0.25 and _nearly_all((given > 0).all(axis=1) & (boxes[:, :2] + given <= limit + SLACK).all(axis=1)):
        row = int((boxes[:, 2:] < 0).any(axis=1).argmax())
        raise DataError(
            f"{table.path}: the boxes are x y width height, such as {_numbers([*boxes[row, :2], *given[row]])}: read "
            f"as the corners x1 y1 x2 y2 of this format, {inverted:.0%} of them are inverted; write each as "
            "[x, y, x + width, y + height]"
        )


def check_points(table: CocoTable, targets: np.ndarray) -> None:
    """Raise DataError if the keypoints or polygons of the targets are shares of the image.

    Args:
        targets: (A,) bool.
    """
    what, values = [], []
    if table.keypoints is not None:
        points = table.keypoints[targets]
        what.append("keypoints")
        values.append(points[..., :2][points[..., 2] > 0])
    if table.masks is not None:
        extents = table.masks.extents()[targets]
        what.append("polygons")
        values.append(extents[np.isfinite(extents).all(axis=1)])
    for name, numbers in zip(what, values, strict=True):
        if are_shares(numbers):
            raise DataError(
                f"{table.path}: the {name} are shares of the image from 0 to 1 where pixels belong; multiply x by the "
                "image's width and y by its height"
            )


def are_shares(values: np.ndarray) -> bool:
    """(N, ...) -> True if nearly all rows are from 0 to 1, and not all are whole numbers."""
    if not len(values):  # as of masks that are all RLE
        return False
    rows = values.reshape(len(values), -1)
    inside = ((rows >= -0.01) & (rows <= 1.01)).all(axis=1)
    return _nearly_all(inside) and bool((rows[inside] % 1 != 0).any())


def _nearly_all(fits: Any) -> bool:
    """(N,) bool -> whether almost all are true."""
    return bool(fits.mean() >= NEARLY_ALL)


def _shown(boxes: np.ndarray, over: np.ndarray | None = None) -> str:
    """The box that reaches farthest outside, or the first."""
    return _numbers(boxes[0 if over is None else int(over.max(axis=1).argmax())].tolist())


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
