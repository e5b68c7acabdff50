"""Class names with their vectors: one checked object from the file to the network, bound to data sets by name.

    coco.safetensors -> Vocabulary.read --+
    names + vectors.npy -> from_matrix ---+-> Vocabulary (C names, C x D) -> bind(names of a data set) -> network
    random:0 -> random_vocabulary --------+                 |
                                                            +-> join(other) -> write

Vectors of two text models mean nothing to each other, whatever their width: `model` travels with them and is compared.
Names are looked up as they are, then without case and blanks, then by letters and digits alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError, UsageError, WeightsError, plural
from shared.files import written_aside
from shared.recipes.nearest import suggest
from shared.text import folded, plain

FORMAT = "chordate-vocabulary-1"
ENDING = ".safetensors"
LISTED = 5  # names in a message


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """C names and their vectors.

    Args:
        names: as shown and matched, each once.
        vectors: (C, D) float32 as the text model gave them, mean over the templates, not normalized.
        model: identity of the text model: "clip:RN50", "minilm", "random:0".
        spoken: what the text model was told for each name; the names themselves if empty.
        source_ids: category id of each name in the file the names are from; empty for none.
        source: where the vectors are from, in words.
        license: that of the vectors.
        templates: the sentences the vectors are means of, with {} for the name; empty if unknown.
        model_sha256: digest of the text model's weights file, if one was read.

    Raises:
        DataError: no names, an empty or doubled one, another number of vectors, or a vector that is zero or not finite.
    """

    names: tuple[str, ...]
    vectors: Tensor = field(repr=False)
    model: str
    spoken: tuple[str, ...] = field(default=(), repr=False)
    source_ids: tuple[int, ...] = field(default=(), repr=False)
    source: str = ""
    license: str = ""
    templates: tuple[str, ...] = field(default=(), repr=False)
    model_sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", check_names(self.names))
        object.__setattr__(self, "spoken", tuple(self.spoken) or self.names)
        object.__setattr__(self, "source_ids", tuple(int(i) for i in self.source_ids))
        object.__setattr__(self, "vectors", checked_vectors(self.vectors, self.names))
        for what, values in (("spoken names", self.spoken), ("category ids", self.source_ids or self.names)):
            if len(values) != len(self.names):
                raise DataError(f"a vocabulary of {plural(len(self.names), 'name')} has {len(values)} {what}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def digest(self) -> str:
        """sha256 of names, text model and vectors: equal for the same content, however it was stored."""
        told = json.dumps([self.names, self.model]).encode()
        return hashlib.sha256(told + self.vectors.numpy().astype("<f4").tobytes()).hexdigest()

    @cached_property
    def _index(self) -> tuple[dict[str, int], ...]:
        """Row by name as it is, without case and blanks, by letters and digits; shared spellings are left out."""
        tables = []
        for spelling in (str, folded, plain):
            rows: dict[str, int] = {}
            shared = set()
            for row, name in enumerate(self.names):
                if rows.setdefault(spelling(name), row) != row:
                    shared.add(spelling(name))
            tables.append({word: row for word, row in rows.items() if word not in shared})
        return tuple(tables)

    def find(self, name: str) -> int | None:
        """The row of a name, in the first spelling that fits one name only; None if there is none."""
        found = (rows.get(spelling(name)) for rows, spelling in zip(self._index, (str, folded, plain), strict=True))
        return next((row for row in found if row is not None), None)

    def bind(self, names: Iterable[str], source_ids: Sequence[int] = ()) -> Vocabulary:
        """The vocabulary of these names, in their order and spelling, with the rows found for them.

        Args:
            source_ids: category id of each.

        Raises:
            WeightsError: a name has no vector here; the message gives the nearest names that have one.
        """
        names = tuple(names)
        rows = [self.find(name) for name in names]
        unknown = [name for name, row in zip(names, rows, strict=True) if row is None]
        if unknown:
            few = ", ".join(f"'{name}'{suggest(name, self.names)}".rstrip("?") for name in unknown[:LISTED])
            more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
            raise WeightsError(
                f"{len(unknown)} of {plural(len(names), 'class')} {'have' if len(unknown) > 1 else 'has'} no vector in "
                f"the vocabulary of {plural(len(self), 'name')}: {few}{more}; give a vocabulary with these names "
                "(`detect vocabulary` makes one)"
            )
        found = [row for row in rows if row is not None]
        return replace(
            self,
            names=names,
            vectors=self.vectors[found],
            spoken=tuple(self.spoken[row] for row in found),
            source_ids=tuple(source_ids),
        )

    def called(self, names: Sequence[str]) -> Vocabulary:
        """The same rows under other names, one for each."""
        return replace(self, names=tuple(names))

    def join(self, other: Vocabulary) -> Vocabulary:
        """All names of this vocabulary, then those of the other that none here equals by letters and digits.

        Raises:
            WeightsError: they are of different text models or widths.
        """
        check_same(self.model, self.width, other, "the one it is joined to")
        mine = {plain(name) for name in self.names}
        new = [row for row, name in enumerate(other.names) if plain(name) not in mine]
        sources = [text for text in dict.fromkeys((self.source, other.source)) if text]
        licenses = [text for text in dict.fromkeys((self.license, other.license)) if text]
        return replace(
            self,
            names=(*self.names, *(other.names[row] for row in new)),
            vectors=torch.cat([self.vectors, other.vectors[new]]),
            spoken=(*self.spoken, *(other.spoken[row] for row in new)),
            source_ids=(),
            source="; ".join(sources),
            license="; ".join(licenses),
            templates=self.templates if self.templates == other.templates else (),
            model_sha256=self.model_sha256 if self.model_sha256 == other.model_sha256 else "",
        )

    # --- the file ---------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write a .safetensors file; in half precision where that loses nothing.

        Raises:
            UsageError: the path exists or ends otherwise.
        """
        from safetensors.torch import save_file

        path = Path(path)
        check_output(path)
        halves = self.vectors.half()
        exact = bool(torch.equal(halves.float(), self.vectors))
        texts = {"names": self.names, "spoken": self.spoken, "source_ids": self.source_ids, "templates": self.templates}
        told = {name: json.dumps(values, ensure_ascii=False) for name, values in texts.items()} | {
            "format": FORMAT,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "normalized": "no",
            "sha256": self.digest,
            "source": self.source,
            "license": self.license,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            partial.write_bytes(b"")
            mode = partial.stat().st_mode & 0o777
            save_file({"vectors": halves if exact else self.vectors}, partial, metadata=told)
            partial.chmod(mode)  # safetensors makes files that only their owner can read; the umask decides

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read and check a file that `write` wrote.

        Raises:
            DataError: it cannot be read, is something else, or its content is not what was written.
        """
        path = Path(path)
        told, vectors = _opened(path)
        if told.get("format") != FORMAT:
            raise DataError(
                f"{path} is a safetensors file and not a vocabulary of this program; make one with `detect vocabulary "
                "NAMES --from VECTORS`"
            )
        try:
            lists = {name: _listed(told, name) for name in ("names", "spoken", "source_ids", "templates")}
            made = cls(
                names=tuple(lists["names"]),
                vectors=vectors,
                model=told["model"],
                spoken=tuple(lists["spoken"]),
                source_ids=tuple(lists["source_ids"]),
                source=told.get("source", ""),
                license=told.get("license", ""),
                templates=tuple(lists["templates"]),
                model_sha256=told.get("model_sha256", ""),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} has damaged metadata ({error}); make the vocabulary again") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if made.digest != told.get("sha256"):
            raise DataError(
                f"{path} is not as it was written: its digest differs; get the file again, or make it again"
            )
        return made


def check_output(path: Path) -> None:
    """Raise UsageError if a vocabulary cannot be written there: another ending, or a file that exists."""
    if path.suffix != ENDING:
        raise UsageError(f"a vocabulary is written as {ENDING}, not {path.name}; give such a name")
    if path.exists():
        raise UsageError(f"{path} exists, and nothing is overwritten; give another name")


def _opened(path: Path) -> tuple[dict[str, str], Tensor]:
    """The metadata and the tensor 'vectors' of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), "pt") as file:
            told = file.metadata() or {}
            vectors = file.get_tensor("vectors") if told.get("format") == FORMAT else torch.empty(0)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read the vocabulary {path} ({error}); give a file of `detect vocabulary`") from None
    return told, vectors


