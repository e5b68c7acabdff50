"""A training step whose loss was NaN or Inf: saved in the run's folder, and replayed to find the cause.

    replay-step-12.pt    the micro batches, the weights, the losses, and what the task is built from

    saved step -> run again as it was -> losses, and the first module that produced NaN or Inf
         -> in single precision, if it ran in another
         -> each sample alone, if samples have names

The file is self-contained: neither the run nor its data is needed to read it. It is read with `weights_only=True`.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared.devices import dist
from shared.devices.device import kept_apart
from shared.errors import WeightsError
from shared.loop.task import Task

PRECISIONS = {None: None, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of autocast


class Kept(NamedTuple):
    """A saved step."""

    step: int  # optimizer steps before it; losses are checked every few steps, so the cause may be earlier
    losses: dict[str, float]
    batches: list[Any]  # this process's micro batches
    seeds: list[int]  # random seed of each
    precision: str | None  # of autocast
    task: dict[str, Tensor]  # its state dict
    still: list[str]  # modules that were in eval mode
    facts: dict[str, Any]  # what the task is rebuilt from


class Look(NamedTuple):
    """The result of replaying a step."""

    losses: dict[str, float]
    broke: str | None  # description of the first module that produced NaN or Inf

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in self.losses.values())


# --- keeping --------------------------------------------------------------------------------


def keep_replay(
    folder: Path,
    step: int,
    losses: dict[str, float],
    task: Task,
    batches: list[Any],
    seeds: list[int],
    precision: torch.dtype | None,
) -> Path | None:
    """Save this process's micro batches of a step as `Kept`; None if the disk is full or read-only."""
    suffix = f"-rank-{dist.rank()}" if dist.world() > 1 else ""
    path = folder / f"replay-step-{step}{suffix}.pt"
    kept = Kept(
        step=step,
        losses=losses,
        batches=[kept_apart(batch) for batch in batches],
        seeds=seeds,
        precision=None if precision is None else str(precision).removeprefix("torch."),
        task=task.state_dict(),
        still=[name for name, module in task.named_modules() if not module.training],
        facts=task.facts,
    )
    try:
        torch.save(kept._asdict(), path)
    except OSError:
        path.unlink(missing_ok=True)
        return None
    return path


