"""Recipe files: flat YAML over at most two bases.

recipes/base/*.yaml  <  recipes/{pretrain,detect}/NAME.yaml        a base has no base
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.registry import suggest


def recipe_folder() -> Path:
    """The folder `recipes/` of this installation."""
    return Path(__file__).parents[2] / "recipes"  # beside this package, in a checkout and when installed


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat YAML mapping with a safe loader; a duplicate key is an error.

    Raises:
        UsageError: not a YAML mapping, or a key appears twice.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise UsageError(f"{path}: key '{twice[0]}' appears twice; keep one")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Strict)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}; fix that line"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a recipe: it should hold lines such as `epochs: 26`")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def load(name_or_path: str, folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Flat values of a recipe merged over its bases, and the origin of each value."""
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(os.path.expanduser(name_or_path)) if is_path else recipe_folder() / folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = recipe_names(folder)
        raise UsageError(
            f"no recipe '{name_or_path}'{suggest(name_or_path, known)}; "
            + (f"there is no file {path}" if is_path else f"recipes/{folder} has {', '.join(known) or 'none'}")
        )
    values = read_yaml(path)
    bases = values.pop("base", None) or []
    if bases and path.parent.name == "base":
        raise UsageError(f"{path} is a base and has a `base:` of its own; bases have one level, merge the two")
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        under, _ = load(str(base), "base")
        merged = over(merged, under)
        origins |= dict.fromkeys(under, f"base {base}")
    kind = "base" if folder == "base" else "recipe"
    return over(merged, values), origins | dict.fromkeys(values, f"{kind} {path.stem}")


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two sets of values; dictionaries, such as network options, are merged key by key."""
    joined = {
        name: {**below[name], **value}
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **joined}


def recipe_names(folder: str) -> list[str]:
    return sorted(p.stem for p in (recipe_folder() / folder).glob("*.yaml"))


def recipe_headline(folder: str, name: str) -> str:
    """The first line of a recipe's header that is not a command."""
    for line in (recipe_folder() / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        words = line.lstrip("# ").strip()
        if line.startswith("#") and words and not words.endswith(".yaml"):
            return words
    return ""


def tag_of(method: str, tag: str | None) -> str:
    """The tag a method exports under: METHOD, or METHOD-TAG; for `supervised`, TAG alone."""
    if tag is None:
        return method
    return tag if method == "supervised" else f"{method}-{tag}"


def recipes_for(arch: str | None, tag: str) -> list[str]:
    """Names of the pretraining recipes that export under this arch (None: any) and tag."""
    return [name for name, model, made in _exports(recipe_folder()) if made == tag and arch in (None, model)]


@cache
def _exports(folder: Path) -> list[tuple[str, str | None, str]]:
    """(name, model, tag) of every pretraining recipe in the folder; they are read once."""
    every = [(name, load(name, "pretrain")[0]) for name in recipe_names("pretrain")]
    return [
        (name, values.get("model"), tag_of(values.get("method", "supervised"), values.get("tag")))
        for name, values in every
    ]
