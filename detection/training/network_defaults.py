"""The settings a network is trained with when no recipe is given: those of its paper or reference, from its page.

    detection/nets/<name>.py: trained={...} -> settings: fitted to the flags -> a layer below them
                                            -> notes: one line that says so

The learning rate is scaled to the batch (`lr_batch`), the schedule to --epochs. Imports torch, with the networks.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from detection.nets import trained_as
from detection.recipe import DetectRecipe
from shared.loop.optim import for_batch
from shared.recipes.recipe import Resolved

RATES = ("lr", "lr_batch", "backbone_lr", "wd", "norm_wd", "layer_decay", "clip_grad_norm", "momentum")


def settings(recipe: DetectRecipe, flags: Set[str]) -> dict[str, Any]:
    """The reference's settings of the recipe's network that go with what the user gave.

    A command with --lr has settings of its own, as those of other programs do, and gets none. Left out are the rates
    with another optimizer, and the augmentation with options of another one. A backbone with random weights learns at
    the full rate.
    """
    if "lr" in flags:
        return {}
    _, values = trained_as(recipe.model.network)
    model, epochs = recipe.model, recipe.schedule.epochs
    if "opt" in flags and recipe.optim.opt != values["opt"]:
        values = without(values, *RATES)
    if not (model.backbone_tag or model.backbone_pretrained or model.weights_backbone or starts_from_a_detector(model)):
        values = without(values, "backbone_lr", "layer_decay")
    if flags & {"aug_type", "aug_level", "multiscale"}:
        values = without(values, "aug_type", "multiscale", "smallest_side")
    if "epochs" in flags and epochs > 0:
        values = values | shortened(values, epochs)
    return values


def starts_from_a_detector(model: Any) -> bool:
    return model.init_from is not None or model.resume_epoch is not None or model.backbone_epoch is not None


def shortened(values: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The schedule for another number of epochs: decays in proportion; a warm-up of an epoch stays, up to a quarter."""
    share = epochs / values["epochs"]
    changed: dict[str, Any] = {}
    if "lr_steps" in values:
        changed["lr_steps"] = [moment * share for moment in values["lr_steps"]]
    if "lr_step_size" in values:
        changed["lr_step_size"] = values["lr_step_size"] * share
    if "warmup_epochs" in values:
        usual = values["warmup_epochs"]
        changed["warmup_epochs"] = min(max(min(usual, 1.0), usual * min(share, 1)), epochs / 4)
    return changed


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def notes(resolved: Resolved, step_size: int) -> list[str]:
    """One line that says which reference was followed and what was scaled, or that --lr asked for none.

    Empty with a recipe, the demo data, or a resumed run.

    Args:
        step_size: images per optimizer step.
    """
    recipe: DetectRecipe = resolved.recipe
    network, optim, schedule = recipe.model.network, recipe.optim, recipe.schedule
    by, values = trained_as(network)
    taken = {name for name, origin in resolved.origins.items() if origin == f"network {network}"} - {"resize_rule"}
    rate = f"learning rate {optim.lr:g}"
    if not taken:
        layers = ("recipe ", "base ", "run ")
        if resolved.origins.get("lr") != "flag" or any(o.startswith(layers) for o in resolved.origins.values()):
            return []
        return [
            f"--lr is given, so the flags alone decide: {optim.opt}, {rate}, {schedule.lr_scheduler} schedule, "
            f"augmentation {recipe.data.aug_type}; without it {network} is trained as in {by}"
        ]
    if "lr" in taken:
        rate += f" for {optim.lr_batch} images per step, {for_batch(optim, step_size).lr:g} for {step_size}"
    elif "opt" not in taken and "lr" not in resolved.origins:
        rate += f", a default for sgd (the reference has no rate for {optim.opt}; give --lr)"
    length = f"{schedule.lr_scheduler} schedule over {schedule.epochs} epochs"
    if schedule.epochs != values["epochs"]:
        length += f" in proportion to its {values['epochs']}"
    return [
        f"no --recipe: {network} is trained as in {by}: {optim.opt}, {rate}, {length}, augmentation "
        f"{recipe.data.aug_type}; --dry-run shows all values"
    ]
