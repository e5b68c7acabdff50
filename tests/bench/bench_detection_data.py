"""Speed of reading detection data and of computing AP, compared with torchvision's references and pycocotools.

    python tests/bench/bench_detection_data.py --data FOLDER

FOLDER holds coco-tiny/. Both implementations run alternately in this process, on one thread; time is CPU time; the
figure is the median over rounds of reference time / our time. The reference for reading is torchvision's: Pillow, the
transforms of references/detection (v2: flip, float), then resize, normalization and padding as in its
GeneralizedRCNNTransform. Ours ends with uint8, because normalization and padding run on the device; further lines give
their cost on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from detection.data.annotations.coco_json import read_coco
from detection.data.augment.presets import build_augment
from detection.data.batch import pad_batch
from detection.data.coco import CocoDetection, coco_layout
from detection.eval.coco import CocoEvaluator
from detection.types import Target
from shared.feeding.pixels import PIXEL_STATS, Normalize

BATCH = 4


def reference(data: CocoDetection) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Float batches, as in torchvision's references."""
    augment = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    model_transform = GeneralizedRCNNTransform(800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).train()
    for first in range(0, len(data), BATCH):
        samples = []
        for index in range(first, min(first + BATCH, len(data))):
            image = Image.open(data.path(index)).convert("RGB")
            target: Any = data.target(index)
            size = (image.height, image.width)
            boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)  # pyright: ignore[reportCallIssue]
            samples.append(augment(image, {"boxes": boxes, "labels": target["labels"]}))
        images, targets = model_transform([image for image, _ in samples], [target for _, target in samples])
        yield images.tensors, [target["boxes"] for target in targets]


def loaded(data: CocoDetection) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """uint8 batches as the loader returns them: images of different sizes, to be padded on the device."""
    for first in range(0, len(data), BATCH):
        yield data.collate(
            [data.load(i, np.random.default_rng(i)) for i in range(first, min(first + BATCH, len(data)))]
        )


