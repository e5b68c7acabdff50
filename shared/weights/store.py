"""Exported weights and their tags: the interface between pretraining and detection.

    weights/<arch>/<tag>/<digest>/model.safetensors      tensors only
                                  card.json              architecture, lineage, metrics
                                  seen-<sha256>.npy      digests of the images trained on (seen.py)

Weights load completely, or WeightsError is raised. `Store.put` writes a folder that is never changed again;
`Store.find` resolves `vicreg`, `vicreg@3fa9c1` or `vicreg` at an epoch to exactly one folder; `Store.load` verifies
every byte against the card, and `transfer.py` every tensor against the module.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shared.errors import UsageError, WeightsError
from shared.files import file_digest, naming, sync_folder
from shared.recipes.files import recipes_for
from shared.recipes.registry import suggest
from shared.weights.card import ANCESTORS, SHORT, Card, Exported, check_name, listed, read_card, read_tensors
from shared.weights.moved import at_path
from shared.weights.seen import Record, keep
from shared.weights.transfer import Fit, Transfer, fill, not_finite, unshared

PRIVATE = ("il-all", "il-common")  # tags in birder's commands whose weights and images are not public


class NotThere(WeightsError):
    """No weights with that tag, epoch or digest."""


class Store:
    """A folder of exported weights."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    # --- writing ----------------------------------------------------------------------------

    def put(
        self,
        module: nn.Module,
        card: Card,
        *,
        beside: Mapping[str, Tensor] | None = None,
        seen: Record | None = None,
    ) -> Exported:
        """Write weights and card to a new folder; existing folders are never changed.

        Args:
            beside: more tensors for the same file, under names that the module does not have.
            seen: digests of the images that were trained on, in files that are put into the folder (`seen.py`).

        Raises:
            UsageError: an invalid tag or arch, or the folder cannot be written.
            WeightsError: a weight is NaN or Inf.
        """
        from safetensors.torch import save_file

        for what in (card.arch, card.tag):
            check_name(what)
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in (unshared(module) | dict(beside or {})).items()
        }
        broken = not_finite(tensors)
        if broken:
            raise WeightsError(f"{listed(broken)} contains NaN or Inf; nothing was exported, check the losses")
        shelf = self.root / card.arch / card.tag
        partial = self.root / f".partial-{uuid.uuid4().hex}"
        try:
            partial.mkdir(parents=True)
            with naming(shelf / "model.safetensors"):
                save_file(tensors, partial / "model.safetensors")
            facts = asdict(card) | {
                "seen": seen.on_card() if seen is not None else [],
                "metrics": {
                    name: value if value is not None and math.isfinite(value) else None
                    for name, value in card.metrics.items()
                },
                "created": time.time(),
                "sha256": file_digest(partial / "model.safetensors"),
                "bytes": (partial / "model.safetensors").stat().st_size,
            }
            content = json.dumps(facts, indent=2, default=str).encode() + b"\n"  # the headline metric stays the first
            with naming(shelf / "card.json"):
                (partial / "card.json").write_bytes(content)
            if seen is not None:
                with naming(shelf / "seen.npy"):
                    keep(seen, partial)
            # safetensors makes files that only their owner can read; the umask decides
            (partial / "model.safetensors").chmod((partial / "card.json").stat().st_mode & 0o777)
            final = self.settle(partial, shelf, hashlib.sha256(content).hexdigest()[:SHORT])
        except OSError as error:
            raise UsageError(
                f"weights cannot be written to {self.root} ({error.strerror}); free some space or give another "
                f"--weights-dir"
            ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Exported(final, read_card(final))

    def settle(self, partial: Path, shelf: Path, digest: str) -> Path:
        """Move a folder that is completely written to its place; where that exists, the one there stays."""
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        shelf.mkdir(parents=True, exist_ok=True)
        final = shelf / digest
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # it exists if two runs export the same weights at the same time
                raise
        sync_folder(shelf)
        return final

    # --- finding ----------------------------------------------------------------------------

    def all(self) -> list[Exported]:
        """All readable exports, oldest first."""
        found = []
        for path in self.root.glob("*/*/*/card.json"):
            try:
                found.append(Exported(path.parent, read_card(path.parent)))
            except WeightsError:
                continue
        return sorted(found, key=lambda exported: exported.card.created)

    def find(self, arch: str | None, tag: str, epoch: int | None = None) -> Exported:
        """Find the export of a tag.

        Args:
            arch: architecture; None for the only one that has the tag.
            tag: `tag` for its newest finished export, `tag@digest`, or the path of an export or of a run.
            epoch: the export of that epoch; 0 and None mean the finished one.

        Raises:
            NotThere: there is no such export.
            WeightsError: the tag or digest is ambiguous, or a card is damaged.
        """
        named = at_path(Path(tag), self.root) if "/" in tag or tag.startswith((".", "~")) else None
        if named is not None:
            if arch is not None and named.card.arch != arch:
                raise WeightsError(f"{tag} has weights of {named.card.arch}, not {arch}; give one of {arch}")
            return named
        word, _, pin = tag.partition("@")
        shelves = sorted(
            p for p in self.root.glob("*/*") if p.is_dir() and p.name == word and not p.parent.name.startswith(".")
        )
        if arch is not None:
            shelves = [p for p in shelves if p.parent.name == arch]
        else:
            backbones = [p for p in shelves if any(e.card.kind == "backbone" for e in self.exports(p))]
            shelves = backbones or shelves
        if not shelves:
            raise NotThere(
                f"no weights tagged '{word}'{f' for {arch}' if arch else ''} in {self.root}; {self.hint(arch, word)}"
            )
        if len(shelves) > 1:
            raise WeightsError(
                f"'{word}' is a tag of {listed([p.parent.name for p in shelves])}; choose one with --backbone"
            )
        exports = self.exports(shelves[0], pin)
        if pin:
            pass
        elif epoch:
            exports = [e for e in exports if e.card.epoch == epoch]
        else:
            exports = [e for e in exports if e.card.finished]
        if not exports:
            there = [f"{word}@{e.digest[:6]} (epoch {e.card.epoch})" for e in self.exports(shelves[0])]
            wanted = f"@{pin}" if pin else f" at epoch {epoch}" if epoch else " from a finished run"
            raise NotThere(
                f"{shelves[0].parent.name} has no '{word}'{wanted}; found {listed(there) or 'nothing readable'}"
            )
        if pin and len(exports) > 1:
            raise WeightsError(f"'{tag}' is ambiguous: {listed([e.digest for e in exports])}; give more digits")
        return exports[-1]

    def archs(self, tag: str) -> list[str]:
        """Architectures that have a tag, given as `tag` or `tag@digest`."""
        word = tag.partition("@")[0]
        return sorted(p.parent.name for p in self.root.glob("[!.]*/*") if p.is_dir() and p.name == word)

    def exports(self, shelf: Path, pin: str = "") -> list[Exported]:
        """The exports of one arch and tag, oldest first. A damaged one raises, since it may be the requested one.

        Args:
            pin: prefix of the digest.

        Raises:
            WeightsError: a card is damaged, or belongs to another arch or tag.
        """
        found = [Exported(p, read_card(p)) for p in shelf.iterdir() if p.is_dir() and p.name.startswith(pin)]
        for exported in found:
            if (exported.card.arch, exported.card.tag) != (shelf.parent.name, shelf.name):
                raise WeightsError(
                    f"{exported.path} contains {exported.card.arch} {exported.card.tag} according to its card; "
                    f"move it back"
                )
        return sorted(found, key=lambda exported: exported.card.created)

    def hint(self, arch: str | None, tag: str) -> str:
        """Similar tags, and the command that creates the requested one."""
        if tag in PRIVATE:
            train = f"pretrain train --model {arch or 'efficientnet_v2_m'}"
            return f"its training images are not public, so it is not available; use any tag made by `{train}` instead"
        tags = sorted({(p.parent.name, p.name) for p in self.root.glob("*/*") if p.is_dir()})
        here = [name for owner, name in tags if owner == arch] if arch else sorted({name for _, name in tags})
        others = [owner for owner, name in tags if name == tag]
        hints = []
        if here:
            hints.append(f"{f'{arch} has' if arch else 'there are'} {listed(here)}{suggest(tag, here)}")
        elif others:
            hints.append(f"{listed(others)} has that tag")
        recipes = [f"`pretrain train --recipe {name}`" for name in recipes_for(arch, tag)]
        if recipes:
            hints.append(f"create it with {' or '.join(recipes)}")
        return "; ".join(hints) or f"create one with `pretrain train --model {arch or 'NAME'}`"

    def lineage(self, exported: Exported) -> list[dict[str, Any]]:
        """Cards of the export and of its ancestors, nearest first."""
        nodes = []
        for reference, card, _ in self.ancestry(exported):
            if card is None:
                unknown = {"method": None, "created": None, "parents": [], "metrics": {}}
                nodes.append({**reference, **unknown, "data": "not in this store"})
                continue
            facts = {"method": card.method, "created": card.created, "metrics": card.metrics, "data": card.data}
            facts |= {"licence": card.licence, "source": card.source, "cost": card.cost}
            nodes.append({**reference, **facts, "parents": [p["digest"] for p in card.parents]})
        return nodes

    def ancestry(self, exported: Exported) -> Iterator[tuple[dict[str, str], Card | None, Path]]:
        """(reference, card, its folder) of the export and of its ancestors, nearest first; None for an unknown card.

        Cards are looked for in the store, and in the `ancestors` folders of exports that were pulled.
        """
        queue, seen, carried = [exported.reference], set(), [exported.path / ANCESTORS]
        while queue:
            reference = queue.pop(0)
            if reference["digest"] in seen:
                continue
            seen.add(reference["digest"])
            card, place = None, self.place_of(reference)
            if reference["digest"] == exported.digest:  # it may be a copy outside of the store
                card, place = exported.card, exported.path
            for folder in [] if card else [place, *(folder / reference["digest"] for folder in carried)]:
                with suppress(WeightsError):
                    card, place = read_card(folder), folder
                    carried.append(folder / ANCESTORS)
                    break
            yield reference, card, place
            queue += card.parents if card else []

    def place_of(self, reference: Mapping[str, str]) -> Path:
        """Where an export is, by {arch, tag, digest} of a card."""
        return self.root / reference["arch"] / reference["tag"] / reference["digest"]

    # --- loading ----------------------------------------------------------------------------

    def load(
        self, module: nn.Module, exported: Exported, *, allow_missing: Sequence[str] = (), fit: Fit | None = None
    ) -> Transfer:
        """Load exported weights into a module completely, or raise and leave it unchanged.

        Args:
            allow_missing: glob patterns of tensors that may be missing or of another shape; they keep initial values.
            fit: conversion of the tensors before loading, such as resizing position embeddings.

        Raises:
            WeightsError: a damaged file, or a tensor that is missing, unexpected or of another shape.
        """
        tensors, converted = read_tensors(exported), []
        if fit is not None:
            tensors, converted = fit(tensors)
        return fill(
            module,
            tensors,
            source=str(exported),
            digest=exported.digest,
            allow_missing=allow_missing,
            converted=converted,
        )
