"""Methods that compare views, in two processes: one step is that of one process with both halves of the batch.

Where no layer looks at the batch (a ViT, heads without batch norm) and colors are not left to chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from pretrain.data.shards import stacked
from pretrain.methods import Facts, Method, method
from shared.feeding.pixels import PIXEL_STATS
from tests.end_to_end.processes import in_processes

FACTS = Facts((32, 32), None, PIXEL_STATS["imagenet"])
PLAIN = {"jitter": 0.0, "gray": 0.0}
SECOND = PLAIN | {"blur_first": 0.0, "blur_second": 0.0, "solarize_second": 0.0}
# (options, micro batches of the one process)
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "simclr": (PLAIN | {"blur": 0.0, "projection_width": 16, "projection_norm": False}, 1),
    "barlow_twins": (SECOND | {"projector_width": 16, "projector_layers": 1}, 1),
    "byol": (SECOND | {"hidden_width": 16, "embedding_width": 8, "momentum": 0.5}, 2),  # its heads have batch norm
    "dino": (
        SECOND
        | {"blur_local": 0.0, "prototypes": 16, "hidden_width": 16, "bottleneck_width": 8, "local_crops": 1}
        | {"momentum": 0.5, "last_layer_frozen": 0.0},
        2,  # and the center of a step is one
    ),
    "distill": ({"teacher": "untrained:test_vit"}, 1),
}


def batch_of(task: Method, part: slice) -> tuple[Any, Tensor]:
    """Those of the six images."""
    rng = np.random.default_rng(0)
    views = [task.view()(torch.from_numpy(rng.integers(0, 256, (3, 40, 40), np.uint8)), rng) for _ in range(6)]
    return stacked(views[part]), torch.zeros(6)[part]


def trained(name: str, parts: list[slice], *, alone: bool) -> dict[str, np.ndarray]:
    """Two steps of this process's micro batches -> the weights, the teacher's and the center."""
    options, _ = CASES[name]
    torch.manual_seed(0)
    task = method.build(name, backbone.build("test_vit"), FACTS, **options).train()
    model = task if alone else nn.parallel.DistributedDataParallel(task)
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        task.before_step(step)
        for part in parts:
            losses = model(batch_of(task, part))
            (torch.stack(list(losses.values())).sum() / len(parts)).backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step((step + 1) / 4)
    kept = {key: value for key, value in task.state_dict().items() if "running" not in key and "num_b" not in key}
    return {key: value.numpy() for key, value in kept.items() if isinstance(value, Tensor)}


@pytest.mark.slow
def test_a_step_of_two_processes_is_that_of_one(warm: None, tmp_path: Path) -> None:
    halves = [slice(0, 3), slice(3, 6)]

    def work(rank: int) -> dict[str, dict[str, np.ndarray]]:
        return {name: trained(name, [halves[rank]], alone=False) for name in CASES}

    for one in in_processes(2, tmp_path, work):
        for name, (_, micro_batches) in CASES.items():
            wanted = trained(name, [slice(0, 6)] if micro_batches == 1 else halves, alone=True)
            assert wanted.keys() == one[name].keys()
            for key, value in wanted.items():
                np.testing.assert_allclose(one[name][key], value, rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}")
