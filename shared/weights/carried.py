"""An export as a folder to be carried elsewhere, such as a repository of a hub, and back into a store.

    README.md            the model card: where the weights come from, and licenses of the ancestors
    card.json            as it was written, so that the digest stays
    model.safetensors    the tensors; with names.json, under shorter names (renamed.py)
    config.json          where another library can load them, what it needs for that
    seen-<sha256>.npy    as in the store
    ancestors/<digest>/card.json

A folder may be from anybody: every file is verified by the digests of the card, and no name in it is a path.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import UsageError, WeightsError
from shared.files import file_digest, naming
from shared.weights.card import ANCESTORS, DIGEST, TAG, Card, Exported, digest_of, read_card, read_tensors
from shared.weights.renamed import with_header, without_prefix
from shared.weights.store import Store

WEIGHTS, NAMES = "model.safetensors", "names.json"
FILES = ("card.json", WEIGHTS, NAMES, "seen-*.npy", f"{ANCESTORS}/*/card.json")  # what `take_in` reads
SEEN = re.compile(r"seen-[0-9a-f]{12}\.npy")


def carry_out(exported: Exported, store: Store, folder: Path, *, prefix: str = "") -> None:
    """Copy an export and the cards of its ancestors to a folder.

    Args:
        prefix: of the names of the tensors, to be removed.

    Raises:
        WeightsError: a file was changed since it was exported.
    """
    verify(exported)
    with naming(folder):
        shutil.copyfile(exported.path / "card.json", folder / "card.json")
        if prefix:
            without_prefix(exported.path / WEIGHTS, folder / WEIGHTS, folder / NAMES, prefix)
        else:
            shutil.copyfile(exported.path / WEIGHTS, folder / WEIGHTS)
        for entry in exported.card.seen:
            shutil.copyfile(exported.path / entry["file"], folder / entry["file"])
        for reference, card, place in store.ancestry(exported):
            if card is not None and reference["digest"] != exported.digest:
                (folder / ANCESTORS / reference["digest"]).mkdir(parents=True)
                shutil.copyfile(place / "card.json", folder / ANCESTORS / reference["digest"] / "card.json")


def take_in(folder: Path, store: Store, name: str, *, wanted: str | None = None) -> tuple[Exported, bool]:
    """Put the export of a folder into the store, and whether it is new there.

    Args:
        name: what to call the folder in messages.
        wanted: the tag, or tag@digest, that it must be.

    Raises:
        WeightsError: no export, another one than wanted, or one that was changed.
    """
    card, digest = opened(folder, name)
    if wanted is not None:
        tag, _, pin = wanted.partition("@")
        if card.tag != tag or not digest.startswith(pin):
            raise WeightsError(f"{name} has {card.tag}@{digest}, not {wanted}; leave out --tag to take it")
    shelf = store.root / card.arch / card.tag
    if (shelf / digest / "card.json").is_file():
        return Exported(shelf / digest, read_card(shelf / digest)), False
    with partial_in(store) as partial:
        shutil.copyfile(folder / "card.json", partial / "card.json")
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(f"{name} has no {WEIGHTS}; push the weights again")
        if (folder / NAMES).is_file():
            with_header(folder / WEIGHTS, folder / NAMES, partial / WEIGHTS)
        else:
            shutil.copyfile(folder / WEIGHTS, partial / WEIGHTS)
        for entry in card.seen:
            if not (folder / entry["file"]).is_file():
                raise WeightsError(f"{name} has no {entry['file']}, which its card names; push the weights again")
            shutil.copyfile(folder / entry["file"], partial / entry["file"])
        verify(Exported(partial, card, digest))
        keep_ancestors(folder, partial)
        return Exported(store.settle(partial, shelf, digest), card), True


@contextmanager
def partial_in(store: Store) -> Iterator[Path]:
    """A folder of the store to write in, removed afterwards. Raises UsageError if the disk refuses."""
    partial = store.root / f".partial-{uuid.uuid4().hex}"
    try:
        with naming(store.root):
            partial.mkdir(parents=True)
            yield partial
    except OSError as error:
        raise UsageError(
            f"weights cannot be written to {store.root} ({error.strerror or error}); free some space or give another "
            f"--weights-dir"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def verify(exported: Exported) -> None:
    """Raise WeightsError unless weights and digests of images are those of the card."""
    read_tensors(exported)
    for entry in exported.card.seen:
        path = exported.path / entry["file"]
        if not path.is_file() or file_digest(path) != entry["sha256"]:
            raise WeightsError(f"{path.name} does not match the sha256 on its card; copy or export it again")


def opened(folder: Path, name: str) -> tuple[Card, str]:
    """The card of a folder of somebody else, and its digest; every name that becomes a path is checked."""
    if not (folder / "card.json").is_file():
        raise WeightsError(
            f"{name} has no card.json, so it was not pushed by this program; a checkpoint of another one is taken in "
            f"with `pretrain import`"
        )
    digest = digest_of(folder / "card.json")
    card = read_card(folder, digest)
    files, parents = listed(card.seen, "file", "sha256"), listed(card.parents, "arch", "tag", "digest")
    words = [card.arch, card.tag, *(value for parent in parents for value in (parent[0], parent[1]))]
    valid = all(is_name(word) for word in words) and all(SEEN.fullmatch(file) for file, _ in files)
    if not valid or not all(DIGEST.fullmatch(parent[2]) for parent in parents):
        raise WeightsError(f"the card of {name} has names that are none; do not use these weights")
    return card, digest


def listed(entries: Any, *keys: str) -> list[tuple[str, ...]]:
    """The named values of every entry as strings; what is none becomes '', which no name is."""
    rows = entries if isinstance(entries, list) else [None]
    return [tuple(str(row.get(key, "")) if isinstance(row, dict) else "" for key in keys) for row in rows]


def is_name(word: Any) -> bool:
    return isinstance(word, str) and TAG.fullmatch(word) is not None and ".." not in word


def keep_ancestors(folder: Path, partial: Path) -> None:
    """Copy the cards of ancestors whose content has the digest that names them."""
    for card in sorted((folder / ANCESTORS).glob("*/card.json")):
        digest = card.parent.name
        if DIGEST.fullmatch(digest) and digest_of(card) == digest:
            (partial / ANCESTORS / digest).mkdir(parents=True)
            shutil.copyfile(card, partial / ANCESTORS / digest / "card.json")
