"""UniDetector end to end: names are exchanged without touching boxes, stored proposals replace the RPN's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from backbones.freeze import freeze_stages, keep_frozen_in_eval
from detection.nets import detector
from detection.nets.unidetector import TINY, UniDetector
from detection.types import Images, Target
from shared.errors import UsageError
from shared.loop.optim import parameter_scales

CLASSES = 3


@pytest.fixture
def tiny(tiny_backbone: Callable[..., Any]) -> Callable[..., UniDetector]:
    def build(**options: Any) -> UniDetector:
        torch.manual_seed(0)
        return detector.build("unidetector", tiny_backbone(), CLASSES, **{**TINY, **options})  # type: ignore[return-value]

    return build


def lively(net: UniDetector) -> UniDetector:
    """Untrained vectors of regions hardly differ; these do."""
    with torch.no_grad():
        net.head.region.project.weight.mul_(30)  # type: ignore[union-attr, operator]
    return net.eval()


def test_permuted_names_permute_the_labels_of_detections_and_nothing_else(tiny: Callable, scenes: Callable) -> None:
    net, order = lively(tiny(max_detections=1000)), torch.tensor([2, 0, 1])
    images, _ = scenes([2, 1])
    before = net.detect(images)
    net.vocabularies.speak([net.vocabularies.vectors(0)[order]])
    for old, new in zip(before, net.detect(images), strict=True):
        assert len(old["boxes"]) == len(new["boxes"]) > 0 and len(old["labels"].unique()) > 1
        torch.testing.assert_close(old["scores"], new["scores"])
        first, second = (
            {(*box, label) for box, label in zip(found["boxes"].tolist(), labels.tolist(), strict=True)}
            for found, labels in ((old, old["labels"]), (new, order[new["labels"]]))
        )
        assert first == second


def test_a_vocabulary_of_another_length_gives_its_own_labels(tiny: Callable, scenes: Callable) -> None:
    net = lively(tiny())
    net.vocabularies.speak([torch.randn(40, 32)])
    labels = torch.cat([found["labels"] for found in net.detect(scenes([2, 1])[0])])
    assert labels.max() >= CLASSES and labels.max() < 40


def test_detections_are_called_by_the_names_of_the_current_data_set(tiny: Callable, scenes: Callable) -> None:
    net, (images, _) = lively(tiny(set_sizes=(CLASSES, 9))), scenes([1])
    first = net.detect(images)[0]["labels"]
    net.vocabularies.current = 1
    second = net.detect(images)[0]["labels"]
    assert first.max() < CLASSES <= second.max() < 9


def test_an_image_is_compared_with_the_names_of_its_own_data_set(tiny: Callable, scenes: Callable) -> None:
    net, (images, targets) = tiny(set_sizes=(CLASSES, 9)), scenes([2, 1])
    targets[1] = Target(**{**targets[1], "dataset": 1, "labels": torch.tensor([8])})
    torch.manual_seed(1)
    before = net(images, targets)["loss_classifier"]
    vectors = [net.vocabularies.vectors(0), torch.randn(9, 32)]
    net.vocabularies.speak(vectors)
    torch.manual_seed(1)
    assert net(images, targets)["loss_classifier"] != before
    targets[1]["dataset"] = 0
    targets[1]["labels"] = torch.tensor([0])
    alone = []
    for of_second in (vectors[1], torch.randn(9, 32)):
        net.vocabularies.speak([vectors[0], of_second])
        torch.manual_seed(1)
        alone.append(net(images, targets)["loss_classifier"])
    assert torch.equal(*alone), "no image of the second set, so its names do not matter"


def test_its_own_proposals_given_back_are_as_found(tiny: Callable, scenes: Callable) -> None:
    net, (images, _) = lively(tiny()), scenes([2, 1])
    own: list[Tensor] = []
    net.rpn.register_forward_hook(lambda _, inputs, out: own.extend(out[0]))
    expected = net.detect(images)
    stored = [torch.cat((boxes, torch.rand(len(boxes), 1)), 1) for boxes in own]
    for one, other in zip(expected, net.detect(images._replace(proposals=stored)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("boxes", "labels", "scores"))  # type: ignore[literal-required]
    assert len(own) == 2, "the second time the RPN is not asked"


def test_stored_proposals_are_learned_from(tiny: Callable, scenes: Callable) -> None:
    net, (images, targets) = tiny(regions=4), scenes([1])
    far = torch.tensor([[0.0, 0, 8, 8, 0.9]]).expand(50, -1)
    regions = []
    net.head.register_forward_hook(lambda _, inputs, out: regions.extend(inputs[1]))
    losses = net(images._replace(proposals=[far]), targets)
    torch.stack(list(losses.values())).sum().backward()
    assert {tuple(box) for box in regions[0].tolist()} == {
        (0.0, 0.0, 8.0, 8.0),
        tuple(targets[0]["boxes"][0].tolist()),
    }
    assert all(p.grad is not None for p in net.rpn.parameters()), "the RPN learns all the same"
    nothing = net(images._replace(proposals=[far[:0]]), [Target(boxes=far[:0, :4], labels=far[:0, 0].long())])
    assert all(loss.isfinite() for loss in nothing.values())


def test_attention_on_another_backbone_is_refused_with_the_way_out(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="--backbone clip_resnet50, or --region layers"):
        detector.build("unidetector", tiny_backbone(), CLASSES, region="attention")
    with torch.device("meta"):
        net = detector.build("unidetector", backbone.build("clip_resnet50"), CLASSES)
    assert set(net.continued()) == {"layer4", "attnpool"}
    assert not detector.build("unidetector", tiny_backbone(), CLASSES, **TINY).continued()


def test_all_that_follows_roi_align_learns_at_a_tenth_of_the_rate(tiny: Callable) -> None:
    def shares(net: UniDetector) -> set[float]:
        scales, at_full_rate = parameter_scales(net), {id(p) for p in net.rpn.parameters()}
        assert not scales.keys() & at_full_rate
        return {scales[id(p)] for p in net.head.parameters()}

    with torch.device("meta"):
        assert shares(detector.build("unidetector", backbone.build("clip_resnet50"), CLASSES)) == {0.1}  # type: ignore[arg-type]
    assert shares(tiny()) == {0.1} and shares(tiny(region_lr=0.5)) == {0.5}


@pytest.mark.slow
def test_clips_whole_resnet_learns_but_for_its_first_stages_and_its_statistics(scenes: Callable) -> None:
    net = detector.build("unidetector", backbone.build("clip_resnet50"), CLASSES, regions=4, rpn_proposals=10)
    freeze_stages(net.backbone, 1)
    net.train()
    keep_frozen_in_eval(net)
    before = {name: value.clone() for name, value in net.named_buffers() if "running" in name}
    images, targets = scenes([1], size=96)
    losses = net(images, targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    frozen = tuple(f"backbone.{part}" for part in ("conv", "bn", "layer1."))
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    assert before and all(torch.equal(value, net.get_buffer(name)) for name, value in before.items())
    images = Images(images.pixels, images.sizes)
    assert {*net.eval().detect(images)[0]} == {"boxes", "labels", "scores"}
