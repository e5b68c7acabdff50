"""`--fsdp`: weights in slices train, save, export and resume as whole ones do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.devices.sharding import check_sharding, layers
from shared.errors import UsageError
from shared.loop.state import load_state
from shared.recipes.recipe import RuntimeConfig

WORDS = (
    "pretrain train --model test_vit --drop-path 0.2 --size 32 --mixup 0.4 --epochs 2 --batch-size 4 --opt adamw "
    "--lr 0.001 --clip-grad-norm 1 --log-every 1 --device cpu --num-workers 0 "
)


def slice_every_block() -> None:
    from shared.devices import sharding

    sharding.WORTHWHILE = 1


def weights(ours: Any) -> dict[str, torch.Tensor]:
    state = load_state(ours.folder / "last")
    assert state is not None
    return state["task"]


@pytest.mark.slow
def test_sliced_weights_become_what_whole_ones_become(
    shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = WORDS + f"--data-path {shards} --grad-accum-steps 2 --name "
    assert [each.code for each in ranks(words + "whole", 2)] == [0, 0]
    ended = ranks(words + "sliced --fsdp", 2, prepare=slice_every_block)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    for name, value in weights(left("whole")).items():
        torch.testing.assert_close(weights(left("sliced"))[name], value, rtol=1e-4, atol=1e-5)
    assert left("sliced").result()["metrics"] == pytest.approx(left("whole").result()["metrics"], rel=1e-3)
    assert left("sliced").card()["bytes"] == left("whole").card()["bytes"], "the export knows nothing of slices"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_sliced_run_is_finished_by_any_number_of_processes(
    processes: int, shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = WORDS + f"--data-path {shards} --fsdp --name "

    def stopped_at_step_3() -> None:
        from shared.loop.trainer import Trainer

        slice_every_block()
        account = Trainer.account

        def stop(self: Trainer, waited: float) -> None:
            account(self, waited)
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        Trainer.account = stop  # type: ignore[method-assign]

    assert [each.code for each in ranks(words + "cut", 2, prepare=stopped_at_step_3)] == [75, 75]
    resumed = ranks(words + "cut --resume", processes, prepare=slice_every_block)
    assert [each.code for each in resumed] == [0] * processes, resumed[0].err
    assert [each.code for each in ranks(words + "straight", 2, prepare=slice_every_block)] == [0, 0]
    for name, value in weights(left("straight")).items():
        torch.testing.assert_close(weights(left("cut"))[name], value, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_sliced_is_said() -> None:
    with pytest.raises(UsageError, match="cannot be combined with --model-ema"):
        check_sharding(RuntimeConfig(fsdp=True, model_ema=True))
    with pytest.raises(UsageError, match="--amp-dtype bfloat16"):
        check_sharding(RuntimeConfig(fsdp=True, amp=True))


def test_layers_of_note_are_blocks_and_never_lie_inside_one_another() -> None:
    from backbones import backbone

    with torch.device("meta"):
        net = backbone.build("vit_small_patch16_224")
    found = layers(net)
    assert found == list(net.net.blocks)  # type: ignore[union-attr]
