"""The command line of a recipe: one flag per knob, aliases and spellings of torchvision's, DETR's and birder's
programs, and one flag per option of a network or method.

    default < layers below (demo settings, the resumed run) < --recipe < --scale < flags

A flag that is unknown is answered before anything is opened: with what another program's flag is called here, else with
the nearest one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shared.errors import UsageError
from shared.recipes.files import load, over
from shared.recipes.nearest import suggest
from shared.recipes.offers import Offers
from shared.recipes.other_programs import OURS, read_as, what_instead
from shared.recipes.recipe import Resolved, all_knobs, make, sections
from shared.recipes.submit import add_submit_flags
from shared.recipes.values import whole

Under = Sequence[tuple[str, dict[str, Any]]]  # (origin, values) of the layers below a recipe, lowest first


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and accepts no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; `{self.prog} --help` shows the flags")

    def parse_exactly(self, argv: list[str], *, intermixed: bool = False) -> argparse.Namespace:
        """parse_args that accepts underscores for dashes and flags of other programs.

        Args:
            intermixed: words that may be left out are found between flags too.

        Raises:
            UsageError: an unknown flag, reported before any other mistake; a word without a flag, a missing or wrong
                value.
        """
        parse = self.parse_known_intermixed_args if intermixed else self.parse_known_args
        known, rest = parse([part for word in argv for part in self.understood(dashed(word))])
        if rest:
            near = suggest("--" + rest[0].partition("=")[0], [*self.flags(), *OURS], cutoff=0.8)
            raise UsageError(f"{self.prog}: '{rest[0]}' follows no flag{near}; `{self.prog} --help` shows the flags")
        return known

    def flags(self) -> list[str]:
        """Every flag, with its aliases."""
        return [word for action in self._actions for word in action.option_strings]

    def understood(self, word: str) -> list[str]:
        """A word of the command line, or what a flag of another program stands for.

        Raises:
            UsageError: an unknown flag.
        """
        flag, eq, value = word.partition("=")
        known = self._option_string_actions
        if not re.fullmatch(r"--?[A-Za-z][\w.-]*", flag) or flag in known:
            return [word]
        if not flag.startswith("--") and flag[:2] in known:  # -b8 is -b 8
            return [word]
        meant = read_as(flag, known)
        if meant is not None:
            return [*meant, value] if eq and len(meant) == 1 else meant
        instead = what_instead(flag)
        hint = f": {instead}" if instead else f"{suggest(flag, self.flags())}; `{self.prog} --help` shows them"
        raise UsageError(f"{self.prog} has no flag {flag}{hint}")


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    """Add --max-pixels, for `shared.feeding.image.limit_pixels`."""
    parser.add_argument(
        "--max-pixels",
        type=whole(1, 10_000_000_000),
        metavar="PIXELS",
        help="pixels of the largest image that is decoded (default: 50 million, and 20,000 on a side)",
    )


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
        own: the field for flags that are options, such as `network_args`: `--num-queries 300` is an option of the
            detector, and `settled` checks it when the detector is known; '' for none.
        under: (origin, values) below the recipe, such as the saved recipe of a resumed run.
        tiny: the values that `--scale tiny` changes; a recipe's own `tiny:` entries override them.
    """
    flags = vars(recipe_parser(recipe_cls, prog, scales=tiny is not None, own=own).parse_exactly(argv))
    options = {word[1:]: flags.pop(word) for word in [*flags] if word.startswith(".")}
    name, scale = flags.pop("recipe", None), flags.pop("scale", None)
    flags = switched(recipe_cls, flags)
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
    if options or own in flags:
        flags[own] = {**dict(flags.get(own, {})), **options}
    make(recipe_cls, flags, source="flags")
    origins |= dict.fromkeys(flags, "flag")
    resolved = Resolved(make(recipe_cls, over(values, flags)), origins)
    return settled(resolved, own, strict=False) if options_of(recipe_cls, own) else resolved


def switched(recipe_cls: type, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags with words such as `auto` of --batch-size as the switches that they stand for."""
    knobs = all_knobs(recipe_cls)
    on = {
        name: knobs[name][1].metadata["switches"][word]
        for name, word in flags.items()
        if name in knobs and isinstance(word, str) and word in knobs[name][1].metadata["switches"]
    }
    return {name: value for name, value in flags.items() if name not in on} | dict.fromkeys(on.values(), True)


def recipe_parser(recipe_cls: type, prog: str, *, scales: bool = False, own: str = "") -> Parser:
    """The flags of a recipe, and of the options that its field `own` holds."""
    parser = Parser(prog=prog, usage=f"{prog} [--recipe NAME] [flags]")
    parser.add_argument("--recipe", help="a name under recipes/ or a .yaml file; flags override it", metavar="NAME")
    if scales:
        description = "tiny: run the recipe in about a minute on a laptop, as a test"
        parser.add_argument("--scale", choices=["tiny"], default=argparse.SUPPRESS, help=description)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    if prog.endswith(" train"):
        add_submit_flags(parser)
    add_flags(parser, recipe_cls)
    offered = options_of(recipe_cls, own)
    if offered is not None:
        add_options(parser, offered[0], list(all_knobs(recipe_cls)))
    return parser


def replay_flags(prog: str) -> Parser:
    """The arguments of `replay`, the same in both programs."""
    parser = Parser(
        prog=prog,
        description="Replay a step whose loss was NaN or Inf, on the CPU: its losses, the first module that "
        "produced NaN "
        "or Inf, and each named image alone. Neither the run nor its data is needed.",
    )
    parser.add_argument("file", type=Path, help="replay-step-*.pt of a run's folder")
    return parser


def options_of(recipe_cls: type, own: str) -> tuple[Offers, str] | None:
    """What offers the options that the field `own` holds, and the field that chooses one of its names."""
    knobs = all_knobs(recipe_cls)
    return knobs[own][1].metadata["options"] if own in knobs else None


def settled(resolved: Resolved, own: str, *, strict: bool = True) -> Resolved:
    """The recipe with its options of the chosen network or method as values of their types.

    Args:
        own: the field of the options.
        strict: refuse options that the chosen one does not have; otherwise they are kept, since a layer below may
            choose another one.

    Raises:
        UsageError: an unknown name, an option of another name, another type, or a number out of range.
    """
    recipe = resolved.recipe
    section, field, _ = all_knobs(type(recipe))[own]
    offers, chooses = field.metadata["options"]
    part = getattr(recipe, section)
    values = offers.check(getattr(part, chooses), getattr(part, own), strict=strict)
    return replace(resolved, recipe=replace(recipe, **{section: replace(part, **{own: values})}))


def add_options(parser: argparse.ArgumentParser, offers: Offers, taken: Sequence[str]) -> None:
    """Add one flag per option of any name; its `dest` is the option after a dot. Values stay strings, as in add_flags.

    Args:
        taken: names of fields, which are flags already.
    """
    group = parser.add_argument_group(f"options of the {offers.kind}", f"each belongs to some {offers.kind}s only")
    for name, about in sorted(offers.all_options().items()):
        if name in taken:
            continue
        names = offers.having(name)
        whose = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        kw: dict[str, Any] = {"nargs": "?", "const": "true"} if about.annotation == "bool" else {"metavar": "VALUE"}
        text = f"{about.help} ({whose})".replace("%", "%%").strip()
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, dest=f".{name}", default=argparse.SUPPRESS, help=text, **kw)


def dashed(arg: str) -> str:
    """'--batch_size=8' -> '--batch-size=8'"""
    flag, eq, value = arg.partition("=")
    return (flag.replace("_", "-") + eq + value) if flag.startswith("--") else arg
