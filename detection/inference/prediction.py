"""The detections of one image, in its own pixels, as `detect predict` writes them.

path, address, folder, PIL image, array -> photographs -> detect_in -> Prediction: boxes, scores, labels, masks ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detection.data.masks.paste import codec
from detection.drawing.draw import draw_detections
from detection.eval.results import Found, entries, read_detections
from detection.inference.images import pictures_of
from detection.inference.predict import SHOWN, detect_in, in_original_pixels
from detection.inference.tiles import Tiles
from detection.inference.trained import Trained
from detection.types import Detections
from shared.errors import DataError, UsageError
from shared.feeding.image import pixels_of

Photograph = str | Path | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True)
class Prediction:
    """The N objects found in one image, best first.

    image: (H, W, 3) uint8 RGB, turned upright by EXIF if it was read from a file.
    path: its file; None for images from memory and from addresses.
    boxes: (N, 4) float64 as x0 y0 x1 y1, in pixels of `image`; may reach beyond it.
    scores: (N,) float64 from 0 to 1.
    labels: (N,) int64, number of the class, from 0.
    category_ids: (N,) int64, the class's id in the annotation file that was trained on.
    names: N class names.
    keypoints: (N, K, 3) float64 as x y score, the score a logit; None for networks without.
    """

    image: np.ndarray
    path: Path | None
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    category_ids: np.ndarray
    names: list[str]
    keypoints: np.ndarray | None
    _found: Found
    _drawn: Detections
    _trained: Trained

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        named = [f"{name} {score:.2f}" for name, score in zip(self.names[:4], self.scores[:4].tolist(), strict=True)]
        more = f", and {len(self) - 4} more" if len(self) > 4 else ""
        where = "" if self.path is None else f" in {self.path}"
        return f"<Prediction of {width}x{height} pixels{where}: {', '.join(named) or 'nothing found'}{more}>"

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool, True where the object is; None for networks without masks."""
        if self._found.masks is None:
            return None
        height, width = self.image.shape[:2]
        masks = np.zeros((len(self), height, width), dtype=bool)
        for mask, runs in zip(masks, self._found.masks, strict=True):
            mask[:] = codec.decode({"size": [height, width], "counts": runs})
        return masks

    def plot(self, min_score: float = SHOWN) -> Image.Image:
        """A picture with boxes, names, masks and keypoints of detections with at least this score.

        It is at least 640 pixels on its long side, and the same as in the folder of `detect predict`.
        """
        skeleton, names = self._trained.skeleton, self._trained.classes.names
        pixels = torch.from_numpy(self.image).permute(2, 0, 1)
        return draw_detections(pixels, self._drawn, names, min_score=min_score, skeleton=skeleton)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results, as in results.json of `detect predict`: category ids of the source, boxes as x y w h."""
        return entries(image_id, self._found, self.image.shape[:2], self._trained.classes.by_id())

    def to_supervision(self) -> Any:
        """`supervision.Detections` with boxes, masks, scores, labels and data["class_name"].

        Keypoints have a class of their own there and are not in it.

        Raises:
            UsageError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UsageError("to_supervision() needs a package: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks,
            confidence=self.scores.astype(np.float32),
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )


def predicted(
    trained: Trained,
    pixels: Tensor,
    resize: Any,
    min_score: float,
    *,
    path: Path | None,
    proposer: Trained | None,
    tiles: Tiles | None = None,
) -> Prediction:
    """The detections of one image with at least `min_score`. pixels: (3, H, W) uint8 RGB."""
    detected, scale = detect_in(pixels, trained, resize, proposer, tiles)
    height, width = pixels.shape[-2:]
    ids = np.array(trained.classes.source_ids)
    whole = read_detections(0 if path is None else path.name, detected, scale, (height, width), ids)  # type: ignore[arg-type]
    keep = whole.rows[:, 4] >= min_score
    found, labels = whole.best(min_score), detected["labels"].numpy()[keep]
    kept = torch.from_numpy(keep)
    own = Detections(**{name: value[kept] for name, value in detected.items()})  # type: ignore[index, typeddict-item]
    return Prediction(
        image=pixels.permute(1, 2, 0).numpy(),
        path=path,
        boxes=np.concatenate((found.rows[:, :2], found.rows[:, :2] + found.rows[:, 2:4]), 1),
        scores=found.rows[:, 4],
        labels=labels,
        category_ids=found.rows[:, 5].astype(np.int64),
        names=[trained.classes.names[label] for label in labels.tolist()],
        keypoints=found.keypoints,
        _found=found,
        _drawn=in_original_pixels(own, scale),
        _trained=trained,
    )


# --- images ---------------------------------------------------------------------------------------


def is_one(source: Any) -> bool:
    """Whether a source is a single image, rather than a folder, a list or a batch.

    Raises:
        UsageError: it is nothing that can be predicted.
    """
    if isinstance(source, str | Path):
        return not Path(source).expanduser().is_dir()
    if isinstance(source, np.ndarray | Tensor):
        return source.ndim < 4
    if isinstance(source, Image.Image):
        return True
    if isinstance(source, Sequence) or hasattr(source, "__iter__"):
        return False
    raise UsageError(
        f"predict takes a path, a PIL image, an array, a tensor, a folder or a list of them, "
        f"not {type(source).__name__}"
    )


def photographs(source: Any) -> Iterator[tuple[Path | None, Tensor]]:
    """Yield (path, (3, H, W) uint8 RGB) of a source: one image, a folder by name, a list or a batch in its order.

    Files are read as `detect predict` reads them. In a folder, files that cannot be read are logged and skipped.

    Raises:
        DataError: a missing or unreadable file, or a folder without images.
        UsageError: an array or tensor that is no image of 8 bits.
    """
    if isinstance(source, str | Path):
        for seen in pictures_of([str(source)], None):
            yield None if seen.address else seen.path, seen.pixels
    elif isinstance(source, Image.Image):
        yield None, of_pillow(source)
    elif isinstance(source, np.ndarray | Tensor) and is_one(source):
        yield None, of_tensor(source) if isinstance(source, Tensor) else of_array(source)
    else:
        for one in source:
            is_one(one)
            yield from photographs(one)


def of_pillow(image: Image.Image) -> Tensor:
    """Any mode -> (3, H, W) uint8 RGB, upright by its EXIF orientation."""
    try:
        image.load()  # a TIFF is turned by this, and says so
        return pixels_of(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"the PIL image cannot be read ({error}); open its file again, or check it") from None


def of_array(image: np.ndarray) -> Tensor:
    """(H, W, 3), (H, W, 1) or (H, W) uint8 -> (3, H, W). Raises UsageError for others."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise UsageError(
            f"an array of shape {image.shape} and type {image.dtype} is no image here; give (height, width, 3) uint8 "
            f"RGB: image[..., ::-1] turns OpenCV's BGR, (255 * image).astype('uint8') values from 0 to 1"
        )
    return of_tensor(torch.from_numpy(np.ascontiguousarray(image.reshape(*image.shape[:2], -1))).permute(2, 0, 1))


def of_tensor(image: Tensor) -> Tensor:
    """(3, H, W), (1, H, W) or (H, W) uint8 -> (3, H, W) on the CPU. Raises UsageError for others."""
    image = image[None] if image.ndim == 2 else image
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise UsageError(
            f"a tensor of shape {tuple(image.shape)} and type {image.dtype} is no image here; give (3, height, width) "
            f"uint8 RGB: (255 * image).byte() turns values from 0 to 1, permute(2, 0, 1) channels that come last"
        )
    return image.detach().cpu().expand(3, -1, -1).contiguous()
