"""`detect import`: export a published detector under a tag, completely or not at all.

file -> sha256 -> content -> layout -> reference: settings that are not in the file -> network -> names -> fill
     -> card: source, licence, classes, pixels, sizes, options -> store

`detect eval --weights TAG` then computes the same detections as the original program, with its category ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones import backbone
from backbones.foreign import COUNTERS, Tensors, read_checkpoint
from backbones.origin import words
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.skeleton import PERSON, Skeleton
from detection.nets import Detector, detector, resize_rule
from detection.published.foreign import Foreign, recognize
from detection.published.references import REFERENCES, Reference, nearest, of_file
from detection.recipe import DetectRecipe
from shared.errors import DataError, UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import file_digest
from shared.recipes.files import recipe_folder
from shared.recipes.recipe import flat, make, plain
from shared.recipes.registry import suggest
from shared.text import say
from shared.weights.card import Card, Exported, check_name, versions
from shared.weights.store import Store
from shared.weights.transfer import Transfer, fill

COCO = 90  # largest category id of a thing
PANOPTIC = 249  # largest category id of DETR's class head; COCO's stuff ends at 200
LIMBS = (  # skeleton of COCO's person, keypoints from 1
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Import:
    """The arguments of an import.

    file: the checkpoint.
    network: name of our network, or a published name such as detr_resnet50_dc5.
    tag: tag of the export.
    backbone: name of our backbone; None for the one recognized from tensor names.
    network_args: options of the network that are neither in the file nor in the reference, such as heads or smooth.
    dilation: the backbone's last stage is dilated (DC5); known without it only for published files.
    class_file: class names, one per line; None for COCO's if the number of classes matches, else "class 1" and so on.
    size: height and width in pixels, or one number for both; None for the reference's.
    max_size: maximum of the longer side in pixels; the aspect ratio is then kept.
    norm_eps: epsilon of the file's frozen batch norm; None for that of a published file, else our network's.
    rgb_mode: pixel statistics by name; None for the reference's.
    source: description of its origin.
    licence: license of the weights, which may differ from that of the code.
    allow_missing: glob patterns of tensors that may be missing.
    checkpoint_key: which copy of the detector to take, if the file has several; None for the preferred one.
    """

    file: Path
    network: str
    tag: str
    backbone: str | None = None
    network_args: Mapping[str, Any] = field(default_factory=dict)
    dilation: bool = False
    class_file: Path | None = None
    size: tuple[int, ...] | None = None
    max_size: int | None = None
    norm_eps: float | None = None
    rgb_mode: str | None = None
    source: str | None = None
    licence: str | None = None
    allow_missing: tuple[str, ...] = ()
    checkpoint_key: str | None = None


def import_detector(wanted: Import, store: Store) -> Exported:
    """Read, recognize, load, export; prints a report.

    Raises:
        UsageError: an unknown network, backbone or option, or an invalid tag.
        DataError: the class file has another number of classes.
        WeightsError: the file cannot be read, contains code, is of another network, or does not match.
    """
    check_name(wanted.tag)
    check_network(wanted.network)
    content = read_checkpoint(wanted.file)
    found = recognize(content, wanted.checkpoint_key)
    saved_args = words(content.get("args")) if isinstance(content, Mapping) else {}
    digest = file_digest(wanted.file)
    published = of_file(digest)
    reference = reference_for(wanted, found, published[0] if published else saved_args.get("model"))
    given = {**options_in(saved_args, found.network), **wanted.network_args}
    network_args = detector.check(found.network, options_of(found, reference, given))
    dilated = wanted.dilation or saved_args.get("dilation") is True
    backbone_args = {**reference.backbone_args, **({"dilation": True} if dilated else {})}
    classes = classes_of(found, wanted.class_file)
    net = backbone.build(reference.backbone, **backbone_args)
    built = detector.build(found.network, net, len(classes), **network_args)
    eps = wanted.norm_eps if wanted.norm_eps is not None else published[1] if published else None
    transfer = fitted(wanted, built, found, digest, eps)
    stats = pixel_stats(wanted.rgb_mode) if wanted.rgb_mode else reference.pixels
    card = Card(
        arch=f"{found.network}-{reference.backbone}",
        tag=wanted.tag,
        epoch=0,
        kind="detector",
        method="import",
        args={
            "network": found.network,
            "network_args": network_args,
            "backbone": reference.backbone,
            "backbone_args": backbone_args,
        },
        pixels={"mean": list(stats.mean), "std": list(stats.std)},
        classes={**classes.to_dict(), **skeleton_of(found), **things_of(found, classes)},
        source={
            "file": wanted.file.name,
            "sha256": digest,
            "layout": found.layout.name + found.in_file,
            "published": published[0] if published else None,
            "told": wanted.source,
            **({"key": wanted.checkpoint_key} if wanted.checkpoint_key else {}),
        },
        licence=wanted.licence,
        conversion={"name": "batch norm", "converted": transfer.converted} if transfer.converted else {},
        recipe=recipe_of(wanted, found.network, reference, network_args),
        versions=versions(),
    )
    exported = store.put(built, card)
    report(exported, transfer, stats, published[0] if published else None)
    epsilons = sorted({layer.eps for layer in built.backbone.modules() if isinstance(layer, _BatchNorm)})
    if eps is None and epsilons:
        say(f"epsilon of batch norm: {epsilons[0]}, the network's; give --norm-eps if the file's program had another")
    if found.copies_note:
        say(found.copies_note)
    return exported


def imported(file: Path, store: Store) -> Exported:
    """Import a file with the recognized network, and its file name as tag; if already imported, return that export.

    Raises:
        WeightsError: it cannot be read, is not a known detector, or does not match.
    """
    digest = file_digest(file)
    for exported in store.all():
        source = exported.card.source
        if exported.card.kind == "detector" and source.get("sha256") == digest and not source.get("key"):
            return exported
    network = recognize(read_checkpoint(file)).network
    return import_detector(Import(file=file, network=network, tag=file.stem), store)


def check_network(name: str) -> None:
    """Raise UsageError for a name that is neither one of our networks nor a published name."""
    if name not in REFERENCES and name not in detector.names():
        known = [*detector.names(), *REFERENCES]
        raise UsageError(f"no detector '{name}'{suggest(name, known)}; give one of {', '.join(known)}")


def options_in(saved_args: Mapping[str, Any], network: str) -> dict[str, Any]:
    """Options that shapes do not show, from the flags that DETR's programs save with the weights."""
    heads = saved_args.get("nheads")
    return {"heads": heads} if isinstance(heads, int) and "heads" in detector.options(network) else {}


