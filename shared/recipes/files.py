"""Recipe files: flat YAML over at most two bases.

recipes/base/*.yaml  <  recipes/{pretrain,detect}/NAME.yaml        a base has no base
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import UsageError
from shared.recipes.registry import suggest


def recipe_folder() -> Path:
    """Where the recipes of this installation lie."""
    return Path(__file__).parents[2] / "recipes"  # beside this package, in a checkout and when installed


def read_yaml(path: Path) -> dict[str, Any]:
    """A flat YAML mapping, read safely; a key that stands twice is an error, not a coin toss."""
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise UsageError(f"{path}: '{twice[0]}' stands there twice; keep one")
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Strict)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}; mend that line"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a recipe: it should hold lines such as `epochs: 26`")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def load(name_or_path: str, folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Flat values of a recipe over its bases, later ones over earlier ones, and the origin of each."""
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path).expanduser() if is_path else recipe_folder() / folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = recipe_names(folder)
        raise UsageError(
            f"no recipe '{name_or_path}'{suggest(name_or_path, known)}; "
            + (f"there is no file {path}" if is_path else f"recipes/{folder} has {', '.join(known) or 'none'}")
        )
    values = read_yaml(path)
    bases = values.pop("base", None) or []
    if bases and path.parent.name == "base":
        raise UsageError(f"{path} is a base and names a base of its own; one level is all there is")
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        under, _ = load(str(base), "base")
        merged = over(merged, under)
        origins |= dict.fromkeys(under, f"base {base}")
    kind = "base" if folder == "base" else "recipe"
    return over(merged, values), origins | dict.fromkeys(values, f"{kind} {path.stem}")


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others laid over them; options of a network or method go one by one, as flags do."""
    joined = {
        name: {**below[name], **value}
        for name, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **joined}


def recipe_names(folder: str) -> list[str]:
    return sorted(p.stem for p in (recipe_folder() / folder).glob("*.yaml"))


def recipe_headline(folder: str, name: str) -> str:
    """The first words a recipe says about itself."""
    for line in (recipe_folder() / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        words = line.lstrip("# ").strip()
        if line.startswith("#") and words and not words.endswith(".yaml"):
            return words
    return ""


def tag_of(method: str, tag: str | None) -> str:
    """Under which tag a method exports: its own name, then the given word; for `supervised` the word alone."""
    if tag is None:
        return method
    return tag if method == "supervised" else f"{method}-{tag}"


def recipes_for(arch: str | None, tag: str) -> list[str]:
    """The pretraining recipes whose result is found under this arch (None: any) and tag."""
    found = []
    for name in recipe_names("pretrain"):
        values, _ = load(name, "pretrain")
        made = tag_of(values.get("method", "supervised"), values.get("tag"))
        if made == tag and arch in (None, values.get("model")):
            found.append(name)
    return found
