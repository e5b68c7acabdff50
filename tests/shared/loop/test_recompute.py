"""Blocks that are computed again give the same losses, gradients and statistics, and keep less."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from backbones import build_backbone
from detection.nets import detector
from detection.types import Images
from shared.errors import UsageError
from shared.loop.recompute import blocks_of, recompute_blocks


def kept(net: nn.Module, pixels: Tensor) -> tuple[list[Tensor], int]:
    """Gradients of the sum of all maps, and how many bytes were kept for them besides the weights."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(x.square().mean() for x in net.forward_features(pixels))  # type: ignore[operator]
    assert isinstance(loss, Tensor)
    loss.backward()
    return [p.grad for p in net.parameters() if p.grad is not None], sum(storages.values())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_gradients_and_statistics_are_the_same_and_less_is_kept(name: str) -> None:
    torch.manual_seed(1)
    plain = build_backbone(name, pretrained=False, drop_path=0.1).train()
    again = deepcopy(plain)
    assert recompute_blocks(again) > 1
    pixels = torch.randn(2, 3, 96, 96)
    (wanted, more), (found, less) = kept(plain, pixels), kept(again, pixels)
    assert len(wanted) == len(found) > 0
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert less < 0.8 * more
    assert plain.state_dict().keys() == again.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_a_copy_computes_with_its_own_weights() -> None:
    net = build_backbone("test_resnet", pretrained=False).train()
    recompute_blocks(net)
    copy = deepcopy(net)
    with torch.no_grad():
        for weight in copy.parameters():
            weight.zero_()
    pixels = torch.randn(1, 3, 64, 64)
    assert not torch.equal(net.forward_features(pixels)[-1], copy.forward_features(pixels)[-1])


def test_layers_of_a_detector_are_blocks_too() -> None:
    body = build_backbone("test_resnet", pretrained=False)
    net = detector.build("detr", body, 3, **detector.facts("detr")["tiny"]).train()
    assert {type(block).__name__ for block in blocks_of(net)} >= {"EncoderLayer", "DecoderLayer"}
    target = {"boxes": torch.tensor([[4.0, 4, 30, 40]]), "labels": torch.tensor([1])}
    images = Images(torch.randn(1, 3, 64, 64), [(64, 64)])
    found = []
    for again in (False, True):
        if again:
            recompute_blocks(net)
        net.zero_grad()
        torch.manual_seed(3)
        losses = net(images, [target])
        sum(losses.values()).backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="no repeated blocks"):
        recompute_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