def reference_for(wanted: Import, found: Foreign, published: str | None) -> Reference:
    """Settings that are not in the file: of the published name given, else of the published file, else of the nearest.

    Args:
        published: name of the published file, or the one that torchvision's program saved with the weights.

    Raises:
        WeightsError: the file is of another network than --network.
    """
    named = REFERENCES.get(wanted.network)
    if (named.network if named else wanted.network) != found.network:
        fitting = [found.network, *(name for name, r in REFERENCES.items() if r.network == found.network)]
        raise WeightsError(
            f"{wanted.file.name} is not a checkpoint of {wanted.network}: its key layout is "
            f"{found.layout.name}{found.in_file}; give --network {' or '.join(fitting)}"
        )
    seen = wanted.backbone or found.backbone
    same = REFERENCES.get(str(published))
    reference = named or (same if same and same.network == found.network else None)
    if reference is None:
        return nearest(found.network, seen or "resnet_v1_50")
    return reference._replace(backbone=seen or reference.backbone)


def options_of(found: Foreign, reference: Reference, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the network that differ from the defaults; given ones replace those of the file and the reference."""
    usual = {name: parameter.default for name, parameter in detector.options(found.network).items()}
    options = {**reference.args, **found.options, **given}
    return {name: value for name, value in options.items() if name in given or usual.get(name) != value}


def classes_of(found: Foreign, class_file: Path | None) -> ClassMap:
    """Class names and category ids of the class head's rows: from 1 if 0 is background, else from 0.

    Raises:
        DataError: the class file has another number of classes.
    """
    ids = range(1, found.num_classes + 1) if found.layout.background else range(found.num_classes)
    if class_file is not None:
        classes = ClassMap.from_file(class_file)
        if len(classes) != len(ids):
            raise DataError(
                f"{class_file} has {len(classes)} class names for {len(ids)} classes; give one name per class"
            )
        return ClassMap(classes.names, tuple(ids))
    names: list[str] = []
    known = ClassMap.from_file(recipe_folder() / "classes" / "coco.txt").names
    if not found.layout.background and len(ids) == len(known):  # COCO's classes without its unused ids
        listed = ClassMap.from_file(recipe_folder() / "classes" / "coco91.txt").names
        return ClassMap(known, tuple(1 + listed.index(name) for name in known))
    if ids[-1] in (COCO, PANOPTIC):
        listed = "coco91.txt" if ids[-1] == COCO else "coco_panoptic.txt"
        names = ["", *ClassMap.from_file(recipe_folder() / "classes" / listed).names]
    elif found.network == "keypoint_rcnn" and len(ids) == 1:
        names = ["", "person"]
    return ClassMap(tuple(names[i] if 0 < i < len(names) else f"class {i}" for i in ids), tuple(ids))


def skeleton_of(found: Foreign) -> dict[str, Any]:
    """{"skeleton": ...} for the card: COCO's person for 17 keypoints, else numbered keypoints; {} without keypoints."""
    count = found.options.get("num_keypoints")
    if count is None:
        return {}
    person = Skeleton.from_words({"keypoints": list(PERSON), "skeleton": LIMBS}, "COCO's person")
    return {"skeleton": (person if count == len(person) else Skeleton.numbered(count)).to_dict()}


def things_of(found: Foreign, classes: ClassMap) -> dict[str, Any]:
    """{"isthing": ...} for the card of a panoptic segmentation network: COCO's ids up to 90 are things; else {}."""
    return {"isthing": [i <= COCO for i in classes.source_ids]} if detector.facts(found.network).get("segments") else {}


def fitted(wanted: Import, built: Detector, found: Foreign, digest: str, eps: float | None) -> Transfer:
    """Load the tensors into `built`. Raises WeightsError if they do not match."""
    tensors = found.renamed()
    converted = [] if eps is None else take_eps(built, tensors, eps)
    return fill(
        built,
        tensors,
        source=wanted.file.name,
        digest=digest,
        allow_missing=(COUNTERS, *wanted.allow_missing),
        converted=converted,
        otherwise=f"give its --backbone and network options (key layout: {found.layout.name}), "
        f"or list missing tensors with --allow-missing GLOB",
    )


def take_eps(built: nn.Module, tensors: Tensors, eps: float) -> list[str]:
    """Rescale batch norm weights, in place, so that an epsilon of `eps` in the file gives the same output with ours.

    The weight is changed, not the variance, which could become negative. Returns the names of changed tensors.
    """
    changed = []
    for name, layer in built.named_modules():
        scale = f"{name}.weight"
        if isinstance(layer, _BatchNorm) and layer.eps != eps and scale in tensors:
            variance = tensors[f"{name}.running_var"].double()
            grown = ((variance + layer.eps) / (variance + eps)).sqrt()
            tensors[scale] = (tensors[scale].double() * grown).to(torch.float32)
            changed.append(scale)
    return changed


def recipe_of(wanted: Import, network: str, reference: Reference, network_args: dict[str, Any]) -> dict[str, Any]:
    """The recipe for the card, which evaluation reads: given sizes, else those of the reference."""
    size = tuple(wanted.size) if wanted.size else reference.size
    longest = wanted.max_size if wanted.size or wanted.max_size else reference.longest
    values = {
        "network": network,
        "network_args": network_args,
        "backbone": reference.backbone,
        "tag": wanted.tag,
        "size": size,
        "max_size": longest,
        "antialias": reference.antialias,
        "resize_rule": resize_rule(network),
        "aug_type": "hflip",
    }
    return {name: plain(value) for name, value in flat(make(DetectRecipe, values)).items()}


def report(exported: Exported, transfer: Transfer, stats: PixelStats, published: str | None) -> None:
    """Print what was imported."""
    card, recipe = exported.card, exported.card.recipe
    classes = card.classes["names"]
    rule = recipe["resize_rule"]
    longest = f", longest side {recipe['max_size']}, rounded as in {rule}" if recipe["max_size"] else ""
    say(f"layout: {card.source['layout']}{f', published as {published}' if published else ''}")
    say(f"filled {transfer}")
    args = card.args
    say(f"network: {args['network']} on {args['backbone']}, {args['network_args'] or 'default options'}")
    say(f"classes: {len(classes)}, ids {card.classes['source_ids'][0]} to {card.classes['source_ids'][-1]}")
    unsmoothed = "" if recipe["antialias"] else ", without antialiasing"
    say(f"images: size {recipe['size']}{longest}{unsmoothed}; mean {stats.mean}, std {stats.std}")
    say(f"license: {card.licence or 'not given; add it with --license'}")
    say(f"exported {exported} to {exported.path}")
