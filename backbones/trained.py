"""The network that a checkpoint is of, compared with the one it is imported as: same grid, same function, same pixels.

    positions     64 may be 8x8 or 4x16: the size that is said for the file, or the network's own, decides; else refused
    function      a network of equal tensors with another activation, padding or epsilon is refused
    pixels        mean and std that are said for the file, or that all of timm's weights of the name share

What `--pretrained` refuses is refused here too: timm's darknet53 has another slope than ours.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import timm
from torch import Tensor

from backbones import backbone
from backbones.base import Backbone
from backbones.conversions import has_tables
from backbones.function import compute_the_same, differences, on_meta, same_tensors, timm_net
from backbones.origin import Origin, Origins, known, known_cfg, pixels_in
from backbones.timm_zoo import ZOO
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.weights.card import listed

TABLES = ("pos_embed", "relative_position_bias_table", "attention_biases")
SMALL = (64, 64)  # pixels; of the comparison, for networks that accept any size


# --- positions ------------------------------------------------------------------------------


def of_file_size(tensors: dict[str, Tensor], model: str, net: Backbone, origins: Origins) -> Backbone | None:
    """The network of the size that the tensors were trained at, on the meta device; None without such tables.

    Raises:
        UsageError: --trained-size does not fit the tables.
        WeightsError: no size is said, and the number of positions allows several grids.
    """
    tables = {name: value for name, value in tensors.items() if name.endswith(TABLES) and value.dim() in (2, 3)}
    if not tables or not has_tables(net):
        if any(origin.where == "--trained-size" for origin in origins.sizes):
            raise UsageError(f"--trained-size: the file's tensors of {model} do not depend on an image size; remove it")
        return None
    for origin in origins.sizes:
        sized = of_size(model, origin.size)
        if sized is not None and fits_tables(tables, sized):
            return sized
        if origin.where.startswith("--"):
            raise UsageError(
                f"{origin.where} {origin.size[0]} {origin.size[1]}: {model} then has other tables than the file's "  # type: ignore[index]
                f"{described(tables)}; give the height and width of the images it was trained on"
            )
    usual = of_size(model, None)
    if usual is not None and fits_tables(tables, usual):
        return usual
    if all(origin.where.startswith("the name") for origin in origins.sizes) and fits_tables(tables, net):
        return net
    open_questions = [name for name, value in tables.items() if not only_square(name, value, net)]
    if not open_questions:
        return None
    some = tables[open_questions[0]]
    raise WeightsError(
        f"the file does not say the size of its images, and its {described({open_questions[0]: some})} may be of a "
        f"square or of another shape; give height and width of the images it was trained on with --trained-size, such "
        f"as --trained-size {guess(some, net)}"
    )


def of_size(model: str, size: tuple[int, int] | None) -> Backbone | None:
    """The network for images of that size, without weights; None if it cannot be built so."""
    try:
        return on_meta(backbone.build, model, **({"img_size": list(size)} if size else {}))
    except (UsageError, AssertionError):
        return None


def fits_tables(tables: dict[str, Tensor], net: Backbone) -> bool:
    """True if the network's tables have the shapes of the file's, up to the positions of other tokens."""
    mine = net.state_dict()
    return all(name in mine and mine[name].shape == value.shape for name, value in tables.items())


def only_square(name: str, table: Tensor, net: Backbone) -> bool:
    """True if the positions can only be those of a square, as 37x37 are, and 4x4: no image is two patches high.

    True also for those of no grid at all, which are refused later.
    """
    count = table.shape[0] if name.endswith("bias_table") else table.shape[1]
    grid = getattr(getattr(getattr(net, "net", None), "patch_embed", None), "grid_size", None)
    mine = net.state_dict().get(name)
    if name.endswith("pos_embed") and grid is not None and mine is not None and mine.dim() == 3:
        count -= mine.shape[1] - grid[0] * grid[1]
    side = isqrt(max(count, 0))
    return side * side != count or all(count % rows for rows in range(3, side))


def guess(table: Tensor, net: Backbone) -> int:
    """The side of a square image with that many positions, in pixels."""
    patch = getattr(getattr(getattr(net, "net", None), "patch_embed", None), "patch_size", None) or (32, 32)
    return isqrt(max(table.shape[1] if table.dim() == 3 else table.shape[0], 1)) * int(patch[0])


def described(tables: dict[str, Tensor]) -> str:
    name, value = next(iter(tables.items()))
    return f"{value.shape[1] if value.dim() == 3 else value.shape[0]} positions of {name.removeprefix('net.')}"


# --- function -------------------------------------------------------------------------------


def check_function(model: str, net: Backbone, origins: Origins, layout: str) -> str:
    """Compare what the network computes with what the file's network did; `net` has the file's weights.

    Args:
        layout: key layout of the file; those of other programs than timm say which network it is.

    Returns:
        A word on what was compared, for the report.

    Raises:
        WeightsError: it computes something else, or equal tensors do in another network and nothing says which it is.
    """
    named = [source for source in origins.sources if source.arch]
    for source in [source for source in named if not source.where.startswith("the name")] or named:
        if source.where == "--trained-as" and source.arch == model:
            continue
        if differing := unlike(model, net, source):
            raise WeightsError(
                f"the file is of {source.arch} ({source.where}), which has the same tensors as {model} and computes "
                f"something else: {listed(differing)}; give {way_out(source, model)}"
            )
    if named:
        return f"network: {named[0].arch} ({named[0].where})"
    if not layout.startswith("plain") or "." in model:
        return ""
    base = ZOO[model].timm_name if model in ZOO else model
    if not timm.is_model(base):
        return ""
    if differing := unlike(model, net, Origin("", base)):
        published = ZOO[model].published if model in ZOO else base
        raise WeightsError(
            f"the file has timm's names, and timm's {base} computes something else than {model} here: "
            f"{listed(differing)}; give --model {published}, or --trained-as {model} if it is of {model}"
        )
    for other in longer_names(base):
        if differing := unlike(model, net, Origin("", other)):
            raise WeightsError(
                f"the file does not say its network, and its tensors fit {model} as well as {other}, which computes "
                f"something else: {listed(differing)}; give --trained-as {base} if it is of {base}, or --model {other}"
            )
    return ""


def unlike(model: str, net: Backbone, origin: Origin) -> list[str]:
    """How the file's network computes something else; [] if it does not, or has other tensors."""
    arch, ours = str(origin.arch), origin.library == "chordate"
    if ours and arch == model:
        return []

    def build() -> Backbone:
        if ours:
            return backbone.build(arch, **grid_args(net))
        return timm_net(arch.partition(".")[0], {**origin.args, **grid_args(net)})

    try:
        theirs = on_meta(build)
    except Exception:  # a network that this timm cannot build so cannot be compared
        return []
    differing = differences(net, theirs) if same_tensors(net, theirs) else []
    if not differing or compute_the_same(net, build(), size_of(net)):
        return []
    return differing


