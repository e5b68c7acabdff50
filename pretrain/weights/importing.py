"""`pretrain import`: a checkpoint of somebody else becomes an export under a tag, whole or not at all.

file -> sha256 -> content -> layout -> names -> sizes -> fill -> card: source, licence, sha256, pixels -> store
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import backbone
from backbones.base import Backbone
from backbones.conversions import fit_sizes
from backbones.foreign import COUNTERS, Foreign, read_checkpoint, understand
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import file_digest
from shared.weights.card import Card, Exported, check_name, listed, versions
from shared.weights.store import Store
from shared.weights.transfer import Transfer, fill


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is brought in, as the command line says it.

    file: the checkpoint.
    model: the backbone it is of.
    tag: the word that will find it.
    source: where it is from, in words.
    licence: of the weights, which may differ from the code's.
    rgb_mode: pixel statistics by name; what the file or timm says, without.
    allow_missing: tensors the file may lack, as glob patterns.
    img_size: height and width that position tables are made for.
    """

    file: Path
    model: str
    tag: str
    source: str | None = None
    licence: str | None = None
    rgb_mode: str | None = None
    allow_missing: tuple[str, ...] = ()
    img_size: tuple[int, int] | None = None


def import_weights(wanted: Import, store: Store) -> Exported:
    """Read, understand, fill, export; prints what happened.

    Raises:
        UsageError: no such backbone, a tag that cannot be one, or pixels that nobody tells.
        WeightsError: the file cannot be read, holds code, or does not fit.
    """
    check_name(wanted.tag)
    args: dict[str, Any] = {"img_size": list(wanted.img_size)} if wanted.img_size else {}
    net = backbone.build(wanted.model, **args)
    content = read_checkpoint(wanted.file)
    found = understand(content, wanted.model, net)
    digest = file_digest(wanted.file)
    transfer = fitted(wanted, net, found, digest)
    stats, why = pixels_for(wanted, net, found)
    card = Card(
        arch=wanted.model,
        tag=wanted.tag,
        epoch=0,
        method="import",
        args=args,
        pixels={"mean": list(stats.mean), "std": list(stats.std)},
        source={"file": wanted.file.name, "sha256": digest, "layout": found.layout, "told": wanted.source},
        licence=wanted.licence,
        conversion={"name": "resize", "converted": transfer.converted} if transfer.converted else {},
        versions=versions(),
    )
    exported = store.put(net, card)
    print(f"layout: {found.layout}")
    print(f"filled {transfer}")
    if found.left_out:
        print(f"left out, no part of the backbone: {listed(found.left_out)}")
    print(f"pixels: mean {stats.mean}, std {stats.std} ({why})")
    print(f"licence: {wanted.licence or 'not told; say it with --licence'}")
    print(f"exported {exported} to {exported.path}")
    return exported


def fitted(wanted: Import, net: Backbone, found: Foreign, digest: str) -> Transfer:
    tensors, converted = fit_sizes(found.tensors, net)
    return fill(
        net,
        tensors,
        source=wanted.file.name,
        digest=digest,
        allow_missing=(COUNTERS, *wanted.allow_missing),
        converted=converted,
        otherwise=f"name the --model it is of (layout: {found.layout}), or what may stay with --allow-missing GLOB",
    )


def pixels_for(wanted: Import, net: Backbone, found: Foreign) -> tuple[PixelStats, str]:
    """The statistics the weights expect, and who says so."""
    if wanted.rgb_mode is not None:
        stats = pixel_stats(wanted.rgb_mode)
        if found.pixels is not None and found.pixels != stats:
            raise WeightsError(
                f"{wanted.file.name} says it expects mean {found.pixels.mean} and std {found.pixels.std}, "
                f"not {wanted.rgb_mode}; leave --rgb-mode out"
            )
        return stats, "as told"
    if found.pixels is not None:
        return found.pixels, "the file says so"
    usual, cfg = pixel_stats("imagenet"), getattr(net.net, "pretrained_cfg", None) or {}
    timms = PixelStats(tuple(cfg.get("mean", usual.mean)), tuple(cfg.get("std", usual.std)))
    if found.layout.startswith("plain") and timms != usual:
        raise UsageError(
            f"{wanted.file.name} does not say which pixels it expects, and timm's own {wanted.model} expect mean "
            f"{timms.mean} and not ImageNet's; say which with --rgb-mode, centered (0.5) or imagenet"
        )
    return usual, "the usual ones; say others with --rgb-mode"
