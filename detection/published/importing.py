"""`detect import`: a detector of somebody else becomes an export under a tag, whole or not at all.

file -> sha256 -> content -> layout -> reference: what it does not say -> network -> names -> fill
     -> card: source, licence, classes, pixels, sizes, options -> store

Afterwards `detect eval --weights TAG` computes what its authors' program does, in the category ids they used.
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
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.skeleton import PERSON, Skeleton
from detection.nets import Detector, detector
from detection.published.foreign import Foreign, recognize
from detection.published.references import REFERENCES, Reference, nearest, of_file
from detection.recipe import DetectRecipe
from shared.errors import DataError, UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import file_digest
from shared.recipes.files import recipe_folder
from shared.recipes.recipe import flat, make, plain
from shared.recipes.registry import suggest
from shared.weights.card import Card, Exported, check_name, versions
from shared.weights.store import Store
from shared.weights.transfer import Transfer, fill

COCO = 90  # the largest id of a thing
PANOPTIC = 249  # the largest id that DETR has a row for; names end at 200
LIMBS = (  # of COCO's person, counted from 1
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is brought in, as the command line says it.

    file: the checkpoint.
    network: a detector of ours, or the name its authors gave it, such as detr_resnet50_dc5.
    tag: the word that will find it.
    backbone: what it stands on; what the file's names tell, without.
    network_args: options of the network that neither the file nor the reference tells, such as heads or smooth.
    dilation: the backbone's last stage is dilated (DC5), which no file tells but a published one.
    class_file: names of the classes, one a line; COCO's, without, where there are as many.
    size: height and width, or one number for both, that images are brought to.
    max_size: longest side; images then keep their shape.
    norm_eps: what the file's frozen batch norm adds to variances; as much as ours, unless the file is a published one.
    rgb_mode: pixel statistics by name; the reference's, without.
    source: where it is from, in words.
    licence: of the weights, which may differ from the code's.
    allow_missing: tensors the file may lack, as glob patterns.
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


def import_detector(wanted: Import, store: Store) -> Exported:
    """Read, understand, fill, export; prints what happened.

    Raises:
        UsageError: no such network, backbone or option, or a tag that cannot be one.
        DataError: the class file does not name as many classes.
        WeightsError: the file cannot be read, holds code, is of another network, or does not fit.
    """
    check_name(wanted.tag)
    check_network(wanted.network)
    found = recognize(read_checkpoint(wanted.file))
    digest = file_digest(wanted.file)
    published = of_file(digest)
    reference = reference_for(wanted, found, published[0] if published else None)
    network_args = options_of(found, reference, wanted.network_args)
    backbone_args = {**reference.backbone_args, **({"dilation": True} if wanted.dilation else {})}
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
        },
        licence=wanted.licence,
        conversion={"name": "batch norm", "converted": transfer.converted} if transfer.converted else {},
        recipe=recipe_of(wanted, found.network, reference, network_args),
        versions=versions(),
    )
    exported = store.put(built, card)
    report(exported, transfer, stats, published[0] if published else None)
    return exported


def imported(file: Path, store: Store) -> Exported:
    """A file that was never told about: the network that its names tell, under its own name as a tag; once a file.

    Raises:
        WeightsError: it cannot be read, or is of no detector that is known here.
    """
    digest = file_digest(file)
    for exported in store.all():
        if exported.card.kind == "detector" and exported.card.source.get("sha256") == digest:
            return exported
    network = recognize(read_checkpoint(file)).network
    return import_detector(Import(file=file, network=network, tag=file.stem), store)


def check_network(name: str) -> None:
    """Raise UsageError for a network that is neither ours nor a reference's."""
    if name not in REFERENCES and name not in detector.names():
        known = [*detector.names(), *REFERENCES]
        raise UsageError(f"no detector '{name}'{suggest(name, known)}; there is {', '.join(known)}")


def reference_for(wanted: Import, found: Foreign, published: str | None) -> Reference:
    """What the file does not say: as the published file it is, as told by name, or as the nearest there is.

    Raises:
        WeightsError: the file is of another network than was named.
    """
    named = REFERENCES.get(wanted.network)
    if (named.network if named else wanted.network) != found.network:
        fitting = [found.network, *(name for name, r in REFERENCES.items() if r.network == found.network)]
        raise WeightsError(
            f"{wanted.file.name} is a checkpoint of another family: its layout is "
            f"{found.layout.name}{found.in_file}, and "
            f"{wanted.network} is not that; say --network {' or '.join(fitting)}"
        )
    seen = wanted.backbone or found.backbone
    reference = named or (REFERENCES[published] if published else None)
    if reference is None:
        return nearest(found.network, seen or "resnet_v1_50")
    return reference._replace(backbone=seen or reference.backbone)


