"""Opening a COCO file of 118,000 images and 860,000 objects: parsed, and from the columns that are kept beside it.

    python tests/bench/bench_opening.py

The file is made first, with a link to one picture for each image, in a temporary folder. Each figure is of a process of
its own, which opens the data set with CocoDetection; in each round once after parsing and once from the columns. CPU
time, and memory at the peak beyond that of the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

NAME = "annotations/instances_train2017.json"
OPEN = """
import sys, time
from pathlib import Path
from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection
root, finds = Path(sys.argv[1]), tuple(sys.argv[2:])
def peak():  # of this process; ru_maxrss would be at least that of the process which started this one
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
base, start = peak(), time.process_time()
CocoDetection(root / "train2017", root / "annotations/instances_train2017.json", finds=finds)
print(time.process_time() - start, (peak() - base) / 1024)
"""


def make(root: Path, images: int) -> None:
    """A file like COCO's, with polygons of ten points."""
    rng, objects = np.random.default_rng(0), images * 86 // 12
    owner, category = np.sort(rng.integers(1, images + 1, objects)).tolist(), rng.integers(1, 81, objects).tolist()
    corner, sides = (rng.random((objects, 2)) * [500, 350]).round(2), (rng.random((objects, 2)) * 120 + 5).round(2)
    boxes, polygons = np.hstack((corner, sides)).tolist(), (rng.random((objects, 20)) * 100).round(2).tolist()
    annotations = [
        {
            "id": n,
            "image_id": owner[n],
            "category_id": category[n],
            "bbox": boxes[n],
            "area": round(boxes[n][2] * boxes[n][3], 2),
            "iscrowd": 0,
            "segmentation": [polygons[n]],
        }
        for n in range(objects)
    ]
    listed = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    for folder in ("annotations", "train2017"):
        (root / folder).mkdir()
    (root / NAME).write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    Image.new("RGB", (640, 480)).save(root / "train2017" / "picture.jpg")
    for image in listed:
        os.symlink("picture.jpg", root / "train2017" / image["file_name"])


def opened(root: Path, finds: list[str]) -> tuple[float, float]:
    """CPU seconds and megabytes of one process."""
    here = Path(__file__).parents[2]
    paths = {"PYTHONPATH": str(here), "CHORDATE_CACHE": str(root / "cache"), "XDG_CACHE_HOME": str(root / "cache")}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPEN, str(root), *finds],
        env={**os.environ, **paths},
        cwd=here,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, megabytes = map(float, told.stdout.split()[-2:])
    return seconds, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, options.images)
        opened(root, [])  # headers of the pictures are read and kept
        for finds in ([], ["masks"]):
            rounds = []
            for _ in range(options.rounds):
                for columns in (root / "annotations").glob("*.columns"):
                    columns.unlink()
                rounds.append((opened(root, finds), opened(root, finds)))
            parsed, kept = (
                [statistics.median(values) for values in zip(*part, strict=True)] for part in zip(*rounds, strict=True)
            )
            ratio = statistics.median(first[0] / second[0] for first, second in rounds)
            print(
                f"{options.images} images, {' '.join(finds) or 'boxes'}: parsed {parsed[0]:.1f} s CPU, "
                f"{parsed[1]:.0f} MB; from columns {kept[0]:.1f} s, {kept[1]:.0f} MB; {ratio:.1f} x as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
