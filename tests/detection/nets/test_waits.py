"""A training step does not make a GPU wait for the host, and does not do more operations the more images it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detection.nets import detector
from tests.detection.nets.waits import copies_of, step_of, task_of

DENSE = ("fcos", "retinanet", "ssd", "ssdlite", "efficientdet_d0")
MOST = {  # waits of a step
    **dict.fromkeys(DENSE, 2),
    "faster_rcnn": 12,
    "mask_rcnn": 12,
    "keypoint_rcnn": 12,
    "detr": 2,
    "smca_detr": 2,
    "deformable_detr": 2,
    "deformable_detr_boxref": 2,
    "rt_detr": 2,
    "dino_detr": 2,
}


def small(network: str) -> Any:
    return task_of(network, **detector.facts(network).get("tiny", {}))


@pytest.mark.parametrize("network", MOST)
def test_a_step_hardly_waits_and_more_images_are_no_more_operations(network: str) -> None:
    task = small(network)
    few, _ = step_of(task, 2)
    many, waits = step_of(task, 8)
    assert waits.total() <= MOST[network], dict(waits)
    assert many <= 1.1 * few


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this build of torch knows no GPU")
@pytest.mark.parametrize("network", DENSE)  # the others ask the host in between, which needs values
def test_no_copy_to_a_gpu_is_waited_for(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copies_of(small(network), 2, monkeypatch.setattr) == []
