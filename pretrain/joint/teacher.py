"""Teachers that follow their student: copies of a network whose weights are moving averages of its weights.

    copied(student) -> teacher              no gradients, no dropout, no stochastic depth
    after each step:  teacher += (1 - momentum) * (student - teacher)

Batch norms of a teacher normalize by its batch in training, as in Grill et al., "Bootstrap Your Own Latent", 2020, and
Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


def copied(student: M) -> M:
    """A teacher with the student's weights."""
    return deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, share: float) -> None:
    """Move the teacher's parameters by that share of the way to the student's; buffers are its own."""
    mine: list[Tensor] = [*teacher.parameters()]
    theirs: list[Tensor] = [*student.parameters()]
    torch._foreach_lerp_(mine, theirs, share)  # pyright: ignore[reportPrivateImportUsage]


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1, along half a cosine."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


def keep_still(teacher: nn.Module, training: bool) -> None:
    """Evaluation mode, but for batch norms in training."""
    teacher.eval()
    for layer in teacher.modules():
        if isinstance(layer, _BatchNorm):
            layer.train(training)
