"""What is known about exported weights: their card, and reading both with every byte checked.

    card.json               arch, tag, method, epoch, parents, pixels, classes, data, metrics, sha256 of the weights
    model.safetensors       tensors, nothing else

The folder's name is the digest of the card, and the card holds that of the weights: nothing is changed unnoticed.
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
SHORT = 12  # characters of a digest that name a folder


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a file of weights.

    arch: the backbone's name, or `network-backbone` of a detector.
    args: what the builder was told besides.
    tag: the word that finds it.
    epoch: epochs trained; `finished` says whether the run ended there.
    pixels: mean and std the weights expect.
    classes: names, and for a detector the source category ids, by output.
    parents: cards these weights grew from: {arch, tag, digest}.
    conversion: how they were made from a parent of another kind: name, what was changed, what kept its initial value.
    source: where imported weights are from: file, sha256, layout, and what the importer was told.
    data: fingerprint and size of the training data.
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
    recipe: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    note: str | None = None
    created: float = 0.0
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Exported:
    """One folder of the store."""

    path: Path
    card: Card

    @property
    def digest(self) -> str:
        return self.path.name

    @property
    def reference(self) -> dict[str, str]:
        """How a child's card names this one."""
        return {"arch": self.card.arch, "tag": self.card.tag, "digest": self.digest}

    def __str__(self) -> str:
        return f"{self.card.arch} {self.card.tag}@{self.digest[:6]} (epoch {self.card.epoch})"


def read_card(folder: Path) -> Card:
    """The card of an export, checked against the folder's digest."""
    path = folder / "card.json"
    try:
        content = path.read_bytes()
        facts = json.loads(content)
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} has no card.json, so it is no export; remove the folder or export again"
        ) from None
    except (OSError, ValueError):
        raise WeightsError(f"{path} cannot be read as JSON; remove the folder or export again") from None
    if hashlib.sha256(content).hexdigest()[:SHORT] != folder.name:
        raise WeightsError(
            f"{path} was changed after it was written: it does not match its digest {folder.name}; export again"
        )
    known = {f.name for f in fields(Card)}
    if (
        not isinstance(facts, dict)
        or not {"arch", "tag", "epoch", "sha256"} <= facts.keys()
        or not facts.keys() <= known
    ):
        raise WeightsError(f"{path} is not a card this version reads; export again with this version")
    return Card(**facts)


def read_tensors(exported: Exported) -> dict[str, Tensor]:
    """The tensors of an export, after every byte was checked against the card."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = exported.path / "model.safetensors"
    size = path.stat().st_size if path.is_file() else -1
    if size <= 0:
        raise WeightsError(f"{path} is {'missing' if size < 0 else 'empty'}; export {exported.card.tag} again")
    with path.open("rb") as file:
        head = file.read(16)
    # a header whose length ends in 0x80 begins as pickles do, and what follows the length is then a brace
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[8:9] != b"{"):
        raise WeightsError(
            f"{path} is a pickle and not a safetensors file; it was not opened, export the weights again"
        )
    if size != exported.card.bytes:
        raise WeightsError(f"{path} has {size} bytes and its card says {exported.card.bytes}; copy or export it again")
    if file_digest(path) != exported.card.sha256:
        raise WeightsError(
            f"{path} does not match the sha256 on its card: some bytes have changed; copy or export it again"
        )
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); export the weights again") from None


def read_shapes(exported: Exported) -> dict[str, Tensor]:
    """The tensors of an export without their values: on the meta device, where they have shapes and no memory."""
    from safetensors import SafetensorError, safe_open

    path = exported.path / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); export the weights again") from None
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def expected_pixels(exported: Exported) -> PixelStats:
    """The pixels that weights expect.

    Raises:
        WeightsError: the card does not say, or says what cannot be.
    """
    stats = exported.card.pixels
    try:
        mean, std = (tuple(float(value) for value in stats[name]) for name in ("mean", "std"))
        sane = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    except (KeyError, TypeError, ValueError):
        mean, std, sane = (), (), False
    if not sane:
        raise WeightsError(f"{exported} does not say which pixels it expects; export it again with this version")
    return PixelStats(mean, std)  # type: ignore[arg-type]


def check_pixels(exported: Exported, stats: PixelStats) -> None:
    """Refuse weights that expect other pixels than they would get."""
    wanted = expected_pixels(exported)
    if any(abs(a - b) >= 1e-4 for a, b in zip(wanted.mean + wanted.std, stats.mean + stats.std, strict=True)):
        raise WeightsError(
            f"{exported} expects pixels of mean {rounded(wanted.mean)} and std {rounded(wanted.std)}, "
            f"not {rounded(stats.mean)} and {rounded(stats.std)}; leave --rgb-mode out to follow the weights"
        )


def check_name(word: str) -> None:
    if not TAG.fullmatch(word) or ".." in word:
        raise UsageError(f"'{word}' cannot be a tag or a name; use letters, digits, dot, dash and underscore")


def listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in values) + ")"


def versions() -> dict[str, str]:
    """The libraries whose numbers these are."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("chordate", "torch", "torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found
