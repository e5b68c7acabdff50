"""Which run `--resume` means, and the recipe of a command line over what that run was told.

Imports no torch: the command line asks before anything is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.files import load, read_yaml
from shared.recipes.flags import Under
from shared.recipes.recipe import Resolved, RuntimeConfig


def layered(read: Callable[[Under], Resolved], *, stem: Callable[[Any], str], demo: str) -> Resolved:
    """The recipe over what the situation lays below it: the demo's settings without data, the run's own when resumed.

    Args:
        read: the recipe of the command line over some layers.
        stem: the run's name when nobody gave one.
        demo: the base that goes with the built-in demo data.
    """
    resolved = read([])
    if resolved.recipe.runtime.resume is not None:
        found = find_run(resolved.recipe.runtime, stem(resolved.recipe))
        if found is not None:
            return read([resumed_recipe(found)])
    if resolved.recipe.data.data_path is None:
        values, _ = load(demo, "base")
        resolved = read([(f"base {demo}", values)])
        if os.environ.get("RANK", "0") == "0":
            flags = [f"--{k.replace('_', '-')} {v}" for k, v in values.items() if resolved.origins[k] == f"base {demo}"]
            print(f"no --data-path: using the built-in demo data with {' '.join(flags)}", flush=True)
    return resolved


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


def number_of(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1


def glob_safe(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
