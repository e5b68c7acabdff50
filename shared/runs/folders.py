"""What a run folder holds, for reports: metrics, result, origin of the weights, pictures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.logs.metrics import read_metrics

log = logging.getLogger(__name__)

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#0ea5a8", "#ca8a04", "#ec4899")
EXPLAINED = "explained.json"  # why the result is what it is; see `shared.runs.charts`
ROW_KEYS = ("kind", "step", "epoch", "time")


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    name: str
    color: str
    rows: list[dict[str, Any]]
    result: dict[str, Any]
    transfer: dict[str, Any]
    lineage: list[dict[str, Any]]
    recipe: str
    pictures: list[Path]
    explained: dict[str, Any]
    folder: Path

    def metrics(self) -> dict[str, float | None]:
        """The final metrics, the headline first; for an unfinished run, those of the last validation; None is n/a."""
        metrics = self.result.get("metrics") or {}
        if not metrics:
            last = [row for row in self.rows if row.get("kind") == "val"][-1:]
            metrics = {name: value for row in last for name, value in row.items() if name not in ROW_KEYS}
        return {
            name: None if value is None else float(value)
            for name, value in metrics.items()
            if value is None or is_number(value)
        }

    def headline(self) -> str | None:
        return next(iter(self.metrics()), None)

    def series(self, name: str, kind: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one metric or loss."""
        rows = [row for row in self.rows if row.get("kind") == kind and is_number(row.get(name))]
        return [row["epoch"] for row in rows], [row[name] for row in rows]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the given order; folders of the same name are shown with their parent folder."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return [
        read_run(folder, name, COLOURS[i % len(COLOURS)])
        for i, (folder, name) in enumerate(zip(folders, names, strict=True))
    ]


def read_run(folder: Path, name: str, color: str) -> Run:
    recipe = folder / "recipe.yaml"
    kinds = (".jpg", ".jpeg", ".png")
    pictures = sorted(path for path in (folder / "pictures").glob("*") if path.suffix.lower() in kinds)
    lineage = read_json(folder / "lineage.json", [])
    return Run(
        name=name,
        color=color,
        rows=read_metrics(folder),
        result=read_json(folder / "result.json", {}),
        transfer=read_json(folder / "transfer.json", {}),
        lineage=[node for node in lineage if isinstance(node, dict) and "digest" in node],
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        pictures=pictures,
        explained=read_json(folder / EXPLAINED, {}),
        folder=folder,
    )


def read_json(path: Path, otherwise: Any) -> Any:
    """The content of a JSON file, or `otherwise` if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return otherwise
    except (OSError, ValueError) as error:
        log.warning("%s is not in the report: %s", path, error)
        return otherwise
    return content if isinstance(content, type(otherwise)) else otherwise


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
