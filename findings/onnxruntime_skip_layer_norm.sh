#!/usr/bin/env bash
# onnxruntime 1.32.0, CPU: fusing Add and LayerNormalization into SkipLayerNormalization makes them several times slower.
#
# The optimizer replaces the pair wherever a transformer has it, by default, as an optimization. With rows of 256 numbers
# the fused kernel of the CPU takes several times as long as both nodes do without it. The results agree to 1e-5.
# `disabled_optimizers=["SkipLayerNormFusion"]` of InferenceSession leaves the nodes alone.
#
# Seen 2026-11-30, onnxruntime 1.32.0, one thread of an AMD EPYC, 2765 rows, medians of 40 pairs of runs:
#   nodes fused 1, left alone 2
#   fused 2.9 ms, left alone 0.45 ms: 6.4 times as long     (another processor, with AVX-512: 8.2 ms, 2.2 ms)
#
# Fails if it is not fused any more, or takes less than 1.5 times as long.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check "onnxruntime==1.32.0" "onnx==1.23.2" "numpy==2.4.6"
cd "$place"
env/bin/python - << 'PYTHON'
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

ROWS, WIDTH = 2765, 256
shape = [1, ROWS, WIDTH]
graph = helper.make_graph(
    [
        helper.make_node("Add", ["x", "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale", "shift"], ["z"], axis=-1, epsilon=1e-5),
    ],
    "residual",
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)],
    [
        helper.make_tensor("scale", TensorProto.FLOAT, [WIDTH], np.ones(WIDTH, np.float32)),
        helper.make_tensor("shift", TensorProto.FLOAT, [WIDTH], np.zeros(WIDTH, np.float32)),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
rng = np.random.default_rng(0)
given = {name: rng.standard_normal(shape, dtype=np.float32) for name in "xy"}


def session(name, disabled):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = name
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    return made, [node.op_type for node in onnx.load(name).graph.node]


def seconds(made):
    start = time.process_time()
    made.run(None, given)
    return time.process_time() - start


(fused, one), (alone, two) = session("fused.onnx", []), session("alone.onnx", ["SkipLayerNormFusion"])
seconds(fused), seconds(alone)
pairs = [(seconds(fused), seconds(alone)) for _ in range(40)]
slow, fast = (1000 * statistics.median(column) for column in zip(*pairs))
ratio = statistics.median(a / b for a, b in pairs)
apart = float(np.abs(fused.run(None, given)[0] - alone.run(None, given)[0]).max())
print(f"nodes fused {len(one)}, left alone {len(two)}")
print(f"fused {slow:.1f} ms, left alone {fast:.2f} ms: {ratio:.1f} times as long")
sys.exit(not (one == ["SkipLayerNormalization"] and len(two) == 2 and ratio > 1.5 and apart < 1e-5))
PYTHON
