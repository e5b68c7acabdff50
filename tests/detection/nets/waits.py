"""What a training step would make a GPU do, seen on a CPU: its operations, and those that wait for the host.

A GPU waits where the host looks at a value or at a shape that depends on values, and where it copies from memory that
is not pinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import backbone
from detection.nets import detector
from detection.training.task import DetectTask
from shared.feeding.pixels import pixel_stats

OWN = ("chordate.best_of_groups",)  # operations of ours that wait on a GPU
SHAPE_OF_VALUES = ("nonzero", "masked_select", "unique", "_unique", "repeat_interleave.Tensor", "equal", "is_nonzero")
LOOKS = {"tolist", "cpu", "item", "__bool__", "__int__", "__float__", "__index__"}
OBJECTS, SIDE = 6, 128


class Looks(TorchFunctionMode):
    """Tensors that the host looks at."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in LOOKS:
            self.seen[name] += 1
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """All operations, and those among them that wait; a value that `Looks` sees is not counted again."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.waits = 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.count += 1
        if name.startswith(SHAPE_OF_VALUES) or name.startswith(OWN):
            self.waits[name] += 1
        if name.startswith(("index.Tensor", "index_put", "_index_put", "_unsafe_index")) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1] or ()
        ):
            self.waits["boolean index"] += 1
        return func(*args, **(kwargs or {}))


def task_of(network: str, **options: Any) -> DetectTask:
    torch.manual_seed(0)
    return DetectTask(detector.build(network, backbone.build("test_resnet"), 80, **options), pixel_stats("imagenet"))


def batch_of(images: int, device: str = "cpu", keypoints: int = 17) -> tuple[list[Tensor], list[Any]]:
    """Noise with six objects each."""
    pixels = [torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8, device=device) for _ in range(images)]
    targets = []
    for _ in range(images):
        corner = 10 + 4.0 * torch.arange(OBJECTS, device=device)[:, None].expand(-1, 2)
        targets.append(
            {
                "boxes": torch.cat((corner, corner + 55), 1),
                "labels": torch.zeros(OBJECTS, dtype=torch.long, device=device),
                "masks": torch.ones(OBJECTS, SIDE, SIDE, dtype=torch.uint8, device=device),
                "keypoints": torch.full((OBJECTS, keypoints, 3), 40.0, device=device).clamp(max=60),
            }
        )
    return pixels, targets


def step_of(task: DetectTask, images: int) -> tuple[int, Counter[str]]:
    """-> operations of a training step of so many images, and its waits by kind."""
    batch = batch_of(images)
    with Operations() as seen, Looks(seen.waits):
        losses = task.train()(batch)
        torch.stack(list(losses.values())).sum().backward()
    return seen.count, seen.waits


class Copies(TorchDispatchMode):
    """Copies from the host to a GPU that wait until they are done."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "copy" in str(func) and isinstance(out, Tensor) and out.device.type == "cuda":
            given = [x for x in args if isinstance(x, Tensor) and x.device.type == "cpu"]
            if given and not (kwargs or {}).get("non_blocking"):
                self.waiting.append(f"{func} of {tuple(given[0].shape)}")
        return out


def copies_of(task: DetectTask, images: int, patch: Callable[..., None]) -> list[str]:
    """Copies that the forward pass of a step would wait for on a GPU. No GPU is needed: its tensors have no values.

    Args:
        patch: pytest's `monkeypatch.setattr`.
    """
    patch(Tensor, "pin_memory", lambda x: x)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in task.train().modules():
            for name, own in module._parameters.items():
                if own is not None:
                    module._parameters[name] = nn.Parameter(on_gpu(own), requires_grad=own.requires_grad)
            for name, own in module._buffers.items():
                module._buffers[name] = None if own is None else on_gpu(own)
        with Copies() as seen:
            task(batch_of(images, "cuda"))
    return seen.waiting


def on_gpu(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda")
