"""Regions: a box of the whole image gives CLIP's own vector; labels, losses and boxes by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection._utils import BoxCoder

from backbones.base import MapInfo
from backbones.clip_resnet import AttentionPool
from detection.parts.roi.regions import (
    AttentionRegion,
    AverageRegion,
    LayersRegion,
    RegionHead,
    box_loss,
    labels_of,
    moved_boxes,
)
from detection.parts.roi.sampling import Regions
from detection.types import Target


@pytest.fixture(scope="module")
def region() -> AttentionRegion:
    """With batch norms of many values, so that every one of them counts."""
    torch.manual_seed(0)
    built = AttentionRegion(MapInfo(1024, 16))
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return built.eval()


# --- attention --------------------------------------------------------------------------------------


def test_stage_and_pool_have_the_parameters_of_clips(region: AttentionRegion) -> None:
    assert sum(p.numel() for p in region.layer4.parameters()) == 14_964_736
    assert sum(p.numel() for p in region.attnpool.parameters()) == 14_789_632
    assert sum(p.numel() for p in RegionHead(region, 1024).box.parameters()) == 4_100


@torch.no_grad()
def test_pool_is_attention_of_the_mean_over_all_cells() -> None:
    """The same with keys and values of every cell, by torch's own function."""
    pool, x = AttentionPool(3, 64, 4, 16), torch.randn(5, 64, 3, 3)
    for layer in (pool.k_proj, pool.q_proj, pool.v_proj, pool.c_proj):
        nn.init.normal_(layer.bias)
    tokens = torch.cat((x.flatten(2).mean(2, keepdim=True), x.flatten(2)), 2).permute(2, 0, 1)
    tokens = tokens + pool.positional_embedding[:, None]
    expected, _ = F.multi_head_attention_forward(
        *(tokens[:1], tokens, tokens, 64, 4, None),
        torch.cat([layer.bias for layer in (pool.q_proj, pool.k_proj, pool.v_proj)]),
        *(None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias),
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    torch.testing.assert_close(pool(x), expected[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_box_of_the_whole_image_is_the_image(region: AttentionRegion) -> None:
    """Nothing is interpolated then, so there is no difference at all."""
    stride_16 = torch.randn(1, 1024, 14, 14)
    whole = region([stride_16], [torch.tensor([[0.0, 0, 224, 224]])], [(224, 224)])
    assert torch.equal(whole, region.attnpool(region.layer4(stride_16)))


@pytest.mark.slow
@torch.no_grad()
def test_a_box_of_the_whole_image_has_open_clips_own_vector(region: AttentionRegion) -> None:
    modified = pytest.importorskip("open_clip.modified_resnet")
    theirs = modified.ModifiedResNet(layers=(3, 4, 6, 3), output_dim=1024, heads=32, image_size=224).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
    own = {f"{name}.{key}" for name, part in region.continued().items() for key in part.state_dict()}
    region.load_state_dict({name: value for name, value in theirs.state_dict().items() if name in own})
    stride_16 = theirs.layer3(theirs.layer2(theirs.layer1(theirs.stem(torch.randn(1, 3, 224, 224)))))
    expected = theirs.attnpool(theirs.layer4(stride_16))
    whole = region([stride_16], [torch.tensor([[0.0, 0, 224, 224]])], [(224, 224)])
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_statistics_of_the_region_part_hold_still(region: AttentionRegion) -> None:
    region.train()
    assert not any(layer.training for layer in region.modules() if isinstance(layer, nn.BatchNorm2d))
    region.eval()


def test_another_width_than_clips_is_reached_by_one_more_layer(region: AttentionRegion) -> None:
    with torch.device("meta"):
        assert AttentionRegion(MapInfo(1024, 16), 384).project is not None
    assert region.project is None
    assert set(region.continued()) == {"layer4", "attnpool"}


# --- layers -----------------------------------------------------------------------------------------


def test_regions_of_a_pyramid_have_a_vector_each() -> None:
    maps = [MapInfo(8, stride) for stride in (4, 8, 16, 32, 64)]
    region = LayersRegion(maps, 16, 5)
    levels = [torch.randn(2, 8, 64 // (info.stride // 4), 64 // (info.stride // 4)) for info in maps]
    boxes = [torch.tensor([[0.0, 0, 200, 200], [3, 3, 9, 9]]), torch.tensor([[5.0, 5, 50, 80]])]
    vectors, offsets = RegionHead(region, 5)(levels, boxes, [(256, 256)] * 2)
    assert vectors.shape == (3, 5) and offsets.shape == (3, 4)
    nothing = RegionHead(region, 5)(levels, [boxes[0][:0], boxes[1][:0]], [(256, 256)] * 2)
    assert nothing[0].shape == (0, 5) and nothing[1].shape == (0, 4)


# --- average ----------------------------------------------------------------------------------------


def test_mean_of_a_box_is_that_of_the_pixels_of_each_map_under_it() -> None:
    region = AverageRegion([MapInfo(2, 8), MapInfo(3, 16)], 5)
    columns = torch.arange(8.0).expand(2, 1, 8, 8)  # a map whose value is the column
    maps = [columns.repeat(1, 2, 1, 1), columns[:, :, :4, :4].repeat(1, 3, 1, 1)]
    boxes = [torch.tensor([[16.0, 8, 48, 40]]), torch.tensor([[8.0, 0, 40, 24]])]
    with torch.no_grad():
        region.project.weight.copy_(torch.eye(5))
        region.project.bias.zero_()
        vectors, offsets = RegionHead(region, 5)(maps, boxes, [(64, 64)] * 2)
    # a box's middle, in columns of the map whose first has its middle at half a column
    wanted = [[32 / 8 - 0.5] * 2 + [32 / 16 - 0.5] * 3, [24 / 8 - 0.5] * 2 + [24 / 16 - 0.5] * 3]
    torch.testing.assert_close(vectors, torch.tensor(wanted))
    assert offsets.shape == (2, 4)
    assert RegionHead(region, 5)(maps, [boxes[0][:0], boxes[1][:0]], [(64, 64)] * 2)[0].shape == (0, 5)


# --- labels and boxes -------------------------------------------------------------------------------


def regions_of(boxes: list[list[float]], objects: list[int]) -> Regions:
    return Regions(torch.tensor(boxes).view(-1, 4), torch.tensor(objects, dtype=torch.int64), torch.zeros(len(objects)))


def target(boxes: list[list[float]], labels: list[int]) -> Target:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def test_labels_are_those_of_the_objects() -> None:
    regions = [regions_of([[0.0, 0, 1, 1]] * 3, [1, -1, 0]), regions_of([[0.0, 0, 1, 1]], [-1])]
    labels = labels_of(regions, [target([[0.0, 0, 1, 1]] * 2, [7, 4]), target([], [])])
    assert [label.tolist() for label in labels] == [[4, -1, 7], [-1]]


def test_box_loss_is_the_l1_distance_of_positives_over_all_regions() -> None:
    regions = [regions_of([[0.0, 0, 10, 20]], [0]), regions_of([[5.0, 5, 9, 9]], [-1])]
    targets = [target([[1.0, 0, 11, 20]], [3]), target([], [])]
    offsets = torch.tensor([[0.5, 0.25, 0, -0.5], [9, 9, 9, 9]], requires_grad=True)
    wanted = torch.tensor([10 * 1 / 10, 0, 0, 0])
    loss = box_loss(offsets, regions, targets)
    assert math.isclose(float(loss), float((offsets[0] - wanted).abs().sum()) / 2, rel_tol=1e-5)
    nothing = box_loss(offsets, [regions[1], regions[1]], [targets[1], targets[1]])
    nothing.backward()
    assert nothing == 0 and offsets.grad is not None and not offsets.grad.any()


def test_boxes_are_moved_by_their_offsets_as_by_torchvisions_coder_and_clipped() -> None:
    proposals = [torch.tensor([[10.0, 10, 30, 50]]), torch.tensor([[0.0, 0, 10, 10], [40, 40, 60, 60]])]
    wanted = [torch.tensor([[12.0, 9, 40, 44]]), torch.tensor([[0.0, 0, 5, 5], [30, 30, 90, 90]])]
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    offsets = torch.cat([coder.encode_single(w, p) for w, p in zip(wanted, proposals, strict=True)])
    first, second = moved_boxes(proposals, offsets, [(100, 100), (64, 70)])
    torch.testing.assert_close(first, wanted[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(second, torch.tensor([[0.0, 0, 5, 5], [30, 30, 70, 64]]), rtol=1e-5, atol=1e-4)
    assert [len(part) for part in moved_boxes([p[:0] for p in proposals], offsets[:0], [(9, 9)] * 2)] == [0, 0]
