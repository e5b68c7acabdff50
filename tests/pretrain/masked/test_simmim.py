"""SimMIM: equal to transformers' for ViT and Swin, blind to hidden pixels for every other network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone, MapInfo
from backbones.timm_zoo import Row, TimmBackbone
from pretrain.masked.places import split_places
from pretrain.masked.simmim import SimMIM, choose_cell
from shared.errors import UsageError


def compare(ours: SimMIM, theirs: Any, state: dict[str, Tensor], size: int, patch: int) -> None:
    """With the same weights and mask, the same pixels and the same loss."""
    ours.backbone.net.load_state_dict(  # type: ignore[union-attr,operator]
        {k: v for k, v in state.items() if not k.startswith(("decoder.", "embeddings."))}, strict=False
    )
    ours.predict.load_state_dict({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    with torch.no_grad():
        ours.mask_token.copy_(state["embeddings.mask_token"].flatten())
    x, noise = torch.randn(2, 3, size, size), torch.rand(2, ours.cells[0] * ours.cells[1])
    _, hidden = split_places(noise, ours.seen)
    mask = torch.zeros_like(noise).scatter_(1, hidden, 1).view(2, 1, *ours.cells)
    wide = ours.cell // patch
    masked = mask.repeat_interleave(wide, 2).repeat_interleave(wide, 3).flatten(1).bool()
    with torch.no_grad():
        found = theirs(x, bool_masked_pos=masked)
        torch.testing.assert_close(ours.fill(x, mask), found.reconstruction, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(ours(x, noise), found.loss, rtol=1e-4, atol=0)


def test_pixels_and_loss_of_a_vit_equal_those_of_transformers(
    small_vit: Callable[..., Backbone], as_timm: Callable[..., dict[str, Tensor]]
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, layer_norm_eps=1e-6,
        image_size=64, patch_size=8, encoder_stride=8,
    )  # fmt: skip
    theirs = transformers.ViTForMaskedImageModeling(config).eval()
    with torch.no_grad():
        theirs.vit.embeddings.position_embeddings.normal_()
        theirs.vit.embeddings.mask_token.normal_()
    ours = SimMIM(small_vit(img_size=64), (64, 64), cell=16).eval()
    compare(ours, theirs, as_timm(theirs.state_dict()), 64, 8)


def test_pixels_and_loss_of_a_swin_equal_those_of_transformers(as_timm: Callable[..., dict[str, Tensor]]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4, encoder_stride=8
    )
    theirs = transformers.SwinForMaskedImageModeling(config).eval()
    with torch.no_grad():
        theirs.swin.embeddings.mask_token.normal_()
    args = {"img_size": 64, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    ours = SimMIM(TimmBackbone(Row("swin_tiny_patch4_window7_224", args), drop_path=0.0), (64, 64), cell=16).eval()
    compare(ours, theirs, as_timm(theirs.state_dict()), 64, 4)


@pytest.mark.parametrize("size", [(64, 96), (128, 128)])
def test_any_backbone_fills_in_hidden_pixels_without_having_seen_them(
    size: tuple[int, int], tiny_backbone: type
) -> None:
    net = SimMIM(tiny_backbone(), size, cell=16).eval()
    noise = torch.rand(2, size[0] * size[1] // 256)
    _, hidden = split_places(noise, net.seen)
    mask = torch.zeros_like(noise).scatter_(1, hidden, 1).view(2, 1, size[0] // 16, -1)
    x = torch.randn(2, 3, *size)
    pixels = mask.repeat_interleave(16, 2).repeat_interleave(16, 3)
    other = x * (1 - pixels) + 7 * pixels
    filled = net.fill(x, mask)
    assert filled.shape == x.shape and torch.equal(filled, net.fill(other, mask))
    distances = (filled - x).abs()[pixels.expand_as(x) == 1]
    assert len(distances) == 2 * 3 * 256 * hidden.shape[1]
    torch.testing.assert_close(net(x, noise), distances.mean())


def test_the_color_of_hidden_pixels_is_learned(tiny_backbone: type) -> None:
    net = SimMIM(tiny_backbone(), (64, 64))
    net(torch.randn(4, 3, 64, 64)).backward()
    assert net.mask_token.shape == (3,) and net.mask_token.grad is not None and net.mask_token.grad.abs().sum() > 0


def test_a_hidden_patch_costs_a_vit_its_pixels_but_not_its_token(small_vit: Callable[..., Backbone]) -> None:
    net = SimMIM(small_vit(), (32, 48), cell=8).eval()
    assert net.mask_token.shape == (32,)
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 1, 2] = 1
    x = torch.randn(1, 3, 32, 48)
    other = x.clone()
    other[..., 8:16, 16:24] = 5.0
    assert torch.equal(net.fill(x, mask), net.fill(other, mask))
    assert not torch.equal(net.fill(x, 0 * mask), net.fill(other, 0 * mask))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "mobilenetv3_small_050"])
def test_what_the_coarsest_map_does_not_need_is_frozen_and_the_rest_learns(name: str) -> None:
    net = SimMIM(backbone.build(name), (64, 64))
    net(torch.randn(2, 3, 64, 64)).backward()
    learns = {n for n, p in net.named_parameters() if p.grad is not None}
    assert learns == {n for n, p in net.named_parameters() if p.requires_grad}
    first = next(p for p in net.backbone.parameters() if p.requires_grad)
    assert first.grad is not None and first.grad.abs().sum() > 0
    kept = set(backbone.build(name).state_dict())
    assert kept == {n.removeprefix("backbone.") for n in net.state_dict() if n.startswith("backbone.")}


def test_a_head_convolution_that_no_map_passes_is_frozen() -> None:
    class Headed(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 8, 1)
            self.maps, self.width = (MapInfo(4, 4),), 8

        def forward_features(self, x: Tensor) -> list[Tensor]:
            return [self.body(x)]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)).mean((2, 3))

        def stages(self) -> list[list[nn.Parameter]]:
            return [list(self.parameters())]

        def blocks(self) -> list[list[nn.Parameter]]:
            return self.stages()

    net = SimMIM(Headed(), (32, 32))
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {
        "backbone.head.weight",
        "backbone.head.bias",
    }


@pytest.mark.parametrize(
    ("size", "unit", "cell"),
    [
        ((192, 192), 1, 32),
        ((224, 224), 16, 32),
        ((224, 224), 14, 28),
        ((32, 32), 1, 4),
        ((96, 128), 16, 16),
        ((32, 32), 16, 16),
    ],
)
def test_cells_are_32_pixels_or_as_large_as_six_of_them_fit(size: tuple[int, int], unit: int, cell: int) -> None:
    assert choose_cell(0, size, unit) == cell


def test_masks_come_from_torchs_generator_and_from_nothing_else(tiny_backbone: type) -> None:
    net, x, losses = SimMIM(tiny_backbone(), (64, 64)).eval(), torch.randn(2, 3, 64, 64), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(net(x).item())
    assert losses[0] == losses[1] != losses[2]


def test_what_cannot_be_masked_so_is_refused(tiny_backbone: type, small_vit: Callable[..., Backbone]) -> None:
    with pytest.raises(UsageError, match="stride 32, does not divide an image of 100x64; take --size 96 64"):
        SimMIM(tiny_backbone(), (100, 64))
    with pytest.raises(UsageError, match="mask cells of 20 pixels do not divide an image of 64x64 .* take --mask-size"):
        SimMIM(tiny_backbone(), (64, 64), cell=20)
    with pytest.raises(UsageError, match="whole patches of 8; take --mask-size 8 or 16 or 32"):
        SimMIM(small_vit(), (32, 32), cell=4)
    with pytest.raises(UsageError, match="mask_ratio 0.6 of 1 places leaves nothing to see"):
        SimMIM(tiny_backbone(), (32, 32), cell=32)
