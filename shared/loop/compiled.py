"""Compiled forms of a task.

    --compile-backbone   the calls that the task makes of its backbone, each as one graph
    --compile            the whole task, in as few graphs as its losses allow

A graph is made for the first shapes of a batch, and one more for all others, whose sizes then are unknowns in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from shared.errors import UsageError
from shared.loop.task import Task


def compile_backbone(task: Task, *, whole: bool = True, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the calls in `task.backbone_calls`. Copies that follow the weights must have been made before.

    Args:
        whole: refuse a backbone that is not one graph; FSDP's own code between blocks is none.
        backend: of torch.compile.

    Raises:
        UsageError: the task calls parts of its backbone only, so nothing would be compiled.
    """
    if not task.backbone_calls:
        raise UsageError(
            "--compile-backbone compiles nothing here: this method calls the layers of its backbone one by one; "
            "use --compile"
        )
    for name in task.backbone_calls:
        # the instance's own attribute: detectors call `forward_features`, which `Module.compile` leaves as it is
        setattr(task.backbone, name, one_graph(getattr(task.backbone, name), whole, backend))


def one_graph(call: Callable[..., Any], whole: bool, backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """The compiled call; a break is refused in a sentence, in the first step."""
    from torch._dynamo.exc import Unsupported  # slow to import

    compiled: Any = torch.compile(call, fullgraph=whole, backend=backend)

    def run(*inputs: Any) -> Any:
        try:
            return compiled(*inputs)
        except Unsupported as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"--compile-backbone: this backbone is not one graph ({reason}); remove the flag, or use --compile"
            ) from error

    return run
