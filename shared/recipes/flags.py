"""The command line of a recipe: one flag per knob, aliases and spellings of torchvision's, DETR's and birder's
programs.

    default < layers below (demo settings, the resumed run) < --recipe < --scale < flags

Unknown flags are passed on as options of the method or network, which checks them. A misspelled flag is answered
with the nearest one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shared.errors import UsageError
from shared.recipes.files import load, over
from shared.recipes.recipe import Resolved, all_knobs, make, sections
from shared.recipes.registry import suggest

Under = Sequence[tuple[str, dict[str, Any]]]  # (origin, values) of the layers below a recipe, lowest first


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and accepts no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; `{self.prog} --help` shows the flags")

    def parse_exactly(self, argv: list[str]) -> argparse.Namespace:
        """parse_args that accepts underscores for dashes and suggests the nearest flag for an unknown one."""
        known, rest = self.parse_known_args([dashed(word) for word in argv])
        if rest:
            flags = [word for action in self._actions for word in action.option_strings]
            raise UsageError(
                f"{self.prog} has no flag {rest[0]}{suggest(rest[0], flags)}; `{self.prog} --help` shows them"
            )
        return known


def add_flags(parser: argparse.ArgumentParser, recipe_cls: type) -> None:
    """Add one flag per field, grouped by section. Flags that are not given are absent, so recipe values are kept.

    Values stay strings here; `make` converts them as it does for YAML.
    """
    for section, cls in sections(recipe_cls).items():
        group = parser.add_argument_group(section, (cls.__doc__ or "").split(";")[0].rstrip("."))
        hints = get_type_hints(cls)
        for f in fields(cls):
            hint, meta = hints[f.name], f.metadata
            if get_origin(hint) in (Union, UnionType):
                hint = next(a for a in get_args(hint) if a is not NoneType)
            text = meta["help"].replace("%", "%%") + shown(f.default)
            kw: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": text}
            if hint is bool:
                kw["action"] = argparse.BooleanOptionalAction
            elif get_origin(hint) is dict:
                kw |= {"nargs": "+", "type": key_value, "metavar": "KEY=VALUE"}
            elif get_origin(hint) is tuple:
                kw |= {"nargs": "+", "metavar": meta["metavar"]}
            elif get_origin(hint) is Literal:
                kw["metavar"] = "{" + ",".join(map(str, get_args(hint))) + "}"
            else:
                kw["metavar"] = meta["metavar"] or hint.__name__.upper()
            if meta["bare"] is not None:
                kw |= {"nargs": "?", "const": meta["bare"]}
            group.add_argument("--" + f.name.replace("_", "-"), *meta["aliases"], **kw)


def shown(default: Any) -> str:
    """' (default: 0.1)', or '' for defaults such as None and False."""
    if default in (MISSING, None, False, ()) or default is MISSING:
        return ""
    words = " ".join(map(str, default)) if isinstance(default, tuple) else default
    return f" (default: {words})"


def key_value(text: str) -> tuple[str, Any]:
    import yaml

    key, _, value = text.partition("=")
    return key.replace("-", "_"), yaml.safe_load(value)


Shrink = Callable[[Any], dict[str, Any]]  # a recipe -> the values that --scale tiny changes


def from_args(
    recipe_cls: type,
    argv: list[str],
    *,
    prog: str,
    folder: str,
    own: str,
    under: Under = (),
    tiny: Shrink | None = None,
) -> Resolved:
    """Build the recipe of a command line: defaults < `under` < --recipe file < --scale < flags.

    Args:
        folder: where `--recipe NAME` is looked up, under recipes/.
        own: the field for flags that are not fields of the recipe, such as `network_args`: `--num-queries 300` is an
            option of the detector, and is checked there.
        under: (origin, values) below the recipe, such as the saved recipe of a resumed run.
        tiny: the values that `--scale tiny` changes; a recipe's own `tiny:` entries override them.
    """
    parser = recipe_parser(recipe_cls, prog, scales=tiny is not None)
    known, rest = parser.parse_known_args([dashed(a) for a in argv])
    flags = vars(known)
    name, scale = flags.pop("recipe", None), flags.pop("scale", None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, below in under:
        values = over(values, below)
        origins |= dict.fromkeys(below, origin)
    if name:
        from_file, where = load(name, folder)
        values = over(values, from_file)
        origins |= where
    own_tiny = values.pop("tiny", None) or {}
    make(recipe_cls, values, source=f"recipe {name}" if name else "recipe")
    make(recipe_cls, own_tiny, source=f"recipe {name}, tiny")
    if scale and tiny:
        asked = {word: value for word, value in flags.items() if word != own}
        small = tiny(make(recipe_cls, values | own_tiny | asked, source="flags")) | own_tiny
        values = over(values, small)
        origins |= dict.fromkeys(small, f"scale {scale}")
    if rest or own in flags:
        flags[own] = {**dict(flags.get(own, {})), **passed_on(rest, recipe_cls, prog)}
    make(recipe_cls, flags, source="flags")
    origins |= dict.fromkeys(flags, "flag")
    return Resolved(make(recipe_cls, over(values, flags)), origins)


def recipe_parser(recipe_cls: type, prog: str, *, scales: bool = False) -> Parser:
    parser = Parser(prog=prog, usage=f"{prog} [--recipe NAME] [flags]")
    parser.add_argument("--recipe", help="a name under recipes/ or a .yaml file; flags override it", metavar="NAME")
    if scales:
        description = "tiny: run the recipe in about a minute on a laptop, as a test"
        parser.add_argument("--scale", choices=["tiny"], default=argparse.SUPPRESS, help=description)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    add_flags(parser, recipe_cls)
    return parser


def replay_file(argv: list[str], prog: str) -> Path:
    """Parse the arguments of `replay`, the same in both programs."""
    parser = Parser(
        prog=prog,
        description="Replay a step whose loss was NaN or Inf, on the CPU: its losses, the first module that "
        "produced NaN "
        "or Inf, and each named image alone. Neither the run nor its data is needed.",
    )
    parser.add_argument("file", type=Path, help="replay-step-*.pt of a run's folder")
    return parser.parse_exactly(argv).file


def passed_on(rest: list[str], recipe_cls: type, prog: str) -> dict[str, Any]:
    """Options from flags that are not fields of the recipe. Raises UsageError for a misspelled field."""
    words = own_flags(rest, prog)
    for word in words:
        # --heads is not a misspelling of --threads
        alike = [name for name in all_knobs(recipe_cls) if name[:2] == word[:2]]
        near = suggest(word, alike, cutoff=0.8)
        if near:
            meant = near.replace("_", "-").replace("'", "'--", 1)
            raise UsageError(f"{prog} has no flag --{word.replace('_', '-')}{meant}")
    return words


def own_flags(rest: list[str], prog: str) -> dict[str, Any]:
    """['--num-queries', '300', '--query-mixture'] -> {'num_queries': 300, 'query_mixture': True}"""
    import yaml

    flags: dict[str, list[Any]] = {}
    for word in rest:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            words = flags.setdefault(key.replace("-", "_"), [])
            words += [yaml.safe_load(value)] if value else []
        elif not flags:
            raise UsageError(f"{prog}: '{word}' follows no flag; `{prog} --help` shows the flags")
        else:
            flags[next(reversed(flags))].append(yaml.safe_load(word))
    return {k: True if not v else v[0] if len(v) == 1 else v for k, v in flags.items()}


def dashed(arg: str) -> str:
    """'--batch_size=8' -> '--batch-size=8'"""
    flag, eq, value = arg.partition("=")
    return (flag.replace("_", "-") + eq + value) if flag.startswith("--") else arg
