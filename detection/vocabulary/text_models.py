"""Text models: names -> sentences -> vectors.

names -> spoken -> each in every sentence of the model -> TextModel.encode -> mean over the sentences -> Vocabulary

A vector is the mean of what the model gives for each sentence, and is not normalized afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detection.vocabulary.names import spoken
from detection.vocabulary.table import Vocabulary, check_names
from shared.errors import DataError

NAME = "{}"  # the place of the name in a sentence
SENTENCES = 256  # in one forward pass


@dataclass(frozen=True)
class TextModel:
    """A text model that is loaded.

    Args:
        identity: what its vectors are compared by, such as "clip:RN50".
        encode: N sentences -> (N, D).
        templates: sentences with {} for the name.
        sha256: digest of the weights file.
        source, license: of its vectors, in words.
    """

    identity: str
    encode: Callable[[list[str]], Tensor]
    templates: tuple[str, ...]
    sha256: str = ""
    source: str = ""
    license: str = ""


def speak(
    model: TextModel,
    names: Sequence[str],
    *,
    source_ids: Sequence[int] = (),
    templates: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """Names -> their vectors by a text model.

    Args:
        templates: sentences with {} for the name, instead of the model's own.
        progress: is told the number of names done, and of all.
    """
    names = check_names(names)
    told, sentences = [spoken(name) or name for name in names], tuple(templates) or model.templates
    at_once = max(1, SENTENCES // len(sentences))
    rows = []
    for start in range(0, len(told), at_once):
        words = told[start : start + at_once]
        filled = [sentence.replace(NAME, word) for word in words for sentence in sentences]
        rows.append(model.encode(filled).float().cpu().reshape(len(words), len(sentences), -1).mean(1))
        if progress is not None:
            progress(min(start + at_once, len(told)), len(told))
    return Vocabulary(
        names,
        torch.cat(rows),
        model.identity,
        spoken=tuple(told),
        source_ids=tuple(source_ids),
        source=model.source,
        license=model.license,
        templates=sentences,
        model_sha256=model.sha256,
    )


def read_templates(path: Path) -> tuple[str, ...]:
    """Sentences with {} for the name, one a line.

    Raises:
        DataError: the file cannot be read, is empty, or a line has no {}.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the sentences {path} ({error}); give a file with one sentence a line") from None
    without = [line for line in lines if line.count(NAME) != 1]
    if not lines or without:
        what = f"'{without[0][:60]}' has no {NAME}" if without else "it is empty"
        raise DataError(f"{path}: {what}; write one sentence a line, with {NAME} once where the name goes")
    return tuple(lines)
