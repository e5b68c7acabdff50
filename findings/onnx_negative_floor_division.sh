#!/usr/bin/env bash
# A rounded-up quotient of a dynamic size, written -(-h // 8), is exported to ONNX one too small, without a word.
#
# Python's // rounds down, so -(-h // 8) is the usual way to round up; torch.export keeps it as a symbolic floor
# division, which its own program computes rightly. torch.onnx.export writes it as ONNX's Div of integers, which rounds
# towards zero: -(-100 // 8) is 13 in Python and in the exported program, and 12 in the ONNX file. Where the size divides
# evenly, both agree, so an export that is tried at its own size passes. (h + 7) // 8 is the same number and is right.
#
# Seen 2026-11-30 with torch 2.14.1, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.31.1:
#   h = 96   negated floor division: 12 here, 12 in ONNX    sum before dividing: 12 here, 12 in ONNX
#   h = 100  negated floor division: 13 here, 12 in ONNX    sum before dividing: 13 here, 13 in ONNX
#
# Fails if they agree, or differ otherwise.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy
cd "$place"
"$place/env/bin/python" -W ignore - << 'PYTHON' 2> >(grep -v -i warn >&2)
import logging
import sys

import numpy as np
import onnxruntime
import torch
from torch import nn

logging.disable(logging.WARNING)


class Negated(nn.Module):
    def forward(self, x):
        return x.new_ones(-(-x.shape[-1] // 8)).sum()


class Summed(nn.Module):
    def forward(self, x):
        return x.new_ones((x.shape[-1] + 7) // 8).sum()


def counts(net, sizes):
    dynamic = {"x": {1: torch.export.Dim("h", min=16, max=512)}}
    program = torch.onnx.export(net, (torch.ones(1, 96),), dynamo=True, dynamic_shapes=dynamic, opset_version=18, verbose=False)
    program.save("net.onnx")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for size in sizes:
        here = int(net(torch.ones(1, size)))
        yield here, int(session.run(None, {name: np.ones((1, size), np.float32)})[0])


seen = [*zip((96, 100), counts(Negated(), (96, 100)), counts(Summed(), (96, 100)))]
for size, negated, summed in seen:
    print("h = %-4d negated floor division: %d here, %d in ONNX    sum before dividing: %d here, %d in ONNX" % (size, *negated, *summed))
sys.exit(seen != [(96, (12, 12), (12, 12)), (100, (13, 12), (13, 13))])
PYTHON
