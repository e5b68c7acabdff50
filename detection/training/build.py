"""From a recipe to a detector with the right weights: build it, load or stop, freeze."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from backbones import backbone, build_backbone
from backbones.base import Backbone
from backbones.freeze import freeze, freeze_batch_norm, freeze_stages, freeze_unreached
from backbones.inherit import fill, find_parent, inherit, is_beside, is_stale, keep, kept_args, rebuild
from backbones.published import BACKBONES, fill_published, published_pixels
from backbones.torchvision_zoo import train_last
from detection.nets import Detector, detector
from detection.recipe import DetectRecipe, FreezeConfig, ModelConfig
from shared.devices import dist
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.weights.card import Exported, check_pixels, expected_pixels, listed, read_tensors
from shared.weights.store import NotThere, Store, Transfer
from shared.weights.transfer import fill as fill_module

log = logging.getLogger(__name__)


class OpenedBackbone(NamedTuple):
    """A backbone with its pixel statistics, the origin of its weights and the options it was built with."""

    net: Backbone
    stats: PixelStats
    parent: Exported | None
    transfer: Transfer | None
    args: dict[str, Any] = {}


def backbone_name(model: ModelConfig, store: Store) -> str:
    """The backbone's name: as given, else the only one with the tag, else that of the published weights.

    Raises:
        UsageError: the backbone does not exist in the requested width.
        WeightsError: no backbone has the tag, or several have.
    """
    if model.backbone is None:
        if model.backbone_tag is None:
            return default_backbone(model)
        return store.find(None, model.backbone_tag, model.backbone_epoch).card.arch
    name = model.backbone
    if model.backbone_param in (None, "1", "1.0"):  # `--backbone mobilenet_v2 --backbone-param 1`
        return name
    raise UsageError(f"{name} exists in width 1 only; remove --backbone-param, or give a timm network of that width")


def default_backbone(model: ModelConfig) -> str:
    """The backbone without a tag: the one given, else that of the published weights, else a ResNet-50."""
    return model.backbone or BACKBONES.get((model.weights_backbone or "").partition(".")[0], "resnet_v1_50")


def open_backbone(recipe: DetectRecipe, store: Store, *, load: bool = True) -> OpenedBackbone:
    """Build the backbone and give it its weights.

    Args:
        load: False skips the tag's weights, for callers that load the whole detector afterwards.

    Raises:
        WeightsError: the tag or the published weights are not available, or do not fit.
    """
    model = recipe.model
    name = backbone_name(model, store)
    if model.backbone_tag is None and model.backbone_epoch is not None:
        model = replace(model, backbone_tag=only_tag(store, name))
        recipe = replace(recipe, model=model)
    options = backbone_options(model)
    if model.weights_backbone is not None:
        return open_published(recipe, name, model.weights_backbone, load=load)
    if model.backbone_tag is None:
        net = build_backbone(name, pretrained=model.backbone_pretrained and load, **options)
        pixels = pixel_stats(recipe.data.rgb_mode) if recipe.data.rgb_mode else None
        if pixels and net.pixels and pixels != net.pixels:
            raise WeightsError(
                f"timm's {name} was trained with another normalization than {recipe.data.rgb_mode}; remove --rgb-mode"
            )
        return OpenedBackbone(net, pixels or net.pixels or pixel_stats("imagenet"), None, None, dilation_of(model))
    parent, nothing = None, None
    try:
        parent = store.find(name, model.backbone_tag, model.backbone_epoch)
    except NotThere as refusal:
        nothing = refusal
    if parent is None or ("@" not in model.backbone_tag and is_stale(store, parent)):
        inherited = open_inherited(recipe, store, name, kept_args(parent.card) if parent else {}, load=load)
        if inherited is not None:
            return inherited
    if parent is None:
        raise nothing or AssertionError("find_export returns an export or raises")
    stats = pixels_of(parent, recipe)
    net = rebuild(parent.card, **options)
    transfer = fill(store, net, parent, model.allow_missing) if load else None
    return OpenedBackbone(net, stats, parent, transfer, kept_args(parent.card) | dilation_of(model))


def open_published(recipe: DetectRecipe, name: str, weights: str, *, load: bool) -> OpenedBackbone:
    """The backbone with weights that torchvision publishes.

    Raises:
        UsageError: there are none of that name, or a tag is given too.
        WeightsError: they are not available, or belong to another backbone.
    """
    if recipe.model.backbone_tag is not None or recipe.model.backbone_pretrained:
        raise UsageError(
            "--weights-backbone already names the backbone's weights; remove --backbone-tag and --backbone-pretrained"
        )
    net = backbone.build(name, **backbone_options(recipe.model))
    stats, transfer = published_pixels(weights), None
    if load:
        transfer, stats = fill_published(net, weights, offline=recipe.runtime.offline)
    pixels = pixel_stats(recipe.data.rgb_mode) if recipe.data.rgb_mode else stats
    if pixels != stats:
        log.warning(
            "%s was trained with another normalization than --rgb-mode %s, which is used", weights, recipe.data.rgb_mode
        )
    return OpenedBackbone(net, pixels, None, transfer, dilation_of(recipe.model))


def only_tag(store: Store, name: str) -> str:
    """The tag that --backbone-epoch means when none is given: the only one this backbone has.

    Raises:
        WeightsError: it has none, or several.
    """
    tags = sorted({e.card.tag for e in store.all() if e.card.arch == name})
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise WeightsError(f"--backbone-epoch: {name} has the tags {listed(tags)}; choose one with --backbone-tag")
    raise WeightsError(
        f"--backbone-epoch: {store.root} has no weights for {name}; train some with `pretrain train --model {name}`"
    )


def open_inherited(
    recipe: DetectRecipe, store: Store, name: str, args: dict[str, Any], *, load: bool
) -> OpenedBackbone | None:
    """The backbone with another backbone's tag converted for it; None when no conversion applies.

    Args:
        args: options the backbone is built with.
    """
    model = recipe.model
    assert model.backbone_tag is not None
    net = backbone.build(name, **{**args, **backbone_options(model)})
    parent = find_parent(store, name, net, model.backbone_tag, model.backbone_epoch)
    if parent is None:
        return None
    stats = pixels_of(parent, recipe)
    if not load:
        return OpenedBackbone(net, stats, parent, None, args | dilation_of(model))
    inherited = inherit(store, parent, name, net, model.allow_missing)
    if dist.is_main() and not recipe.runtime.dry_run:
        parent = keep(store, inherited, name, args=args)
    return OpenedBackbone(net, stats, parent, inherited.transfer, args | dilation_of(model))


def backbone_options(model: ModelConfig) -> dict[str, Any]:
    """Build options of the recipe's backbone."""
    options = {} if model.drop_path is None else {"drop_path": model.drop_path}
    return options | dilation_of(model)


