"""Exported graphs run in their runtimes as `detect eval` and `predict` run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shared.graphs.run import INPUT, in_onnxruntime


def test_a_sum_and_a_layer_norm_are_not_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime 1.32 fuses both into a kernel for processors that takes several times as long."""
    onnx: Any = pytest.importorskip("onnx")
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    helper, number, rng = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
    scale, shift = rng.standard_normal((2, 16), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Add", [INPUT, INPUT], ["sum"]),
            helper.make_node("LayerNormalization", ["sum", "scale", "shift"], ["found"], axis=-1, epsilon=1e-5),
        ],
        "residual",
        [helper.make_tensor_value_info(INPUT, number, [1, 4, 16])],
        [helper.make_tensor_value_info("found", number, [1, 4, 16])],
        [helper.make_tensor("scale", number, [16], scale), helper.make_tensor("shift", number, [16], shift)],
    )
    file, optimized = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    made = onnxruntime.InferenceSession

    def session(path: Any, options: Any, **told: Any) -> Any:
        options.optimized_model_filepath = str(optimized)
        return made(path, options, **told)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    x = torch.randn(1, 4, 16)
    found = in_onnxruntime(file, ["found"])(x)["found"]
    wanted = F.layer_norm(2 * x, [16], torch.from_numpy(scale), torch.from_numpy(shift))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert "SkipLayerNormalization" not in [node.op_type for node in onnx.load(optimized).graph.node]
