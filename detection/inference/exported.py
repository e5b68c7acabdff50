"""A detector that `detect export` wrote, as `detect eval` and `detect predict` use a trained one.

    folder of card.json and model.onnx or model.xml -> Written: a Trained whose network runs in its own runtime

The file takes images of the size that it was written for, so --size is refused. A model.pt2 is not opened: reading it
could run code of others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detection.data.augment.presets import Augmentation, Output, plain
from detection.inference.trained import Trained
from detection.parts.roi.keypoint_head import highest
from detection.training.task import DetectTask
from detection.types import Detections, Target
from shared.errors import UsageError, WeightsError
from shared.files import file_digest
from shared.graphs.run import Graph, open_graph
from shared.graphs.write import FORMATS
from shared.weights.card import Card, Exported

KIND = "exported detector"
OPENED = ("onnx", "openvino")  # formats in which no code can lie


def folder_of(reference: str) -> Path | None:
    """The folder that `detect export` wrote, named by itself or by its model file; None if it is another thing."""
    path = Path(os.path.expanduser(reference))
    if path.name in {made.file for made in FORMATS.values()}:
        path = path.parent
    try:
        facts = json.loads((path / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return path if isinstance(facts, dict) and facts.get("kind") == KIND else None


class GraphTask(DetectTask):
    """
    Args:
        graph: a function of images of one size, on the processor.
        batch: how many it takes at once.
    """

    def __init__(self, graph: Graph, batch: int) -> None:
        nn.Module.__init__(self)
        self.graph, self.batch = graph, batch
        self.evaluator, self.called = None, None

    @torch.no_grad()
    def detect(self, pictures: list[Tensor], targets: Sequence[Target] = ()) -> list[Detections]:
        """Detections of each image, without the rows of padding."""
        return [one for some in self.batches(pictures) for one in self.of_batch(some)]

    def propose(self, pictures: list[Tensor]) -> list[Detections]:
        raise UsageError("an exported detector makes no proposals; give the weights that it was exported from")

    def batches(self, pictures: list[Tensor]) -> Iterator[list[Tensor]]:
        for first in range(0, len(pictures), self.batch):
            yield pictures[first : first + self.batch]

    def of_batch(self, pictures: list[Tensor]) -> list[Detections]:
        lacking = self.batch - len(pictures)
        found = self.graph(torch.stack([*pictures, *pictures[-1:] * lacking]))
        return [detections({name: value[i] for name, value in found.items()}) for i in range(len(pictures))]


def detections(found: dict[str, Tensor]) -> Detections:
    """The tensors of one image -> its detections, with keypoints for heatmaps."""
    real = found["scores"] > 0
    kept = {name: value[real] for name, value in found.items()}
    if "heatmaps" in kept:
        kept["keypoints"] = highest(kept.pop("heatmaps"), kept["boxes"])
    return Detections(**kept)  # type: ignore[typeddict-item]


class Written(Trained):
    """
    Args:
        folder: what `detect export` wrote.

    Raises:
        UsageError: its format is not opened, or its runtime is not installed.
        WeightsError: the card or the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        facts = read_facts(folder)
        kind = facts["format"]
        if kind not in OPENED:
            raise UsageError(
                f"{folder} is a program of torch.export, and reading one could run code of others; give the weights it "
                f"was made from, or export them with --format onnx"
            )
        for name, digest in facts["files"].items():
            file = folder / name
            if not file.is_file() or file_digest(file) != digest:
                raise WeightsError(f"{file} is not the file that its card tells of; copy both again, or export again")
        task = GraphTask(open_graph(folder, kind, list(facts["outputs"])), facts["batch"])
        self.sized = Augmentation(plain, Output(**as_tuples(facts["resize"])))
        super().__init__(
            Exported(folder, Card(**facts["trained"]), facts["weights"]["digest"]), torch.device("cpu"), task=task
        )

    def resize(self, size: tuple[int, ...] | None = None, max_size: int | None = None) -> Augmentation:
        """The resize that it was exported for. Raises UsageError for another size."""
        if size is not None or max_size is not None:
            raise UsageError(
                f"{self.exported.path} was exported for images of its own size; remove --size and --max-size, or "
                f"export the weights again with them"
            )
        return self.sized


def read_facts(folder: Path) -> dict[str, Any]:
    """The card of a folder that `detect export` wrote. Raises WeightsError if this version cannot read it."""
    path = folder / "card.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Card)}
        sane = facts["format"] in FORMATS and set(facts["trained"]) <= known and isinstance(facts["outputs"], dict)
        sane = sane and {"batch", "resize"} <= facts.keys() and "digest" in facts["weights"]
        sane = sane and isinstance(facts["files"], dict) and FORMATS[facts["format"]].file in facts["files"]
    except (OSError, ValueError, KeyError, TypeError):
        sane, facts = False, {}
    if not sane:
        raise WeightsError(f"{path} is not a card that this version can read; export the weights again")
    return facts


def as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
