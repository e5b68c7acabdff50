"""The second stage: end to end fed its own proposals is the same, scores are powers, names are calibrated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.nets import detector
from detection.nets.unidetector import UniDetector
from detection.types import Images
from shared.errors import UsageError
from tests.conftest import TinyBackbone

SMALL = {"region": "layers", "width": 32, "hidden": 64, "vocabulary_width": 32, "regions": 32}


def build(name: str, **told: Any) -> Any:
    torch.manual_seed(0)
    return detector.build(name, TinyBackbone(16), 5, **SMALL | told).eval()


def noise(seed: int) -> Images:
    rng = torch.Generator().manual_seed(seed)
    return Images(torch.randn(2, 3, 96, 128, generator=rng), [(96, 128), (80, 100)])


def own_proposals(net: UniDetector, images: Images) -> Images:
    found = net.propose(images)
    return images._replace(proposals=[torch.cat((one["boxes"], one["scores"][:, None]), 1) for one in found])


@given(st.integers(0, 999), st.sampled_from(["layers", "average"]))
@settings(max_examples=10)
def test_end_to_end_fed_its_own_proposals_is_the_second_stage(seed: int, region: str) -> None:
    told = {"rpn_proposals": 50, "region": region}
    whole, second = build("unidetector", **told), build("unidetector_regions", **told)
    left = second.load_state_dict(whole.state_dict(), strict=False)
    assert not left.missing_keys and {key.split(".")[0] for key in left.unexpected_keys} <= {"rpn", "neck"}
    images = noise(seed)
    fed = own_proposals(whole, images)
    for a, b, c in zip(whole.detect(images), whole.detect(fed), second.detect(fed), strict=True):
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(a[name], b[name])
            assert torch.equal(b[name], c[name])


def test_without_proposals_the_command_that_makes_them_is_named() -> None:
    with pytest.raises(UsageError, match="needs stored proposals; make them with `detect propose`"):
        build("unidetector_regions").detect(noise(0))


def test_score_of_a_new_name_is_a_product_of_powers() -> None:
    net = build("unidetector_regions")
    p, own = torch.tensor([[0.5, 0.2], [0.9, 0.1]]), torch.tensor([0.25, 1.0])
    assert torch.equal(net.scores(p, own), p)
    net.beta = 0.3
    torch.testing.assert_close(net.scores(p, own), torch.stack((p[0] ** 0.3 * 0.25**0.7, p[1] ** 0.3)))
    net.calibration = torch.tensor([2.0, 0.5])
    torch.testing.assert_close(net.scores(p, own)[1], torch.tensor([1.8, 0.05]) ** 0.3)
    net.beta = 1.0
    torch.testing.assert_close(net.scores(p, own), p * net.calibration)


def test_only_the_best_proposals_are_looked_at_whatever_their_order() -> None:
    net, images = build("unidetector_regions"), noise(1)
    boxes = torch.tensor([[0.0, 0, 40, 40], [30, 30, 90, 70], [50, 10, 80, 60]])
    stored = torch.cat((boxes, torch.tensor([[0.2], [0.9], [0.5]])), 1)
    net.best_proposals = 2
    few = net.detect(images._replace(proposals=[stored, stored]))
    net.best_proposals = None
    same = net.detect(images._replace(proposals=[stored[[1, 2]]] * 2))
    for a, b in zip(few, same, strict=True):
        assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["scores"], b["scores"])


def test_an_image_without_proposals_finds_nothing_and_trains_on_its_objects(scenes: Any) -> None:
    images, targets = scenes([2, 1])
    net = build("unidetector_regions")
    fed = images._replace(proposals=[torch.zeros(0, 5), torch.zeros(0, 5)])
    assert [len(one["boxes"]) for one in net.detect(fed)] == [0, 0]
    losses = net.train()(fed, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg"} and all(bool(x.isfinite()) for x in losses.values())


def test_a_permuted_vocabulary_permutes_labels_and_nothing_else() -> None:
    net, images = build("unidetector_regions", max_detections=1000), noise(2)
    fed = own_proposals(build("unidetector", rpn_proposals=40), images)
    vectors, order = net.vocabularies.vectors(0).clone(), torch.tensor([3, 1, 4, 0, 2])
    before = net.detect(fed)
    net.vocabularies.speak([vectors[order]])
    for a, b in zip(before, net.detect(fed), strict=True):
        found = {(*box, label) for box, label in zip(a["boxes"].tolist(), a["labels"].tolist(), strict=True)}
        after = {(*box, int(order[n])) for box, n in zip(b["boxes"].tolist(), b["labels"].tolist(), strict=True)}
        assert found == after
        torch.testing.assert_close(a["scores"], b["scores"])