def dilation_of(model: ModelConfig) -> dict[str, Any]:
    """The options that change the network, recorded in its card."""
    return {"dilation": True} if model.dilation else {}


def pixels_of(parent: Exported, recipe: DetectRecipe) -> PixelStats:
    """The pixel statistics a backbone was trained with; a recipe may repeat but not change them."""
    if parent.card.kind != "backbone":
        raise WeightsError(f"{parent} is a {parent.card.kind}, not a backbone; give a tag that `pretrain` exported")
    if recipe.data.rgb_mode is not None:
        check_pixels(parent, pixel_stats(recipe.data.rgb_mode))
    return expected_pixels(parent)


def build_detector(recipe: DetectRecipe, net: Backbone, num_classes: int) -> Detector:
    """The recipe's network on a backbone, frozen as configured; parameters that no loss reaches are frozen too."""
    built = detector.build(recipe.model.network, net, num_classes, **recipe.model.network_args)
    freezes, model = recipe.freeze, recipe.model
    trained = model.weights_backbone or model.backbone_tag or model.backbone_pretrained or model.init_from
    if freezes.trainable_backbone_layers is not None and not (trained or model.resume_epoch is not None):
        log.warning(
            "--trainable-backbone-layers is ignored: the backbone starts from random weights, so all layers are trained"
        )
        freezes = replace(freezes, trainable_backbone_layers=None)
    apply_freezes(built, freezes)
    freeze_unreached(net, built.used_maps)
    return built


def fill_what_follows(built: Detector, opened: OpenedBackbone) -> OpenedBackbone:
    """Fill the parts of a detector that continue its backbone's network with what the backbone's export has beside it.

    Raises:
        WeightsError: it does not fit.
    """
    parts, exported, net = built.continued(), opened.parent, opened.net
    if exported is None or opened.transfer is None or not net.beside:
        return opened
    tensors = {
        name.removeprefix(net.beside): value for name, value in read_tensors(exported).items() if is_beside(name, net)
    }
    if not parts and tensors:
        log.info("%s also has %s*, which this network does not continue with", exported, net.beside)
    if parts and not tensors:
        log.warning("%s has no %s*, so what follows the backbone starts from random weights", exported, net.beside)
    if not parts or not tensors:
        return opened
    more = fill_module(nn.ModuleDict(parts), tensors, source=str(exported), digest=exported.digest)
    return opened._replace(transfer=together(opened.transfer, more))


def together(one: Transfer, more: Transfer) -> Transfer:
    """The report of two loads from the same export."""
    both, learned = ("matched_tensors", "total_tensors", "matched_params", "total_params"), one.matched_params
    counts = {name: getattr(one, name) + getattr(more, name) for name in both}
    moved = (one.moved * learned + more.moved * more.matched_params) / max(1, counts["matched_params"])
    return replace(one, **counts, moved=moved, missing=one.missing + more.missing)


def apply_freezes(built: Detector, config: FreezeConfig) -> None:
    asked = [config.freeze_body, config.freeze_backbone, config.freeze_backbone_stages is not None]
    if sum(asked) > 1:
        raise UsageError(
            "--freeze-body, --freeze-backbone and --freeze-backbone-stages are mutually exclusive; keep one"
        )
    if config.freeze_body:
        built.requires_grad_(False)
        for part in built.class_head():
            part.requires_grad_(True)
    if config.freeze_backbone:
        freeze(built.backbone)
    if config.freeze_backbone_stages is not None:
        freeze_stages(built.backbone, config.freeze_backbone_stages)
    if config.trainable_backbone_layers is not None:
        train_last(built.backbone, config.trainable_backbone_layers)
    if config.freeze_backbone_bn:
        freeze_batch_norm(built.backbone)