def grid_args(net: Backbone) -> dict[str, Any]:
    """The image size a network was built for, if its tables depend on it."""
    size = getattr(getattr(getattr(net, "net", None), "patch_embed", None), "img_size", None)
    return {"img_size": tuple(size)} if size is not None and has_tables(net) else {}


def size_of(net: Backbone) -> tuple[int, int]:
    """A small image size that a network accepts."""
    tables = grid_args(net).get("img_size")
    return net.only or ((tables[0], tables[1]) if tables else SMALL)


def longer_names(base: str) -> list[str]:
    """timm's networks of the same module whose names add words: tf_efficientnet_b0 for efficientnet_b0."""
    from timm.models._registry import _model_to_module as module_of  # timm offers no public name for it

    words = set(base.split("_"))
    names = [name for name in timm.list_models() if module_of.get(name) == module_of.get(base)]
    longer = [name for name in names if name != base and words < set(name.split("_"))]
    return sorted(longer, key=lambda name: not timm.list_pretrained(f"{name}.*"))  # published ones first


def way_out(origin: Origin, model: str) -> str:
    """The --model that computes what the file's network did."""
    if origin.library == "chordate":
        return f"--model {origin.arch}"
    if model in ZOO and origin.arch in (model, ZOO[model].timm_name) and ZOO[model].published:
        return f"--model {ZOO[model].published}"
    if origin.arch in ZOO:  # a name that means another network here
        return f"--model {next(iter(timm.list_pretrained(f'{origin.arch}.*')), origin.arch)}"
    return f"--model {origin.arch}"


# --- pixels ---------------------------------------------------------------------------------


def usual_pixels(model: str, file: str, layout: str) -> tuple[PixelStats, str]:
    """Mean and std where nothing is said for the file: timm's if `model` has a tag, else ImageNet's if all tags agree.

    Raises:
        UsageError: timm's weights of this name have others, or several.
    """
    usual = pixel_stats("imagenet")
    base = ZOO[model].timm_name if model in ZOO else model
    name = known(base)
    if not layout.startswith(("plain", "older")) or name is None:
        return usual, "default; change them with --rgb-mode"
    names = [name] if "." in name else [name, *timm.list_pretrained(f"{name}.*")]
    published = {stats for tagged in names if (stats := pixels_in(known_cfg(tagged)))}
    if published <= {usual}:
        return usual, "default; change them with --rgb-mode"
    if "." in name and "." in model:
        return next(iter(published)), f"timm's for {name}"
    means = " or ".join(f"{stats.mean}" for stats in sorted(published))
    raise UsageError(
        f"{file} has no pixel mean and std, and timm's {model} has mean {means} instead of ImageNet's; give them "
        f"with --rgb-mode, such as centered (0.5) or imagenet"
    )
