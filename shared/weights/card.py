"""The card of exported weights; reading card and weights with verified digests.

    card.json               arch, tag, method, epoch, parents, pixels, classes, data, metrics, sha256 of the weights
    model.safetensors       tensors, nothing else

The folder's name is the digest of the card, and the card contains that of the weights, so any change is detected.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats
from shared.files import file_digest

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"[0-9a-f]{12}")
SHORT = 12  # characters of a digest that name a folder
ANCESTORS = "ancestors"  # folder of an export that was pulled: ancestors/<digest>/card.json


@dataclass(frozen=True, kw_only=True)
class Card:
    """Metadata of exported weights.

    arch: the backbone's name, or `network-backbone` of a detector.
    args: options of the builder.
    tag: the tag it is found by.
    epoch: epochs trained; `finished` is False for an intermediate export.
    pixels: mean and std of the input pixels.
    classes: names by output, and for a detector the category ids of the source file.
    parents: weights these were initialized from, and teachers: {arch, tag, digest}.
    conversion: conversion from another backbone: its name, changed tensors, tensors at initial values.
    source: of imported weights: file, sha256, key layout, and the --source text; of others, a published teacher.
    data: fingerprint and number of samples of the training data.
    seen: files of digests of the images trained on, those of its ancestors' trainings among them (`seen.py`).
    cost: of this training alone, its steps without evaluation: seconds, device, processes; of a CPU also threads and
        processor_seconds of the first process. Empty where it is not known, as of weights of others.
    intervals: of the metrics, where they were computed: level, draws, images, and bounds (low, high) by metric.
    """

    arch: str
    tag: str
    epoch: int
    kind: str = "backbone"
    finished: bool = True
    method: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    pixels: dict[str, list[float]] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    parents: list[dict[str, str]] = field(default_factory=list)
    conversion: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    licence: str | None = None
    note: str | None = None
    created: float = 0.0
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Exported:
    """An export with its card: a folder of the store, or a copy elsewhere under any name."""

    path: Path
    card: Card
    card_digest: str = ""  # where the folder has another name

    @property
    def digest(self) -> str:
        return self.card_digest or self.path.name

    @property
    def reference(self) -> dict[str, str]:
        """{arch, tag, digest}, as in the `parents` of another card."""
        return {"arch": self.card.arch, "tag": self.card.tag, "digest": self.digest}

    def __str__(self) -> str:
        return f"{self.card.arch} {self.card.tag}@{self.digest[:6]} (epoch {self.card.epoch})"


def read_export(folder: Path) -> Exported:
    """Read an export that is named by its path: moved, copied or renamed. Raises WeightsError.

    A folder whose name is not a digest cannot tell that its card was changed; the weights are verified all the same.
    """
    digest = "" if DIGEST.fullmatch(folder.name) else digest_of(folder / "card.json")
    return Exported(folder, read_card(folder, digest or folder.name), digest)


def digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:SHORT]
    except OSError:
        raise WeightsError(f"{path} cannot be read; give the folder of an export") from None


def read_card(folder: Path, digest: str | None = None) -> Card:
    """Read the card of an export and verify its digest, by default the folder's name. Raises WeightsError."""
    path = folder / "card.json"
    try:
        content = path.read_bytes()
        facts = json.loads(content)
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} has no card.json, so it is not an export; remove the folder or export again"
        ) from None
    except (OSError, ValueError):
        raise WeightsError(f"{path} cannot be read as JSON; remove the folder or export again") from None
    if hashlib.sha256(content).hexdigest()[:SHORT] != (digest or folder.name):
        raise WeightsError(f"{path} was modified: it does not match its digest {folder.name}; export again")
    known = {f.name for f in fields(Card)}
    if (
        not isinstance(facts, dict)
        or not {"arch", "tag", "epoch", "sha256"} <= facts.keys()
        or not facts.keys() <= known
    ):
        raise WeightsError(f"{path} is not a card that this version can read; export again with this version")
    return Card(**facts)


def read_tensors(exported: Exported) -> dict[str, Tensor]:
    """Read the tensors of an export and verify their sha256 against the card. Raises WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = exported.path / "model.safetensors"
    size = path.stat().st_size if path.is_file() else -1
    if size <= 0:
        raise WeightsError(f"{path} is {'missing' if size < 0 else 'empty'}; export {exported.card.tag} again")
    with path.open("rb") as file:
        head = file.read(16)
    # a safetensors header whose length ends in 0x80 starts like a pickle, but has a brace after the length
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{"):
        raise WeightsError(f"{path} is a pickle, not a safetensors file; it was not opened, export the weights again")
    if size != exported.card.bytes:
        raise WeightsError(f"{path} has {size} bytes, but its card says {exported.card.bytes}; copy or export it again")
    if file_digest(path) != exported.card.sha256:
        raise WeightsError(f"{path} does not match the sha256 on its card; copy or export it again")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); export the weights again") from None


def read_shapes(exported: Exported) -> dict[str, Tensor]:
    """The tensors of an export on the meta device: shapes without values."""
    from safetensors import SafetensorError, safe_open

    path = exported.path / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); export the weights again") from None
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def expected_pixels(exported: Exported) -> PixelStats:
    """Pixel mean and std that the weights were trained with.

    Raises:
        WeightsError: the card has none, or invalid ones.
    """
    stats = exported.card.pixels
    try:
        mean, std = (tuple(float(value) for value in stats[name]) for name in ("mean", "std"))
        sane = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    except (KeyError, TypeError, ValueError):
        mean, std, sane = (), (), False
    if not sane:
        raise WeightsError(f"{exported} has no pixel mean and std on its card; export it again with this version")
    return PixelStats(mean, std)  # type: ignore[arg-type]


def check_pixels(exported: Exported, stats: PixelStats) -> None:
    """Raise WeightsError if the weights were trained with another pixel mean and std."""
    wanted = expected_pixels(exported)
    if any(abs(a - b) >= 1e-4 for a, b in zip(wanted.mean + wanted.std, stats.mean + stats.std, strict=True)):
        raise WeightsError(
            f"{exported} was trained with pixel mean {rounded(wanted.mean)} and std {rounded(wanted.std)}, "
            f"not {rounded(stats.mean)} and {rounded(stats.std)}; remove --rgb-mode to use those of the weights"
        )


def check_name(word: str) -> None:
    if not TAG.fullmatch(word) or ".." in word:
        raise UsageError(f"'{word}' is not a valid tag or name; use letters, digits, dot, dash and underscore")


def listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in values) + ")"


def versions() -> dict[str, str]:
    """Versions of the libraries, by name."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("chordate", "torch", "torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found
