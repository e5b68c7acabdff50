#!/usr/bin/env bash
# pycocotools 2.0.11: a `bbox` beside the `segmentation` of a result changes the AP of masks by size.
#
# COCO.loadRes gives every result one area. If the first result has a bbox, all areas are those of the boxes, also when
# masks are evaluated; without one, they are those of the masks. COCOeval drops unmatched results outside the size range
# by that area. So the same masks with the same scores have another AP for small objects once the file holds boxes too,
# as many programs write it. Nothing is logged.
#
# Seen 2026-11-30, pycocotools 2.0.11: one small object that is found, and a false positive: a thin diagonal of about
# 400 pixels whose box has over 10,000.
#   segmentation alone    AP small 0.500
#   with bbox             AP small 1.000
#
# Fails if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "pycocotools==2.0.11" "numpy==2.2.6"
"$place/env/bin/python" - << 'PYTHON'
import contextlib
import io
import sys

import numpy as np
from pycocotools import mask as codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 200


def rle(pixels):
    coded = codec.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


square, line = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
square[150:170, 10:30] = 1
for i in range(120):
    line[i, 60 + i : 64 + i] = 1


def result(pixels, score, boxed):
    coded = rle(pixels)
    entry = {"image_id": 1, "category_id": 1, "score": score, "segmentation": coded}
    return entry | ({"bbox": codec.toBbox(coded).tolist()} if boxed else {})


def small_ap(boxed):
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": SIDE, "width": SIDE}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400.0,
             "bbox": [10, 150, 20, 20], "segmentation": rle(square)},
        ],
    }
    truth.createIndex()
    found = truth.loadRes([result(line, 0.9, boxed), result(square, 0.8, boxed)])
    scored = COCOeval(truth, found, "segm")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    return scored.stats[3]


with contextlib.redirect_stdout(io.StringIO()):
    alone, boxed = small_ap(False), small_ap(True)
print(f"segmentation alone    AP small {alone:.3f}\nwith bbox             AP small {boxed:.3f}")
sys.exit(not (abs(alone - 0.5) < 0.01 and abs(boxed - 1) < 0.01))
PYTHON
