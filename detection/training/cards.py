"""The card of a trained detector: what it is, what it was trained on, the classes of every data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detection.data.coco import CocoDetection
from detection.data.panoptic import PanopticDetection
from detection.eval.intervals import bounds_of
from detection.recipe import DataConfig, DetectRecipe
from detection.training.build import OpenedBackbone, default_backbone
from detection.training.datasets import Data
from detection.training.stored_proposals import made_by
from detection.training.vocabularies import Spoken
from shared.runs.session import Session
from shared.weights.card import Card, versions

log = logging.getLogger(__name__)


def card(
    session: Session,
    data: Data,
    opened: OpenedBackbone,
    tag: str,
    epoch: int,
    metrics: dict,
    last: bool,
    spoken: Spoken | None = None,
    intervals: dict[str, Any] | None = None,
) -> Card:
    """The card of a detector's weights; those that made its proposals are parents."""
    recipe: DetectRecipe = session.recipe
    makers = makers_of(data)
    return Card(
        arch=arch_of(recipe, opened),
        tag=tag,
        epoch=epoch,
        kind="detector",
        finished=last,
        method="detection",
        args=built_from(recipe, opened),
        pixels={"mean": list(opened.stats.mean), "std": list(opened.stats.std)},
        classes=all_classes(data) | ({} if spoken is None else {"vocabularies": spoken.on_card()}),
        parents=[*([opened.parent.reference] if opened.parent else []), *makers],
        data=data_of_card(data, recipe.data) | ({"proposals": makers[0]} if makers else {}),
        metrics=metrics,
        intervals=intervals or {},
        cost=session.cost(),
        recipe=session.recipe_values(),
        versions=versions(),
    )


def intervals_of(latest: Sequence[Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """The bounds of the last evaluation's metrics for the card; none if this process did not evaluate."""
    if not latest or not metrics:
        return {}
    bounds = bounds_of(latest[0])
    shown = bounds._replace(of={name: pair for name, pair in bounds.of.items() if name in metrics})
    headline = next(iter(metrics))
    if headline in shown.of:
        low, high = shown.of[headline]
        log.info("%s of many such images is between %.4f and %.4f", headline, low, high)
    elif bounds.note:
        log.info("%s", bounds.note)
    return shown.to_dict()


def makers_of(data: Data) -> list[Any]:
    """The weights that made the stored proposals of each set, without repetition."""
    makers = []
    for images in data.trains:
        maker = made_by(images)
        if maker and maker not in makers:
            makers.append(maker)
    return makers


def data_of_card(data: Data, config: DataConfig) -> dict[str, Any]:
    """What was trained on, and where it was; of several sets, each."""
    told: dict[str, Any] = {"fingerprint": data.samples.fingerprint, "samples": len(data.samples)}
    if not data.sets:
        return {**told, "path": str(config.data_path)}
    sets = [
        {
            "name": one.name,
            "fingerprint": one.train.fingerprint,
            "samples": len(one.train),
            "share": one.share,
            "path": str(one.config.data_path),
        }
        for one in data.sets
    ]
    return {**told, "path": sets[0]["path"], "sets": sets}


def all_classes(data: Data) -> dict[str, Any]:
    """The classes of the first set; of several with their own classes, also each set's, of joined ones the joining."""
    first = classes_of_card(data.train)
    if not data.sets:
        return first
    if data.train.partial:
        joined = {one.name: one.train.classes.joined.get(one.name, {}) for one in data.sets}
        return first | ({"joined": joined} if any(joined.values()) else {})
    return first | {"sets": [{"name": one.name, **classes_of_card(one.train)} for one in data.sets]}


def classes_of_card(data: CocoDetection) -> dict[str, Any]:
    """Class names and ids, keypoint names, and which classes are things."""
    classes = data.classes.to_dict()
    if data.skeleton is not None:
        classes["skeleton"] = data.skeleton.to_dict()
    return classes | ({"isthing": data.isthing} if isinstance(data, PanopticDetection) else {})


def built_from(recipe: DetectRecipe, opened: OpenedBackbone) -> dict[str, Any]:
    """The arguments that build a network of the same shape."""
    return {
        "network": recipe.model.network,
        "network_args": recipe.model.network_args,
        "backbone": backbone_of(recipe, opened),
        "backbone_args": opened.args,
    }


def backbone_of(recipe: DetectRecipe, opened: OpenedBackbone) -> str:
    if opened.parent is not None and opened.parent.card.kind == "detector":
        return opened.parent.card.args["backbone"]
    return recipe.model.backbone or (opened.parent.card.arch if opened.parent else default_backbone(recipe.model))


def arch_of(recipe: DetectRecipe, opened: OpenedBackbone) -> str:
    """The store name of the detector's weights."""
    return f"{recipe.model.network}-{backbone_of(recipe, opened)}"
