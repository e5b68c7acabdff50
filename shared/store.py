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
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import UsageError, WeightsError
from shared.pixels import PixelStats
from shared.registry import suggest
from shared.state import file_digest, sync_folder

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


def expected_pixels(exported: Exported) -> PixelStats:
    """The pixels that weights expect.

    Raises:
        WeightsError: the card does not say, or says what cannot be.
    """
    told = exported.card.pixels
    try:
        mean, std = (tuple(float(value) for value in told[name]) for name in ("mean", "std"))
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
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
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

    told = {}
    for name in ("chordate", "torch", "torchvision", "timm"):
        try:
            told[name] = version(name)
        except PackageNotFoundError:
            told[name] = "?"
    return told
