"""`pretrain import`: export a published checkpoint under a tag, completely or not at all.

file -> sha256 -> content -> layout -> names -> sizes -> fill -> card: source, licence, sha256, pixels -> store
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import backbone
from backbones.base import Backbone
from backbones.conversions import fit_sizes
from backbones.foreign import COUNTERS, Foreign, read_checkpoint, recognize
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import file_digest
from shared.weights.card import Card, Exported, check_name, listed, versions
from shared.weights.store import Store
from shared.weights.transfer import Transfer, fill


@dataclass(frozen=True, kw_only=True)
class Import:
    """The arguments of an import.

    file: the checkpoint.
    model: its backbone.
    tag: tag of the export.
    source: description of its origin.
    licence: license of the weights.
    rgb_mode: pixel statistics by name; None for those of the file or of timm.
    allow_missing: glob patterns of tensors that may be missing.
    img_size: height and width for position embeddings.
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
    """Read, rename, load, export; prints a report.

    Raises:
        UsageError: an unknown backbone, an invalid tag, or unknown pixel statistics.
        WeightsError: the file cannot be read, contains code, or does not match.
    """
    check_name(wanted.tag)
    args: dict[str, Any] = {"img_size": list(wanted.img_size)} if wanted.img_size else {}
    net = backbone.build(wanted.model, **args)
    content = read_checkpoint(wanted.file)
    found = recognize(content, wanted.model, net)
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
        print(f"skipped, not part of the backbone: {listed(found.left_out)}")
    print(f"pixels: mean {stats.mean}, std {stats.std} ({why})")
    print(f"license: {wanted.licence or 'not given; add it with --license'}")
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
        otherwise=f"give its --model (key layout: {found.layout}), or list missing tensors with --allow-missing GLOB",
    )


def pixels_for(wanted: Import, net: Backbone, found: Foreign) -> tuple[PixelStats, str]:
    """Pixel mean and std of the weights, and where they are from."""
    if wanted.rgb_mode is not None:
        stats = pixel_stats(wanted.rgb_mode)
        if found.pixels is not None and found.pixels != stats:
            raise WeightsError(
                f"{wanted.file.name} says it was trained with mean {found.pixels.mean} and std {found.pixels.std}, "
                f"not {wanted.rgb_mode}; remove --rgb-mode"
            )
        return stats, "from --rgb-mode"
    if found.pixels is not None:
        return found.pixels, "from the file"
    usual, cfg = pixel_stats("imagenet"), getattr(net.net, "pretrained_cfg", None) or {}
    timms = PixelStats(tuple(cfg.get("mean", usual.mean)), tuple(cfg.get("std", usual.std)))
    if found.layout.startswith("plain") and timms != usual:
        raise UsageError(
            f"{wanted.file.name} has no pixel mean and std, and timm's {wanted.model} has mean "
            f"{timms.mean} instead of ImageNet's; give them with --rgb-mode, such as centered (0.5) or imagenet"
        )
    return usual, "default; change them with --rgb-mode"
