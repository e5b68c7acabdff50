"""A packing in parts, for arrays of batch jobs: `--part 3/64` in each of them, then `--settle` once.

    --part 3/64   shards 3, 67, 131, ... of the plan, beside those of other parts, on any number of machines
    --settle      all shards of the plan are there, whole, and of the same input -> OUT; or which parts are missing

The plan is the same everywhere, so the parts need not know of each other: each can be killed, repeated, or divided
otherwise, and the files are those of one process. Imports no torch.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from shared.errors import DataError, UsageError, plural
from shared.recipes.flags import Parser

T = TypeVar("T")
LAST = 1_000_000  # parts
SHOWN = 10  # missing parts to name


class Part(NamedTuple):
    """Part `number`, from 1, of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def of_these(self, tasks: Sequence[T]) -> Sequence[T]:
        """Every `of`-th task, so that parts are equally long."""
        return tasks[self.number - 1 :: self.of]


def part(text: str) -> Part:
    """'3/64' -> Part(3, 64), as the type of a flag."""
    found = re.fullmatch(r"\s*(\d{1,7})\s*/\s*(\d{1,7})\s*", text, re.ASCII)
    made = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= made.number <= made.of <= LAST:
        raise ArgumentTypeError(f"'{text}' is no part; parts count from 1, such as 3/64 of an array 1-64")
    return made


def add_part_flags(flags: Parser) -> None:
    flags.add_argument(
        "--part",
        type=part,
        metavar="N/ALL",
        help="write only this part of the shards; in a SLURM array 1-64: --part $SLURM_ARRAY_TASK_ID/64",
    )
    flags.add_argument(
        "--settle",
        action="store_true",
        help="after all parts: check that every shard is there and complete, and finish the folder",
    )


def check_flags(part: Part | None, settle: bool) -> None:
    if part is not None and settle:
        raise UsageError("--settle comes after all parts; remove it, or --part")


def mark_division(partial: Path, part: Part) -> None:
    """Remember into how many parts a packing is divided, for the names of those that are missing."""
    (partial / f"of-{part.of}").touch()


def missing(partial: Path, out: Path, numbers: Sequence[int], total: int) -> DataError:
    """The error about shards that no part has written.

    Args:
        numbers: of the missing shards in the plan, from 0.
        total: number of shards of the plan.
    """
    divisions = [int(path.name.removeprefix("of-")) for path in partial.glob("of-*")]
    which = ""
    if len(divisions) == 1:
        parts = sorted({number % divisions[0] + 1 for number in numbers})
        more = f" and {plural(len(parts) - SHOWN, 'other')}" if parts[SHOWN:] else ""
        which = f", of --part {', '.join(f'{number}/{divisions[0]}' for number in parts[:SHOWN])}{more}"
    return DataError(
        f"{len(numbers):,} of {plural(total, 'shard')} of {out} are missing or not those of this input{which}; "
        f"run these parts again, finished shards are kept, and then --settle"
    )


def next_step(part: Part, shards: int) -> str:
    """The line after a part is packed."""
    some = "" if shards else "it has no shards, since there are fewer than parts; "
    return f"  this was part {part}: {some}after all parts, run the same command with --settle instead of --part"
