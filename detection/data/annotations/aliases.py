"""Names of one thing in different data sets: `couch = sofa`, one pair a line. Used only where a person asks for it.

recipes/classes/aliases.txt -> read_aliases -> Aliases.of("Sofa") -> ("couch",)
"""

from __future__ import annotations

from pathlib import Path

from shared.errors import DataError
from shared.recipes.files import recipe_folder
from shared.text import plain

COMMENT = "#"


class Aliases:
    """Pairs of names of one thing, in both directions; compared by letters and digits.

    Args:
        pairs: two names of one thing each.
    """

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self._others: dict[str, dict[str, None]] = {}
        for one, other in pairs:
            self._others.setdefault(plain(one), {})[other] = None
            self._others.setdefault(plain(other), {})[one] = None

    def of(self, name: str) -> tuple[str, ...]:
        """The other names of a thing, in the order of the file; () if it has none."""
        return tuple(self._others.get(plain(name), ()))


def read_aliases(path: Path | None = None) -> Aliases:
    """Read a file of lines `name = name`; those after # are comments.

    Args:
        path: None for the pairs that come with the program, of COCO, Objects365 and LVIS.

    Raises:
        DataError: the file cannot be read, or a line is something else.
    """
    path = recipe_folder() / "classes" / "aliases.txt" if path is None else Path(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the aliases {path} ({error}); give a file of lines `name = name`") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(COMMENT):
            continue
        names = [part.strip() for part in line.split("=")]
        if len(names) != 2 or not all(names):
            raise DataError(f"{path}, line {number}: '{line.strip()[:60]}' is not `name = name`; correct the line")
        pairs.append((names[0], names[1]))
    return Aliases(pairs)
