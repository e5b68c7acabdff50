"""ViTDet: its heads are torchvision's at the paper's settings, and the ViT under it is transformers' VitDetBackbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from transformers import VitDetBackbone, VitDetConfig

from backbones import backbone
from backbones.timm_zoo import Row, TimmBackbone
from detection.nets.vitdet import ViTDet
from detection.parts.necks import FPN, SimpleFPN, channel_norm
from detection.types import Images

CLASSES, WIDTH, HIDDEN = 3, 32, 64
EMBED, DEPTH, HEADS, WINDOW = 64, 4, 4, 4


@pytest.fixture
def net() -> ViTDet:
    """Small, and with last layers loud enough that proposals and scores differ."""
    net = ViTDet(backbone.build("test_vit"), CLASSES, width=WIDTH, hidden=HIDDEN)
    for layer in (net.rpn.head.cls_logits, net.rpn.head.bbox_pred, net.roi_heads.box_predictor.cls_score):
        nn.init.normal_(layer.weight, std=0.2)  # type: ignore[arg-type]
    return net


class Pyramid(nn.Module):
    """Our backbone and neck as torchvision wants them."""

    def __init__(self, net: ViTDet) -> None:
        super().__init__()
        self.net, self.out_channels = net, WIDTH

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.net.maps(Images(x, []))
        return OrderedDict(zip(["0", "1", "2", "3", "pool"], maps, strict=True))


def of_torchvision(net: ViTDet, **told: Any) -> FasterRCNN:
    """torchvision's Faster R-CNN with the heads of the paper, and our weights in them."""
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    other = FasterRCNN(
        Pyramid(net),
        rpn_head=RPNHead(WIDTH, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [HIDDEN], norm_layer=channel_norm),
        box_predictor=FastRCNNPredictor(HIDDEN, CLASSES + 1),
        **plain,
        **told,
    )
    other.rpn.load_state_dict(net.rpn.state_dict())
    other.roi_heads.load_state_dict(net.roi_heads.state_dict())
    return other


def unpadded(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [0, 0]])
def test_losses_are_those_of_torchvision(net: ViTDet, scenes: Callable, counts: list[int]) -> None:
    images, targets = scenes(counts, classes=CLASSES)
    other = of_torchvision(net).train()
    known = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
    torch.manual_seed(5)
    ours = net(images, targets)
    torch.manual_seed(5)
    theirs = other(unpadded(images), known)
    assert ours.keys() == theirs.keys() and len(ours) == 4
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    assert sum(counts) == 0 or ours["loss_box_reg"] > 0


