"""A step that broke is kept whole, and when it is run again the module and the sample that broke it are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.devices.flat import flatten, opened
from shared.errors import WeightsError
from shared.loop.replay import Kept, keep_replay, read_replay, replay
from shared.loop.task import Task

SEEDS = [3, 4]


class Inverse(nn.Module):
    """Infinite where the sample sums to nothing, and in half precision where it sums to little."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / x.sum(1).to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype)


class Inverting(Task):
    """A batch is (sums to invert, names); a layer that hides things with minus infinity comes first."""

    facts = {"answer": 42}

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.inverse = Hide(), nn.Dropout(0.5), Inverse()
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.scale.weight)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        x, _ = batch
        self.hidden(x)
        return {"inverse": self.scale(self.inverse(x)[:, None]).mean(), "noise": self.drop(torch.ones(64)).mean()}

    def names(self, batch: Any) -> list[str]:
        return batch[1]

    def alone(self, batch: Any, i: int) -> Any:
        return batch[0][i : i + 1], batch[1][i : i + 1]


class Hide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -torch.inf)


def batches(*sums: float) -> list[Any]:
    """Two micro batches, the second of one sample that is well."""
    rows = torch.tensor(sums)[:, None].expand(-1, 4) / 4
    return [(rows.clone(), [f"sum {value:g}" for value in sums]), (torch.ones(1, 4), ["sum 4"])]


def kept(folder: Path, task: Task, *sums: float, precision: torch.dtype | None = None) -> Path:
    path = keep_replay(folder, 7, {"inverse": float("inf")}, task, batches(*sums), SEEDS, precision)
    assert path is not None and path.name == "replay-step-7.pt"
    return path


def test_a_step_whose_batch_came_in_one_buffer_is_kept_as_it_was(tmp_path: Path) -> None:
    fresh, buffered = batches(1, 2), [opened(flatten((x, names, torch.arange(3)))) for x, names in batches(1, 2)]
    path = keep_replay(tmp_path, 3, {}, Inverting(), buffered, SEEDS, None)
    assert path is not None
    for (x, names, numbers), (plain, same_names) in zip(read_replay(path).batches, fresh, strict=True):
        assert x.equal(plain) and names == same_names and numbers.tolist() == [0, 1, 2]


def test_the_module_and_the_sample_that_broke_a_step_are_named(tmp_path: Path) -> None:
    told = replay(read_replay(kept(tmp_path, Inverting(), 2, 0, 8)), Inverting())
    assert told[0] == "step 7 of images sum 2, sum 0, sum 8, sum 4"
    assert told[1] == "  saved              inverse inf"
    assert told[2] == "  weights            finite, largest magnitude 1 in scale.weight"
    assert told[3].startswith("  single precision   inverse inf, noise ")
    assert told[4].endswith("first NaN or Inf: inverse (Inverse), 1 of 3 values")
    said = {line.split("  ")[1]: line for line in told[5:]}
    assert [name for name in said if "inf" in said[name]] == ["image sum 0"] and len(said) == 4


def test_a_step_is_run_again_with_its_own_draws_and_with_what_held_still(tmp_path: Path) -> None:
    def noise(task: Task) -> str:
        return replay(read_replay(kept(tmp_path, task, 1, 2)), Inverting())[3].split("noise ")[1]

    task, expected = Inverting(), []
    for batch, seed in zip(batches(1, 2), SEEDS, strict=True):
        torch.manual_seed(seed)
        expected.append(task(batch)["noise"].item())
    assert noise(task) == f"{sum(expected) / 2:.4g}" != "1"
    task.drop.eval()
    assert noise(task) == "1"


def test_what_only_a_lower_precision_breaks_is_told_apart(tmp_path: Path) -> None:
    told = "\n".join(replay(read_replay(kept(tmp_path, Inverting(), 1e-6, 1, precision=torch.float16)), Inverting()))
    assert "float16            inverse inf" in told and "first NaN or Inf: inverse (Inverse)" in told
    assert "single precision   inverse 2.5e+05" in told
    assert "image sum 1e-06    inverse inf" in told and "image sum 1        finite" in told


def test_weights_that_an_earlier_step_broke_are_said_to_be(tmp_path: Path) -> None:
    task = Inverting()
    nn.init.constant_(task.scale.weight, torch.nan)
    told = replay(read_replay(kept(tmp_path, task, 1)), Inverting())
    assert told[2].endswith("scale.weight contain NaN or Inf: an earlier step diverged")
    assert told[4].endswith("first NaN or Inf: scale (Linear), 1 of 1 values")


def test_a_step_that_is_well_here_points_at_the_device(tmp_path: Path) -> None:
    told = replay(read_replay(kept(tmp_path, Inverting(), 1, 2)), Inverting())
    assert "all values are finite on this CPU" in told[-1] and len(told) == 5


def test_the_file_says_what_the_task_is_built_from_and_holds_nothing_that_could_run(tmp_path: Path) -> None:
    path = kept(tmp_path, Inverting(), 1)
    assert torch.load(path, weights_only=True).keys() == set(Kept._fields)
    assert read_replay(path).facts == {"answer": 42}


@pytest.mark.parametrize("content", [b"", b"no step", {"step": 1}, {"precision": "load"}])
def test_what_is_no_step_is_refused(tmp_path: Path, content: bytes | dict[str, Any]) -> None:
    path = kept(tmp_path, Inverting(), 1)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        whole = torch.load(path, weights_only=True) if "precision" in content else {}
        torch.save(whole | content, path)
    with pytest.raises(WeightsError, match="is not a step saved by this version"):
        read_replay(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_replay(tmp_path / "nothing.pt")


def test_weights_of_another_task_are_refused(tmp_path: Path) -> None:
    read = read_replay(kept(tmp_path, Inverting(), 1))
    with pytest.raises(WeightsError, match="do not match the task"):
        replay(read._replace(task={}), Inverting())
    with pytest.raises(WeightsError, match="do not match the task"):
        replay(read._replace(still=["elsewhere"]), Inverting())
