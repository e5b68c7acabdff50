"""`--batch-size auto` finds the largest forward passes that fit, and leaves no trace in the training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import UsageError
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig
from shared.runs import fitting
from shared.runs.fitting import Tried, divisors, fits, peak_of
from tests.conftest import TinyBackbone

MB = 1_000_000


class Device:
    """A device of so much memory, each image of which takes a part of it; two forward passes hold what one does."""

    name = "a device for tests"

    def __init__(self, room: int, per_image: int, fixed: int = 0, raises: bool = True) -> None:
        self.size, self.per_image, self.fixed, self.raises = room, per_image, fixed, raises
        self.held, self.seen = 0, list[int]()

    def __deepcopy__(self, memo: dict[int, Any]) -> Device:
        return self  # there is one, whatever is copied

    def room(self) -> int:
        return self.size

    def begin(self) -> None:
        self.held = 0

    def peak(self) -> int:
        return self.held

    def take(self, images: int) -> None:
        self.seen.append(images)
        self.held = max(self.held, self.fixed + images * self.per_image)
        if self.raises and self.held > self.size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


class Counted(Task):
    """Batch norm and dropout, so that a step changes what a careless probe would leave changed."""

    def __init__(self, device: Device, least: int = 1) -> None:
        super().__init__()
        self.backbone, self.head = TinyBackbone(dropped=0.5), nn.Linear(8, 1)
        self.device, self.least = device, least

    def check_batch(self, images: int) -> None:
        if images < self.least:
            raise UsageError("too few")

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        self.device.take(len(batch))
        return {"loss": self.head(self.backbone(batch.float())).square().mean()}


def batch_of(count: int) -> Tensor:
    return torch.randint(0, 255, (count, 3, 64, 64))


def session_of(**runtime: Any) -> Any:
    """What `fitting` looks at of a session."""
    known = RuntimeConfig(fit_batch=True, model_ema=True, **runtime)
    recipe = SimpleNamespace(optim=OptimConfig(lr=0.1), schedule=ScheduleConfig(epochs=2), runtime=known)
    return SimpleNamespace(recipe=recipe, runtime=known, device=torch.device("cpu"), stem="run")


def chosen(device: Device, task: Task | None = None, **runtime: Any) -> tuple[int, int]:
    return fitting.chosen(session_of(**runtime), task or Counted(device), batch_of, device)


@pytest.mark.parametrize(
    ("room", "micro"),
    [(10 * MB, 16), (int(1.8 * MB), 16), (int(1.7 * MB), 8), (int(0.5 * MB), 4), (int(0.12 * MB), 1)],
)
def test_the_largest_that_fits_with_the_margin(room: int, micro: int) -> None:
    device = Device(room, per_image=MB // 10)
    assert chosen(device, batch_size=16) == (micro, 16 // micro)
    assert chosen(device, batch_size=4, grad_accum_steps=4) == (micro, 16 // micro), "the images of a step count"


def test_a_number_with_few_divisors_is_split_by_those() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(7) == [1, 7]
    assert chosen(Device(MB, per_image=MB // 10), batch_size=18) == (9, 2)
    assert chosen(Device(MB, per_image=MB // 10), batch_size=17) == (1, 17)


def test_nothing_is_tried_beyond_the_first_that_does_not_fit() -> None:
    device = Device(MB, per_image=MB // 4)
    assert chosen(device, batch_size=64) == (2, 32)
    assert max(device.seen) == 4


def test_memory_may_be_too_full_without_running_out() -> None:
    device = Device(MB, per_image=MB // 4, raises=False)
    assert chosen(device, batch_size=4) == (2, 2), "four leave nothing free"
    assert fits(Tried(1, 90), 100) and not fits(Tried(1, 91), 100) and not fits(Tried(1, None), 100)


def test_an_error_that_is_not_about_memory_is_raised() -> None:
    class Broken(Counted):
        def forward(self, batch: Tensor) -> dict[str, Tensor]:
            raise RuntimeError("shapes cannot be multiplied")

    device = Device(MB, 1)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        peak_of(session_of(), Broken(device), batch_of, 2, 1, device)


def test_a_loss_that_compares_images_is_not_split() -> None:
    class Comparing(Counted):
        compares_images = True

    device = Device(MB, per_image=MB // 10)
    assert chosen(device, Comparing(device), batch_size=8) == (8, 1)
    with pytest.raises(UsageError, match="compares images with each other, so they are not split: give a smaller"):
        chosen(device, Comparing(device), batch_size=16)


def test_what_the_task_refuses_is_not_tried() -> None:
    device = Device(MB, per_image=MB // 3)
    assert chosen(device, Counted(device, least=2), batch_size=4) == (2, 2)
    assert min(device.seen) == 2


def test_a_device_that_is_too_small_is_told_in_a_sentence() -> None:
    device = Device(8_000 * MB, per_image=9_000 * MB)
    with pytest.raises(
        UsageError, match=r"1 image, the largest there are, does not fit in the 8.0 GB of a device"
    ) as no:
        chosen(device, batch_size=4)
    assert "\n" not in str(no.value)
    device.per_image, device.raises = 7_500 * MB, False
    with pytest.raises(UsageError, match=r"takes 7.5 GB and does not fit in the 8.0 GB .* 10% stay free; give smaller"):
        chosen(device, batch_size=4)


def test_every_process_takes_the_smallest_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(MB, per_image=MB // 10)
    monkeypatch.setattr("shared.devices.dist.gather", lambda mine: [mine, 2, 8])
    assert chosen(device, batch_size=8) == (2, 4)
    monkeypatch.setattr("shared.devices.dist.gather", lambda mine: [mine, 0])
    with pytest.raises(UsageError, match="fit"):  # this one could, and must end with the others
        chosen(device, batch_size=8)


def test_the_probe_waits_for_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.devices import dist

    worlds = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)

    class Together(Counted):
        def forward(self, batch: Tensor) -> dict[str, Tensor]:
            worlds.append((dist.world(), dist.rank()))
            return super().forward(batch)

    device = Device(MB, 1)
    assert peak_of(session_of(), Together(device), batch_of, 2, 2, device) == 2
    assert worlds == [(1, 0)] * 4 and (dist.world(), dist.rank()) == (4, 3)


def test_the_probe_changes_neither_task_nor_random_states() -> None:
    import random

    import numpy as np

    device = Device(MB, per_image=MB // 10)
    task = Counted(device).train()
    kept = {name: value.clone() for name, value in task.state_dict().items()}
    before = random.random, np.random.random, lambda: torch.rand(()).item()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = [draw() for draw in before]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    assert chosen(device, task, batch_size=16) == (8, 2)
    assert [draw() for draw in before] == expected
    assert all(torch.equal(value, kept[name]) for name, value in task.state_dict().items())
    assert all(p.grad is None for p in task.parameters()) and task.training


@pytest.mark.parametrize("flag", ["fsdp", "sync_bn"])
def test_what_needs_all_processes_in_a_step_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.devices.dist.world", lambda: 2)
    with pytest.raises(UsageError, match="measures each GPU alone.*give a number"):
        fitting.check_possible(session_of(**{flag: True}), Device(1, 1))


def test_batch_norm_of_fewer_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    device = Device(MB, per_image=MB // 10)
    with caplog.at_level("INFO"):
        assert chosen(device, batch_size=16) == (8, 2)
    assert "statistics from 8 images, not 16" in caplog.text
    assert "16 images of a step in 2 forward passes of 8" in caplog.text
    assert "takes 0.0008 of 0.001 GB, and with 16 at a time it does not fit" in caplog.text
