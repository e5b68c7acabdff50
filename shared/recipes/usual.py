"""The settings of a paper or reference, fitted to what the user gave: a layer below the user's recipe.

    facts of a network or method: trained={"by": ..., "opt": ..., "lr": ...} -> fitted -> recipe values
                                                                             -> sentence: one line that says so

The learning rate is scaled to the batch by `lr_batch`, the schedule to --epochs.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from shared.recipes.recipe import Resolved

RATES = ("lr", "lr_batch", "backbone_lr", "wd", "wd_end", "norm_wd", "bias_wd", "layer_decay", "clip_grad_norm")
RATES += ("momentum", "betas")


def fitted(values: dict[str, Any], recipe: Any, flags: Set[str]) -> dict[str, Any]:
    """The reference's values that go with what the user gave.

    A command with --lr has settings of its own, as those of other programs do, and gets none. With another optimizer,
    the reference's rates are left out.

    Args:
        values: recipe values by name.
        recipe: of the command line alone, with the sections `optim` and `schedule`.
        flags: names of the values that were given as flags.
    """
    if "lr" in flags:
        return {}
    if "opt" in flags and recipe.optim.opt != values["opt"]:
        values = without(values, *RATES)
    epochs = recipe.schedule.epochs
    return values | shortened(values, epochs) if "epochs" in flags and epochs > 0 else values


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


def sentence(
    resolved: Resolved, subject: str, by: str, usual_epochs: int, *, layer: str, step_size: int, rate: float, more: str
) -> list[str]:
    """One line that says which reference is followed and what is scaled, or that --lr asks for none.

    Empty with a recipe, the demo data, or a resumed run.

    Args:
        subject: the network or method.
        by: whose settings they are.
        usual_epochs: length of the reference's training.
        layer: origin of the reference's values in `resolved`.
        step_size: images per optimizer step.
        rate: the learning rate at that step size.
        more: the end of the line, such as the augmentation; may be empty.
    """
    optim, schedule = resolved.recipe.optim, resolved.recipe.schedule
    taken = {name for name, origin in resolved.origins.items() if origin == layer} - {"resize_rule"}
    words = f"learning rate {optim.lr:g}"
    if not taken:
        layers = ("recipe ", "base ", "run ")
        if resolved.origins.get("lr") != "flag" or any(o.startswith(layers) for o in resolved.origins.values()):
            return []
        return [
            f"--lr is given, so the flags alone decide: {optim.opt}, {words}, {schedule.lr_scheduler} schedule{more}; "
            f"without it {subject} is trained as in {by}"
        ]
    if "lr" in taken:
        words += f" for {optim.lr_batch} images per step, {rate:g} for {step_size}"
    elif "opt" not in taken and "lr" not in resolved.origins:
        words += f", a default for sgd (the reference has no rate for {optim.opt}; give --lr)"
    length = f"{schedule.lr_scheduler} schedule over {schedule.epochs} epochs"
    if schedule.epochs != usual_epochs:
        length += f" in proportion to its {usual_epochs}"
    return [f"no --recipe: {subject} is trained as in {by}: {optim.opt}, {words}, {length}{more}; --dry-run shows all"]