def test_detections_are_those_of_torchvision(net: ViTDet, scenes: Callable) -> None:
    images, _ = scenes([2, 3], classes=CLASSES)
    theirs = of_torchvision(net, min_size=112).eval()(unpadded(images))  # of that size, nothing is resized
    for ours, other in zip(net.eval().detect(images), theirs, strict=True):
        assert len(ours["scores"]) > 5
        assert torch.equal(ours["labels"], other["labels"] - 1)
        torch.testing.assert_close(ours["boxes"], other["boxes"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(ours["scores"], other["scores"], rtol=1e-4, atol=1e-5)


def test_heads_are_those_of_the_paper() -> None:
    """Two convolutions propose; four, normalised over channels and without bias, and one layer look at a box."""
    with torch.device("meta"):
        net: Any = ViTDet(backbone.build("vit_det_m16_rms"), 80)
    assert isinstance(net.neck, SimpleFPN) and [info.stride for info in net.neck.maps] == [4, 8, 16, 32, 64]
    assert len(net.rpn.head.conv) == 2
    *convs, flatten, layer, _ = net.roi_heads.box_head
    assert len(convs) == 4 and isinstance(flatten, nn.Flatten) and layer.out_features == 1024
    for conv, norm, _ in convs:
        assert conv.bias is None and isinstance(norm, type(channel_norm(8)))
    assert net.roi_heads.box_roi_pool.featmap_names == ["0", "1", "2", "3"], "no box is cut from the pooled level"


def test_a_backbone_with_a_pyramid_of_its_own_keeps_it(tiny_backbone: Callable[..., Any]) -> None:
    net = ViTDet(tiny_backbone(), CLASSES, width=WIDTH, hidden=HIDDEN)
    assert isinstance(net.neck, FPN) and net.used_maps == [0, 1, 2, 3]


def test_options_reach_their_place() -> None:
    told = {"width": 32, "depth": 2, "hidden": 48, "min_score": 0.2, "nms_iou": 0.4, "max_detections": 7}
    net: Any = ViTDet(backbone.build("test_vit"), CLASSES, **told)
    heads = net.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert heads.box_predictor.cls_score.out_features == CLASSES + 1
    assert (
        heads.box_head[-2].out_features == 48 and sum(isinstance(m, nn.Conv2d) for m in heads.box_head.modules()) == 2
    )


def ours_and_transformers(side: int) -> tuple[Any, Any]:
    """A small ViT of windows, two of four blocks global, with random positions; and transformers' with its weights."""
    small = {
        "embed_dim": EMBED,
        "depth": DEPTH,
        "num_heads": HEADS,
        "window_size": WINDOW,
        "global_attn_indexes": (1, 3),
    }
    row = Row("samvit_base_patch16_224", {**small, "neck_chans": 0, "use_abs_pos": True}, after_neck=True)
    ours = TimmBackbone(row, img_size=(side, side)).eval()
    for name, weight in ours.net.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight, std=0.5)
    config = VitDetConfig(
        hidden_size=EMBED,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        window_size=WINDOW,
        window_block_indices=[0, 2],
        use_relative_position_embeddings=True,
        image_size=side,
        pretrain_image_size=side,
        patch_size=16,
    )
    theirs = VitDetBackbone(config).eval()
    theirs.load_state_dict(dict(renamed(ours.net, theirs.state_dict())))
    return ours, theirs


def renamed(net: Any, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(transformers' name, our tensor): it keeps a place for a class token that it does not have."""
    own = net.state_dict()
    for name, tensor in theirs.items():
        if name == "embeddings.position_embeddings":
            yield name, torch.cat((tensor[:, :1], own["pos_embed"].flatten(1, 2)), 1)
        else:
            usual = name.replace("embeddings.projection", "patch_embed.proj").replace("encoder.layer", "blocks")
            usual = usual.replace("attention", "attn")
            yield name, own[usual]


@pytest.mark.parametrize("size", [(176, 176), (112, 208)], ids=["as built", "another size"])
def test_the_vit_is_that_of_transformers(size: tuple[int, int]) -> None:
    """11 x 11 places in windows of 4 need padding. Of another size, relative positions are stretched alike, absolute
    ones not quite: ours are antialiased, so they are left out there."""
    ours, theirs = ours_and_transformers(176)
    if size != (176, 176):
        nn.init.zeros_(ours.net.pos_embed)
        nn.init.zeros_(theirs.embeddings.position_embeddings)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        (mine,) = ours.forward_features(pixels)
        (plain,) = theirs(pixels).feature_maps
        other = ours.net.neck(plain)  # ours ends with a norm
    assert mine.shape == (2, EMBED, size[0] // 16, size[1] // 16)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert mine.std() > 0.1


def test_positions_of_the_vit_matter() -> None:
    """Or the test above would pass without them."""
    ours, _ = ours_and_transformers(176)
    pixels = torch.randn(1, 3, 176, 176)
    with torch.no_grad():
        before = ours.forward_features(pixels)[0]
        for name in ("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"):
            kept = ours.net.get_parameter(name).clone()
            nn.init.zeros_(ours.net.get_parameter(name))
            assert (ours.forward_features(pixels)[0] - before).abs().max() > 1e-2, name
            ours.net.get_parameter(name).copy_(kept)
