"""The largest micro batch that a method can get: what `--batch-size auto` and a dry run measure memory with.

made images -> the method's view, whose size is the recipe's -> what comes beside them, the largest of several draws
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pretrain.methods import Method
from shared.devices.flat import flatten
from shared.feeding.plan import seed_of

DRAWS = 16  # masks vary in size from step to step


def largest_batch(task: Method, samples: Any, size: tuple[int, int]) -> Callable[[int], Any]:
    """(images) -> a micro batch of so many, of noise.

    Args:
        samples: the training data, which collates them.
        size: height and width of the recipe.
    """
    view, beside = task.view(), None if hasattr(samples, "stream_feed") else task.beside()

    def batch_of(count: int) -> Any:
        rng = np.random.default_rng(0)
        image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
        batch = samples.collate([(view(image, rng), 0) for _ in range(count)])
        if beside is None:
            return batch
        draws = []
        for number in range(DRAWS):
            torch.manual_seed(seed_of(0, number))
            draws.append(beside(number, count))
        return (*batch, max(draws, key=lambda drawn: len(flatten(drawn).buffer)))

    return batch_of
