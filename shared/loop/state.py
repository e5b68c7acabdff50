"""The training state on disk: written atomically, verified by a digest when read.

    last/step-00000042-3fa9c1d07b2e.pt      the name contains the sha256 of the file, first 12 digits

Written to a temporary file, flushed, renamed. The two newest are kept: if the newest is damaged, the one before it is
used. Read with `weights_only=True`: tensors and plain values, no code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.errors import Refusal, WeightsError, plural
from shared.files import file_digest, sync_folder

log = logging.getLogger(__name__)
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{12})\.pt")
KEPT = 2


class Hashing:
    """A file that computes the sha256 of everything written to it."""

    def __init__(self, path: Path) -> None:
        self.file, self.sha = path.open("wb"), hashlib.sha256()
        self.error: OSError | None = None  # torch.save replaces it by one of its own

    def write(self, data: Any) -> int:
        self.sha.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def save_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of a step and delete all but the two newest. Raises Refusal as `write_state` does."""
    final = write_state(folder, step, state)
    for _, old in states(folder)[KEPT:]:
        if old != final:
            old.unlink(missing_ok=True)
    return final


def write_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of a step.

    Raises:
        Refusal: the state cannot be written; existing states are untouched.
    """
    partial, out = folder / f".partial-{os.getpid()}", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        out = Hashing(partial)
        try:
            torch.save(state, out)  # type: ignore[arg-type]
        finally:
            out.close()
        final = folder / f"step-{step:08d}-{out.sha.hexdigest()[:12]}.pt"
        partial.replace(final)
        sync_folder(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        cause = out.error if out is not None and out.error is not None else error
        reason = getattr(cause, "strerror", None) or cause
        raise Refusal(
            f"the training state cannot be written to {folder} ({reason}); free some space and use --resume"
        ) from None
    return final


def states(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of every state in the folder, newest first."""
    found = [(int(m[1]), path) for path in folder.glob("step-*.pt") if (m := NAME.fullmatch(path.name))]
    return sorted(found, key=lambda entry: (entry[0], entry[1].stat().st_mtime_ns), reverse=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Load the newest undamaged state; None if the folder has no state.

    Raises:
        WeightsError: every state is damaged.
    """
    for stale in folder.glob(".partial-*"):
        stale.unlink(missing_ok=True)
    found = states(folder)
    for _, path in found:
        try:
            return read_state(path)
        except WeightsError:
            log.warning("%s is damaged; trying the state before it", path)
    if found:
        raise WeightsError(f"every training state in {folder} is damaged; start a new run with another --name")
    return None


def read_state(path: Path) -> dict[str, Any]:
    """Read one state. Raises WeightsError if it is damaged."""
    if file_digest(path)[:12] == NAME.fullmatch(path.name)[2]:  # type: ignore[index]
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            pass  # the digest matches, but the file is not a saved state
    raise WeightsError(f"{path} is damaged; start a new run with another --name")


def insist_on_finite_weights(task: nn.Module, step: int) -> None:
    """Raise Refusal if a weight is NaN or Inf: a gradient can be NaN where the loss is not, and later losses may not
    show it.
    """
    broken = [name for name, value in task.named_parameters() if not value.isfinite().all()]
    if broken:
        raise Refusal(
            f"{plural(len(broken), 'tensor')} of weights, such as {broken[0]}, became NaN or Inf at step {step}; lower "
            f"--lr, leave --amp out or set --clip-grad-norm, then --resume from the last saved step"
        )
