"""Exported weights, and the tags that find them: all that the two halves have to agree on.

    weights/<arch>/<tag>/<digest>/model.safetensors      tensors, nothing else; nothing that could run
                                  card.json              what they are, how they came to be, how good they were

A tag loads or refuses. `Store.put` writes a folder that is never changed again; `Store.find` turns `vicreg`,
`vicreg@3fa9c1` or `vicreg` at an epoch into exactly one such folder; `Store.load` checks every byte against the card,
and `transfer.py` every tensor against the module. There is no third outcome.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from shared.errors import UsageError, WeightsError
from shared.files import file_digest, sync_folder
from shared.recipes.files import recipes_for
from shared.recipes.registry import suggest
from shared.weights.card import SHORT, Card, Exported, check_name, listed, read_card, read_tensors
from shared.weights.transfer import Fit, Transfer, fill, not_finite, unshared

PRIVATE = ("il-all", "il-common")  # tags in published commands whose weights and pictures nobody publishes


class NotThere(WeightsError):
    """Nothing lies under that tag: no such folder, or no export of that epoch or digest in it."""


class Store:
    """A folder of exported weights."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    # --- writing ----------------------------------------------------------------------------

    def put(self, module: nn.Module, card: Card) -> Exported:
        """Write weights and card as a new folder; nothing that is there is ever changed.

        Raises:
            UsageError: the tag or the arch cannot name a folder, or the folder cannot be written.
            WeightsError: a weight is not finite.
        """
        from safetensors.torch import save_file

        for what in (card.arch, card.tag):
            check_name(what)
        tensors = {name: value.detach().cpu().contiguous() for name, value in unshared(module).items()}
        broken = not_finite(tensors)
        if broken:
            raise WeightsError(
                f"{listed(broken)} holds values that are not finite; nothing was exported, look at the losses"
            )
        shelf = self.root / card.arch / card.tag
        partial = self.root / f".partial-{uuid.uuid4().hex}"
        try:
            partial.mkdir(parents=True)
            save_file(tensors, partial / "model.safetensors")
            facts = asdict(card) | {
                "created": time.time(),
                "sha256": file_digest(partial / "model.safetensors"),
                "bytes": (partial / "model.safetensors").stat().st_size,
            }
            content = json.dumps(facts, indent=2, sort_keys=True, default=str).encode() + b"\n"
            (partial / "card.json").write_bytes(content)
            for file in partial.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            shelf.mkdir(parents=True, exist_ok=True)
            final = shelf / hashlib.sha256(content).hexdigest()[:SHORT]
            try:
                partial.rename(final)
            except OSError:
                if not final.is_dir():  # it is there when two runs export the same weights in the same instant
                    raise
            sync_folder(shelf)
        except OSError as error:
            raise UsageError(
                f"weights cannot be written to {self.root} ({error.strerror}); give another --weights-dir"
            ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Exported(final, read_card(final))

    # --- finding ----------------------------------------------------------------------------

    def all(self) -> list[Exported]:
        """Everything readable in the store, oldest first."""
        found = []
        for path in self.root.glob("*/*/*/card.json"):
            try:
                found.append(Exported(path.parent, read_card(path.parent)))
            except WeightsError:
                continue
        return sorted(found, key=lambda exported: exported.card.created)

    def find(self, arch: str | None, tag: str, epoch: int | None = None) -> Exported:
        """The one export that a tag means.

        Args:
            arch: whose weights; None takes the only arch that has the tag.
            tag: a tag for its newest finished export, or `tag@digest` for exactly one.
            epoch: the export of that epoch instead; 0 and None both mean the finished one.

        Raises:
            NotThere: there is none.
            WeightsError: more than one is meant, or a card is damaged.
        """
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
                f"'{word}' is a tag of {listed([p.parent.name for p in shelves])}; say which with --backbone"
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
            wanted = f"@{pin}" if pin else f" at epoch {epoch}" if epoch else " that is finished"
            raise NotThere(
                f"{shelves[0].parent.name} has no '{word}'{wanted}; there is {listed(there) or 'nothing readable'}"
            )
        if pin and len(exports) > 1:
            raise WeightsError(f"'{tag}' could be {listed([e.digest for e in exports])}; give more of the digest")
        return exports[-1]

    def archs(self, tag: str) -> list[str]:
        """Whose weights there are under a tag, `tag` or `tag@digest`."""
        word = tag.partition("@")[0]
        return sorted(p.parent.name for p in self.root.glob("[!.]*/*") if p.is_dir() and p.name == word)

    def exports(self, shelf: Path, pin: str = "") -> list[Exported]:
        """The exports of one arch and tag, oldest first. None is passed over: a damaged one may be meant.

        Args:
            pin: only those whose digest begins so.

        Raises:
            WeightsError: a card is damaged, or belongs to another arch or tag.
        """
        found = [Exported(p, read_card(p)) for p in shelf.iterdir() if p.is_dir() and p.name.startswith(pin)]
        for exported in found:
            if (exported.card.arch, exported.card.tag) != (shelf.parent.name, shelf.name):
                raise WeightsError(
                    f"{exported.path} holds {exported.card.arch} {exported.card.tag} by its card; move it back there"
                )
        return sorted(found, key=lambda exported: exported.card.created)

    def hint(self, arch: str | None, tag: str) -> str:
        """What there is instead, and how to make it."""
        if tag in PRIVATE:
            train = f"pretrain train --model {arch or 'efficientnet_v2_m'}"
            return f"nobody publishes it, its pictures are private; any tag of `{train}` serves in its place"
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
            hints.append(f"{' or '.join(recipes)} makes it")
        return "; ".join(hints) or f"make them with `pretrain train --model {arch or 'NAME'}`"

    def lineage(self, exported: Exported) -> list[dict[str, Any]]:
        """The export and its ancestors, nearest first, as far as the store holds them."""
        nodes, queue, seen = [], [exported.reference], set()
        while queue:
            reference = queue.pop(0)
            if reference["digest"] in seen:
                continue
            seen.add(reference["digest"])
            path = self.root / reference["arch"] / reference["tag"] / reference["digest"]
            try:
                card = read_card(path)
            except WeightsError:
                nodes.append(
                    {
                        **reference,
                        "method": None,
                        "created": None,
                        "parents": [],
                        "metrics": {},
                        "data": "not in this store",
                    }
                )
                continue
            facts = {"method": card.method, "created": card.created, "metrics": card.metrics, "data": card.data}
            nodes.append({**reference, **facts, "parents": [p["digest"] for p in card.parents]})
            queue += card.parents
        return nodes

    # --- loading ----------------------------------------------------------------------------

    def load(
        self, module: nn.Module, exported: Exported, *, allow_missing: Sequence[str] = (), fit: Fit | None = None
    ) -> Transfer:
        """Fill a module with exported weights, or refuse and leave it as it was.

        Args:
            allow_missing: glob patterns of tensors that may be missing or of another shape; they keep their values.
            fit: what is done to the tensors first, such as resizing position tables to the module's.

        Raises:
            WeightsError: the file is damaged or no safetensors file, or a tensor of the module is missing or misfits.
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
