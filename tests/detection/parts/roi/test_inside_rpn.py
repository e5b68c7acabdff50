"""The RPN is torchvision's, but for the border, the floor of low-quality matches and the L1 loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from backbones.base import MapInfo
from detection.parts.roi.inside_rpn import InsideRPN, assigned
from detection.parts.roi.rcnn import by_name


def test_anchors_are_of_all_five_sizes_on_one_map_and_of_one_size_on_each_of_a_pyramid() -> None:
    assert InsideRPN([MapInfo(8, 16)]).anchor_generator.num_anchors_per_location() == [15]
    pyramid = InsideRPN([MapInfo(8, 4), MapInfo(8, 8)])
    assert pyramid.anchor_generator.num_anchors_per_location() == [3, 3]
    head = InsideRPN([MapInfo(1024, 16)]).head
    assert head.cls_logits.out_channels == 15 and head.bbox_pred.out_channels == 60  # type: ignore[union-attr]


def test_anchors_that_leave_the_image_take_no_part() -> None:
    anchors = torch.tensor([[-1.0, 0, 9, 9], [0, 0, 10, 10], [20, 20, 40, 32], [50, 50, 64, 64]])
    labels, _ = assigned(anchors, torch.tensor([[0.0, 0, 10, 10]]), (32, 40))
    assert labels.tolist() == [-1, 1, 0, -1], "the unpadded image is 40 wide and 32 high"
    assert assigned(anchors, torch.zeros(0, 4), (32, 40))[0].tolist() == [-1, 0, 0, -1]


def test_between_the_thresholds_only_the_best_take_part_and_only_above_the_floor() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 8], [50, 50, 60, 60], [50, 50, 58, 60]])
    one = torch.tensor([[0.0, 0, 10, 5]])  # 0.5, 0.625 twice
    assert assigned(anchors, one, (100, 100))[0].tolist() == [-1, 1, 1, 0, 0], "all that tie for the best"
    small = torch.tensor([[50.0, 50, 52, 60]])  # 0.2, 0.25
    assert assigned(anchors, small, (100, 100))[0].tolist() == [0, 0, 0, 0, 0]
    near = torch.tensor([[0.0, 0, 10, 8.5], [50, 50, 54, 60]])
    labels, which = assigned(anchors, near, (100, 100))
    assert labels.tolist() == [1, 1, 1, -1, 1] and which[labels > 0].tolist() == [0, 0, 0, 1]


def test_without_border_and_floor_labels_are_those_of_torchvision() -> None:
    """On anchors inside the image, and objects that all have an anchor of IoU 0.3."""
    rng = torch.Generator().manual_seed(0)
    corner = 150 * torch.rand(400, 2, generator=rng)
    anchors = torch.cat((corner, corner + 20 + 25 * torch.rand(400, 2, generator=rng)), 1)
    objects = anchors[:6] + 3 * torch.randn(6, 4, generator=rng)
    rpn = InsideRPN([MapInfo(8, 16)])
    rpn.sizes = [(200, 200)]
    assert (box_iou(objects, anchors).amax(1) > 0.3).all()
    for mine, theirs in zip(
        rpn.assign_targets_to_anchors([anchors], [{"boxes": objects}]),
        RegionProposalNetwork.assign_targets_to_anchors(rpn, [anchors], [{"boxes": objects}]),
        strict=True,
    ):
        took_part = mine[0] >= 0 if mine[0].dim() == 1 else torch.ones(len(mine[0]), dtype=torch.bool)
        assert took_part.any()
        if mine[0].dim() == 1:
            assert torch.equal(mine[0], theirs[0])
            positive = mine[0] == 1
        else:
            assert torch.equal(mine[0][positive], theirs[0][positive])


def test_losses_are_summed_over_what_is_sampled_and_divided_by_its_number() -> None:
    rpn = InsideRPN([MapInfo(8, 16)])
    scores, offsets = torch.randn(10, 1, requires_grad=True), torch.randn(10, 4)
    wanted, labels = torch.randn(10, 4), torch.tensor([1.0, 1, 0, 0, 0, -1, -1, -1, -1, -1])
    wrong, far = rpn.compute_loss(scores, offsets, [labels], [wanted])
    torch.testing.assert_close(wrong, F.binary_cross_entropy_with_logits(scores[:5, 0], labels[:5]))
    torch.testing.assert_close(far, (offsets[:2] - wanted[:2]).abs().sum() / 5)
    nothing = rpn.compute_loss(scores, offsets, [torch.full((10,), -1.0)], [wanted])
    torch.stack(nothing).sum().backward()
    assert [float(loss) for loss in nothing] == [0, 0] and scores.grad is not None and not scores.grad.any()


def test_proposals_lie_in_the_unpadded_images() -> None:
    torch.manual_seed(0)
    rpn = InsideRPN([MapInfo(8, 16)], proposals=(40, 20))
    images = ImageList(torch.zeros(2, 3, 96, 128), [(96, 100), (60, 128)])
    objects = [{"boxes": torch.tensor([[10.0, 10, 50, 50]])}, {"boxes": torch.zeros(0, 4)}]
    proposals, losses = rpn(images, by_name([torch.randn(2, 8, 6, 8)]), objects)
    assert [len(boxes) for boxes in proposals] == [40, 40]
    for boxes, (height, width) in zip(proposals, images.image_sizes, strict=True):
        assert (boxes >= 0).all() and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"}
    assert all(loss.isfinite() for loss in losses.values())
    assert [len(boxes) for boxes in rpn.eval()(images, by_name([torch.randn(2, 8, 6, 8)]))[0]] == [20, 20]
