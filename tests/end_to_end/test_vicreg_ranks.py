"""VICReg in several processes: the loss is over all their images, and two processes are one with the whole batch.

Where no layer looks at the batch (a ViT, an expander of one layer) and nothing on the device is left to chance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.methods import Facts
from pretrain.methods.vicreg import VICReg
from shared.devices import dist
from shared.feeding.pixels import PIXEL_STATS
from shared.loop.state import load_state
from tests.end_to_end.processes import in_processes

TRAIN = (
    "pretrain train --method vicreg --model test_vit --drop-path 0 --size 32 --epochs 1 --expander-width 16 "
    "--opt lars --lr 1 --wd 0.001 --save-every 2 --log-every 1 --device cpu --num-workers 0 "
)
CERTAIN = "--expander-layers 1 --jitter 0 --gray 0 --blur-first 0 --blur-second 0 --solarize-second 0 "


def weights(folder: Path) -> dict[str, Tensor]:
    state = load_state(folder / "last")
    assert state is not None
    return state["task"]


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_the_whole_batch(
    shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = TRAIN + CERTAIN + f"--data-path {shards} --name "
    alone = run(words + "one --batch-size 8")
    assert alone.code == 0, alone.err
    ended = ranks(words + "two --batch-size 4", 2)
    assert [each.code for each in ended] == [0, 0], ended[0].err + ended[1].err
    apart = run(words + "apart --batch-size 4 --grad-accum-steps 2")
    assert apart.code == 0, apart.err
    one, two, other = (weights(left(name).folder) for name in ("one", "two", "apart"))
    assert one.keys() == two.keys() and "expander.0.weight" in one
    # rounding apart, which the gradient of what a mean takes away consists of, they are the same
    assert distance(two, one) < 1e-3 * distance(other, one), "halves that do not know each other are another loss"
    pairs = list(zip(left("one").rows(), left("two").rows(), strict=True))
    assert len(pairs) >= 4
    for row, wanted in pairs:
        assert row.pop("kind") == wanted.pop("kind")
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-9)


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return float(torch.stack([(ours[name] - theirs[name]).double().norm() for name in ours]).norm())


@pytest.mark.slow
def test_a_run_stopped_halfway_goes_on_to_the_same_bits(shards: Path, run: Callable, left: Callable) -> None:
    """Colors, expander statistics and LARS's momentum included."""
    words = TRAIN + f"--data-path {shards} --batch-size 4 --name "
    assert run(words + "straight").code == 0

    def stopped_at_step_3() -> None:
        from shared.loop.trainer import Trainer

        account = Trainer.account

        def stop(self: Trainer, waited: float) -> None:
            account(self, waited)
            self.asked_to_stop = self.step == 3

        Trainer.account = stop  # type: ignore[method-assign]

    assert run(words + "halves", prepare=stopped_at_step_3).code == 75
    assert run(words + "halves --resume").code == 0
    ours, wanted = left("halves").state(), left("straight").state()
    assert {part: ours[part] for part in ("step", "task", "optimizer")} == {
        part: wanted[part] for part in ("step", "task", "optimizer")
    }


@pytest.mark.slow
def test_one_image_is_refused_alone_and_welcome_in_company(shards: Path, run: Callable, ranks: Callable) -> None:
    words = TRAIN + f"--data-path {shards} --batch-size 1 "
    alone = run(words + "--name alone")
    assert alone.code == 2
    assert "VICReg needs at least two images in a batch; give --batch-size 2 or more" in alone.err
    assert [each.code for each in ranks(words + "--name own-statistics", 2)] == [2, 2]
    company = ranks(words + CERTAIN + "--name company", 2)
    assert [each.code for each in company] == [0, 0], company[0].err


# --- the gradient through the gather --------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(6, 5)
    return x, x + 0.2 * torch.randn(6, 5)


class Compared(nn.Module):
    """A linear layer under VICReg's loss."""

    def __init__(self, tiny: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 8)
        self.task = [VICReg(tiny, Facts((32, 32), None, PIXEL_STATS["imagenet"]), expander_width=4)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack(list(self.task[0].compare(self.layer(x), self.layer(y)).values())).sum()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_mean_gradients_of_the_processes_are_those_of_the_whole_batch(
    world: int, warm: None, tmp_path: Path, tiny_backbone: Callable[..., Any]
) -> None:
    whole = Compared(tiny_backbone())
    loss = whole(*batch())
    loss.backward()

    def work(rank: int) -> tuple[float, list[list[float]]]:
        part = slice(rank * 6 // world, (rank + 1) * 6 // world)
        model = nn.parallel.DistributedDataParallel(Compared(tiny_backbone()))
        mine = model(*(view[part] for view in batch()))
        mine.backward()
        return mine.item(), [p.grad.flatten().tolist() for p in model.parameters() if p.grad is not None]

    answers = in_processes(world, tmp_path, work)
    assert sum(value for value, _ in answers) / world == pytest.approx(loss.item(), rel=1e-5)
    for _, gradients in answers:
        assert len(gradients) == 2
        for ours, wanted in zip(gradients, whole.parameters(), strict=True):
            assert wanted.grad is not None
            torch.testing.assert_close(torch.tensor(ours), wanted.grad.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rows_come_in_the_order_of_ranks_and_hear_every_processs_loss(warm: None, tmp_path: Path) -> None:
    def work(rank: int) -> tuple[list, list]:
        x = torch.full((2, 3), float(rank), requires_grad=True)
        rows = dist.gather_rows(x)
        (rows * torch.arange(4.0)[:, None] * (rank + 1)).sum().backward()  # another loss in each process
        assert x.grad is not None
        return rows.tolist(), x.grad.tolist()

    (rows, first), (same, second) = in_processes(2, tmp_path, work)
    assert rows == same == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert first == [[0.0] * 3, [3.0] * 3] and second == [[6.0] * 3, [9.0] * 3]  # times 1 in one, 2 in the other


def test_alone_rows_are_what_they_were() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    assert dist.gather_rows(x) is x
