"""Exported weights, and the tags that find them: all that the two halves have to agree on.

    weights/<arch>/<tag>/<digest>/model.safetensors      tensors, nothing else; nothing that could run
                                  card.json              what they are, how they came to be, how good they were

A tag loads or refuses. `Store.put` writes a folder that is never changed again; `Store.find` turns `vicreg`,
`vicreg@3fa9c1` or `vicreg` at an epoch into exactly one such folder; `Store.load` checks every byte against the card
and every tensor against the module, and says what it did in a transfer report. There is no third outcome.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.card import SHORT, Card, Exported, check_name, listed, read_card, read_tensors
from shared.errors import UsageError, WeightsError
from shared.registry import suggest
from shared.state import file_digest, sync_folder


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What happened when weights met a module: what matched, was missing or left over, and how far it was moved."""

    source: str
    digest: str
    matched_tensors: int
    total_tensors: int
    matched_params: int
    total_params: int
    missing: list[str]
    unexpected: list[str]
    converted: list[str]
    moved: float

    def __str__(self) -> str:
        words = (
            f"{self.source}: {self.matched_tensors}/{self.total_tensors} tensors, "
            f"{self.matched_params / 1e6:.2f} M/{self.total_params / 1e6:.2f} M parameters, "
            f"mean |change| from initialisation {self.moved:.3g}"
        )
        for what, names in (("converted", self.converted), ("missing", self.missing), ("left over", self.unexpected)):
            words += f"; {what}: {listed(names)}" if names else ""
        return words


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
            WeightsError: there is none, or more than one is meant.
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
            raise WeightsError(
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
            raise WeightsError(
                f"{shelves[0].parent.name} has no '{word}'{wanted}; there is {listed(there) or 'nothing readable'}"
            )
        if pin and len(exports) > 1:
            raise WeightsError(f"'{tag}' could be {listed([e.digest for e in exports])}; give more of the digest")
        return exports[-1]

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
        """What there is instead, or how to make it."""
        tags = sorted({(p.parent.name, p.name) for p in self.root.glob("*/*") if p.is_dir()})
        here = [name for owner, name in tags if owner == arch] if arch else sorted({name for _, name in tags})
        if here:
            owner = f"{arch} has" if arch else "there are"
            return f"{owner} {listed(here)}{suggest(tag, here)}"
        others = [owner for owner, name in tags if name == tag]
        if others:
            return f"{listed(others)} has that tag"
        return f"make them with `pretrain train --model {arch or 'NAME'}`"

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
            told = {"method": card.method, "created": card.created, "metrics": card.metrics, "data": card.data}
            nodes.append({**reference, **told, "parents": [p["digest"] for p in card.parents]})
            queue += card.parents
        return nodes

    # --- loading ----------------------------------------------------------------------------

    def load(self, module: nn.Module, exported: Exported, *, allow_missing: Sequence[str] = ()) -> Transfer:
        """Fill a module with exported weights, or refuse and leave it as it was.

        Args:
            allow_missing: glob patterns of tensors that may be missing or of another shape; they keep their values.

        Raises:
            WeightsError: the file is damaged or no safetensors file, or a tensor of the module is missing or misfits.
        """
        tensors = read_tensors(exported)
        mine = unshared(module)
        missing = [name for name in mine if name not in tensors]
        misfit = [name for name in mine if name in tensors and tensors[name].shape != mine[name].shape]
        unexpected = [name for name in tensors if name not in mine]
        refused = [n for n in missing + misfit if not any(fnmatch.fnmatch(n, pattern) for pattern in allow_missing)]
        if refused or unexpected:
            raise WeightsError(explain(exported, mine, tensors, refused, unexpected))
        matched = [name for name in mine if name not in missing and name not in misfit]
        learned = {name for name, _ in module.named_parameters()}
        if not matched:
            raise WeightsError(f"{exported} fills nothing of this module; give the tag of this very architecture")
        broken = not_finite(tensors)
        if broken:
            raise WeightsError(f"{exported} holds values that are not finite in {listed(broken)}; train it again")
        moved = distance(mine, tensors, [name for name in matched if name in learned])
        if moved == 0:
            raise WeightsError(
                f"{exported} holds exactly the values the module already had; these weights were never trained"
            )
        with torch.no_grad():
            for name in matched:
                mine[name].copy_(tensors[name])
        return Transfer(
            source=str(exported),
            digest=exported.digest,
            matched_tensors=len(matched),
            total_tensors=len(mine),
            matched_params=sum(mine[name].numel() for name in matched if name in learned),
            total_params=sum(p.numel() for p in module.parameters()),
            missing=missing + misfit,
            unexpected=unexpected,
            converted=[],
            moved=moved,
        )


def explain(exported: Exported, mine: dict, tensors: dict, refused: list[str], unexpected: list[str]) -> str:
    """Why these tensors cannot fill that module, in one sentence, with the commonest causes named."""
    tail = name_of_common_prefix(mine, tensors)
    if tail:
        return f"{exported} does not fit: {tail}; export the backbone itself, without its wrapper"
    matched = [name for name in mine if name in tensors and tensors[name].shape == mine[name].shape]
    only_norms = matched and all(is_of_a_norm(name, mine) for name in matched)
    said = []
    misfit = [name for name in refused if name in tensors]
    missing = [name for name in refused if name not in tensors]
    if misfit:
        shapes = [f"{n} {tuple(tensors[n].shape)} for {tuple(mine[n].shape)}" for n in misfit[:3]]
        said.append(f"{len(misfit)} of another shape ({', '.join(shapes)}{', ...' if len(misfit) > 3 else ''})")
    if missing:
        said.append(f"{len(missing)} of {len(mine)} missing ({listed(missing)})")
    if unexpected:
        said.append(f"{len(unexpected)} unknown to it ({listed(unexpected)})")
    only = " - only batch norm would be filled" if only_norms else ""
    may_stay = "if that is meant, --allow-missing GLOB names what may stay"
    way_out = may_stay if refused and not unexpected else "give the tag of this very architecture"
    return f"{exported} does not fit: tensors {', '.join(said)}{only}; {way_out}"


def name_of_common_prefix(mine: dict, tensors: dict) -> str:
    for ours, theirs, place in ((mine, tensors, "the file's"), (tensors, mine, "the module's")):
        shortest = min(ours, key=len, default="")
        prefixes = {name[: -len(shortest)] for name in theirs if shortest and name.endswith("." + shortest)}
        for prefix in prefixes:
            if prefix and sum(prefix + name in theirs for name in ours) > 0.9 * len(ours):
                return f"{place} names all begin with '{prefix}' and the others do not"
    return ""


def is_of_a_norm(name: str, mine: dict) -> bool:
    """Batch norm is known by its running statistics."""
    return name.rpartition(".")[0] + ".running_mean" in mine


def unshared(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors, each stored once even when two names share it."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            kept[name] = value
    return kept


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def distance(mine: dict[str, Tensor], theirs: dict[str, Tensor], names: list[str]) -> float:
    """Mean absolute difference over all parameters."""
    total = sum(float((mine[n].detach().cpu().double() - theirs[n].double()).abs().sum()) for n in names)
    return total / max(sum(theirs[n].numel() for n in names), 1)