def samples_of(task: Task, batches: list[Any], most: int = 16) -> str:
    """' of images 3, 14', or '' if the task does not name its samples."""
    names = [name for batch in batches for name in task.names(batch)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" of images {', '.join(names[:most])}{more}" if names else ""


# --- running again --------------------------------------------------------------------------


def read_replay(path: Path) -> Kept:
    """Read a saved step, on the CPU.

    Raises:
        WeightsError: the file cannot be read, or is not a step saved by this version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); give a replay-step-*.pt of a run") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        content = None
    if (
        not isinstance(content, dict)
        or content.keys() != set(Kept._fields)
        or content["precision"] not in [*PRECISIONS]
    ):
        raise WeightsError(f"{path} is not a step saved by this version; give a replay-step-*.pt of a run")
    return Kept(**content)


def replay_with(build: Callable[[dict[str, Any]], Task], path: Path, command: str) -> list[str]:
    """Replay the saved step of a file; the lines to print.

    Args:
        build: builds the task from the saved facts.
        command: the command whose steps `build` can rebuild, for the error message.

    Raises:
        WeightsError: the file is not a saved step, or is one of another command.
    """
    kept = read_replay(path)
    try:
        task = build(kept.facts)
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is not a step of `{command}`; give one that it saved") from None
    return replay(kept, task)


def replay(kept: Kept, task: Task) -> list[str]:
    """Replay a saved step; the lines to print.

    Args:
        task: built from the step's facts; the saved weights are loaded into it, and it is not trained.

    Raises:
        WeightsError: the weights do not match the task.
    """
    task.train()
    try:
        task.load_state_dict(kept.task)
        for name in kept.still:
            task.get_submodule(name).eval()
    except (RuntimeError, AttributeError):
        raise WeightsError("the saved weights do not match the task they were saved with; save a step again") from None
    lines = [f"step {kept.step}{samples_of(task, kept.batches)}", f"  saved              {format_losses(kept.losses)}"]
    lines.append(f"  weights            {of_weights(task)}")
    precision = PRECISIONS[kept.precision]
    step = (kept.batches, kept.seeds, kept.step)
    looks = {kept.precision or "single precision": look(task, *step, precision)}
    if precision is not None:
        looks["single precision"] = look(task, *step, None)
    for name, came in looks.items():
        lines.append(f"  {name:<18} {format_losses(came.losses)}")
        if came.broke:
            lines.append(f"  {'':<18} first NaN or Inf: {came.broke}")
    if any(not came.finite for came in looks.values()):
        worst = None if not looks["single precision"].finite else precision
        lines += [f"  image {name:<12} {said}" for name, said in on_their_own(kept, task, worst)]
    else:
        lines.append("  all values are finite on this CPU; the cause is the device or the precision of the run")
    return lines


def of_weights(task: nn.Module) -> str:
    """Whether the weights were finite before the step: an earlier step may have diverged."""
    sizes = {name: value.abs().max().item() for name, value in task.named_parameters() if value.numel()}
    broken = [name for name, size in sizes.items() if not math.isfinite(size)]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"{broken[0]}{more} contain NaN or Inf: an earlier step diverged"
    largest = max(sizes, key=sizes.__getitem__)
    return f"finite, largest magnitude {sizes[largest]:.3g} in {largest}"


@torch.no_grad()
def look(task: Task, batches: list[Any], seeds: list[int], step: int, precision: torch.dtype | None) -> Look:
    """Run micro batches again, each with its own random seed."""
    total: dict[str, float] = {}
    task.before_step(step)
    with watching(task) as broke:
        for batch, seed in zip(batches, seeds, strict=True):
            torch.manual_seed(seed)
            with torch.autocast("cpu", precision, enabled=precision is not None):
                losses = task(batch)
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + value.item() / len(batches)
    return Look(total, broke[0] if broke else None)


def on_their_own(kept: Kept, task: Task, precision: torch.dtype | None) -> Iterator[tuple[str, str]]:
    """Each named sample with its result when run alone."""
    for batch, seed in zip(kept.batches, kept.seeds, strict=True):
        for i, name in enumerate(task.names(batch)):
            try:
                alone = look(task, [task.alone(batch, i)], [seed], kept.step, precision)
            except ValueError as error:  # batch norm needs more than one value per channel
                yield name, f"cannot be run alone ({error})"
                continue
            yield name, "finite" if alone.finite else f"{format_losses(alone.losses)}; {alone.broke}"


@contextmanager
def watching(task: nn.Module) -> Iterator[list[str]]:
    """Context in which every module that outputs NaN or Inf is recorded, in order, innermost first."""
    noted: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, said: Any) -> None:
            for x in tensors_in(said):
                if not all_finite(x):
                    kind = type(module).__name__
                    noted.append(f"{name or 'the task'} ({kind}), {count_broken(x)} of {x.numel()} values")
                    return

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in task.named_modules()]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def broken_values(x: Tensor) -> Tensor:
    """True where NaN or +Inf; -Inf is allowed, since attention masks padding with it."""
    return x.isnan() | (x == math.inf)


def count_broken(x: Tensor) -> int:
    return int(broken_values(x).sum())


def all_finite(x: Tensor) -> bool:
    return not x.is_floating_point() or not bool(broken_values(x).any())


def tensors_in(nest: Any) -> Iterator[Tensor]:
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, dict):
        for part in nest.values():
            yield from tensors_in(part)
    elif isinstance(nest, list | tuple):
        for part in nest:
            yield from tensors_in(part)


def format_losses(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
