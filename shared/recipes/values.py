"""Values of flags, YAML keys and options: type and range, checked where they are read.

    '3e1', 30.0, 30  ->  30        int        -1, nan, 1e99, 'three'  ->  one sentence that names the flag
    '3e-2'           ->  0.03      float

A field of a recipe declares its range with `knob(low=..., high=...)`, an option of a network or method with one of the
types below (`width: Width = 256`), a flag of a small command with `whole(...)` or `number(...)`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from shared.errors import UsageError
from shared.recipes.nearest import suggest


@dataclass(frozen=True)
class Range:
    """The allowed numbers: `low` to `high`, both included; `above` and `below` are excluded themselves."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        return (
            (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """'from 0 to 1', '1 or more', 'greater than 0 and up to 1'"""
        low, high, above, below = map(written, (self.low, self.high, self.above, self.below))
        if low and (high or below):
            return f"from {low} to {high or f'below {below}'}"
        parts = [f"greater than {above}"] if above else [f"{low} or more"] if low else []
        if high:
            parts.append(f"up to {high}" if parts else f"{high} or less")
        return " and ".join([*parts, f"below {below}"] if below else parts)


def written(limit: float | None) -> str:
    """A limit as people write it: '2147483648', '0.5'; '' for none."""
    return "" if limit is None else str(int(limit)) if float(limit).is_integer() else f"{limit:g}"


# Types of the options of networks, methods and their parts
Count = Annotated[int, Range(low=1, high=1_000_000)]  # objects, queries, classes, channels of a head
Counts = tuple[Count, ...]  # one for each of several
CountOrNone = Annotated[int, Range(low=0, high=1_000_000)]  # 0 means none, or a default
Layers = Annotated[int, Range(low=1, high=1000)]
Width = Annotated[int, Range(low=1, high=65_536)]  # channels
Probability = Annotated[float, Range(low=0, high=1)]
Dropout = Annotated[float, Range(low=0, below=1)]
Share = Annotated[float, Range(above=0, high=1)]
Scale = Annotated[float, Range(above=0, high=1000)]  # a factor, a radius, a divisor
Weight = Annotated[float, Range(low=0, high=1_000_000)]  # of a loss or a cost
Ratio = Annotated[float, Range(low=1, high=100)]  # of the longer to the shorter side
# Names of pixel means and standard deviations, those of shared/feeding/pixels.py
Pixels = Literal["imagenet", "clip", "birder", "centered", "neutral", "none"]

TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as in YAML
HINTS: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "Count": Count, "Counts": Counts,
    "CountOrNone": CountOrNone, "Layers": Layers,
    "Width": Width, "Probability": Probability, "Dropout": Dropout, "Share": Share, "Scale": Scale,
    "Weight": Weight, "Ratio": Ratio,
}  # fmt: skip


def hint_of(annotation: str) -> Any:
    """The type of an annotation as it is written: 'Count', 'Share | None', "Literal['sine', 'learned']".

    None for types that are not given on a command line, such as functions.
    """
    text, _, rest = annotation.partition(" | ")
    if text.startswith("Literal["):
        import ast

        words = ast.literal_eval(f"({text.removeprefix('Literal[').removesuffix(']')},)")
        hint: Any = Literal[words]  # type: ignore[valid-type]
    else:
        hint = HINTS.get(text)
    return hint if not rest or hint is None else Union[hint, None]  # noqa: UP007 - built at run time


def convert(value: Any, hint: Any, where: str, *, spellings: Mapping[str, Any] | None = None) -> Any:
    """A YAML value or a word of a command line as its type; ints may stand for floats, one value for a tuple of one.

    Args:
        hint: int, float, bool, str, Path, a Literal, `X | None`, tuple[X, ...], dict[str, Any], or one of the types
            above.
        where: the flag or key, for messages.
        spellings: other words for the values of a Literal.

    Raises:
        UsageError: another type, or a number out of range.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return in_range(convert(value, args[0], where), args[1], where)
    if origin in (Union, UnionType):
        inner = next(a for a in args if a is not NoneType)
        unset = value is None or (value == "none" and inner is not str)
        return None if unset else convert(value, inner, where, spellings=spellings)
    if origin is Literal:
        return one_of(value, args, where, spellings or {})
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, str) and args[0] is not str:  # an option has one word: 80,365
            values = value.split(",")
        return tuple(convert(v, args[0], where) for v in values)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{where} is {value!r}; give options by name, such as {{width: 64}}")
        return {str(key).replace("-", "_"): option for key, option in value.items()}
    return scalar(value, hint, where)


def one_of(value: Any, known: tuple[Any, ...], where: str, spellings: Mapping[str, Any]) -> Any:
    """The value itself, or in lower case, or what another spelling of it means."""
    for word in (value, value.lower()) if isinstance(value, str) else (value,):
        meant = spellings.get(word, word) if isinstance(word, str) else word
        if meant in known:
            return meant
    raise UsageError(f"{where} is {value!r}{suggest(str(value), list(known))}; it can be {', '.join(map(str, known))}")


def scalar(value: Any, hint: type, where: str) -> Any:
    if hint is Path and isinstance(value, str | Path):
        return Path(os.path.expanduser(value))
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if hint is bool and isinstance(value, str) and value.lower() in TRUTH:
        return TRUTH[value.lower()]
    if type(value) is hint and hint is not float:
        return value
    if hint in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-4 as a string, and command line values are strings
            number = float(value)
            if hint is float and math.isfinite(number):
                return number
            if hint is int and number.is_integer():
                return int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() else int(number)
        except (ValueError, OverflowError):
            pass
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}
    raise UsageError(f"{where} is {shortened(value)}; give {kinds.get(hint, hint.__name__)}")


def shortened(value: Any) -> str:
    """The value as Python writes it, in one line of a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def in_range(value: Any, allowed: Range, where: str) -> Any:
    """Return the value if it, or each item of a tuple, is in the range; raises UsageError."""
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not allowed.holds(number):
            raise UsageError(f"{where} is {shortened(number)}; it must be {allowed}")
    return value


def whole(low: int, high: int = 1_000_000_000) -> Callable[[str], int]:
    """A type for argparse: a whole number from `low` to `high`."""
    return _of_argparse(int, Range(low=low, high=high))


def number(**limits: float) -> Callable[[str], float]:
    """A type for argparse: a finite number in a `Range`."""
    return _of_argparse(float, Range(**limits))


def word(reads: Callable[[str], str]) -> Callable[[str], str]:
    """A type for argparse: a word that `reads` accepts, else its UsageError."""

    def read(text: str) -> str:
        try:
            return reads(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(f"the value {error}") from None

    return read


def of_type(hint: Any) -> Callable[[str], Any]:
    """A type for argparse: a value of any type that `convert` knows, else its UsageError."""

    def read(text: str) -> Any:
        try:
            return convert(text, hint, "the value")
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _of_argparse(hint: type, allowed: Range) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return in_range(scalar(text, hint, "the value"), allowed, "the value")
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


class OneOrTwo(argparse.Action):
    """Of a flag with `nargs="+"`: one value, or height and width."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if len(values) not in (1, 2):
            parser.error(
                f"{option_string} takes one number of pixels or two, height and width; there are {len(values)}"
            )
        setattr(namespace, self.dest, values)
