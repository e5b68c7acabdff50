#!/usr/bin/env bash
# torchvision's FCOS starts where most of its box sides have no gradient, and a training may never get a box.
#
# The paper predicts distances to the four sides as exp(x), which is 1 at the start and learns everywhere. torchvision's
# head takes relu(x) with a bias of 0: at the start half of the sides are 0, where relu passes no gradient back, and all
# four are positive in few places. Where the sides of all positive places are 0, the GIoU loss is 1 and stays 1. With a
# bias of 1 (in strides, as exp(0)) every side learns. Its published weights are past the start and not concerned.
#
# Seen 2026-11-30 with torch 2.14.1, torchvision 0.29.1, on maps of noise, twenty seeds of a small head:
#   bias of 0: sides that are positive 0.34 to 0.70, places whose four sides are positive 0.01 to 0.22
#   bias of 1: sides that are positive 1.00 to 1.00, places whose four sides are positive 1.00 to 1.00
#
# Fails if torchvision's head starts otherwise.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 numpy
"$place/env/bin/python" -W ignore - << 'PYTHON'
import sys

import torch
from torchvision.models.detection.fcos import FCOSHead


@torch.no_grad()
def started(seed, bias):
    torch.manual_seed(seed)
    head = FCOSHead(64, num_anchors=1, num_classes=3, num_convs=1)
    if bias is not None:
        torch.nn.init.constant_(head.regression_head.bbox_reg.bias, bias)
    sides = head([torch.randn(2, 64, 32, 32)])["bbox_regression"]
    return (sides > 0).float().mean().item(), (sides > 0).all(-1).float().mean().item()


plain, raised = ([started(seed, bias) for seed in range(20)] for bias in (None, 1.0))
for name, found in (("bias of 0", plain), ("bias of 1", raised)):
    sides, places = zip(*found)
    print(
        f"{name}: sides that are positive {min(sides):.2f} to {max(sides):.2f}, places whose four sides are positive "
        f"{min(places):.2f} to {max(places):.2f}"
    )
expected = all(0.2 < s < 0.8 and p < 0.5 for s, p in plain) and all(s > 0.99 and p > 0.95 for s, p in raised)
sys.exit(not expected)
PYTHON
