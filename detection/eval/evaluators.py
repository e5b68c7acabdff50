"""Which evaluator a data set has: panoptic quality, LVIS's rules, class-agnostic recall, or COCO AP."""

from __future__ import annotations

from detection.data.coco import CocoDetection
from detection.data.panoptic import PanopticDetection
from detection.eval.coco import CocoEvaluator
from detection.eval.lvis import LvisEvaluator
from detection.eval.panoptic import PanopticEvaluator
from detection.eval.recall import RecallEvaluator

Evaluator = CocoEvaluator | PanopticEvaluator


def evaluator_of(
    dataset: CocoDetection, backend: str = "auto", *, class_agnostic: bool = False, ap_fixed: bool = False
) -> Evaluator:
    """The evaluator of a data set.

    Args:
        backend: of AP: pycocotools, hotcoco or auto.
        class_agnostic: recall of boxes whatever their class, instead of AP.
        ap_fixed: with LVIS's rules: also AP fixed.
    """
    if class_agnostic:
        return RecallEvaluator(dataset)
    if isinstance(dataset, PanopticDetection) and "masks" in dataset.finds:
        return PanopticEvaluator(dataset, backend)
    if dataset.lvis:
        return LvisEvaluator(dataset, backend, dataset.finds, fixed=ap_fixed)
    return CocoEvaluator(dataset, backend, dataset.finds)
