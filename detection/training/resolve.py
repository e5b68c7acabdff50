"""From a `detect train` command line to a recipe. `--help` and unknown flags are answered without importing torch.

defaults < the network's (no recipe, demo or resumed run) < demo's settings (no data given) < data set's default network
< trained detector's names < resumed run's < --recipe < --scale < flags
"""

from __future__ import annotations

from detection.recipe import FIXED, DetectRecipe, defaults_for, run_stem, tiny
from shared.recipes.flags import Parser, Under, from_args, recipe_parser, settled
from shared.recipes.recipe import Resolved
from shared.runs.resume import layered


def train_flags(prog: str = "detect train") -> Parser:
    """The flags of `detect train`."""
    return recipe_parser(DetectRecipe, prog, scales=True, own="network_args")


def resolve(argv: list[str]) -> Resolved:
    """The flags of `detect train` as a recipe, with the origin of each value.

    Raises:
        UsageError: an unknown flag or recipe, or a value out of range.
        WeightsError: --init-from names nothing that can be loaded.
    """

    def parsed(under: Under) -> Resolved:
        return from_args(
            DetectRecipe, argv, prog="detect train", folder="detect", own="network_args", under=under, tiny=tiny
        )

    def over_the_data_set(under: Under) -> Resolved:
        recipe = parsed(under).recipe
        usual = defaults_for(recipe.model, recipe.data)
        return parsed([(f"dataset {recipe.data.dataset}", usual), *under]) if usual else parsed(under)

    def over_the_start(under: Under) -> Resolved:
        resolved = over_the_data_set(under)
        if resolved.recipe.model.init_from is None:
            return resolved
        from detection.training.start import as_recipe, find_start

        start = find_start(resolved.recipe.model, resolved.recipe.runtime.weights_dir)
        assert start is not None
        network = resolved.recipe.model.network if "network" in resolved.origins else None
        return over_the_data_set([(f"weights {start.card.tag}", as_recipe(start, network)), *under])

    def over_the_network(under: Under) -> Resolved:
        given = over_the_start(under)
        if not under and given.recipe.data.data_path is None and not given.recipe.data.datasets:
            return given  # it is read again over the demo's settings or a resumed run's
        settled(given, "network_args")  # before torch is imported
        network = given.recipe.model.network
        from detection.nets import resize_rule
        from detection.training.network_defaults import settings

        flags = {name for name, origin in given.origins.items() if origin == "flag"}
        follows = any(origin.startswith("recipe ") for origin in given.origins.values())
        usual = {} if under or follows else settings(given.recipe, flags)
        resumed = any(origin.startswith("run ") for origin, _ in under)
        # a run of a version without rules goes on as it began; its own value, if it has one, is a layer above
        rule = "legacy" if resumed else resize_rule(network)
        return over_the_start([(f"network {network}", {**usual, "resize_rule": rule}), *under])

    return layered(
        over_the_network,
        stem=run_stem,
        demo="demo_detect",
        fixed=FIXED,
        settle=lambda found: settled(found, "network_args"),
    )