def options_of(found: Foreign, reference: Reference, given: Mapping[str, Any]) -> dict[str, Any]:
    """The network's options, where they are not what they usually are: what is told goes over what is seen."""
    usual = {name: parameter.default for name, parameter in detector.options(found.network).items()}
    options = {**reference.args, **found.options, **given}
    return {name: value for name, value in options.items() if name in given or usual.get(name) != value}


def classes_of(found: Foreign, class_file: Path | None) -> ClassMap:
    """What the rows are called, and their ids in the authors' data: from 1 where 0 is background, and else from 0.

    Raises:
        DataError: the class file names more classes, or fewer.
    """
    ids = range(1, found.num_classes + 1) if found.layout.background else range(found.num_classes)
    if class_file is not None:
        classes = ClassMap.from_file(class_file)
        if len(classes) != len(ids):
            raise DataError(
                f"{class_file} names {len(classes)} classes, and the file has {len(ids)}; name each of them"
            )
        return ClassMap(classes.names, tuple(ids))
    names: list[str] = []
    if ids[-1] in (COCO, PANOPTIC):
        listed = "coco91.txt" if ids[-1] == COCO else "coco_panoptic.txt"
        names = ["", *ClassMap.from_file(recipe_folder() / "classes" / listed).names]
    elif found.network == "keypoint_rcnn" and len(ids) == 1:
        names = ["", "person"]
    return ClassMap(tuple(names[i] if 0 < i < len(names) else f"class {i}" for i in ids), tuple(ids))


def skeleton_of(found: Foreign) -> dict[str, Any]:
    """COCO's person where there are as many keypoints, else so many of which nothing is known; nothing without any."""
    count = found.options.get("num_keypoints")
    if count is None:
        return {}
    person = Skeleton.from_words({"keypoints": list(PERSON), "skeleton": LIMBS}, "COCO's person")
    return {"skeleton": (person if count == len(person) else Skeleton.numbered(count)).to_dict()}


def things_of(found: Foreign, classes: ClassMap) -> dict[str, Any]:
    """Which classes are things, of a network that says whose each pixel is: COCO's ids up to 90."""
    return {"isthing": [i <= COCO for i in classes.source_ids]} if detector.facts(found.network).get("segments") else {}


def fitted(wanted: Import, built: Detector, found: Foreign, digest: str, eps: float | None) -> Transfer:
    tensors = found.renamed()
    converted = [] if eps is None else take_eps(built, tensors, eps)
    return fill(
        built,
        tensors,
        source=wanted.file.name,
        digest=digest,
        allow_missing=(COUNTERS, *wanted.allow_missing),
        converted=converted,
        otherwise=f"name its --backbone or the options it was built with, or what may stay with --allow-missing GLOB "
        f"(layout: {found.layout.name})",
    )


def take_eps(built: nn.Module, tensors: Tensors, eps: float) -> list[str]:
    """Scales of batch norms that added `eps` to variances -> those that give the same with what ours add; their names.

    The scale takes it up and not the variance, which would lose a channel whose variance is smaller than ours adds.
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
    """The recipe that evaluation reads: sizes as published, or as told."""
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
        "aug_type": "hflip",
    }
    return {name: plain(value) for name, value in flat(make(DetectRecipe, values)).items()}


def report(exported: Exported, transfer: Transfer, stats: PixelStats, published: str | None) -> None:
    card, recipe = exported.card, exported.card.recipe
    classes = card.classes["names"]
    longest = f", longest side {recipe['max_size']}" if recipe["max_size"] else ""
    print(f"layout: {card.source['layout']}{f', published as {published}' if published else ''}")
    print(f"filled {transfer}")
    print(f"network: {card.args['network']} on {card.args['backbone']}, {card.args['network_args'] or 'usual options'}")
    print(f"classes: {len(classes)}, ids {card.classes['source_ids'][0]} to {card.classes['source_ids'][-1]}")
    smoothed = "" if recipe["antialias"] else ", made smaller without smoothing"
    print(f"images: size {recipe['size']}{longest}{smoothed}; mean {stats.mean}, std {stats.std}")
    print(f"licence: {card.licence or 'not told; say it with --licence'}")
    print(f"exported {exported} to {exported.path}")
