#!/usr/bin/env bash
# pycocotools 2.0.11: mask.area takes at most 255 masks at a time. It is their number that overflows, not an area.
#
# The number of masks is put into an unsigned byte. With NumPy 2 a list of 256 raises "Python integer 256 out of bounds
# for uint8", which reads like a mask with too many pixels. toBbox, merge and iou take any number, and COCO.loadRes asks
# for one area at a time, so an evaluation does not show it.
#
# Seen 2026-11-30, pycocotools 2.0.11, numpy 2.2.6:
#   255 masks of 4 pixels   areas [4]
#   256 masks of 4 pixels   OverflowError: Python integer 256 out of bounds for uint8
#   256 boxes               256
#
# Fails if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "pycocotools==2.0.11" "numpy==2.2.6"
"$place/env/bin/python" - << 'PYTHON'
import sys

import numpy as np
from pycocotools import mask as codec

pixels = np.zeros((8, 8), np.uint8, order="F")
pixels[2:4, 2:4] = 1
mask = codec.encode(pixels)
few = sorted({int(area) for area in codec.area([mask] * 255)})
print("255 masks of 4 pixels   areas", few)
try:
    raised = ""
    codec.area([mask] * 256)
except OverflowError as error:
    raised = str(error)
print(f"256 masks of 4 pixels   OverflowError: {raised}")
boxes = len(codec.toBbox([mask] * 256))
print("256 boxes              ", boxes)
sys.exit(not (few == [4] and "uint8" in raised and boxes == 256))
PYTHON
