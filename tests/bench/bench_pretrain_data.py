"""The pretraining data path beside the usual one: `python tests/bench/bench_pretrain_data.py --data FOLDER`.

CPU time of the process on one thread, variants interleaved in rotated order, median over the rounds of the ratio to
the reference. FOLDER holds `imagenet-sample/*.JPEG`, or images directly.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

sys.path.insert(0, str(Path(__file__).parents[2]))
from pretrain.shards import ShardSet
from pretrain.views import Compose, HorizontalFlip, RandomResizedCrop, crop_resize
from shared.image import decode_image
from shared.plan import rng_for

SIDE = 224
Box = tuple[int, int, int, int]


def compare(variants: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Variants, the first being the reference -> milliseconds for one of `count`, and how many times faster."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for n in range(rounds + 1):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = time.process_time()
            variants[name]()
            spent[name].append((time.process_time() - start) / count * 1000)
    rows = {}
    for name, times in spent.items():  # the first round warms up
        ratios = [reference / own for reference, own in zip(spent[names[0]][1:], times[1:], strict=True)]
        rows[name] = statistics.median(times[1:]), statistics.median(ratios)
    return rows


def show(title: str, rows: dict[str, tuple[float, float]], goal: float) -> None:
    print(title)
    for name, (milliseconds, ratio) in rows.items():
        print(f"  {name:58} {milliseconds:8.3f} ms   {ratio:5.2f} x")
    reached = list(rows.values())[1][1]
    print(f"  goal {goal} x: {'reached' if reached >= goal else 'MISSED'} ({reached:.2f} x)\n")


normalise = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
statistics_of_imagenet = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def reference(data: bytes, box: Box, flip: bool) -> Tensor:
    """What torchvision's training reference does with one image, for a given box."""
    image: Any = Image.open(io.BytesIO(data)).convert("RGB")
    image = TF.resized_crop(image, *box, [SIDE, SIDE], antialias=True)
    image = TF.horizontal_flip(image) if flip else image
    return statistics_of_imagenet(normalise(image))


def ours(data: bytes, box: Box, flip: bool) -> Tensor:
    view = crop_resize(decode_image(data, upright=True), box, (SIDE, SIDE))
    return HorizontalFlip(float(flip))(view, FIXED).contiguous()


FIXED = rng_for(0, 0, 0)


def as_bytes(pixels: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (statistics_of_imagenet.mean, statistics_of_imagenet.std)
    )
    return ((pixels * std + mean) * 255).round().to(torch.uint8)


def images(files: list[bytes], rounds: int) -> None:
    crop = RandomResizedCrop(SIDE)
    jobs = []
    for n, data in enumerate(files):
        rng = rng_for(0, 0, n)
        height, width = decode_image(data, upright=True).shape[1:]
        jobs.append((data, crop.box(height, width, rng), bool(rng.random() < 0.5)))
    whole = Compose([crop, HorizontalFlip(0.5)])
    rows = compare(
        {
            "reference: Pillow, v2 crop and flip, normalised float": lambda: torch.stack([reference(*j) for j in jobs]),
            "ours, same boxes: uint8 batch": lambda: torch.stack([ours(*job) for job in jobs]),
            "ours, boxes drawn too: uint8 batch": lambda: torch.stack(
                [whole(decode_image(job[0], upright=True), rng_for(0, 1, n)) for n, job in enumerate(jobs)]
            ),
            "floor: decoding alone": lambda: [decode_image(job[0], upright=True) for job in jobs],
        },
        len(jobs),
        rounds,
    )
    show(f"image pipeline, {len(jobs)} photographs to {SIDE} px, per image", rows, 1.7)
    worst = max(int((ours(*job).int() - as_bytes(reference(*job)).int()).abs().max()) for job in jobs)
    print(f"  greatest pixel difference: {worst} of 255, goal 2: {'reached' if worst <= 2 else 'MISSED'}\n")


def shards(files: list[bytes], rounds: int) -> None:
    """Both read every sample's image bytes and label; neither decodes."""
    from webdataset.compat import WebDataset
    from webdataset.writer import ShardWriter

    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(f"{folder}/train-%06d.tar", maxcount=250, verbose=0) as writer:
            for n in range(1000):
                writer.write({"__key__": f"{n:06d}", "jpg": files[n % len(files)], "cls": n % 10})
        paths = sorted(str(path) for path in Path(folder).glob("*.tar"))
        data = ShardSet(paths, lambda image, rng: image)
        order = np.random.default_rng(0).permutation(len(data)).tolist()

        def sequential() -> int:
            return sum(len(s["jpg"]) + int(s["cls"]) for s in WebDataset(paths, shardshuffle=False))

        def by_offset() -> int:
            return sum(len(data.read(n)) + int(data.labels[n]) for n in range(len(data)))

        def shuffled() -> int:
            return sum(len(data.read(n)) + int(data.labels[n]) for n in order)

        assert sequential() == by_offset() == shuffled()
        variants = {"webdataset, sequential": sequential, "ours, in order": by_offset, "ours, shuffled": shuffled}
        show("reading from local shards, per sample", compare(variants, len(data), rounds), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of real data")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=100, help="photographs in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.data / "imagenet-sample" if (options.data / "imagenet-sample").is_dir() else options.data
    files = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpeg", ".jpg")]
    if not files:
        parser.error(f"no JPEG in {folder}")
    images(files[: options.images], options.rounds)
    shards(files, options.rounds)


if __name__ == "__main__":
    main()
