"""Exact states kept at random steps of a run, and such a step again: the same bits, or what differs.

    --keep-states 5 -> a random step of each fifth of the run, by the seed
                    -> audit/step-00000042-3fa9c1d07b2e.pt   the state before the step
                       audit/step-00000042.json              losses and digests after it, and where it was computed
    trainer, state  -> the step again -> Difference to what was written down

Steps are functions of the state and their number, so on a processor of the same kind, with the same versions and number
of threads, every tensor of weights, moments and averages comes out equal. What is kept is never deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.devices import dist
from shared.devices.device import device_name
from shared.errors import DataError, UsageError, WeightsError
from shared.files import write_json
from shared.loop.state import NAME, states, write_state

if TYPE_CHECKING:
    from shared.loop.trainer import Trainer

FOLDER = "audit"
PARTS = ("task", "average", "optimizer", "scaler")  # of the state that are compared


class Kept(NamedTuple):
    """A step that can be replayed.

    path: of the state before it. losses: by name, as exact hexadecimal numbers, a dict for each micro batch.
    digests: of the state after it, by name. facts: what the task was built from. recipe: the run's recipe.yaml then.
    where: versions, device, threads and the like.
    """

    step: int
    path: Path
    losses: list[dict[str, str]]
    digests: dict[str, str]
    facts: dict[str, Any]
    recipe: str
    where: dict[str, Any]


class Difference(NamedTuple):
    """losses, tensors: names of those that differ. of: tensors that were compared. loss: sums then and now."""

    losses: list[str]
    tensors: list[str]
    of: int
    loss: tuple[float, float]


# --- keeping ------------------------------------------------------------------------------------


def steps_to_keep(seed: int, total: int, count: int, *, whole_epochs: bool = False) -> frozenset[int]:
    """A random step of each of `count` equal parts of a run; all steps of a shorter one.

    Raises:
        UsageError: the feed reads whole epochs, so that no step can be fetched alone.
    """
    if count and whole_epochs:
        raise UsageError("--keep-states needs local data, since remote shards cannot be read from any step on")
    count, rng = min(count, total), np.random.default_rng([seed, 7])
    edges = [number * total // count for number in range(count + 1)] if count else [0]
    return frozenset(int(rng.integers(low, high)) for low, high in pairwise(edges))


@contextmanager
def keeping(trainer: Trainer) -> Iterator[None]:
    """A step of which the state before it and the digests after it are kept."""
    folder, step = trainer.run_dir / FOLDER, trainer.step
    state = trainer.state() if trainer.sharded or dist.is_main() else {}
    path = write_state(folder, step, state) if dist.is_main() else None
    del state
    yield
    after = trainer.state() if trainer.sharded or dist.is_main() else {}
    if path is None:
        return
    recipe = trainer.run_dir / "recipe.yaml"
    write_json(
        folder / f"step-{step:08d}.json",
        {
            "state": path.name,
            "losses": exact(trainer.of_step),
            "digests": digests_of(after),
            "facts": trainer.task.facts,
            "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
            "where": here(trainer.device),
        },
    )
    for number, other in states(folder):
        if number == step and other != path:  # of the same step, before the run was killed and resumed
            other.unlink(missing_ok=True)


def exact(losses: list[dict[str, Tensor]]) -> list[dict[str, str]]:
    return [{name: float(value).hex() for name, value in one.items()} for one in losses]


def here(device: torch.device) -> dict[str, Any]:
    """What bits depend on besides state, data and code."""
    return {
        "torch": torch.__version__,
        "device": device_name(device),
        "kind": device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": dist.world(),
    }


def digests_of(state: dict[str, Any]) -> dict[str, str]:
    """The digest of every tensor and number of the compared parts, by its place."""
    return {name: digest for part in PARTS for name, digest in digests_in(part, state.get(part))}


def digests_in(name: str, nest: Any) -> Iterator[tuple[str, str]]:
    if isinstance(nest, dict):
        for key, value in nest.items():
            yield from digests_in(f"{name}.{key}", value)
    elif isinstance(nest, list | tuple):
        for number, value in enumerate(nest):
            yield from digests_in(f"{name}.{number}", value)
    elif isinstance(nest, Tensor):
        flat = nest.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        about = f"{nest.dtype} {tuple(nest.shape)}".encode()
        yield name, hashlib.sha256(about + flat.tobytes()).hexdigest()[:16]
    elif nest is not None:
        yield name, hashlib.sha256(repr(nest).encode()).hexdigest()[:16]


# --- replaying ----------------------------------------------------------------------------------


def kept_in(run_dir: Path) -> list[Kept]:
    """The kept steps of a run, the first of them first. Raises WeightsError if what was kept is not whole."""
    found = []
    for path in sorted((run_dir / FOLDER).glob("step-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            state = path.parent / content.pop("state")
            step = int(NAME.fullmatch(state.name)[1])  # type: ignore[index]
            found.append(Kept(step, state, **content))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise WeightsError(
                f"{path} cannot be read as a kept step; it was changed, or is of another version"
            ) from None
        if not state.is_file():
            raise WeightsError(f"{state} is missing, so its step cannot be replayed; remove {path.name} to go without")
    return found


def replayed(trainer: Trainer, kept: Kept, state: dict[str, Any]) -> Difference:
    """Take the step again.

    Raises:
        DataError: the training data is other data.
        UsageError: the state is of another network or optimizer.
    """
    if state["data"] != trainer.feed.samples.fingerprint:
        raise DataError(
            f"the training data differs from that of {trainer.run_dir}, by its fingerprint; put the data back that it "
            "was trained on, where it was"
        )
    trainer.put_back(state)
    steps = trainer.feed.steps(kept.step, kept.step + 1)
    trainer.advance(next(iter(steps)))
    losses, digests = exact(trainer.of_step), digests_of(trainer.state())
    pairs = [(mine, theirs) for mine, theirs in zip(losses, kept.losses, strict=False)]
    names = {
        name for mine, theirs in pairs for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
    }
    differ = [name for name in kept.digests | digests if kept.digests.get(name) != digests.get(name)]
    sums = [sum(float.fromhex(value) for one in each for value in one.values()) for each in (kept.losses, losses)]
    return Difference(sorted(names), differ, len(kept.digests), (sums[0], sums[1]))
