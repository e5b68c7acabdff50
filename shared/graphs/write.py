"""A module as a file for another runtime.

    module, example image --trace--> program --write--> model.onnx | model.xml and model.bin | model.pt2

onnx        ONNX Runtime, TensorRT and others; weights beyond 2 GB lie beside it in model.onnx.data
openvino    OpenVINO's own format, by way of ONNX, in float32
torch       a program of torch.export: torch.export.load(file).module()

Tensors of a traced program go in and out by name. Sizes given as a range are known when it runs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared.errors import Refusal, UsageError
from shared.versions import installed

OPSET = 18
INPUT = "image"


class Format(NamedTuple):
    """A kind of file.

    file: its name.
    writers: modules that write it.
    runtime: module that runs it.
    """

    file: str
    writers: tuple[str, ...]
    runtime: str


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript"), "onnxruntime"),
    "openvino": Format("model.xml", ("onnx", "onnxscript", "openvino"), "openvino"),
    "torch": Format("model.pt2", (), "torch"),
}


class ExportFailed(Refusal):
    """A network that the installed versions cannot export."""


def check_installed(kind: str, *, to_run: bool = True) -> None:
    """Raise UsageError if a package is missing that writes or runs a kind of file."""
    wanted = (*FORMATS[kind].writers, *([FORMATS[kind].runtime] if to_run else []))
    missing = [name for name in dict.fromkeys(wanted) if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {kind} needs {' and '.join(missing)}; install {'it' if len(missing) == 1 else 'them'} with "
            f"pip install 'chordate[{'openvino' if 'openvino' in missing else 'export'}]'"
        )


def versions_of(kind: str) -> dict[str, str]:
    """Versions of the packages that write and run a kind of file."""
    names = dict.fromkeys((*FORMATS[kind].writers, FORMATS[kind].runtime))
    return {name: installed(name) or "?" for name in names}


def trace(module: nn.Module, example: Tensor, ranges: dict[int, tuple[int, int]], name: str) -> Any:
    """A program of torch.export for images like an example.

    Args:
        module: image -> tuple of tensors.
        example: uint8 (B, 3, H, W).
        ranges: smallest and largest size of dimensions that may differ from the example's.
        name: of the network, for errors.

    Raises:
        ExportFailed: with the first line of what torch says.
    """
    sizes = {dim: torch.export.Dim(f"size_{dim}", min=low, max=high) for dim, (low, high) in ranges.items()}
    with quiet(), torch.no_grad(), failing(name, "torch"):
        return torch.export.export(module, (example,), dynamic_shapes=(sizes,) if sizes else None, strict=False)


def write(program: Any, folder: Path, kind: str, outputs: Sequence[str], name: str) -> Path:
    """Write a traced program into a folder.

    Args:
        outputs: names of the tensors that come out.
        name: of the network, for errors.

    Returns:
        The file.

    Raises:
        ExportFailed: with the first line of what the converter says.
    """
    file = folder / FORMATS[kind].file
    if kind == "torch":
        with quiet(), failing(name, "torch"):
            torch.export.save(program, file)
        return file
    onnx = folder / FORMATS["onnx"].file
    with quiet(), failing(name, "onnxscript"):
        made = torch.onnx.export(
            program,
            (),
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.save(onnx)
    if kind == "openvino":
        import openvino  # pyright: ignore[reportMissingImports] - an extra

        with quiet(), failing(name, "openvino"):
            openvino.save_model(openvino.convert_model(onnx), file, compress_to_fp16=False)
        for own in folder.glob(f"{onnx.name}*"):
            own.unlink()
    return file


@contextmanager
def failing(name: str, package: str) -> Iterator[None]:
    """Turn whatever a converter raises into ExportFailed; refusals of ours pass."""
    try:
        yield
    except (Refusal, OSError):
        raise
    except Exception as error:
        version = installed(package)
        raise ExportFailed(
            f"{name} could not be exported with {package} {version} ({reason(error)}); try another --format or "
            f"another release of {package}, and report it with the output of --debug"
        ) from error


def reason(error: BaseException) -> str:
    """One line about the error behind a chain of them: what a converter could not do."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of converters, which concern their authors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
