"""Feature maps of any timm network: from timm itself, or from the modules that its `feature_info` names.

    forward_intermediates     timm has it for this network            used as it is
    HRNet without it          stem -> branches -> incre_modules       what later releases of timm compute
    any other without it      forward_features, seen by hooks         the outputs of the modules in feature_info

Which networks have `forward_intermediates` depends on the release: HRNet, CSPResNet and DarkNet have had it since
1.0.31 only. The maps are the same numbers on every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def has_maps(net: nn.Module) -> bool:
    """Whether `maps_of` can compute the maps that `feature_info` lists."""
    infos = [dict(info) for info in getattr(net, "feature_info", None) or []]
    if not infos:
        return False
    modules = dict(net.named_modules())
    return (
        hasattr(net, "forward_intermediates")
        or has_parallel_branches(net)
        or (hasattr(net, "forward_features") and all(info.get("module") in modules for info in infos))
    )


def maps_of(net: Any, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """(B, 3, H, W) -> the (B, C_i, H/s_i, W/s_i) of these indices of `feature_info`, in increasing order."""
    if hasattr(net, "forward_intermediates"):
        return list(net.forward_intermediates(x, indices=list(taps), intermediates_only=True))
    if has_parallel_branches(net):
        return parallel_branches(net, x, taps)
    return seen_by_hooks(net, x, taps)


def has_parallel_branches(net: nn.Module) -> bool:
    return all(hasattr(net, name) for name in ("stage4", "incre_modules", "conv2", "stages"))


def parallel_branches(net: Any, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """HRNet: index 0 is the first convolution, indices 1 to 4 are the branches after their channel increase.

    The classifier's downsampling is left out, so that its running statistics stay as they are.
    """
    found = [x := net.act1(net.bn1(net.conv1(x)))]
    branches = net.stages(net.act2(net.bn2(net.conv2(x))))
    for i, branch in enumerate(branches):
        widen = net.incre_modules[i] if net.incre_modules is not None and i + 1 in taps else nn.Identity()
        found.append(widen(branch))
    return [found[i] for i in sorted(taps)]


def seen_by_hooks(net: Any, x: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """What the modules named in `feature_info` return while `forward_features` runs; `forward_pre` is what enters.

    The hooks live for one call, so copies of the network carry none.

    Raises:
        RuntimeError: a module is not called as a module; its name.
    """
    infos, modules = [net.feature_info[i] for i in sorted(taps)], dict(net.named_modules())
    found: dict[int, Tensor] = {}
    handles = []
    for i, info in enumerate(infos):
        module = modules[info["module"]]
        if info.get("hook_type") == "forward_pre":
            handles.append(module.register_forward_pre_hook(lambda _, args, i=i: found.update({i: args[0]})))
        else:
            handles.append(module.register_forward_hook(lambda _, args, result, i=i: found.update({i: first(result)})))
    try:
        net.forward_features(x)
    finally:
        for handle in handles:
            handle.remove()
    silent = [info["module"] for i, info in enumerate(infos) if i not in found]
    if silent:
        raise RuntimeError(f"{', '.join(silent)} did not run")
    return [found[i] for i in range(len(infos))]


def first(result: Any) -> Tensor:
    """The map itself, where a module also passes on what later modules need, as SelecSLS does."""
    return result[0] if isinstance(result, list | tuple) else result
