"""Speed of reading photographs with masks or keypoints, compared with torchvision's references.

    python tests/bench/bench_mask_data.py --data FOLDER

FOLDER holds coco-keypoints/. Both implementations run alternately in this process, on one thread; time is CPU time;
the figure is the median over rounds of reference time / our time. The reference follows torchvision's detection
references: Pillow, every polygon of every object rasterized and decoded at full size, then flip, and resize,
normalization and padding as in its GeneralizedRCNNTransform, whose nearest-pixel sampling is shifted half a pixel up
and left of ours. Ours ends with uint8, because normalization and padding run on the device; a further line includes
the float batch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench_detection_data import BATCH, compare, loaded

from detection.data.augment.presets import build_augment
from detection.data.batch import pad_batch
from detection.data.coco import CocoDetection, coco_layout
from shared.feeding.pixels import PIXEL_STATS, Normalize

MIRRORED = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def quietly(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def reference_target(entries: list[dict[str, Any]], size: tuple[int, int], kind: str) -> dict[str, Tensor]:
    """COCO annotations of an image -> boxes, labels, and masks (N, H, W) or keypoints (N, K, 3)."""
    height, width = size
    entries = [entry for entry in entries if not entry["iscrowd"]]
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    target = {"boxes": boxes, "labels": torch.tensor([entry["category_id"] for entry in entries])}
    if kind == "masks":
        masks = []
        for entry in entries:
            pixels: Any = coco_mask.decode(coco_mask.frPyObjects(entry["segmentation"], height, width))
            masks.append(
                torch.as_tensor(pixels[..., None] if pixels.ndim < 3 else pixels, dtype=torch.uint8).any(dim=2)
            )
        target["masks"] = torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)
    else:
        points = [entry["keypoints"] for entry in entries]
        target["keypoints"] = torch.tensor(points, dtype=torch.float32).reshape(len(entries), 17, 3)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    return {name: value[keep] for name, value in target.items()}


def flipped(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    width = image.shape[-1]
    target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        points = target["keypoints"][:, MIRRORED]
        points[..., 0] = width - points[..., 0]
        points[points[..., 2] == 0] = 0
        target["keypoints"] = points
    return image.flip(-1), target


def reference(data: CocoDetection, coco: COCO, kind: str) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Float batches and their targets, as in torchvision's references and models."""
    transform = GeneralizedRCNNTransform(800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).train()
    for first in range(0, len(data), BATCH):
        samples = []
        for index in range(first, min(first + BATCH, len(data))):
            picture = Image.open(data.path(index)).convert("RGB")
            entries: Any = coco.imgToAnns[data.image_ids[index]]
            target = reference_target(entries, (picture.height, picture.width), kind)
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
            samples.append(flipped(image, target) if np.random.default_rng(index).random() < 0.5 else (image, target))
        images, targets = transform([image for image, _ in samples], [target for _, target in samples])
        assert targets is not None
        yield images.tensors, targets


def check(ours: CocoDetection, coco: COCO, kind: str) -> None:
    """Print how well masks or keypoints agree; sizes and nearest pixels are rounded differently."""
    worst, agree = 0.0, []
    theirs = [target for _, targets in reference(ours, coco, kind) for target in targets]
    for index, target in enumerate(theirs):
        mine: Any = ours.load(index, np.random.default_rng(index))[1]
        if kind == "masks" and len(mine["masks"]):
            h, w = (min(a, b) for a, b in zip(mine["masks"].shape[1:], target["masks"].shape[1:], strict=True))
            one, other = mine["masks"][:, :h, :w] > 0, target["masks"][:, :h, :w] > 0
            agree += ((one & other).sum((1, 2)) / (one | other).sum((1, 2))).tolist()
        elif kind == "keypoints" and len(mine["keypoints"]):
            worst = max(worst, float((mine["keypoints"] - target["keypoints"]).abs().max()))
    if kind == "masks":
        print(
            f"  overlap (IoU) of our masks with the reference's: median {np.median(agree):.4f}, least {min(agree):.3f}"
        )
    else:
        print(f"  largest distance of a keypoint to the reference's, of 800 pixels: {worst:.2f}")


def reading(folder: Path, kind: str, rounds: int) -> None:
    dataset = {"masks": "coco", "keypoints": "coco_kp"}[kind]
    images, annotations = coco_layout(folder, "train", dataset)
    augment = build_augment("hflip", size=(800, 800), max_size=1333)
    ours = CocoDetection(images, annotations, augment=augment, finds=(kind,))
    boxes = CocoDetection(images, annotations, augment=augment)
    coco, normalize = quietly(annotations), Normalize(PIXEL_STATS["imagenet"])
    print(f"reading {len(ours)} photographs, {int(ours.is_target.sum())} objects with {kind}: decode, flip, 800/1333")
    check(ours, coco, kind)
    contestants = {
        "torchvision references": lambda: [None for _ in reference(ours, coco, kind)],
        "ours, as the loader sends it": lambda: [None for _ in loaded(ours)],
        "ours, float batch made here too": lambda: [pad_batch(pictures, normalize) for pictures, _ in loaded(ours)],
        f"ours without {kind}": lambda: [None for _ in loaded(boxes)],
    }
    compare(rounds, contestants, len(ours), "image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-keypoints/")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("masks", "keypoints"):
        reading(options.data / "coco-keypoints", kind, options.rounds)


if __name__ == "__main__":
    main()
