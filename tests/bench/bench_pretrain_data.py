"""Pretraining data loading compared with torchvision and webdataset.

    python tests/bench/bench_pretrain_data.py --data FOLDER

CPU time of the process on one thread, variants alternating in rotating order, median over rounds of the ratio to the
reference. FOLDER holds `imagenet-sample/*.JPEG`, or images directly.
"""

from __future__ import annotations

import argparse
import io
import shutil
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
from pretrain.data.restart_markers import decoded_view, marked
from pretrain.data.shards import ShardSet
from pretrain.data.tfrecord import crc32c
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, crop_resize
from shared.feeding.feed import Feed
from shared.feeding.image import decode_image
from shared.feeding.plan import rng_for

SIDE = 224
Box = tuple[int, int, int, int]


def compare(variants: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Variants, the first being the reference -> milliseconds per item, and reference time / own time."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for n in range(rounds + 1):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = time.process_time()
            variants[name]()
            spent[name].append((time.process_time() - start) / count * 1000)
    rows = {}
    for name, times in spent.items():  # the first round is a warm-up
        ratios = [reference / own for reference, own in zip(spent[names[0]][1:], times[1:], strict=True)]
        rows[name] = statistics.median(times[1:]), statistics.median(ratios)
    return rows


def show(title: str, rows: dict[str, tuple[float, float]], *goals: float) -> None:
    """Print a table and whether each goal is reached; goals are for the rows after the reference, in order."""
    print(title)
    for name, (milliseconds, ratio) in rows.items():
        print(f"  {name:58} {milliseconds:8.3f} ms   {ratio:5.2f} x")
    for (name, (_, reached)), goal in zip(list(rows.items())[1:], goals, strict=False):
        print(f"  goal {goal} x for {name}: {'reached' if reached >= goal else 'MISSED'} ({reached:.2f} x)")
    print()


normalize = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
statistics_of_imagenet = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def reference(data: bytes, box: Box, flip: bool) -> Tensor:
    """One image as in torchvision's training reference, with a given crop box."""
    image: Any = Image.open(io.BytesIO(data)).convert("RGB")
    image = TF.resized_crop(image, *box, [SIDE, SIDE], antialias=True)
    image = TF.horizontal_flip(image) if flip else image
    return statistics_of_imagenet(normalize(image))


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
            "reference: Pillow, v2 crop and flip, normalized float": lambda: torch.stack([reference(*j) for j in jobs]),
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
    print(f"  maximum pixel difference: {worst} of 255, goal 2: {'reached' if worst <= 2 else 'MISSED'}\n")


def shards(files: list[bytes], rounds: int) -> None:
    """Compare reading every sample's image bytes and label, without decoding."""
    from webdataset.compat import WebDataset

    with tempfile.TemporaryDirectory() as folder:
        paths = written(folder, [files[n % len(files)] for n in range(1000)], 250)
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


def written(folder: str, files: list[bytes], size: int) -> list[str]:
    from webdataset.writer import ShardWriter

    with ShardWriter(f"{folder}/train-%06d.tar", maxcount=size, verbose=0) as writer:
        for n, data in enumerate(files):
            writer.write({"__key__": f"{n:06d}", "jpg": data, "cls": n % 10})
    return sorted(str(path) for path in Path(folder).glob("*.tar"))


BATCH = 64
usual = v2.Compose(
    [
        v2.RandomResizedCrop(SIDE, antialias=True),
        v2.RandomHorizontalFlip(),
        normalize,
        statistics_of_imagenet,
    ]
)


def recipe(paths: list[str]) -> Callable[[], int]:
    """The pipeline of webdataset's documentation on the shards `paths`, without worker processes."""
    from webdataset.compat import WebDataset, WebLoader

    def run() -> int:
        data = WebDataset(paths, shardshuffle=len(paths)).shuffle(500).decode("pil").to_tuple("jpg", "cls")
        data = data.map_tuple(lambda image: usual(image.convert("RGB")), lambda label: label).batched(BATCH)
        return sum(len(labels) for _, labels in WebLoader(data, batch_size=None, num_workers=0))

    return run


def feed(paths: list[str], steps: int) -> Callable[[], int]:
    """Our pipeline from the same files to shuffled uint8 batches, as in training."""
    own = Feed(ShardSet(paths, Compose([RandomResizedCrop(SIDE), HorizontalFlip(0.5)])), seed=0, batch_size=BATCH)
    return lambda: sum(len(labels) for batches in own.steps(0, steps) for _, labels in batches)


def loader(files: list[bytes], rounds: int) -> None:
    """Compare loading from shards to batches, end to end; ordinary shards and those with restart markers."""
    program = shutil.which("jpegtran")
    marks = [marked(data, program) for data in files] if program else []
    steps = len(files) // BATCH
    with tempfile.TemporaryDirectory() as ordinary, tempfile.TemporaryDirectory() as with_marks:
        paths = written(ordinary, files[: steps * BATCH], 50)
        variants = {
            "webdataset as documented, floats": recipe(paths),
            "ours, ordinary shards, uint8": feed(paths, steps),
        }
        if marks:
            variants["ours, restart-marked shards, uint8"] = feed(
                written(with_marks, marks[: steps * BATCH], 50), steps
            )
        assert {run() for run in variants.values()} == {steps * BATCH}
        rows = compare(variants, steps * BATCH, rounds)
        show(f"loader, {steps * BATCH} photographs in batches of {BATCH}, per image", rows, 1.8, 2.1)
    if not marks:
        print("  restart-marked shards skipped: the program jpegtran is not installed\n")
        return
    view = RandomResizedCrop(SIDE)
    equal = sum(
        torch.equal(decoded_view(mark, view, rng_for(0, epoch, n)), view(decode_image(data, upright=True), rng))
        for n, (data, mark) in enumerate(zip(files, marks, strict=True))
        for epoch, rng in ((epoch, rng_for(0, epoch, n)) for epoch in range(5))
    )
    growth = sum(map(len, marks)) / sum(map(len, files))
    print(f"  marked files are {growth:.3f} of the size; {equal} of {5 * len(files)} random crops equal to the bit\n")


def checksums(rounds: int) -> None:
    """Print the throughput of CRC-32C for TFRecords on one core."""
    data = np.random.default_rng(0).bytes(110_000)
    rows = compare({"CRC-32C of 110 kB": lambda: [crc32c(data) for _ in range(20)]}, 20, rounds)
    milliseconds = rows["CRC-32C of 110 kB"][0]
    print(f"TFRecord checksums: {milliseconds:.3f} ms for 110 kB, {110 / milliseconds:.0f} MB/s\n")


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
    loader(files, options.rounds)
    checksums(options.rounds)


if __name__ == "__main__":
    main()
