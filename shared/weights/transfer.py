"""Load tensors into a module completely, with a report; or raise WeightsError and leave the module unchanged.

tensors by name -> [fit: names, shapes] -> every tensor of the module has one of its shape -> copied, and a report
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.errors import WeightsError
from shared.weights.card import listed

ANOTHER_TAG = "give a tag of the same architecture"
# converted tensors, and the names of those that changed
Fit = Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], list[str]]]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Report of a load: tensors that matched, were missing or unexpected, and the distance from initial values."""

    source: str
    digest: str
    matched_tensors: int
    total_tensors: int
    matched_params: int
    total_params: int
    missing: list[str]
    unexpected: list[str]
    converted: list[str]
    moved: float

    def __str__(self) -> str:
        words = (
            f"{self.source}: {self.matched_tensors}/{self.total_tensors} tensors, "
            f"{self.matched_params / 1e6:.2f} M/{self.total_params / 1e6:.2f} M parameters, "
            f"mean |change| from initialization {self.moved:.3g}"
        )
        lists = {"converted": self.converted, "kept as initialized": self.missing, "left over": self.unexpected}
        for what, names in lists.items():
            words += f"; {what}: {listed(names)}" if names else ""
        return words


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    digest: str,
    allow_missing: Sequence[str] = (),
    converted: Sequence[str] = (),
    otherwise: str = "",
) -> Transfer:
    """Copy tensors into a module; all or nothing.

    Args:
        source: name of the weights, for the report and for errors.
        digest: digest of the file.
        allow_missing: glob patterns of tensors that may be missing or of another shape; they keep their values.
        converted: names of converted tensors.
        otherwise: advice in the error message, if it is not to give another tag.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape, NaN or Inf.
    """
    mine = unshared(module)
    missing = [name for name in mine if name not in tensors]
    misfit = [name for name in mine if name in tensors and tensors[name].shape != mine[name].shape]
    unexpected = [name for name in tensors if name not in mine]
    refused = [n for n in missing + misfit if not any(fnmatch.fnmatch(n, pattern) for pattern in allow_missing)]
    if refused or unexpected:
        raise WeightsError(explain(source, mine, tensors, refused, unexpected, otherwise))
    matched = [name for name in mine if name not in missing and name not in misfit]
    learned = {name for name, _ in module.named_parameters()}
    if not matched:
        raise WeightsError(f"{source} has no tensor of this module; {otherwise or ANOTHER_TAG}")
    broken = not_finite(tensors)
    if broken:
        raise WeightsError(f"{source} contains NaN or Inf in {listed(broken)}; use other weights")
    moved = distance(mine, tensors, [name for name in matched if name in learned])
    if moved == 0:
        raise WeightsError(f"{source} equals the module's initial values; these weights were never trained")
    with torch.no_grad():
        for name in matched:
            mine[name].copy_(tensors[name])
    return Transfer(
        source=source,
        digest=digest,
        matched_tensors=len(matched),
        total_tensors=len(mine),
        matched_params=sum(mine[name].numel() for name in matched if name in learned),
        total_params=sum(p.numel() for p in module.parameters()),
        missing=missing + misfit,
        unexpected=unexpected,
        converted=list(converted),
        moved=moved,
    )


def explain(
    source: str, mine: Mapping, tensors: Mapping, refused: list[str], unexpected: list[str], otherwise: str
) -> str:
    """A sentence on why the tensors do not match the module, with the likely cause."""
    tail = name_of_common_prefix(mine, tensors)
    if tail:
        return f"{source} does not match: {tail}; export the backbone itself, without its wrapper"
    matched = [name for name in mine if name in tensors and tensors[name].shape == mine[name].shape]
    only_norms = matched and all(is_of_a_norm(name, mine) for name in matched)
    said = []
    misfit = [name for name in refused if name in tensors]
    missing = [name for name in refused if name not in tensors]
    if misfit:
        shapes = [f"{n} {tuple(tensors[n].shape)} for {tuple(mine[n].shape)}" for n in misfit[:3]]
        said.append(f"{len(misfit)} of another shape ({', '.join(shapes)}{', ...' if len(misfit) > 3 else ''})")
    if missing:
        said.append(f"{len(missing)} of {len(mine)} missing ({listed(missing)})")
    if unexpected:
        said.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    only = " - only batch norm would be loaded" if only_norms else ""
    may_stay = "if that is intended, list them with --allow-missing GLOB"
    way_out = otherwise or (may_stay if refused and not unexpected else ANOTHER_TAG)
    return f"{source} does not match: tensors {', '.join(said)}{only}; {way_out}"


def name_of_common_prefix(mine: Mapping, tensors: Mapping) -> str:
    for ours, theirs, place in ((mine, tensors, "the file's"), (tensors, mine, "the module's")):
        shortest = min(ours, key=len, default="")
        prefixes = {name[: -len(shortest)] for name in theirs if shortest and name.endswith("." + shortest)}
        for prefix in prefixes:
            if prefix and sum(prefix + name in theirs for name in ours) > 0.9 * len(ours):
                return f"{place} names all begin with '{prefix}' and the others do not"
    return ""


def is_of_a_norm(name: str, mine: Mapping) -> bool:
    """True for tensors of batch norm layers, recognized by their running statistics."""
    return name.rpartition(".")[0] + ".running_mean" in mine


def unshared(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors by name; a tensor with two names appears once."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            kept[name] = value
    return kept


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def distance(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: list[str]) -> float:
    """Mean absolute difference over the named tensors."""
    total = sum(float((mine[n].detach().cpu().double() - theirs[n].double()).abs().sum()) for n in names)
    return total / max(sum(theirs[n].numel() for n in names), 1)
