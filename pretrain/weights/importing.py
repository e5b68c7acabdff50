"""`pretrain import`: export a published checkpoint under a tag, completely or not at all.

file -> sha256 -> content -> layout -> names -> sizes -> fill -> function -> card -> store
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import backbone
from backbones.base import Backbone
from backbones.conversions import fit_sizes
from backbones.foreign import COUNTERS, Foreign, read_checkpoint, recognize
from backbones.origin import Origin, Origins, known, origins_of
from backbones.trained import check_function, of_file_size, of_size, usual_pixels
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import file_digest
from shared.recipes.registry import suggest
from shared.text import say
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
    checkpoint_key: which copy of the network to take, if the file has several; None for the preferred one.
    trained_as: timm's name of the network that the file is of; None for what the file says.
    trained_size: height and width of the images it was trained on; None for what the file or the network says.
    """

    file: Path
    model: str
    tag: str
    source: str | None = None
    licence: str | None = None
    rgb_mode: str | None = None
    allow_missing: tuple[str, ...] = ()
    img_size: tuple[int, int] | None = None
    checkpoint_key: str | None = None
    trained_as: str | None = None
    trained_size: tuple[int, int] | None = None


def import_weights(wanted: Import, store: Store) -> Exported:
    """Read, rename, load, export; prints a report.

    Raises:
        UsageError: an unknown backbone, an invalid tag, or unknown pixel statistics.
        WeightsError: the file cannot be read, contains code, does not match, or is of a network that computes something
            else with the same tensors.
    """
    check_name(wanted.tag)
    check_trained_as(wanted)
    args: dict[str, Any] = {"img_size": list(wanted.img_size)} if wanted.img_size else {}
    net = backbone.build(wanted.model, **args)
    content = read_checkpoint(wanted.file)
    origins = origins_of(wanted.file, content, trained_as=wanted.trained_as, trained_size=wanted.trained_size)
    found = recognized(content, wanted, net, origins)
    digest = file_digest(wanted.file)
    stats, why = pixels_for(wanted, found, origins)
    transfer = fitted(wanted, net, found, origins, digest)
    network = check_function(wanted.model, net, origins, found.layout)
    rest = filled_rest(wanted, net, found, digest)
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
    exported = store.put(net, card, beside={net.beside + name: value for name, value in rest.items()})
    say(f"layout: {found.layout}")
    for words in filter(None, (found.copies_note, network)):
        say(words)
    say(f"filled {transfer}")
    if rest:
        parts = sorted({name.partition(".")[0] for name in rest})
        say(f"beside the backbone, for a detector that continues with it: {listed(parts)}")
    elif net.beside:
        say("the file has nothing of what follows the backbone, so a detector starts that from random weights")
    if found.left_out:
        say(f"skipped, not part of the backbone: {listed(found.left_out)}")
    say(f"pixels: mean {stats.mean}, std {stats.std} ({why})")
    say(f"license: {wanted.licence or 'not given; add it with --license'}")
    say(f"exported {exported} to {exported.path}")
    return exported


def check_trained_as(wanted: Import) -> None:
    """Raise UsageError for a --trained-as that is neither a name of timm nor --model."""
    name = wanted.trained_as
    if name is None or name == wanted.model:
        return
    import timm

    if known(name) is None:
        raise UsageError(
            f"--trained-as {name}: timm has no such network{suggest(name, timm.list_models())}; give timm's name of "
            f"the network that the file was trained as, or {wanted.model}"
        )


def recognized(content: Any, wanted: Import, net: Backbone, origins: Origins) -> Foreign:
    """The file's copy of the network; a config.json of transformers explains names that are not timm's."""
    size = origins.sizes[0].size if origins.sizes else None
    like = of_size(wanted.model, size) or net if size else net
    try:
        return recognize(content, wanted.model, net, key=wanted.checkpoint_key, like=like)
    except WeightsError as error:
        other = origins.transformers
        if other is None or "transformers" in str(error):
            raise
        raise WeightsError(f"{other.where} is of {other.library}: {error}") from None


def fitted(wanted: Import, net: Backbone, found: Foreign, origins: Origins, digest: str) -> Transfer:
    parent = of_file_size(found.tensors, wanted.model, net, origins)
    tensors, converted = fit_sizes(found.tensors, net, parent)
    advice = f"give its --model (key layout: {found.layout}), or list missing tensors with --allow-missing GLOB"
    return fill(
        net,
        tensors,
        source=wanted.file.name,
        digest=digest,
        allow_missing=(COUNTERS, *wanted.allow_missing),
        converted=converted,
        otherwise=f"{advice}; {found.copies_note}" if found.copies_note else advice,
    )


def filled_rest(wanted: Import, net: Backbone, found: Foreign, digest: str) -> dict[str, Tensor]:
    """What the file has besides the backbone, complete; {} if it has nothing of it."""
    module = net.rest()
    if module is None or not found.rest:
        return {}
    fill(
        module,
        found.rest,
        source=f"{wanted.file.name}, {net.beside.rstrip('.')}",
        digest=digest,
        allow_missing=(COUNTERS, *wanted.allow_missing),
        otherwise="give a complete file, or one without any of it",
    )
    return module.state_dict()


def pixels_for(wanted: Import, found: Foreign, origins: Origins) -> tuple[PixelStats, str]:
    """Pixel mean and std of the weights, and where they are from."""
    origin = Origin("the file", pixels=found.pixels) if found.pixels is not None else origins.pixels
    if wanted.rgb_mode is not None:
        stats = pixel_stats(wanted.rgb_mode)
        if origin is not None and origin.pixels is not None and not close(origin.pixels, stats):
            who = wanted.file.name if origin.where in ("the file", wanted.file.name) else origin.where
            raise WeightsError(
                f"{who} says it was trained with mean {origin.pixels.mean} and std {origin.pixels.std}, "
                f"not {wanted.rgb_mode}; remove --rgb-mode"
            )
        return stats, "from --rgb-mode"
    if origin is not None and origin.pixels is not None:
        return origin.pixels, f"from {origin.where}"
    return usual_pixels(wanted.model, wanted.file.name, found.layout)


def close(one: PixelStats, other: PixelStats) -> bool:
    return all(abs(a - b) < 1e-4 for a, b in zip(one.mean + one.std, other.mean + other.std, strict=True))
