"""Print the lowest release of every dependency that pyproject.toml allows, one `name==version` a line.

    python tests/oldest.py demo fast test        the dependencies, and those of these extras

The bounds stand in pyproject.toml alone; `make test-oldest` installs what this prints.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def pins(project: dict, extras: list[str]) -> list[str]:
    """['torch==2.11', ...] of a [project] table.

    Raises:
        SystemExit: a requirement without a lower bound, or an extra that does not exist.
    """
    found = []
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            sys.exit(f"pyproject.toml has no extra {extra}; there is {', '.join(project['optional-dependencies'])}")
    for text in (
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ):
        bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?", text)
        if bound is None:
            sys.exit(f"'{text}' in pyproject.toml has no lower bound; write name>=version")
        found.append(f"{bound[1]}=={bound[2]}")
    return found


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(pins(tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"], sys.argv[1:])))
