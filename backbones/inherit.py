"""Use a tag of one backbone for another: the conversion is found, applied, and its result kept in the store.

detect train --backbone vit_det_m16_rms --backbone-tag i-jepa
    vit_det_m16_rms has no such tag, but vit_reg4_m16_rms_avg has, and there is a conversion `vit-to-vitdet`:
    convert -> export as vit_det_m16_rms / i-jepa, whose card names the parent and the conversion -> continue
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from backbones import backbone
from backbones.base import Backbone
from backbones.conversions import CONVERSIONS, RESIZE, Conversion, conversion_for, fit_sizes, has_tables
from backbones.function import on_meta
from shared.errors import UsageError, WeightsError
from shared.weights.card import Card, Exported, listed, read_shapes, versions
from shared.weights.seen import record_of
from shared.weights.store import NotThere, Store, Transfer

BUILT_WITH = ("img_size", "aws_compat")  # arguments of a card that its weights depend on; stochastic depth is not one


class Inherited(NamedTuple):
    """A backbone filled with the converted weights of a parent."""

    net: Backbone
    parent: Exported
    conversion: str
    transfer: Transfer


def without_weights(exported: Exported) -> Backbone | None:
    """The network of a card on the meta device, for the sizes of its grids.

    None if this version has none of its name, or if the card names no size and the tables are of another size than the
    network's own.
    """
    try:
        net = on_meta(rebuild, exported.card)
    except UsageError:
        return None
    shapes = {} if "img_size" in exported.card.args else read_shapes(exported)
    mine = net.state_dict()
    return net if all(mine[name].shape == shapes[name].shape for name in mine.keys() & shapes.keys()) else None


def rebuild(card: Card, **options: Any) -> Backbone:
    """Build the network of a card, with random weights."""
    return backbone.build(card.arch, **{**kept_args(card), **options})


def kept_args(card: Card) -> dict[str, Any]:
    return {name: card.args[name] for name in BUILT_WITH if name in card.args}


def fill(store: Store, net: Backbone, exported: Exported, allow_missing: tuple[str, ...] = ()) -> Transfer:
    """Load weights of the same architecture; position embeddings of another size are resized, and reported.

    What is beside the backbone's tensors stays where it is.
    """
    parent = without_weights(exported) if has_tables(net) else None

    def fit(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        return fit_sizes({n: value for n, value in tensors.items() if not is_beside(n, net)}, net, parent)

    return store.load(net, exported, allow_missing=allow_missing, fit=fit)


def is_beside(name: str, net: Backbone) -> bool:
    """Whether a tensor of an export is not the backbone's own, but for what follows it."""
    return bool(net.beside) and name.startswith(net.beside)


def find_parent(store: Store, name: str, child: Backbone, tag: str, epoch: int | None) -> Exported | None:
    """The export of another backbone with that tag that can be converted to this one; None if there is none.

    Raises:
        WeightsError: there are several.
    """
    fitting = []
    for arch in store.archs(tag):
        if arch == name:
            continue
        try:
            exported = store.find(arch, tag, epoch)
        except NotThere:
            continue
        if exported.card.kind == "backbone" and way_between(exported, child) is not None:
            fitting.append(exported)
    if len(fitting) > 1:
        raise WeightsError(
            f"{listed([str(exported) for exported in fitting])} can all be converted to {name}; "
            f"choose one with `pretrain convert --model NAME --tag {tag} --to {name}`"
        )
    return fitting[0] if fitting else None


def way_between(parent: Exported, child: Backbone) -> Conversion | None:
    """The conversion whose result has exactly the child's tensors; shapes are enough."""
    tensors = read_shapes(parent)
    way = conversion_for(tensors, child)
    if way is None:
        return None
    mine, (made, _) = child.state_dict(), way(tensors, child, without_weights(parent))
    wanted = {name for name in mine if not way.lets_stay(name)}
    fits = wanted <= made.keys() <= mine.keys() and all(made[name].shape == mine[name].shape for name in made)
    return way if fits else None


def is_stale(store: Store, exported: Exported) -> bool:
    """True if its parent has been trained again since the conversion."""
    if not exported.card.conversion or not exported.card.parents:
        return False
    parent = exported.card.parents[0]
    try:
        newest = store.find(parent["arch"], parent["tag"], None if exported.card.finished else exported.card.epoch)
    except WeightsError:
        return False
    return newest.digest != parent["digest"] and newest.card.created > exported.card.created


def inherit(
    store: Store, parent: Exported, name: str, child: Backbone, allow_missing: tuple[str, ...] = ()
) -> Inherited:
    """Load the converted weights of a parent into the child.

    Raises:
        WeightsError: there is no conversion, or its result does not match the child.
    """
    way = RESIZE if parent.card.arch == name else conversion_for(read_shapes(parent), child)
    if way is None:
        raise WeightsError(
            f"there is no conversion from {parent.card.arch} to {name}; the conversions are "
            f"{', '.join(c.name for c in CONVERSIONS)}"
        )
    original = without_weights(parent)
    transfer = store.load(
        child, parent, allow_missing=(*way.may_stay, *allow_missing), fit=lambda tensors: way(tensors, child, original)
    )
    return Inherited(child, parent, way.name, replace(transfer, source=f"{parent} as {name} by {way.name}"))


def keep(
    store: Store, inherited: Inherited, name: str, *, tag: str | None = None, args: dict[str, Any] | None = None
) -> Exported:
    """Export the result; its card names the parent and the conversion.

    Args:
        tag: tag of the result; None for the parent's.
        args: arguments the child was built with.
    """
    parent_card, transfer = inherited.parent.card, inherited.transfer
    card = Card(
        arch=name,
        tag=tag or parent_card.tag,
        epoch=parent_card.epoch,
        finished=parent_card.finished,
        method=inherited.conversion,
        args=args or {},
        pixels=parent_card.pixels,
        classes=parent_card.classes,
        parents=[inherited.parent.reference],
        conversion={"name": inherited.conversion, "converted": transfer.converted, "kept": transfer.missing},
        data=parent_card.data,
        licence=parent_card.licence,
        versions=versions(),
    )
    return store.put(inherited.net, card, seen=record_of(inherited.parent))
