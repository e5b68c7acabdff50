"""`pretrain convert`: a tag of one backbone becomes a tag of another, or of the same at another image size."""

from __future__ import annotations

from typing import Any

from backbones import backbone
from backbones.inherit import inherit, keep, kept_args
from shared.errors import UsageError, WeightsError
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
    """Convert and export; prints what was changed and what kept its initial value.

    Args:
        img_size: height and width that position tables are made for.
        new_tag: another word than the parent's; needed, and given, where the backbone stays the same.

    Raises:
        UsageError: nothing would change.
        WeightsError: there is no such tag, or no conversion leads there.
    """
    parent = store.find(model, tag, epoch)
    if parent.card.kind != "backbone":
        raise WeightsError(f"{parent} is a {parent.card.kind} and no backbone; name a tag that `pretrain` exported")
    if model == to and img_size is None:
        raise UsageError(f"{to} is what it is already; name another backbone with --to, or a --size")
    args: dict[str, Any] = kept_args(parent.card) if model == to else {}
    if img_size is not None:
        args["img_size"] = list(img_size)
    child = backbone.build(to, **args)
    heir = inherit(store, parent, to, child, allow_missing)
    if not heir.transfer.converted and model == to:
        raise UsageError(f"{to} has no tables that depend on the image size; it takes {tag} as it is")
    if new_tag is None and model == to:
        new_tag = f"{parent.card.tag}-{'x'.join(map(str, dict.fromkeys(img_size or ())))}"
    check_name(new_tag or tag)
    exported = keep(store, heir, to, tag=new_tag, args=args)
    print(f"converted {heir.transfer}")
    print(f"exported {exported} to {exported.path}")
    return exported
