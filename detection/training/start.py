"""Start from a whole trained detector: `--init-from` or `--resume-epoch`.

    detect train --init-from runs/warmup              every weight, fresh optimizer and schedule
    detect train --tag coco --resume-epoch 0          the same, from the last export under this tag
    detect train --init-from coco --reset-head        all weights but the class head's, for other classes

`--resume` instead continues one run at its exact step.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import backbone
from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.nets import Detector, detector, missing_from
from detection.recipe import DetectRecipe, ModelConfig
from detection.training.build import OpenedBackbone, backbone_options, dilation_of
from detection.training.vocabularies import is_told
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import pixel_stats
from shared.recipes.registry import suggest
from shared.weights.card import Exported, check_pixels, expected_pixels, listed
from shared.weights.moved import at_path
from shared.weights.store import NotThere, Store, Transfer

log = logging.getLogger(__name__)
CHECKPOINTS = (".pth", ".pt", ".safetensors")  # of other programs


def find_weights(reference: str, root: Path, epoch: int | None = None) -> Exported:
    """Find an export folder, a run folder, `network-backbone/tag[@digest]` or a tag in the store, or a foreign
    checkpoint.

    Args:
        epoch: the export of that epoch of a tag; 0 and None mean its last.

    Raises:
        WeightsError: nothing is found.
    """
    if reference.startswith(("http://", "https://")):
        raise WeightsError(f"{reference} is a URL; download the file and give its path")
    path = Path(os.path.expanduser(reference))
    if path.suffix in CHECKPOINTS and path.is_file():
        from detection.published.importing import imported

        return imported(path, Store(root))
    named = at_path(path, root)
    if named is not None:
        return named
    arch, _, tag = reference.rpartition("/")
    if "/" in arch or (arch and not (root / arch).is_dir()):
        beside = [run.name for run in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(
            f"{reference} is neither a run, an export nor a tag in {root}{suggest(path.name, beside)}; "
            "`detect list weights` shows all weights"
        )
    return Store(root).find(arch or None, tag, epoch)


def find_start(model: ModelConfig, root: Path) -> Exported | None:
    """The trained detector a run starts from; None when it starts from a backbone.

    Raises:
        UsageError: --reset-head without --init-from.
        WeightsError: nothing is found, or it is a backbone.
    """
    if model.init_from is None and model.resume_epoch is None:
        if model.reset_head:
            raise UsageError(
                "--reset-head reinitializes a trained detector's class head; give the detector with --init-from"
            )
        return None
    if model.init_from is not None:
        exported = find_weights(model.init_from, root, model.resume_epoch)
    else:
        exported = own_weights(model, Store(root))
    if exported.card.kind != "detector":
        raise WeightsError(f"{exported} is a backbone, not a detector; use --backbone-tag {exported.card.tag}")
    return exported


def own_weights(model: ModelConfig, store: Store) -> Exported:
    """The last export of this network and backbone, of --tag when given.

    Raises:
        WeightsError: there is none, or there are several tags.
    """
    arch = f"{model.network}-{model.backbone or 'resnet_v1_50'}"
    tags = [model.tag] if model.tag else sorted(p.name for p in (store.root / arch).glob("*") if p.is_dir())
    if len(tags) > 1:
        raise WeightsError(f"{arch} has {listed(tags)}; choose one with --init-from {arch}/{tags[0]}")
    try:
        if not tags:
            raise NotThere("")
        return store.find(arch, tags[0], model.resume_epoch)
    except NotThere:
        there = [f"{e.card.arch}/{e.card.tag}" for e in store.all() if e.card.kind == "detector"]
        named = f" tagged '{model.tag}'" if model.tag else ""
        raise WeightsError(
            f"--resume-epoch {model.resume_epoch}: {store.root} has no {arch}{named}; give the detector or run to "
            f"start from with --init-from{', such as ' + listed(list(dict.fromkeys(there))) if there else ''}"
        ) from None


def as_recipe(start: Exported, network: str | None) -> dict[str, Any]:
    """A detector's network, backbone and options as recipe values, inherited by a run that starts from it.

    Args:
        network: the network of the run, if the user chose one; options that it lacks are not inherited.
    """
    args = start.card.args
    known = detector.options(network or args["network"])
    options = {name: value for name, value in args["network_args"].items() if name in known}
    return {"network": args["network"], "backbone": args["backbone"], "network_args": options}


def rebuild_backbone(start: Exported, recipe: DetectRecipe) -> OpenedBackbone:
    """Build the backbone of a trained detector; its weights are loaded later with the whole.

    Raises:
        WeightsError: the recipe has another network or backbone, or another normalization.
    """
    card_args, model = start.card.args, recipe.model
    grown = missing_from(model.network, card_args["network"])  # it has all of that, and more
    for what, wanted in (("network", None if grown else model.network), ("backbone", model.backbone)):
        if wanted is not None and wanted != card_args[what]:
            raise WeightsError(
                f"{start} has the {what} {card_args[what]}, not {wanted}; remove --{what}, or start from another"
            )
    if recipe.data.rgb_mode is not None:
        check_pixels(start, pixel_stats(recipe.data.rgb_mode))
    args = card_args.get("backbone_args", {}) | dilation_of(model)
    net = backbone.build(card_args["backbone"], **{**args, **backbone_options(model)})
    return OpenedBackbone(net, expected_pixels(start), start, None, args)


def fill_from(start: Exported, built: Detector, store: Store, model: ModelConfig) -> Transfer:
    """Load every weight of a trained detector, or all but the class head's, which the names are that some are told.

    Raises:
        WeightsError: they do not fit.
    """
    heads = {id(p) for part in built.class_head() for p in (*part.parameters(), *part.buffers())}
    anew = [name for name, value in built.state_dict(keep_vars=True).items() if id(value) in heads]
    allowed = (*model.allow_missing, *missing_from(model.network, start.card.args["network"]))
    if not model.reset_head and not is_told(model.network):
        return store.load(built, start, allow_missing=allowed)

    def without_heads(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return {name: value for name, value in tensors.items() if name not in anew}, []

    return store.load(built, start, allow_missing=(*allowed, *anew), fit=without_heads)


def take_classes(data: CocoDetection, start: Exported, name: str = "") -> None:
    """Label the data with the classes of a trained detector.

    Args:
        name: of one of several data sets, of which the detector has a list of classes each.

    Raises:
        WeightsError: the data has classes that the detector lacks, or is a data set that it lacks.
    """
    lists = {of_set["name"]: of_set for of_set in start.card.classes.get("sets", [])}
    if name and lists and name not in lists:
        raise WeightsError(
            f"{start} has classes of the data sets {listed(list(lists))}, not of '{name}'; use these names"
        )
    known = ClassMap.from_dict(lists.get(name, start.card.classes))
    if known.joined:
        data.relabel(known.only(name))
        return
    strange = [] if known.everything else [name for name in data.used_names() if known.find(name) is None]
    if strange:
        raise WeightsError(
            f"{start} knows {listed(list(known.names))}, and the data also has {listed(strange)}; "
            "use --reset-head to learn its classes, or --class-file with the detector's own"
        )
    data.relabel(known)


def unconsumed_warmups(store: Store, arch: str, tag: str) -> list[Exported]:
    """Detectors of this arch trained with a frozen backbone or body that no run has started from."""
    exports = [e for e in store.all() if e.card.kind == "detector" and (e.card.arch, e.card.tag) == (arch, tag)]
    used = {parent["digest"] for e in store.all() for parent in e.card.parents}
    frozen = ("freeze_backbone", "freeze_body")
    return [e for e in exports if e.digest not in used and any(e.card.recipe.get(word) for word in frozen)]
