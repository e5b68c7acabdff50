"""The run folder: created once, never overwritten, continued by --resume, locked by one process at a time.

runs/<name>/    recipe.yaml   the resolved recipe; `--recipe runs/<name>/recipe.yaml` repeats the run
                train.log  metrics.jsonl  results.csv  events.out.tfevents...
                last/         the training state; seen-*.npy: digests of the training images
                transfer.json lineage.json result.json pictures/ report.html
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.devices import dist
from shared.errors import UsageError
from shared.files import write_aside
from shared.recipes.recipe import Resolved, RuntimeConfig, dump
from shared.runs.resume import HISTORY, find_run
from shared.weights.card import check_name


def open_run(runtime: RuntimeConfig, stem: str, resolved: Resolved) -> Path:
    """The folder of this run: the one to resume, or a new one. All processes get the same answer.

    Raises:
        UsageError: a new run would overwrite an old one, another process owns it, or the folder cannot be made.
    """
    answer: Path | UsageError | None = None
    if dist.is_main():
        try:
            answer = find_run(runtime, stem) or new_folder(runtime, stem)
            own(answer)
            if not (answer / "recipe.yaml").is_file():
                keep_recipe(answer, resolved.recipe)
        except UsageError as error:
            answer = error
    answer = dist.from_main(answer)
    if isinstance(answer, UsageError):
        raise answer
    assert answer is not None
    return answer


def keep_recipe(path: Path, recipe: Any, changed: Sequence[str] = ()) -> None:
    """Write the recipe without `resume`, so that `--recipe` on it starts the run again.

    Args:
        changed: as of `history`: what resumed runs changed, and at which step.
    """
    lines = [f"{HISTORY}{line.removeprefix('step ')}" for line in changed]
    text = dump(replace(recipe, runtime=replace(recipe.runtime, resume=None)))
    write_aside(path / "recipe.yaml", "\n".join([*lines, text]))


def new_folder(runtime: RuntimeConfig, stem: str) -> Path:
    """Create the folder: exactly `--name`, or the stem with the next free number."""
    if runtime.name is not None:
        check_name(runtime.name)
    try:
        runtime.output_dir.mkdir(parents=True, exist_ok=True)
        if runtime.name is not None:
            path = runtime.output_dir / runtime.name
            if path.exists() and any(path.iterdir()):
                raise UsageError(f"{path} already exists; give another --name, or --resume {path} to continue it")
            path.mkdir(parents=True, exist_ok=True)
            return path
        number = 1
        while True:
            path = runtime.output_dir / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UsageError(
            f"cannot create a run in {runtime.output_dir} ({error.strerror}); give another --output-dir"
        ) from None


_locks: list[Any] = []  # held until the process ends, or `release`


def own(path: Path) -> None:
    """Lock the run until this process ends. Raises UsageError if another process holds the lock."""
    handle = (path / ".lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise UsageError(
            f"{path} is being trained by {handle.read().strip() or 'another process'}; wait for it, or stop it"
        ) from None
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {os.uname().nodename}")
    handle.flush()
    _locks.append(handle)
    os.register_at_fork(after_in_child=handle.close)  # loading workers must not keep the lock of a dead run


def release() -> None:
    """Let go of the runs that this process has locked."""
    while _locks:
        _locks.pop().close()
