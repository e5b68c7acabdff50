"""`pretrain convert`: convert a tag to another backbone, or to another image size."""

from __future__ import annotations

from typing import Any

from backbones import backbone
from backbones.inherit import inherit, keep, kept_args
from shared.errors import UsageError, WeightsError
from shared.text import say
from shared.weights.card import Exported, check_name
from shared.weights.store import Store


def convert(
    store: Store,
    *,
    model: str,
    tag: str,
    to: str,
    img_size: tuple[int, int] | None = None,
    epoch: int | None = None,
    new_tag: str | None = None,
    allow_missing: tuple[str, ...] = (),
) -> Exported:
    """Convert and export; prints converted tensors and those at initial values.

    Args:
        img_size: height and width for position embeddings.
        new_tag: tag of the result; by default the parent's, or TAG-SIZE for the same backbone.

    Raises:
        UsageError: nothing would change.
        WeightsError: no such tag, or no conversion.
    """
    parent = store.find(model, tag, epoch)
    if parent.card.kind != "backbone":
        raise WeightsError(f"{parent} is a {parent.card.kind}, not a backbone; give a tag exported by `pretrain`")
    if model == to and img_size is None:
        raise UsageError(f"it is already {to}; give another backbone with --to, or a --size")
    args: dict[str, Any] = kept_args(parent.card) if model == to else {}
    if img_size is not None:
        args["img_size"] = list(img_size)
    child = backbone.build(to, **args)
    inherited = inherit(store, parent, to, child, allow_missing)
    if not inherited.transfer.converted and model == to:
        raise UsageError(f"{to} has no position embeddings that depend on the image size; it can use {tag} as it is")
    if new_tag is None and model == to:
        new_tag = f"{parent.card.tag}-{'x'.join(map(str, dict.fromkeys(img_size or ())))}"
    check_name(new_tag or tag)
    exported = keep(store, inherited, to, tag=new_tag, args=args)
    say(f"converted {inherited.transfer}")
    say(f"exported {exported} to {exported.path}")
    return exported
