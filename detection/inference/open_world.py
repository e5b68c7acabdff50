"""Scores for names that were not trained: with the proposal's own score, and with probabilities calibrated by a count.

    score = p^beta * eta^(1 - beta)                      p probability of the name, eta score of the proposal
    p_c -> p_c * w_c / mean(w), w_c = max(n_c, 1)^-gamma  n_c detections of the name in a first pass

Wang et al., "Detecting Everything in the Open World: Towards Universal Object Detection", 2023. A count belongs to the
weights and the names that it was made with: others are refused. It needs no labels, but the images of the test.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.eval.results import Found
from detection.nets import takes_proposals
from shared.errors import DataError, UsageError, WeightsError
from shared.files import write_json

if TYPE_CHECKING:
    from detection.inference.trained import Trained

log = logging.getLogger(__name__)
FORMAT = "chordate-counts-1"
BETA, BEST = 0.3, 100  # for names that were not trained


class OpenWorld(NamedTuple):
    """How to score.

    new_names: the names are not those that were trained.
    beta: exponent of the probability; None for 1, or 0.3 for new names.
    best: proposals of an image; None for all, or 100 with another beta than 1.
    calibrate: gamma; None for none.
    prior: the counts of a first pass; None to calibrate with a first pass now.
    counts: file to write the counts of a pass without calibration to.
    any_proposals: allow proposals of other weights than those of the training.
    """

    new_names: bool = False
    beta: float | None = None
    best: int | None = None
    calibrate: float | None = None
    prior: Path | None = None
    counts: Path | None = None
    any_proposals: bool = False


def ask(trained: Trained, how: OpenWorld) -> None:
    """Make a detector score in this way.

    Raises:
        UsageError: it has no proposals' scores, or a prior comes without --calibrate.
        DataError: the prior is no file of counts.
        WeightsError: the prior is of other weights or names.
    """
    network = trained.exported.card.args["network"]
    if not takes_proposals(network):
        given = {"--beta": how.beta, "--best-proposals": how.best, "--calibrate": how.calibrate}
        for flag, value in {**given, "--prior": how.prior, "--counts": how.counts}.items():
            if value is not None:
                raise UsageError(f"{flag} is for networks on stored proposals, and {network} makes its own; remove it")
        return
    if how.prior is not None and how.calibrate is None:
        raise UsageError("--prior needs --calibrate; add --calibrate 0.6")
    if how.prior is not None and how.counts is not None:
        raise UsageError("--counts counts without calibration, and --prior calibrates; give one of them")
    detector: Any = trained.task.detector
    detector.beta = (BETA if how.new_names else 1.0) if how.beta is None else how.beta
    detector.best_proposals = how.best or (BEST if detector.beta < 1 else None)
    detector.calibration = None
    if how.calibrate is not None and how.prior is not None:
        detector.calibration = calibration(read_counts(how.prior, trained), how.calibrate).to(trained.device)


def with_counts(evaluated: Callable[[], Any], trained: Trained, how: OpenWorld) -> Any:
    """Evaluate, write the counts if asked to, and evaluate again with calibration if there was no prior.

    Args:
        evaluated: an evaluator with the detections of all images.
    """
    evaluator = evaluated()
    again = how.calibrate is not None and how.prior is None
    if how.counts is None and not again:
        return evaluator
    counts = counted(evaluator.found, [trained.classes.source_ids[label] for label in asked(trained)])
    if how.counts is not None:
        write_counts(how.counts, counts, len(evaluator.found), trained)
        log.info("wrote %s: %s of %s names were never detected", how.counts, counts.count(0), len(counts))
    if not again:
        return evaluator
    log.info("evaluating again, calibrated: %d of %d names were never detected", counts.count(0), len(counts))
    detector: Any = trained.task.detector
    detector.calibration = calibration(counts, how.calibrate or 0.0).to(trained.device)
    return evaluated()


def calibration(counts: Sequence[int], gamma: float) -> Tensor:
    """Detections of each name in a first pass (C,) -> factors of the probabilities (C,), 1 on average.

    A name without a detection counts as one with a single one.
    """
    weights = torch.tensor(counts, dtype=torch.float64).clamp(min=1) ** -gamma
    return (weights / weights.mean()).float()


def counted(found: dict[int, Found], source_ids: Sequence[int]) -> list[int]:
    """Detections of all images -> how many there are of each class (C,)."""
    rows = [own.rows[:, 5] for own in found.values()]
    ids, counts = np.unique(np.concatenate([np.zeros(0), *rows]).astype(np.int64), return_counts=True)
    known = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return [known.get(i, 0) for i in source_ids]


def write_counts(path: Path, counts: Sequence[int], images: int, trained: Trained) -> None:
    """Write the counts of a first pass, for --prior."""
    write_json(path, {"format": FORMAT, **identity(trained), "images": images, "counts": list(counts)})


def read_counts(path: Path, trained: Trained) -> list[int]:
    """The counts (C,) of a first pass. Raises DataError if it has none, WeightsError for other weights or names."""
    try:
        read = json.loads(path.read_text("utf-8"))
        counts = read["counts"]
        sound = read["format"] == FORMAT and len(counts) == len(read["names"])
        sound = sound and all(type(n) is int and n >= 0 for n in counts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as counts ({error}); {HOW}") from None
    if not sound:
        raise DataError(f"{path} has no counts of detections; {HOW}")
    for what, own in identity(trained).items():
        if read.get(what) != own:
            whose = {"weights": "other weights", "names": "other names"}.get(what, "names with other vectors")
            raise WeightsError(f"{path} was counted with {whose} than these; {HOW}")
    return counts


HOW = "count again with `detect eval --counts FILE` on the same weights, names and images"


def asked(trained: Trained) -> list[int]:
    """The classes that the network has a name for, in the order of its names."""
    called = getattr(trained.task, "called", None)
    return list(range(len(trained.classes))) if called is None else called.tolist()


def identity(trained: Trained) -> dict[str, Any]:
    """What counts belong to: the weights, the names, the digest of their vectors."""
    vocabularies: Any = trained.task.detector.vocabularies  # type: ignore[attr-defined]
    vectors = vocabularies.vectors(vocabularies.current).detach().cpu().float().numpy()
    return {
        "weights": trained.exported.digest,
        "names": [trained.classes.names[label] for label in asked(trained)],
        "vocabulary": hashlib.sha256(vectors.tobytes()).hexdigest(),
    }
