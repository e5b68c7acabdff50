"""Intervals of AP: `python tests/bench/bench_intervals.py [--images 5000] [--draws 2000]`.

The data set and the detections of bench_coco_eval.py: 5000 images, seven objects and a hundred detections in each, 80
classes. Matching once, then AP of every class, area and threshold for each draw; and the kinds of errors of the set.
CPU time on one thread; memory is the growth of the resident size after detections and ground truth have been created.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.eval.matched import similarity_of
from detection.statistics.bootstrap import intervals, sample_of
from detection.statistics.errors import errors_of
from tests.bench.bench_coco_eval import detections, write_truth
from tests.bench.evaluations import peak, told

SECONDS, MEGABYTES, KINDS = 60, 1000, 10  # goals


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_truth(path, options.images)
        data = CocoDetection(path.parent, path)
        evaluator = CocoEvaluator(data, "auto")
        for image_id, one in zip(data.image_ids, detections(data), strict=True):
            evaluator.add(image_id, one, (1.0, 1.0))
        summary = evaluator.summary()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = peak(), time.process_time()
        matches = evaluator.matches()
        matched = time.process_time() - start
        sample = sample_of(matches, evaluator.statistics(), draws=options.draws)
        spent = time.process_time() - start
        extra = peak() - before
        start = time.process_time()
        errors_of(matches, similarity_of("boxes", data, evaluator.rows("boxes")), data.table.crowd)
        kinds = time.process_time() - start
    found = intervals(sample)
    row = sample.names.index("box_ap")
    print(f"{options.draws} draws of {options.images} images, {len(matches.rows):,} detections")
    print(f"  matching {matched:.1f} s, in all {spent:.1f} s (goal {SECONDS}) {told(spent <= SECONDS)}")
    print(f"  memory {extra:.0f} MB (goal {MEGABYTES}) {told(extra <= MEGABYTES)}; peak of the process {peak():.0f} MB")
    print(f"  kinds of errors and their costs {kinds:.1f} s (goal {KINDS}) {told(kinds <= KINDS)}")
    worst = max(
        abs(value - summary[name])
        for name, value in zip(sample.names, sample.values.tolist(), strict=True)
        if name in summary
    )
    print(f"  largest difference of the metrics without draws from the evaluator's: {worst:.1e} {told(worst < 1e-12)}")
    print(f"  AP {sample.values[row]:.4f}, 95 % from {found.low[row]:.4f} to {found.high[row]:.4f}")
    assert np.isfinite(found.low[row])


if __name__ == "__main__":
    main()
