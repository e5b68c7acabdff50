"""A run is a folder: made once, never overwritten, taken up again by --resume, owned by one process at a time.

runs/<name>/    recipe.yaml   the resolved recipe; `--recipe runs/<name>/recipe.yaml` repeats the run
                train.log  metrics.jsonl  results.csv  events.out.tfevents...
                last/         the training state
                transfer.json lineage.json result.json pictures/ report.html
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared import dist
from shared.card import check_name
from shared.errors import UsageError
from shared.flags import Resolved
from shared.log import write_aside
from shared.recipe import RuntimeConfig, dump, flat, plain, read_yaml


def find_run(runtime: RuntimeConfig, stem: str) -> Path | None:
    """The run that --resume means, or None when it stands alone and there is no run of that name yet.

    Raises:
        UsageError: a run is named and not there.
    """
    if runtime.resume is None:
        return None
    if runtime.resume == "newest":
        named = runtime.name or stem
        found = [
            p
            for p in runtime.output_dir.glob(f"{glob_safe(named)}*")
            if re.fullmatch(re.escape(named) + r"(-\d+)?", p.name)
        ]
        found = [p for p in found if (p / "recipe.yaml").is_file()]
        return max(found, key=number_of, default=None)
    for path in (Path(runtime.resume), runtime.output_dir / runtime.resume):
        if (path / "recipe.yaml").is_file():
            return path
    raise UsageError(f"--resume {runtime.resume} is no run folder; `ls {runtime.output_dir}` shows the runs there are")


def resumed_recipe(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """What the run was told, to lie below today's flags."""
    values = read_yaml(run_dir / "recipe.yaml")
    for own in ("resume", "dry_run", "name", "output_dir"):
        values.pop(own, None)
    return f"run {run_dir.name}", values


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


def keep_recipe(path: Path, recipe: Any) -> None:
    """What the run was told, as what would begin such a run anew."""
    write_aside(path / "recipe.yaml", dump(replace(recipe, runtime=replace(recipe.runtime, resume=None))))


def new_folder(runtime: RuntimeConfig, stem: str) -> Path:
    """`--name` exactly, or the stem with a number that is free."""
    if runtime.name is not None:
        check_name(runtime.name)
    try:
        runtime.output_dir.mkdir(parents=True, exist_ok=True)
        if runtime.name is not None:
            path = runtime.output_dir / runtime.name
            if path.exists() and any(path.iterdir()):
                raise UsageError(f"{path} is there already; give another --name, or --resume {path} to continue it")
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
            f"no run can be written to {runtime.output_dir} ({error.strerror}); give another --output-dir"
        ) from None


_locks: list[Any] = []  # held until the process ends


def own(path: Path) -> None:
    """Hold the run's lock for the life of this process; a second process on the same run is refused."""
    handle = (path / ".lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        raise UsageError(
            f"{path} is being trained by {handle.read().strip() or 'another process'}; wait or stop that"
        ) from None
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {os.uname().nodename}")
    handle.flush()
    _locks.append(handle)
    os.register_at_fork(after_in_child=handle.close)  # loading workers must not keep a dead run locked


def write_json(path: Path, what: Any) -> None:
    write_aside(path, json.dumps(what, indent=2, default=plain) + "\n")


def number_of(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1


def glob_safe(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def announce_plan(resolved: Resolved, lines: list[str]) -> None:
    """What --dry-run prints: every value that is not a default and where it came from, then what would be done."""
    values = flat(resolved.recipe)
    told = {name: origin for name, origin in resolved.origins.items() if origin != "default"}
    width = max((len(name) for name in values), default=0)
    print("recipe")
    for name, value in values.items():
        origin = told.get(name, "default")
        print(f"  {name:<{width}}  {plain(value)!s:<24}  {origin}")
    print("\n".join(lines))
    sys.stdout.flush()
