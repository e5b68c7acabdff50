"""torchvision's R-CNNs on our backbone and neck, with our weights in their stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detection.types import Images, Target

PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}  # pixels come as they are wanted


class Pyramid(nn.Module):
    """Our backbone and neck as torchvision wants them."""

    def __init__(self, net: Any, width: int) -> None:
        super().__init__()
        self.net, self.out_channels = net, width

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(zip(["0", "1", "2", "3", "pool"], self.net.maps(Images(x, [])), strict=True))


def with_our_weights(other: Any, net: Any) -> Any:
    """torchvision's detector once our weights are in it; it answers for the images as they came."""
    other.rpn.load_state_dict(net.rpn.state_dict())
    other.roi_heads.load_state_dict(net.roi_heads.state_dict())
    other.transform.postprocess = lambda found, *_: found  # masks stay on their grids
    return with_still_norms(other)


def loud(net: Any) -> Any:
    """Last layers loud enough that proposals and scores differ; batch norm holds still, so two passes are one."""
    heads = net.roi_heads
    for layer in (net.rpn.head.bbox_pred, heads.box_predictor.cls_score):
        nn.init.normal_(layer.weight, std=0.2)
    nn.init.normal_(net.rpn.head.cls_logits.weight, std=4.0)  # torchvision puts equal scores in any order
    return with_still_norms(net)


def with_still_norms(net: Any) -> Any:
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    return net


def unpadded(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


def losses_and_slopes(run: Callable[[], dict[str, Tensor]], net: Any, owner: Any) -> tuple[dict[str, Tensor], Any]:
    """What a step loses, and the gradients of the body, which both share, and of the owner's stages."""
    torch.manual_seed(5)
    for module in (net, owner):
        module.zero_grad(set_to_none=True)
    losses = run()
    torch.stack(list(losses.values())).sum().backward()
    parts = {"backbone": net.backbone, "neck": net.neck, "rpn": owner.rpn, "roi_heads": owner.roi_heads}
    learning = {f"{part}.{n}": p for part, own in parts.items() for n, p in own.named_parameters() if p.requires_grad}
    return losses, {name: p.grad for name, p in learning.items()}


def assert_equal_steps(net: Any, other: Any, images: Images, targets: list[Target]) -> dict[str, Tensor]:
    """Both lose the same and learn the same from these images; returns the losses."""
    known: list[Any] = [{**target, "labels": target["labels"] + 1} for target in targets]
    ours, our_slopes = losses_and_slopes(lambda: net(images, targets), net, net)
    theirs, their_slopes = losses_and_slopes(lambda: other(unpadded(images), known), net, other)
    assert ours.keys() == theirs.keys() and our_slopes.keys() == their_slopes.keys()
    for name in ours:
        # a proposal at the edge of NMS may be another one of 64 on another processor; a mistake is larger
        torch.testing.assert_close(ours[name], theirs[name], rtol=5e-3, atol=1e-6)
    for name, slope in our_slopes.items():
        away, size = (slope - their_slopes[name]).norm(), their_slopes[name].norm()
        assert away <= 5e-2 * size + 1e-6, f"{name}: {away:.1e} of {size:.1e}"  # rounding may flip a rectifier
    return ours
