"""What explains an AP, of a data set of the size of COCO val: `python tests/bench/bench_explained.py [--images 5000]`.

The synthetic detections of `bench_coco_eval.py`: a hundred in each image, 80 classes. CPU seconds on one thread, and
how much the peak resident size grows, after the AP has been computed. Goal: 10 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.explaining.explanation import explained
from shared.host import process_peak
from tests.bench.bench_coco_eval import detections, write_truth

GOAL = 10  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    images = parser.parse_args().images
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_truth(Path(folder) / "instances.json", images)
        data = CocoDetection(Path(folder), Path(folder) / "instances.json", need_images=False)
    evaluator = CocoEvaluator(data)
    for image_id, found in zip(data.image_ids, detections(data), strict=True):
        evaluator.add(image_id, found, (1.0, 1.0))
    evaluator.summary()
    before, start = peak(), time.process_time()
    told = explained(evaluator)
    seconds = time.process_time() - start
    print(f"{images:,} images, {sum(len(own.rows) for own in evaluator.found.values()):,} detections")
    print(f"explained in {seconds:.1f} s CPU (goal: {GOAL}), {(peak() - before) / 1e6:.0f} MB more at the peak")
    print(f"best F1 {told.f1:.3f} at score {told.score:.3f}; {len(told.confusions):,} kinds of confusions")
    return 0


def peak() -> float:
    """The most memory of this process so far, bytes."""
    return float(process_peak() or 0)


if __name__ == "__main__":
    sys.exit(main())
