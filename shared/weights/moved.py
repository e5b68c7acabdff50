"""Weights that are named by a path: an export, or a run folder, wherever they were moved to.

result.json of a run      weights         where the export was written, from the root of the disk
                          relative        the same, from the run's folder: both may have moved together
                          export          {arch, tag, digest}: in any other store
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from shared.errors import WeightsError
from shared.weights.card import Exported, read_export


def where(exported: Exported, run_dir: Path) -> dict[str, Any]:
    """The entries of result.json that find the weights again."""
    path = exported.path.resolve()
    return {
        "weights": str(path),
        "relative": os.path.relpath(path, run_dir.resolve()),
        "export": exported.reference,
    }


def at_path(path: Path, root: Path) -> Exported | None:
    """The export in a folder, or that of a finished run's folder; None if it is neither.

    Args:
        root: the store to look in when the run's weights are no longer where they were.

    Raises:
        WeightsError: the run has no weights, or they are nowhere to be found.
    """
    path = Path(os.path.expanduser(path))  # unlike Path.expanduser, it keeps an unknown user's name
    if (path / "card.json").is_file():
        return read_export(path.resolve())
    if (path / "result.json").is_file():
        return of_run(path.resolve(), root)
    if (path / "recipe.yaml").is_file():
        raise WeightsError(f"{path} has not finished; finish it with --resume {path}")
    return None


def of_run(run: Path, root: Path) -> Exported:
    """The weights of a run that has a result.json."""
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        weights = result.get("weights")
    except (OSError, ValueError, AttributeError):
        raise WeightsError(f"{run / 'result.json'} cannot be read; write it again with --resume {run}") from None
    if not weights:
        raise WeightsError(f"{run} has no exported weights; finish the run with --resume {run}")
    export = result.get("export") or dict(zip(("arch", "tag", "digest"), Path(weights).parts[-3:], strict=False))
    relative, inside = result.get("relative"), Path(*(str(export.get(key, "")) for key in ("arch", "tag", "digest")))
    places = [Path(weights), *([run / relative] if relative else [])]
    places += [parent / weights for parent in run.parents]  # of earlier versions: from where the command was run
    places += [root / inside, *(parent / "weights" / inside for parent in run.parents)]
    for place in places:
        if (place / "card.json").is_file():
            found = read_export(place.resolve())
            if found.digest == export.get("digest", found.digest):
                return found
    raise WeightsError(
        f"the weights of {run} are neither in {weights} nor in {root}; give the folder they were moved to with "
        f"--weights-dir, or name the export itself"
    )
