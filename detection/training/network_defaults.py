"""The settings a network is trained with when no recipe is given: those of its paper or reference, from its page.

    detection/nets/<name>.py: trained={...} -> settings: fitted to the flags -> a layer below them
                                            -> notes: one line that says so

Imports torch, with the networks.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from detection.nets import trained_as
from detection.recipe import DetectRecipe
from shared.loop.optim import for_batch
from shared.recipes.recipe import Resolved
from shared.recipes.usual import fitted, sentence, without


def settings(recipe: DetectRecipe, flags: Set[str]) -> dict[str, Any]:
    """The reference's settings of the recipe's network that go with what the user gave; see `fitted`.

    Left out is the augmentation with options of another one. A backbone with random weights learns at the full rate,
    all of it.
    """
    _, values = trained_as(recipe.model.network)
    model = recipe.model
    if not (model.backbone_tag or model.backbone_pretrained or model.weights_backbone or starts_from_a_detector(model)):
        values = without(values, "backbone_lr", "layer_decay", "freeze_backbone_stages")
    if flags & {"freeze_backbone", "freeze_body"}:
        values = without(values, "freeze_backbone_stages")
    if flags & {"aug_type", "aug_level", "multiscale"}:
        values = without(values, "aug_type", "multiscale", "smallest_side")
    return fitted(values, recipe, flags)


def starts_from_a_detector(model: Any) -> bool:
    return model.init_from is not None or model.resume_epoch is not None or model.backbone_epoch is not None


def notes(resolved: Resolved, step_size: int) -> list[str]:
    """One line about the reference that is followed, if there is one.

    Args:
        step_size: images per optimizer step.
    """
    recipe: DetectRecipe = resolved.recipe
    network = recipe.model.network
    by, values = trained_as(network)
    return sentence(
        resolved,
        network,
        by,
        values["epochs"],
        layer=f"network {network}",
        step_size=step_size,
        rate=for_batch(recipe.optim, step_size).lr,
        more=f", augmentation {recipe.data.aug_type}",
    )