def _listed(told: dict[str, str], name: str) -> list[Any]:
    values = json.loads(told.get(name) or "[]")
    kind = int if name == "source_ids" else str
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise ValueError(f"'{name}' is not a list of {kind.__name__}")
    return values


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises DataError if there are none, or one is empty or there twice."""
    names = tuple(names)
    if not names:
        raise DataError("a vocabulary needs names, and there are none; give at least one")
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"name {place + 1} of {len(names)} is empty; give each class a name")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise DataError(f"the name '{twice}' is there twice; give each class one name of its own")
    return names


def checked_vectors(vectors: Tensor, names: Sequence[str]) -> Tensor:
    """(C, D) of any float type -> float32 on the CPU.

    Raises:
        DataError: another shape, or a row that is zero or not finite, by its name.
    """
    if vectors.ndim != 2 or not vectors.is_floating_point() or vectors.shape[1] < 1:
        shape = " x ".join(map(str, vectors.shape))
        raise DataError(f"vectors are a matrix of real numbers, one row a name; these are {shape} {vectors.dtype}")
    if len(vectors) != len(names):
        raise DataError(
            f"there are {plural(len(names), 'name')} and {plural(len(vectors), 'vector')}; give the names that belong "
            "to these vectors, in their order"
        )
    vectors = vectors.detach().to("cpu", torch.float32, copy=True).contiguous()  # not the file's own pages
    for bad, what in ((~vectors.isfinite().all(1), "not finite"), (vectors.norm(dim=1) == 0, "zero")):
        if bad.any():
            rows = bad.nonzero().flatten().tolist()
            few = ", ".join(f"'{names[row]}'" for row in rows[:LISTED]) + (", ..." if len(rows) > LISTED else "")
            raise DataError(f"{plural(len(rows), 'vector')} {'is' if len(rows) == 1 else 'are'} {what}: {few}; "
                            "give each name a vector of its text model")  # fmt: skip
    return vectors


def check_same(model: str, width: int, other: Vocabulary, whose: str) -> None:
    """Compare a text model and width with a vocabulary's.

    Args:
        whose: whose they are, for the message: "the weights", "the first vocabulary".

    Raises:
        WeightsError: they differ.
    """
    if other.model != model:
        raise WeightsError(
            f"the vocabulary is of the text model {other.model} and {whose} of {model}: their vectors mean nothing to "
            f"each other; give a vocabulary of {model}"
        )
    if other.width != width:
        raise WeightsError(
            f"the vocabulary has vectors of {other.width} numbers, and {whose} {width}; give one of that width"
        )


def from_matrix(path: Path, names: Iterable[str] | None, *, model: str, **told: Any) -> Vocabulary:
    """Names and a .npy, .pt or .pth file with one row for each, as other programs write them; nothing in it is run.

    Args:
        names: in the order of the rows; None if nobody gave them, which is refused.
        model: the text model the vectors are of, such as "clip:RN50".
        told: other fields of the `Vocabulary`.

    Raises:
        DataError: no names, another count, or a file that holds no matrix.
    """
    path = Path(path)
    if names is None:
        raise DataError(
            f"{path} has vectors and no names; give the names in the order of its rows: `detect vocabulary names.txt "
            f"--from {path}`"
        )
    try:
        if path.suffix in (".pt", ".pth"):
            matrix = torch.load(path, map_location="cpu", weights_only=True)
        else:
            matrix = torch.from_numpy(np.load(path, allow_pickle=False))
        if not isinstance(matrix, Tensor):
            raise TypeError(f"it holds a {type(matrix).__name__}")
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} holds no matrix of vectors ({first}); give a .npy of one row a name") from None
    try:
        return Vocabulary(tuple(names), matrix, model, **told)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def random_vocabulary(names: Iterable[str], width: int = 512, seed: int = 0) -> Vocabulary:
    """Unit vectors that depend on seed, width and a name's letters and digits alone: an equal name has an equal vector
    in every vocabulary. They know nothing of meaning: for tests, and to tell what real vectors add.
    """
    names = check_names(names)
    return Vocabulary(
        names,
        torch.from_numpy(np.stack([_drawn(plain(name), width, seed) for name in names])),
        f"random:{seed}",
        source="drawn at random from the names",
        license="none needed",
    )


def _drawn(word: str, width: int, seed: int) -> np.ndarray:
    key = np.frombuffer(hashlib.sha256(f"{seed}/{word}".encode()).digest(), "<u4")
    row = np.random.RandomState(key).standard_normal(width)  # the one stream that numpy never changes
    return (row / np.linalg.norm(row)).astype(np.float32)
