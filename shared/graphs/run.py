"""A written file as a function of images, in its own runtime, on the processor, in float32.

model.onnx   onnxruntime         model.xml   openvino         model.pt2   torch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import WeightsError
from shared.graphs.write import FORMATS, INPUT, check_installed, quiet

Graph = Callable[[Tensor], dict[str, Tensor]]  # uint8 (B, 3, H, W) -> tensors by name


def open_graph(folder: Path, kind: str, outputs: Sequence[str]) -> Graph:
    """Open the file of a folder.

    It uses as many threads as torch. Of a model.pt2 open only one that this program wrote itself.

    Args:
        outputs: names of the tensors that come out.

    Raises:
        UsageError: the runtime is not installed.
        WeightsError: the runtime cannot read the file.
    """
    check_installed(kind)
    file = folder / FORMATS[kind].file
    try:
        with quiet():
            return {"onnx": in_onnxruntime, "openvino": in_openvino, "torch": in_torch}[kind](file, outputs)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(
            f"{file} cannot be opened with {FORMATS[kind].runtime} ({first}); export it again with this version"
        ) from error


def in_onnxruntime(file: Path, outputs: Sequence[str]) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    # its kernel for a sum and a layer norm in one takes more than twice the time of both (onnxruntime 1.32, x86-64)
    slow: dict[str, Any] = {"disabled_optimizers": ["SkipLayerNormFusion"]}
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"], **slow)

    def run(image: Tensor) -> dict[str, Tensor]:
        found = session.run(list(outputs), {INPUT: image.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return run


def in_openvino(file: Path, outputs: Sequence[str]) -> Graph:
    import openvino  # pyright: ignore[reportMissingImports] - an extra

    # without the hint, processors with bfloat16 instructions compute in bfloat16
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(file, "CPU", hints)

    def run(image: Tensor) -> dict[str, Tensor]:
        found = compiled({INPUT: image.numpy()})
        return {name: torch.from_numpy(found[name].copy()) for name in outputs}

    return run


def in_torch(file: Path, outputs: Sequence[str]) -> Graph:
    import torchvision  # noqa: F401 - the program calls its operators

    program = torch.export.load(file).module()

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(outputs, program(image), strict=True))

    return run
