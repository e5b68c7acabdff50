"""From a recipe to a detector that stands on the right weights: build, load or refuse, freeze."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from backbones import backbone
from backbones.base import Backbone
from backbones.freeze import freeze, freeze_batch_norm, freeze_stages, freeze_unreached
from detection.nets import Detector, detector
from detection.recipe import DetectRecipe, FreezeConfig, ModelConfig
from shared.card import Exported, check_pixels, expected_pixels
from shared.errors import UsageError, WeightsError
from shared.pixels import PixelStats, pixel_stats
from shared.store import Store, Transfer

log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """A backbone, its pixel statistics, and where its weights came from."""

    net: Backbone
    stats: PixelStats
    parent: Exported | None
    transfer: Transfer | None


def backbone_name(model: ModelConfig, store: Store) -> str:
    """The backbone that is asked for, or the only one that has the tag.

    Raises:
        UsageError: the backbone does not come in the width that is asked for.
        WeightsError: the tag is nobody's, or several backbones'.
    """
    if model.backbone is None:
        if model.backbone_tag is None:
            return "resnet_v1_50"
        return store.find(None, model.backbone_tag, model.backbone_epoch).card.arch
    name = model.backbone
    if model.backbone_param in (None, "1", "1.0"):  # `--backbone mobilenet_v2 --backbone-param 1`
        return name
    raise UsageError(f"{name} comes in width 1 only; leave --backbone-param out, or name a timm network of that width")


def stand(recipe: DetectRecipe, store: Store, *, load: bool = True) -> Standing:
    """Build the backbone and give it its weights.

    Args:
        load: False leaves weights of a tag out, for who fills the whole detector afterwards.

    Raises:
        WeightsError: the tag or the published weights are asked for and cannot be had, or do not fit.
    """
    model = recipe.model
    name = backbone_name(model, store)
    options: dict[str, Any] = {} if model.drop_path is None else {"drop_path": model.drop_path}
    if model.backbone_tag is None:
        if model.backbone_epoch is not None:
            raise WeightsError("--backbone-epoch picks an epoch of a tag; name it with --backbone-tag")
        net = backbone.build(name, pretrained=model.backbone_pretrained and load, **options)
        told = pixel_stats(recipe.data.rgb_mode) if recipe.data.rgb_mode else None
        if told and net.pixels and told != net.pixels:
            raise WeightsError(f"timm's {name} expects other pixels than {recipe.data.rgb_mode}; leave --rgb-mode out")
        return Standing(net, told or net.pixels or pixel_stats("imagenet"), None, None)
    parent = store.find(name, model.backbone_tag, model.backbone_epoch)
    if parent.card.kind != "backbone":
        raise WeightsError(f"{parent} is a {parent.card.kind} and no backbone; name a tag that `pretrain` exported")
    stats = expected_pixels(parent)
    if recipe.data.rgb_mode is not None:
        check_pixels(parent, pixel_stats(recipe.data.rgb_mode))
    net = backbone.build(name, **options)
    transfer = store.load(net, parent, allow_missing=model.allow_missing) if load else None
    return Standing(net, stats, parent, transfer)


def build_detector(recipe: DetectRecipe, net: Backbone, num_classes: int) -> Detector:
    """The network of the recipe on a backbone, frozen as told; what no loss can reach is frozen besides."""
    built = detector.build(recipe.model.network, net, num_classes, **recipe.model.network_args)
    apply_freezes(built, recipe.freeze)
    freeze_unreached(net, built.used_maps)
    return built


def apply_freezes(built: Detector, told: FreezeConfig) -> None:
    asked = [told.freeze_body, told.freeze_backbone, told.freeze_backbone_stages is not None]
    if sum(asked) > 1:
        raise UsageError("--freeze-body, --freeze-backbone and --freeze-backbone-stages exclude one another; keep one")
    if told.freeze_body:
        built.requires_grad_(False)
        for part in built.class_head():
            part.requires_grad_(True)
    if told.freeze_backbone:
        freeze(built.backbone)
    if told.freeze_backbone_stages is not None:
        freeze_stages(built.backbone, told.freeze_backbone_stages)
    if told.freeze_backbone_bn:
        freeze_batch_norm(built.backbone)
