"""Which run `--resume` means, and the recipe of a command line merged over that run's recipe.

Imports no torch, since it runs before anything is loaded.
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


def layered(
    read: Callable[[Under], Resolved],
    *,
    stem: Callable[[Any], str],
    demo: str,
    settle: Callable[[Resolved], Resolved] = lambda resolved: resolved,
) -> Resolved:
    """The recipe over its lower layers: the demo's settings if no data is given, the run's recipe if it is resumed.

    Args:
        read: builds the recipe of the command line over the given layers.
        stem: default name of the run of a recipe.
        demo: the base recipe for the built-in demo data.
        settle: the last check of the values, before anything is printed.
    """
    resolved = read([])
    if resolved.recipe.runtime.resume is not None:
        found = find_run(resolved.recipe.runtime, stem(resolved.recipe))
        if found is not None:
            return settle(read([resumed_recipe(found)]))
    if resolved.recipe.data.data_path is None:
        values, _ = load(demo, "base")
        resolved = settle(read([(f"base {demo}", values)]))
        if os.environ.get("RANK", "0") == "0":
            flags = [f"--{k.replace('_', '-')} {v}" for k, v in values.items() if resolved.origins[k] == f"base {demo}"]
            print(f"no --data-path: using the built-in demo data with {' '.join(flags)}", flush=True)
        return resolved
    return settle(resolved)


def find_run(runtime: RuntimeConfig, stem: str) -> Path | None:
    """The run that --resume means; None for a bare --resume without a run of that name.

    Raises:
        UsageError: the named run does not exist.
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
    raise UsageError(f"--resume {runtime.resume} is not a run folder; `ls {runtime.output_dir}` lists the runs")


def resumed_recipe(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """(origin, values) of the run's recipe, as a layer below the current flags."""
    values = read_yaml(run_dir / "recipe.yaml")
    for own in ("resume", "dry_run", "name", "output_dir"):
        values.pop(own, None)
    return f"run {run_dir.name}", values


def number_of(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1


def glob_safe(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
