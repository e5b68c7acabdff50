"""The data sets of a recipe: `--data-path` with its flags, and a value of `--datasets` for each further one.

    objects365.yaml                                      a YAML of keys of the data section, and of name and share
    data_path=o365,coco_json_path=o365.json,share=0.5    the same in one word, without blanks or commas in paths

Paths are as in flags. Keys that a value leaves out: where the images and annotations are, none; all others, those of
the recipe.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from detection.data.annotations.joins import check_set_names
from detection.recipe import DataConfig, DetectRecipe
from shared.errors import UsageError
from shared.recipes.files import read_yaml
from shared.recipes.nearest import suggest
from shared.recipes.recipe import all_knobs, coerce
from shared.recipes.values import Range, convert, in_range

PLACES = (  # keys that belong to one set; the others are shared
    *("data_path", "dataset", "val_path", "coco_json_path", "coco_val_json_path", "ignore_file"),
    *("vocabulary", "proposals"),
)
ALSO = ("repeat_threshold", "drop_empty", "limit", "allow_missing_images", "upright", "as_stored")
SHARE = Range(above=0, high=100)


class SetOf(NamedTuple):
    """One data set of a recipe.

    name: for metrics, logs and cards; '' for the only one.
    share: how often its images come in an epoch.
    config: the data section as if it were the only set.
    """

    name: str
    share: float
    config: DataConfig


def sets_of(config: DataConfig) -> list[SetOf]:
    """The data sets of a recipe, at least one.

    Raises:
        UsageError: an unknown key, a value out of range, a set without data_path, or two of one name.
    """
    if not config.datasets:
        return [SetOf("", 1.0, config)]
    sets = [] if config.data_path is None else [SetOf(default_name(config), 1.0, replace(config, datasets=()))]
    usual = {f.name: f.default for f in fields(DataConfig)}
    own = [key for key in PLACES if key in usual]
    if not sets and (given := [key for key in own if getattr(config, key) != usual[key]]):
        flag = given[0].replace("_", "-")
        raise UsageError(f"--{flag} is of a set without --data-path; put {given[0]} into that value of --datasets")
    bare = replace(config, datasets=(), **{key: usual[key] for key in own})
    for word in config.datasets:
        sets.append(read_set(word, bare))
    try:
        check_set_names([one.name for one in sets])
    except UsageError as error:
        raise UsageError(f"--datasets: {error}, such as name=coco") from None
    if len(sets) == 1 and sets[0].share != 1:
        raise UsageError("share weights a set against others, and there is one; remove it, or give another set")
    return sets if len(sets) > 1 else [sets[0]._replace(name="")]


def read_set(word: str, bare: DataConfig) -> SetOf:
    """One value of --datasets.

    Args:
        bare: the values of keys that it leaves out.
    """
    values, where = words_of(word)
    knobs = all_knobs(DetectRecipe)
    known = [key for key in (*PLACES, *ALSO) if key in knobs]
    name, share = values.pop("name", None), values.pop("share", 1.0)
    for key in values:
        if key not in known:
            near = suggest(key, [*known, "name", "share"])
            raise UsageError(
                f"--datasets {where}: no key '{key}'{near}; a set has {', '.join([*known, 'name', 'share'])}"
            )
    read = {
        key: coerce(value, knobs[key][2], knobs[key][1], f"--datasets {where}: {key}") for key, value in values.items()
    }
    config = replace(bare, **read)
    if config.data_path is None:
        raise UsageError(f"--datasets {where} has no data_path; give the folder of its images")
    at = f"--datasets {where}: share"
    return SetOf(
        default_name(config) if name is None else str(name), in_range(convert(share, float, at), SHARE, at), config
    )


def words_of(word: str) -> tuple[dict[str, Any], str]:
    """A value as keys, and what to call it in messages."""
    path = Path(word).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") and "=" not in word:
        if not path.is_file():
            raise UsageError(f"--datasets {word} is not there; give a YAML of a set's keys, or key=value,key=value")
        values = read_yaml(path)
    else:
        pairs = [part.partition("=") for part in word.split(",") if part.strip()]
        wrong = [key for key, equals, _ in pairs if not equals or not key.strip()]
        if wrong or not pairs:
            part = wrong[0] if wrong else word
            raise UsageError(f"--datasets {word} is neither a YAML file nor key=value,key=value; correct '{part}'")
        keys = [key.strip() for key, _, _ in pairs]
        if len(set(keys)) < len(keys):
            raise UsageError(f"--datasets {word} has the key '{max(keys, key=keys.count)}' twice; keep one")
        values = {key.strip(): value.strip() for key, _, value in pairs}
    return {str(key).replace("-", "_"): value for key, value in values.items()}, word


def default_name(config: DataConfig) -> str:
    """The name of a set that is given none: that of its folder."""
    assert config.data_path is not None
    return config.data_path.expanduser().resolve().name.replace(" ", "_") or "data"
