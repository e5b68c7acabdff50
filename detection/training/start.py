"""Where a whole detector starts from: another run's weights, told by `--init-from` or `--resume-epoch`.

    detect train --init-from runs/warmup              every weight, fresh optimizer and schedule
    detect train --tag coco --resume-epoch 0          the same, of what was exported last under this tag
    detect train --init-from coco --reset-head        all but the class head, which learns other classes

`--resume` is another thing: it continues one run at its exact step.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import backbone
from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.nets import Detector, lacks_from
from detection.recipe import DetectRecipe, ModelConfig
from detection.training.build import OpenedBackbone, backbone_options, dilation_of
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import pixel_stats
from shared.recipes.registry import suggest
from shared.weights.card import Exported, check_pixels, expected_pixels, listed, read_card
from shared.weights.store import NotThere, Store, Transfer

log = logging.getLogger(__name__)
CHECKPOINTS = (".pth", ".pt", ".safetensors")  # of other programs


def find_weights(reference: str, root: Path, epoch: int | None = None) -> Exported:
    """An export folder, a run folder, `network-backbone/tag[@digest]` or a tag in the store, or another's checkpoint.

    Args:
        epoch: the export of that epoch of a tag; 0 and None mean its last.

    Raises:
        WeightsError: it leads to nothing.
    """
    if reference.startswith(("http://", "https://")):
        raise WeightsError(f"{reference} is an address; fetch the file, and name it here")
    path = Path(reference).expanduser()
    if path.suffix in CHECKPOINTS and path.is_file():
        from detection.published.importing import imported

        return imported(path, Store(root))
    if (path / "card.json").is_file():
        return Exported(path.resolve(), read_card(path.resolve()))
    if (path / "result.json").is_file():
        weights = json.loads((path / "result.json").read_text()).get("weights")
        if not weights:
            raise WeightsError(f"{path} exported no weights; let the run finish with --resume {path}")
        return find_weights(weights, root)
    if (path / "recipe.yaml").is_file():
        raise WeightsError(f"{path} has not finished; let it finish with --resume {path}")
    arch, _, tag = reference.rpartition("/")
    if "/" in arch or (arch and not (root / arch).is_dir()):
        beside = [run.name for run in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(
            f"{reference} is no folder of a run or an export{suggest(path.name, beside)}, nor has {root} weights of "
            f"{arch}; `detect list weights` shows what there is"
        )
    return Store(root).find(arch or None, tag, epoch)


def find_start(model: ModelConfig, root: Path) -> Exported | None:
    """The trained detector that a run starts from; None when it starts from a backbone.

    Raises:
        UsageError: --reset-head without anything to start from.
        WeightsError: what is named leads to nothing, or to a backbone.
    """
    if model.init_from is None and model.resume_epoch is None:
        if model.reset_head:
            raise UsageError("--reset-head begins a trained detector's class head anew; name the detector: --init-from")
        return None
    if model.init_from is not None:
        exported = find_weights(model.init_from, root, model.resume_epoch)
    else:
        exported = own_weights(model, Store(root))
    if exported.card.kind != "detector":
        raise WeightsError(f"{exported} is a backbone and no detector; say --backbone-tag {exported.card.tag}")
    return exported


def own_weights(model: ModelConfig, store: Store) -> Exported:
    """What was exported before for this network, backbone and --tag; without a tag, for this network and backbone.

    Raises:
        WeightsError: nothing was, or it has several tags.
    """
    arch = f"{model.network}-{model.backbone or 'resnet_v1_50'}"
    tags = [model.tag] if model.tag else sorted(p.name for p in (store.root / arch).glob("*") if p.is_dir())
    if len(tags) > 1:
        raise WeightsError(f"{arch} has {listed(tags)}; say which with --init-from {arch}/{tags[0]}")
    try:
        if not tags:
            raise NotThere("")
        return store.find(arch, tags[0], model.resume_epoch)
    except NotThere:
        there = [f"{e.card.arch}/{e.card.tag}" for e in store.all() if e.card.kind == "detector"]
        named = f" tagged '{model.tag}'" if model.tag else ""
        raise WeightsError(
            f"--resume-epoch {model.resume_epoch}: {store.root} has no {arch}{named}; name the detector or run to "
            f"start from with --init-from{', such as ' + listed(list(dict.fromkeys(there))) if there else ''}"
        ) from None


def as_recipe(start: Exported) -> dict[str, Any]:
    """What a detector is, as values below a recipe: a run that starts from it need not say so again."""
    args = start.card.args
    return {"network": args["network"], "backbone": args["backbone"], "network_args": args["network_args"]}


def rebuild_backbone(start: Exported, recipe: DetectRecipe) -> OpenedBackbone:
    """The backbone of a trained detector, its weights still to come with the whole.

    Raises:
        WeightsError: the recipe asks for another network or backbone, or for other pixels.
    """
    card_args, model = start.card.args, recipe.model
    grown = lacks_from(model.network, card_args["network"])  # it has all of that, and more
    for what, wanted in (("network", None if grown else model.network), ("backbone", model.backbone)):
        if wanted is not None and wanted != card_args[what]:
            raise WeightsError(
                f"{start} has the {what} {card_args[what]}, not {wanted}; leave --{what} out, or start from another"
            )
    if recipe.data.rgb_mode is not None:
        check_pixels(start, pixel_stats(recipe.data.rgb_mode))
    args = card_args.get("backbone_args", {}) | dilation_of(model)
    net = backbone.build(card_args["backbone"], **{**args, **backbone_options(model)})
    return OpenedBackbone(net, expected_pixels(start), start, None, args)


def fill_from(start: Exported, built: Detector, store: Store, model: ModelConfig) -> Transfer:
    """Every weight of a trained detector, or all but its class head's.

    Raises:
        WeightsError: they do not fit.
    """
    heads = {id(p) for part in built.class_head() for p in (*part.parameters(), *part.buffers())}
    anew = [name for name, value in built.state_dict(keep_vars=True).items() if id(value) in heads]
    allowed = (*model.allow_missing, *lacks_from(model.network, start.card.args["network"]))
    if not model.reset_head:
        return store.load(built, start, allow_missing=allowed)

    def without_heads(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return {name: value for name, value in tensors.items() if name not in anew}, []

    return store.load(built, start, allow_missing=(*allowed, *anew), fit=without_heads)


def take_classes(data: CocoDetection, start: Exported) -> None:
    """Label the data as a trained detector does.

    Raises:
        WeightsError: the data has classes that it does not know.
    """
    known = ClassMap.from_dict(start.card.classes)
    strange = [] if known.everything else [name for name in data.used_names() if known.find(name) is None]
    if strange:
        raise WeightsError(
            f"{start} knows {listed(list(known.names))}, and the data also has {listed(strange)}; "
            "say --reset-head to learn its classes, or --class-file with the detector's own"
        )
    data.relabel(known)


def unconsumed_warmups(store: Store, arch: str, tag: str) -> list[Exported]:
    """Detectors of this kind that were trained on a frozen backbone or body, and that no run went on from."""
    exports = [e for e in store.all() if e.card.kind == "detector" and (e.card.arch, e.card.tag) == (arch, tag)]
    used = {parent["digest"] for e in store.all() for parent in e.card.parents}
    frozen = ("freeze_backbone", "freeze_body")
    return [e for e in exports if e.digest not in used and any(e.card.recipe.get(word) for word in frozen)]
