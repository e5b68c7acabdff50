"""What `detect doctor --fix` did to a file, by what, and what it left to the person, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

SHOWN = 3  # examples in a line


class Left(NamedTuple):
    """What was not mended.

    kind: of the finding, such as "image-size".
    why: what it is, and why nobody but a person can tell what is right, without a full stop.
    examples: of it, at most a hundred.
    """

    kind: str
    why: str
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        some = ", ".join(self.examples[:SHOWN])
        more = f" and {len(self.examples) - SHOWN:,} more" if len(self.examples) > SHOWN else ""
        return f"  left to you, {self.kind}: {self.why}{f' ({some}{more})' if some else ''}"


class Changes:
    """done: how often something was changed, by what. left: what was not."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.left: list[Left] = []

    def leave(self, kind: str, why: str, examples: Sequence[str] = ()) -> None:
        self.left.append(Left(kind, why, tuple(examples[:100])))

    def lines(self, written: object) -> list[str]:
        """'OUT/a.json: 2 boxes clipped', and a line for each kind that was left."""
        told = ", ".join(f"{count:,} {what}" for what, count in self.done.items()) or "nothing to mend"
        return [f"{written}: {told}", *(left.line() for left in self.left)]

    def as_json(self) -> dict[str, Any]:
        return {"changes": dict(self.done), "left": [left._asdict() for left in self.left]}
