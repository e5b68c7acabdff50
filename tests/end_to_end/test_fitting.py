"""A run with --batch-size auto is bit for bit the run with the number typed, and goes on with it.

The memory of a GPU is stood in for: so many images of a forward pass fit into it, and no more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

PRETRAIN = "pretrain train --model test_resnet --size 32 -j 0 --device cpu --opt adamw --lr 0.001 --model-ema "
DETECT = (
    "detect train --network fcos --width 64 --depth 1 --backbone test_resnet --size 64 --max-size 80 --multiscale "
    "--smallest-side 480 -j 0 --device cpu --opt adamw --lr 0.001 --model-ema "
)


class Holds:
    """A device whose memory holds so many images."""

    name = "cuda:0"

    def __init__(self, images: int) -> None:
        self.images, self.held, self.shapes = images, 0, list[tuple[int, ...]]()

    def room(self) -> int:
        return 10_000_000_000

    def begin(self) -> None:
        self.held = 0

    def peak(self) -> int:
        return self.held

    def take(self, images: int) -> None:
        import torch

        self.held = max(self.held, 8_000_000_000 * images // max(self.images, 1))
        if images > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory")


def holding(images: int, of_second: int = 0) -> Callable[[], None]:
    """Plants a device that holds so many images; of the second process, if there are two."""

    def plant() -> None:
        from shared.loop.trainer import Trainer
        from shared.runs import fitting

        device = Holds(of_second if of_second and os.environ.get("RANK") == "1" else images)
        fitting.memory_of = lambda _: device
        losses_of = Trainer.losses_of

        def counted(self, batch):
            device.take(len(batch[0]))
            return losses_of(self, batch)

        Trainer.losses_of = counted

    return plant


def recipe_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


@pytest.mark.parametrize("which", ["pretrain", "detect"])
def test_the_run_is_that_with_the_number_typed_and_is_resumed_with_it(
    which: str, shards: Path, coco: Path, run: Callable, left: Callable
) -> None:
    words = PRETRAIN + f"--data-path {shards} " if which == "pretrain" else DETECT + f"--data-path {coco} "
    typed = run(words + "--batch-size 2 --grad-accum-steps 2 --epochs 2 --name typed")
    assert typed.code == 0, typed.err
    found = run(words + "--batch-size auto --grad-accum-steps 4 --epochs 1 --name found", prepare=holding(0))
    assert found.code == 2 and "does not fit in the 10.0 GB of cuda:0" in found.complaint
    found = run(words + "--batch-size 4 --fit-batch --epochs 1 --name found", prepare=holding(3))
    assert found.code == 0, found.err
    assert "--batch-size auto: 4 images of a step in 2 forward passes of 2" in found.out
    assert "takes 5.3 of 10.0 GB, and with 4 at a time it does not fit" in found.out
    kept = recipe_of(left("found").folder)
    assert (kept["batch_size"], kept["grad_accum_steps"], kept["fit_batch"]) == (2, 2, False)
    again = run(words + "--resume runs/found --batch-size auto --epochs 2")  # without a GPU: nothing is probed
    assert again.code == 0 and "goes on with its 4 images of a step in 2 forward passes of 2" in again.out, again.err
    assert left("found").state() == left("typed").state()


def test_auto_splits_the_batch_of_the_recipe(shards: Path, run: Callable, left: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("batch_size: 12\nlr_batch: 12\nepochs: 1\n")
    words = PRETRAIN + f"--data-path {shards} --recipe mine.yaml --batch-size auto --name run "
    dry = run(words + "--dry-run --dry-steps 1", prepare=holding(6))
    assert dry.code == 0 and not (tmp_path / "runs").exists(), dry.err
    assert re.search(r"batch_size +6 +found by --batch-size auto", dry.out)
    assert re.search(r"grad_accum_steps +2 +found by --batch-size auto", dry.out)
    assert "3 optimizer steps of 12 images" in dry.out
    ended = run(words, prepare=holding(6))
    assert ended.code == 0 and "batch norm takes its statistics from 6 images, not 12" in ended.out, ended.err
    assert recipe_of(left("run").folder)["batch_size"] == 6


def test_processes_agree_on_what_fits_all(shards: Path, ranks: Callable, left: Callable) -> None:
    words = PRETRAIN + f"--data-path {shards} --batch-size 8 --fit-batch --epochs 1 --name both"
    for ended in ranks(words, 2, prepare=holding(8, of_second=4)):
        assert ended.code == 0, ended.err
    state = recipe_of(left("both").folder)
    assert (state["batch_size"], state["grad_accum_steps"]) == (4, 2)


def test_without_a_gpu_a_number_is_asked_for(shards: Path, coco: Path, run: Callable, tmp_path: Path) -> None:
    for words in (PRETRAIN + f"--data-path {shards}", DETECT + f"--data-path {coco}"):
        ended = run(f"{words} --batch-size auto")
        assert ended.code == 2 and "measures the memory of a GPU, and this run is on cpu; give a number" in ended.err
    assert not (tmp_path / "runs").exists()
    ended = run(f"pretrain eval --model test_resnet --data-path {shards} --batch-size auto")
    assert ended.code == 2 and "--batch-size auto is for training" in ended.complaint
