"""Properties of a backbone, found by running it on the meta device, without memory for values, and once on data.

map_reach    the parameters that each map depends on
join_passes  whether map and vector come out of one pass
only_size    the image sizes it accepts; on the meta device, then on data, since neither is enough:
                 tables of relative positions are indexed out of bounds only by values (mvitv2_tiny at 256 pixels),
                 and networks that look at values cannot run without them
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from shared.errors import UsageError

PROBE = (64, 64)  # pixels; a multiple of every stride
ODD = (480, 800)  # pixels; 15 x 25 cells at stride 32, not divisible by any window


def map_reach(net: Backbone) -> list[set[str]]:
    """For each map, the names of the parameters it depends on, from the autograd graph."""
    with torch.enable_grad():
        weights, maps = maps_on_meta(net, net.only or PROBE)
    names = {id(weight): name for name, weight in weights.items()}
    return [{names[id(leaf)] for leaf in leaves(x)} for x in maps]


def leaves(x: Tensor) -> list[Tensor]:
    """The leaf tensors with gradients that a result was computed from."""
    found, seen, queue = [], set(), [x.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)  # type: ignore[attr-defined]
        queue += [before for before, _ in node.next_functions]
    return found


def only_size(net: Backbone, own: tuple[int, int]) -> tuple[int, int] | None:
    """The only image size (height, width) a network accepts; None if it accepts any.

    Args:
        own: the size it was built for.

    Raises:
        UsageError: its maps never have the shapes it reports.
    """
    has_values = not any(p.is_meta for p in net.parameters())
    if broken(net, ODD) is None:
        if not has_values or broken(net, beyond(own), on_data=True) is None:
            return None
        reason = broken(net, own, on_data=True)
    else:
        reason = broken(net, own)
        if reason is not None and has_values and broken(net, own, on_data=True) is None:
            if broken(net, beyond(own), on_data=True) is None:
                return None
            reason = None
    if reason is None:
        return own
    raise UsageError(f"this timm network does not return the feature maps it reports ({reason}); use another backbone")


def beyond(own: tuple[int, int]) -> tuple[int, int]:
    """An image size that is larger than the network's own, with odd numbers of cells at stride 32."""
    cells = max(own) // 32 + 1
    return 32 * (cells + (cells + 1) % 2), 32 * (cells + (cells + 1) % 2 + 2)


def broken(net: Backbone, size: tuple[int, int], *, on_data: bool = False) -> str | None:
    """Why the maps for this image size do not have the reported shapes; None if they do.

    Args:
        on_data: run the network itself, on zeros, instead of a copy on the meta device.
    """
    promised = [(1, c, -(-size[0] // s), -(-size[1] // s)) for c, s in net.maps]
    try:
        with torch.no_grad():
            maps = maps_on_data(net, size) if on_data else maps_on_meta(net, size)[1]
            found = [tuple(x.shape) for x in maps]
    except Exception as error:  # timm raises assertions, runtime and type errors for sizes
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return None if found == promised else f"maps of {found} for {promised}"


def maps_on_data(net: Backbone, size: tuple[int, int]) -> list[Tensor]:
    """The maps of an image of zeros, in evaluation mode; the network is left as it was."""
    modes = {module: module.training for module in net.modules()}
    place = next(net.parameters()).device
    try:
        return net.eval().forward_features(torch.zeros(1, 3, *size, device=place))
    finally:
        net.train()  # drops what some networks keep for evaluation
        for module, training in modes.items():
            module.training = training


def maps_on_meta(net: Backbone, size: tuple[int, int]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """(meta parameters by name, maps computed from them for an image of that size)

    Runs a copy of the modules, since `torch.func.functional_call` does not restore modules that a network registers
    under two names, as CoaT does.
    """
    weights: dict[str, Tensor] = {
        name: nn.Parameter(torch.empty_like(p, device="meta")) for name, p in net.named_parameters()
    }
    stand_ins: dict[int, Any] = {id(p): weights[name] for name, p in net.named_parameters()}
    stand_ins |= {id(b): torch.empty_like(b, device="meta") for b in net.buffers()}
    double = deepcopy(net, stand_ins).eval()
    return weights, double.forward_features(torch.zeros(1, 3, *size, device="meta"))


def join_passes(net: Any, size: tuple[int, int]) -> None:
    """Let `forward_both` run the trunk once, if the network gives the same numbers so, tried on one image.

    timm's `forward_intermediates` ends in the features that `forward_head` takes for most networks, not for all.
    """
    if not hasattr(net, "one_pass"):
        return
    image = torch.randn(1, 3, *size, device=next(net.parameters()).device)
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad():
            net.one_pass = False
            apart = net.eval().forward_both(image)
            net.one_pass = True
            together = net.forward_both(image)
        net.one_pass = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(apart, together, strict=True))
    except (AttributeError, AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        net.one_pass = False
    finally:
        net.train()  # drops what some networks keep for evaluation
        for module, training in modes.items():
            module.training = training
