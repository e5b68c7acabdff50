"""Whether another package of somebody hides one of ours, since their names are common words.

Run by its path, before anything is imported by these names, so that nothing of a stranger's runs. It uses Python's own
library alone. `recipes` is data and is found by its path, so none can hide it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PACKAGES = ("backbones", "detection", "pretrain", "shared")


def check() -> None:
    """Raise ImportError if one of our packages is hidden by another of the same name."""
    for name in PACKAGES:
        spec = find_spec(name)
        places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if HOME / name not in places[:1]:
            found = "none" if spec is None else str(places[0] if places else spec.origin)
            raise ImportError(
                f"chordate's package '{name}' is {HOME / name}, and Python finds {found} under this name; rename that "
                f"one, start Python in another folder, or install chordate in an environment of its own"
            )
