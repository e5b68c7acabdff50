"""Looking for test images among the fingerprints of a pretraining: time, memory, and what is found of changed copies.

    python tests/bench/bench_lookalikes.py [--data FOLDER] [--known 14000000] [--asked 5000]

Made digests: random words, with copies of some of the pictures planted. With --data, photographs of `imagenet-sample`,
`coco-tiny` and `coco-keypoints` are changed and looked for, at the limit of few pairs and at that of 5,000 x 14
million; and the time of packing is compared with that of the digests.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from pretrain.packing.pack import pack
from shared.feeding.fingerprint import SIDE, fingerprints, small_picture
from shared.host import process_peak
from shared.weights.lookalikes import limit_of, look_for

Change = Callable[[Image.Image], Image.Image]
PLANTED = 50


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--known", type=int, default=14_000_000)
    parser.add_argument("--asked", type=int, default=5000)
    args = parser.parse_args()
    made(args.known, args.asked)
    if args.data is not None:
        files = photographs(args.data)
        packing(files)
        changed_copies([file.read_bytes() for file in files])


def made(known: int, asked: int) -> None:
    """Time and memory of looking for pictures among made digests."""
    pictures = smooth(np.random.default_rng(0), asked)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "digests.npy"
        writer = multiprocessing.get_context("fork").Process(target=write, args=(place, known, pictures[:PLANTED]))
        writer.start()
        writer.join()
        before, began = peak(), (time.perf_counter(), time.process_time())
        found = look_for(pictures, np.load(place, mmap_mode="r"))
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        after = peak()
    limit = limit_of(asked, known)
    right = int((found.rows[:PLANTED] == places_of(known)).sum())
    wrong = int((found.distances[PLANTED:] <= limit).sum())
    print(f"{asked:,} pictures among {known:,} digests: {cpu:.1f} s of one core ({wall:.1f} s on the clock)")
    print(
        f"  memory: {after:.2f} GB at most, {after - before:.2f} of them for this; the file has {known * 32 / 1e9:.2f}"
    )
    print(f"  {right} of {PLANTED} planted were found, {wrong} others within {limit} bits")
    print(
        f"  goals: 60 s {'reached' if cpu <= 60 else 'MISSED'}, 1 GB {'reached' if after - before <= 1 else 'MISSED'}"
    )


def write(place: Path, known: int, planted: np.ndarray) -> None:
    """Write random digests, with the fingerprints of some pictures among them."""
    rng = np.random.default_rng(1)
    digests = np.lib.format.open_memmap(place, mode="w+", dtype=np.uint64, shape=(known, 4))
    for first in range(0, known, 1 << 20):
        part = digests[first : first + (1 << 20)]
        part[:] = rng.integers(0, 2**64, part.shape, dtype=np.uint64)
    digests[places_of(known), 1:] = fingerprints(planted)
    digests.flush()


def places_of(known: int) -> np.ndarray:
    return np.random.default_rng(2).choice(known, PLANTED, replace=False)


def smooth(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, 64, 64) uint8 pictures with more of low frequencies, as photographs have."""
    pictures = np.zeros((count, SIDE, SIDE), np.uint8)
    for picture in pictures:
        for size in (4, 8, 16, 32):
            tiles = rng.integers(0, 500 // size, (size, size), np.uint8)
            picture += tiles.repeat(SIDE // size, axis=0).repeat(SIDE // size, axis=1)
    return pictures


def peak() -> float:
    """The most memory of this process so far, GB."""
    return (process_peak() or 0) / 1e9


def photographs(data: Path) -> list[Path]:
    folders = ("imagenet-sample", "coco-tiny", "coco-keypoints")
    files = (file for folder in folders for file in sorted((data / folder).rglob("*")))
    return [file for file in files if file.suffix.lower() in (".jpg", ".jpeg")]


def packing(files: list[Path]) -> None:
    """CPU time of packing photographs without and with fingerprints, and of the marks alone."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photos" / "one"
        source.mkdir(parents=True)
        for n, file in enumerate(files):
            (source / f"{n}.jpg").write_bytes(file.read_bytes())
        spent: dict[bool, list[float]] = {False: [], True: []}
        for n in range(8):
            wanted = n % 2 == 1
            began = time.process_time()
            pack(source.parent, Path(folder) / f"out{n}", fingerprints=wanted)
            if n > 1:
                spent[wanted].append((time.process_time() - began) / len(files) * 1000)
    plain, with_prints = (sorted(times)[len(times) // 2] for times in spent.values())
    from shared.feeding.headers import mark_of

    contents = [file.read_bytes() for file in files]
    began = time.process_time()
    for data in contents:
        mark_of(data, len(data))
    marks = (time.process_time() - began) / len(files) * 1000
    print(f"packing: {plain:.2f} ms an image, of which the mark {marks:.3f} ms ({marks / plain:.1%})")
    print(f"  with fingerprints: {with_prints:.2f} ms ({with_prints / plain - 1:+.0%})")


def changed_copies(files: list[bytes]) -> None:
    """Shares of changed photographs that are found, and others that are taken for them."""
    small = np.stack([small_picture(data) for data in files])
    known = digests(small)
    limits = (limit_of(len(files), len(files)), limit_of(5000, 14_000_000))
    print(f"{len(files)} photographs, changed: found within {limits[0]} bits, and {limits[1]} (of 5,000 x 14 million)")
    print(f"  {'change':<36} the changed one is the test image   it was pretrained on    others")
    for name, change in CHANGES.items():
        copies = np.stack([small_picture(encoded(change(opened(data)))) for data in files])
        asked, trained = look_for(copies, known), look_for(small, digests(copies))
        right = np.arange(len(files))
        shares = [[((f.rows == right) & (f.distances <= limit)).mean() for limit in limits] for f in (asked, trained)]
        others = sum(int(((f.rows != right) & (f.distances <= limits[0])).sum()) for f in (asked, trained))
        cells = "".join(f"{first:15.1%} {second:15.1%}" for first, second in shares)
        print(f"  {name:<30} {cells} {others:8d}")
    alone = [look_for(small[n : n + 1], np.delete(known, n, axis=0)).distances[0] for n in range(len(small))]
    print(f"  false alarms among the unchanged: {sum(bits <= limits[0] for bits in alone)}, nearest {min(alone)} bits")


def digests(small: np.ndarray) -> np.ndarray:
    return np.column_stack([np.arange(1, len(small) + 1, dtype=np.uint64), fingerprints(small)])


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def encoded(image: Image.Image, quality: int = 75) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))

    return crop


def somewhere(image: Image.Image) -> Image.Image:
    """A crop of 90 % of each side, at a place that depends on the picture's size."""
    left, top = np.random.default_rng(image.size).uniform(0, 0.1, 2)
    return cropped(left, top, left + 0.9, top + 0.9)(image)


def again(quality: int) -> Change:
    return lambda image: opened(encoded(image, quality))


def sized(width: int, height: int) -> Change:
    return lambda image: image.resize((width, height), Image.Resampling.BICUBIC)


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: dict[str, Change] = {
    "unchanged, JPEG 75": lambda image: image,
    "JPEG 50": again(50),
    "JPEG 30": again(30),
    "JPEG 10": again(10),
    "half as large": lambda image: sized(max(1, image.width // 2), max(1, image.height // 2))(image),
    "224 x 224": sized(224, 224),
    "64 x 64": sized(64, 64),
    "mirrored": mirrored,
    "cropped by 5 % on every side": cropped(0.05, 0.05, 0.95, 0.95),
    "cropped by 10 % at two sides": cropped(0.1, 0.1, 1, 1),
    "cropped by 10 % at one side": cropped(0, 0, 0.9, 1),
    "90 % of each side, somewhere": somewhere,
    "the same, mirrored, JPEG 50": lambda image: again(50)(somewhere(mirrored(image))),
}


if __name__ == "__main__":
    main()