def padded_uint8(images: list[Tensor], into: Tensor | None = None, multiple: int = 32) -> Tensor:
    """(B, H, W, 3) uint8, in new memory or, like a loader with pinned buffers, over an earlier batch."""
    height, width = (-(-max(i.shape[d] for i in images) // multiple) * multiple for d in (1, 2))
    if into is None:
        batch = torch.zeros((len(images), height, width, 3), dtype=torch.uint8)
    else:
        batch = into[: len(images) * height * width * 3].view(len(images), height, width, 3)
    for canvas, image in zip(batch, images, strict=True):
        _, h, w = image.shape
        canvas[:h, :w] = image.permute(1, 2, 0)
        canvas[h:], canvas[:h, w:] = 0, 0
    return batch


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(rounds: int, contestants: dict[str, Callable[[], Any]], count: int, unit: str) -> None:
    """Print CPU times and ratios; the first is the reference, and the order rotates every round."""
    names = list(contestants)
    for work in contestants.values():
        work()  # warm up caches and imports
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(contestants[name]))
    for name in names:
        ratios = [base / own for base, own in zip(times[names[0]], times[name], strict=True)]
        print(
            f"  {name:34s} {statistics.median(times[name]) / count * 1000:9.2f} ms CPU/{unit}"
            f"   {statistics.median(ratios):6.2f}x  (rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )


def check_quality(data: CocoDetection) -> None:
    """Both produce the same images: without flips, ours differs from float bilinear only by rounding."""
    plain = build_augment("hflip", size=(800, 800), max_size=1333, train=False)
    model_transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).train()
    worst = 0.0
    for index in range(0, len(data), 10):
        image, target = CocoDetection.load(data, index, np.random.default_rng(0))
        small, moved = plain(image, target, np.random.default_rng(0))
        theirs, their_targets = model_transform([image.float() / 255], [{**target}])
        h, w = (min(a, b) for a, b in zip(small.shape[-2:], theirs.image_sizes[0], strict=True))
        if tuple(small.shape[-2:]) == tuple(theirs.image_sizes[0]):
            worst = max(worst, float((small.float() - theirs.tensors[0, :, :h, :w] * 255).abs().max()))
        assert their_targets is not None
        assert torch.allclose(moved["boxes"], their_targets[0]["boxes"], atol=2), "boxes differ"
    print(f"  largest pixel difference to the reference, of 255: {worst:.2f}")


def reading(folder: Path, rounds: int) -> None:
    plain = CocoDetection(*coco_layout(folder, "train"))
    data = CocoDetection(*coco_layout(folder, "train"), augment=build_augment("hflip", size=(800, 800), max_size=1333))
    print(f"reading {len(data)} COCO photographs: decode, flip, 800/1333, boxes, batches of {BATCH}")
    check_quality(plain)
    buffer = torch.zeros(BATCH * 1344 * 1344 * 3, dtype=torch.uint8)
    normalize = Normalize(PIXEL_STATS["imagenet"])
    contestants = {
        "torchvision references": lambda: [None for _ in reference(plain)],
        "ours, as the loader sends it": lambda: [None for _ in loaded(data)],
        "ours, padded, memory reused": lambda: [padded_uint8(images, buffer) for images, _ in loaded(data)],
        "ours, padded, fresh memory": lambda: [padded_uint8(images) for images, _ in loaded(data)],
        "ours, float batch made here too": lambda: [pad_batch(images, normalize) for images, _ in loaded(data)],
    }
    compare(rounds, contestants, len(data), "image")
    for level in (0, 4, 10):
        augment = build_augment("birder", level=level, size=(640, 640))
        birder = CocoDetection(*coco_layout(folder, "train"), augment=augment)
        spent = seconds(lambda data=birder: [data.load(i, np.random.default_rng(i)) for i in range(len(data))])
        print(f"  birder level {level:2d} at 640 (alone)         {spent / len(data) * 1000:9.2f} ms CPU/image")


def evaluating(images: int, rounds: int) -> None:
    """Compare AP on synthetic data like COCO: 7 objects and 100 detections per image, 80 classes, crowds."""
    import json

    rng = np.random.default_rng(0)
    objects, found = 7 * images, 100 * images
    corner, sides = rng.random((objects, 2)) * 400, 5 + rng.random((objects, 2)) ** 3 * 300
    truth = np.hstack((corner, sides)).round(2)
    owner, category = rng.integers(0, images, objects), rng.integers(1, 81, objects)
    source = rng.integers(0, objects, found)
    boxes = truth[source] + rng.normal(0, 8, (found, 4))
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    guessed = np.where(rng.random(found) < 0.7, category[source], rng.integers(1, 81, found))
    results = [
        {"image_id": int(owner[s]), "category_id": int(c), "bbox": b, "score": p}
        for s, c, b, p in zip(source, guessed, boxes.tolist(), rng.random(found).round(3).tolist(), strict=True)
    ]
    content = {
        "images": [{"id": i, "file_name": "a.png", "width": 720, "height": 720} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
        "annotations": [
            {
                "id": n,
                "image_id": int(i),
                "category_id": int(c),
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": int(n % 50 == 0),
            }
            for n, (i, c, b) in enumerate(zip(owner, category, truth.tolist(), strict=True), start=1)
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.png").write_bytes(b"")
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(content))
        print(f"evaluating {images} images, {objects} objects, {found} detections; from columns to the summary")
        print(f"  reading the {objects} annotations took {seconds(lambda: read_coco(path)) * 1000:.0f} ms CPU")
        data = CocoDetection(Path(folder), path)
    summaries: dict[str, dict[str, float]] = {}

    def run(backend: str) -> None:
        evaluator = CocoEvaluator(data, backend)
        evaluator.merge([results])
        summaries[backend] = evaluator.summary()

    compare(rounds, {"pycocotools": lambda: run("pycocotools"), "hotcoco": lambda: run("hotcoco")}, 1, "evaluation")
    worst = max(abs(summaries["pycocotools"][k] - summaries["hotcoco"][k]) for k in summaries["hotcoco"])
    print(f"  AP {summaries['hotcoco']['box_ap']:.4f}; largest difference between the two: {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-tiny/")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=500, help="of the synthetic evaluation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reading(options.data / "coco-tiny", options.rounds)
    evaluating(options.images, max(1, options.rounds // 2))


if __name__ == "__main__":
    main()
