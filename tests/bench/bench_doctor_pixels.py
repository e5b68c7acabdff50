"""`detect doctor --pixels` on real photographs, against a bare loop that decodes the same files.

    python tests/bench/bench_doctor_pixels.py --data FOLDER

The loop reads and decodes every file with the decoder of training, by as many threads. Both run alternately in one
process; the figure is the loop's time divided by the doctor's, of CPU and of the clock: 1 is the decoding limit of the
cores. The doctor also reads the annotations and headers, makes fingerprints and looks for copies. Headers are read in
the first round and kept. Photographs of imagenet-sample get one box each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from detection.doctor.examine import examine
from detection.recipe import DataConfig
from shared.feeding.image import decode_image
from shared.recipes.recipe import read_section


def loop(files: list[Path]) -> None:
    """Decode every file as training does."""

    def decode(path: Path) -> int:
        return decode_image(path.read_bytes(), upright=False).shape[1]

    with ThreadPoolExecutor() as pool:
        assert all(pool.map(decode, files))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds."""
    cpu, start = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - start


def boxed(photographs: Path, root: Path) -> None:
    """A COCO folder of links to photographs, nine of ten for training, each with one box."""
    for split, keep in (("train", lambda n: n % 10), ("val", lambda n: not n % 10)):
        (root / split).mkdir()
        files = [path for n, path in enumerate(sorted(photographs.iterdir())) if keep(n)]
        images, objects = [], []
        for number, path in enumerate(files, start=1):
            (root / split / path.name).symlink_to(path)
            width, height = Image.open(path).size
            images.append({"id": number, "file_name": path.name, "width": width, "height": height})
            box = [width / 4, height / 4, width / 2, height / 2]
            objects.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
        listing = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(listing))


def compare(root: Path, rounds: int) -> str:
    data = read_section(DataConfig, {"data_path": root})
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    pairs = []
    for number in range(rounds + 1):
        bare, ours = timed(lambda: loop(files)), timed(lambda: examine(data, "doctor", pixels=True))
        if number:  # the first fills the caches
            pairs.append((bare, ours))
    cpu, clock = (statistics.median(bare[k] / ours[k] for bare, ours in pairs) for k in (0, 1))
    each = statistics.median(ours[0] for _, ours in pairs) / len(files)
    return f"{len(files)} photographs, {each * 1e3:.2f} ms CPU each: {cpu:.2f} of the limit, {clock:.2f} by the clock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-tiny/, bccd/ and imagenet-sample/")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHORDATE_CACHE"] = str(Path(folder) / "cache")
        made = Path(folder) / "imagenet-sample"
        made.mkdir()
        boxed(options.data.resolve() / "imagenet-sample", made)
        for root in (options.data / "coco-tiny", options.data / "bccd", made):
            print(f"{root.name}: {compare(root, options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
