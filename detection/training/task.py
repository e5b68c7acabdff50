"""The detection task: pixels to losses, detections to average precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from backbones.freeze import keep_frozen_in_eval
from detection.data.batch import pad_batch
from detection.data.coco import CocoDetection
from detection.eval.evaluators import Evaluator
from detection.eval.official import undefined_as_nan
from detection.eval.several import SeveralEvaluators
from detection.nets import Detector
from detection.types import Detections, Images, Target
from shared.devices import dist
from shared.devices.flat import opened
from shared.feeding.pixels import Normalize, PixelStats
from shared.loop.task import Task


class DetectTask(Task):
    """
    Args:
        detector: the network to train; its frozen parts stay in eval mode.
        stats: the backbone's pixel mean and std.
        evaluator: makes a new evaluator for the validation data; None for no evaluation.

    called: (C,) the label of the data for each label of the network; None where they are equal.
    """

    backbone_calls = ("forward_features",)

    def __init__(
        self,
        detector: Detector,
        stats: PixelStats,
        evaluator: Callable[[], Evaluator | SeveralEvaluators] | None = None,
    ) -> None:
        super().__init__()
        self.detector, self.normalize, self.evaluator = detector, Normalize(stats), evaluator
        self.called: Tensor | None = None
        self.multiple = math.lcm(detector.multiple, detector.backbone.maps[-1].stride)

    @property
    def backbone(self) -> Any:  # type: ignore[override]
        return self.detector.backbone

    @property
    def graphs(self) -> list[str]:  # type: ignore[override]
        return [f"detector.{call}" for call in self.detector.graphs]

    def train(self, mode: bool = True) -> DetectTask:
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self.detector)
        return self

    def images(self, pictures: list[Tensor], targets: Sequence[Target] = ()) -> Images:
        """uint8 images of any sizes, on the device -> a normalized, padded batch with the targets' stored proposals."""
        batch = pad_batch(pictures, self.normalize, self.multiple)
        stored = [target["proposals"] for target in targets if "proposals" in target]
        return batch._replace(proposals=stored) if len(stored) == len(pictures) else batch

    def forward(self, batch: tuple[list[Tensor], list[Target]]) -> dict[str, Tensor]:
        pictures, targets = batch
        return self.detector(self.images(pictures, targets), targets)

    def names(self, batch: tuple[list[Tensor], list[Target]]) -> list[str]:
        """The images' ids in their annotation file."""
        return [str(target["image_id"]) for target in batch[1] if "image_id" in target]  # type: ignore[typeddict-item]

    def alone(self, batch: tuple[list[Tensor], list[Target]], i: int) -> tuple[list[Tensor], list[Target]]:
        return batch[0][i : i + 1], batch[1][i : i + 1]

    def detail(self, metric: str) -> bool:
        """Whether a metric is a detail: recall, the parts of panoptic quality."""
        return "_ar" in metric or metric.startswith(("sq", "rq"))

    @torch.no_grad()
    def detect(self, pictures: list[Tensor], targets: Sequence[Target] = ()) -> list[Detections]:
        """Detections of each image; of a target, only stored proposals and its data set are used.

        A network of several data sets uses the classes of that of the first image; all are of one.
        """
        if targets and "dataset" in targets[0] and hasattr(self.detector, "vocabularies"):
            self.detector.vocabularies.current = targets[0]["dataset"]  # type: ignore[union-attr]
        found = self.detector.detect(self.images(pictures, targets))
        if self.called is not None:
            for one in found:
                one["labels"] = self.called[one["labels"]]
        return found

    @torch.no_grad()
    def propose(self, pictures: list[Tensor]) -> list[Detections]:
        """Boxes with a score and no class of each image, for networks on stored proposals."""
        return self.detector.propose(self.images(pictures))

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """COCO AP of the validation images, NaN where not defined; every process returns the same numbers."""
        if self.evaluator is None:
            return {}
        evaluator = self.evaluated(loader)
        return dist.from_main(undefined_as_nan(evaluator.summary()) if dist.is_main() else {})

    def evaluated(self, loader: Iterable[Any]) -> Any:
        """The evaluator with all detections added; complete on the main process only."""
        assert self.evaluator is not None
        evaluator = self.evaluator()
        for pictures, targets in map(opened, loader):
            for picture, target, found in zip(pictures, targets, self.detect(pictures, targets), strict=True):
                seen, image_id = picture.shape[-2:], target["image_id"]  # type: ignore[typeddict-item]
                own = evaluator.of(target.get("dataset", 0)) if isinstance(evaluator, SeveralEvaluators) else evaluator
                height, width = own.original_size(image_id)
                own.add(image_id, of_its_file(found, own.dataset), (height / seen[0], width / seen[1]))
        if dist.world() > 1:
            for part in dist.gather(evaluator.found)[1:]:
                evaluator.take(part)
        return evaluator


def of_its_file(found: Detections, data: CocoDetection) -> Detections:
    """The detections of classes that the file of a joined data set lists; all of them for other sets."""
    if not data.partial or data.known.all():
        return found
    keep = torch.from_numpy(data.known).to(found["labels"].device)[found["labels"]]
    return Detections(**{name: value[keep] for name, value in found.items()})  # type: ignore[index, typeddict-item]
