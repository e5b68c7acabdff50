"""What a backbone says about itself when asked on the meta device, where tensors have shapes and no memory.

which parameters does each map depend on?      map_reach
which images does it take?                     only_size
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from shared.errors import UsageError

PROBE = (64, 64)  # pixels; enough for every stride there is
ODD = (480, 800)  # pixels; 15 x 25 places at stride 32, which no window and no fixed grid divides


def map_reach(net: Backbone) -> list[set[str]]:
    """Names of the parameters each map depends on: the leaves of the graph that autograd would walk."""
    with torch.enable_grad():
        weights, maps = maps_on_meta(net, net.only or PROBE)
    names = {id(weight): name for name, weight in weights.items()}
    return [{names[id(leaf)] for leaf in leaves(x)} for x in maps]


def leaves(x: Tensor) -> list[Tensor]:
    """The tensors that a result was computed from, as far as they take gradients."""
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
    """The one image size (height, width) that a network takes, or None when it takes any.

    Args:
        own: the size it was built for.

    Raises:
        UsageError: its maps are not what it says they are, at whatever size.
    """
    if broken(net, ODD) is None:
        return None
    reason = broken(net, own)
    if reason is None:
        return own
    raise UsageError(f"this network of timm does not offer its maps as others do ({reason}); take another backbone")


def broken(net: Backbone, size: tuple[int, int]) -> str | None:
    """Why the maps of an image of this size are not as promised, or None when they are."""
    promised = [(1, c, -(-size[0] // s), -(-size[1] // s)) for c, s in net.maps]
    try:
        with torch.no_grad():
            found = [tuple(x.shape) for x in maps_on_meta(net, size)[1]]
    except Exception as error:  # whatever timm says about sizes: assertions, run-time and type errors
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return None if found == promised else f"maps of {found} for {promised}"


def maps_on_meta(net: Backbone, size: tuple[int, int]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """(stand-ins of the parameters by name, maps computed from them for an image of that size)

    Asked of a copy of the modules around stand-ins, since `torch.func.functional_call` leaves its own behind in modules
    that a network holds under two names, as CoaT does.
    """
    weights: dict[str, Tensor] = {
        name: nn.Parameter(torch.empty_like(p, device="meta")) for name, p in net.named_parameters()
    }
    stand_ins: dict[int, Any] = {id(p): weights[name] for name, p in net.named_parameters()}
    stand_ins |= {id(b): torch.empty_like(b, device="meta") for b in net.buffers()}
    double = deepcopy(net, stand_ins).eval()
    return weights, double.forward_features(torch.zeros(1, 3, *size, device="meta"))
