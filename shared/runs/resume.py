"""Which run `--resume` means, the recipe of a command line merged over that run's recipe, and what differs.

    runs/NAME/recipe.yaml < flags -> the resumed recipe; FIXED values cannot differ, others are said and written down

Imports no torch, since it runs before anything is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.files import load, read_yaml
from shared.recipes.flags import Under
from shared.recipes.recipe import Resolved, RuntimeConfig, flat, make, plain
from shared.text import say

FIXED = ("opt",)  # the saved moments belong to one optimizer; batch size, seed and --model-ema are in the state
MACHINE = (  # they say where and how a run runs, not what it trains
    *("num_workers", "threads", "device", "offline", "log_every", "save_every", "output_dir", "name", "resume"),
    *("dry_run", "compile", "compile_backbone", "compile_opt", "max_bad_samples", "verify_shards", "keep_states"),
    *("dry_steps", "fit_batch", "log_to"),
)
HISTORY = "# resumed at step "  # lines at the top of recipe.yaml


def layered(
    read: Callable[[Under], Resolved],
    *,
    stem: Callable[[Any], str],
    demo: str,
    settle: Callable[[Resolved], Resolved] = lambda resolved: resolved,
    fixed: Sequence[str] = (),
) -> Resolved:
    """The recipe over its lower layers: the demo's settings if no data is given, the run's recipe if it is resumed.

    Args:
        read: builds the recipe of the command line over the given layers.
        stem: default name of the run of a recipe.
        demo: the base recipe for the built-in demo data.
        settle: the last check of the values, before anything is printed.
        fixed: values that a resumed run cannot change, besides FIXED.

    Raises:
        UsageError: a resumed run is given another of the fixed values.
    """
    resolved = read([])
    if resolved.recipe.runtime.resume is not None:
        found = find_run(resolved.recipe.runtime, stem(resolved.recipe))
        if found is not None:
            resolved = read([resumed_recipe(found)])
            for name, (old, new) in changes(found, resolved.recipe).items():
                if name in (*FIXED, *fixed):
                    flag = name.replace("_", "-")
                    raise UsageError(
                        f"{found} was run with {name} {shown(old)}, not {shown(new)}, and another network, method, "
                        f"start or optimizer makes another run; leave out --{flag}, or start a new run without --resume"
                    )
            return settle(resolved)
        if os.environ.get("RANK", "0") == "0":
            say(f"no run {stem(resolved.recipe)} to resume in {resolved.recipe.runtime.output_dir}: starting one")
    data = resolved.recipe.data
    if data.data_path is None and not getattr(data, "datasets", ()):
        values, _ = load(demo, "base")
        resolved = settle(read([(f"base {demo}", values)]))
        if os.environ.get("RANK", "0") == "0":
            flags = [f"--{k.replace('_', '-')} {v}" for k, v in values.items() if resolved.origins[k] == f"base {demo}"]
            say(f"no --data-path: using the built-in demo data with {' '.join(flags)}")
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


def changes(run_dir: Path, recipe: Any) -> dict[str, tuple[Any, Any]]:
    """{name: (value of the run, value now)} where a recipe differs from the one in the run's folder."""
    saved = read_yaml(run_dir / "recipe.yaml")
    before = flat(make(type(recipe), saved, source=f"run {run_dir.name}"))
    return {
        name: (before[name], value) for name, value in flat(recipe).items() if name in saved and before[name] != value
    }


def effective(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The changes that bear on what is trained."""
    return {name: values for name, values in changed.items() if name not in MACHINE}


def described(changed: dict[str, tuple[Any, Any]]) -> str:
    """'lr 0.02 -> 0.01, epochs 10 -> 20'"""
    return ", ".join(f"{name} {shown(old)} -> {shown(new)}" for name, (old, new) in changed.items())


def shown(value: Any) -> str:
    value = plain(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def history(run_dir: Path) -> list[str]:
    """['step 110: lr 0.02 -> 0.01']: the changes of earlier resumes, from the run's recipe.yaml."""
    path = run_dir / "recipe.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [f"step {line.removeprefix(HISTORY)}" for line in lines if line.startswith(HISTORY)]


def number_of(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 1


def glob_safe(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)
