"""Published backbone weights by torchvision's own names for them, such as ResNet50_Weights.IMAGENET1K_V1.

    name -> backbone, pixel statistics -> file in torch's hub cache, downloaded if missing -> tensors

The file is read with `weights_only=True`. Without a network it can be put into the cache by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

from torch import Tensor

from backbones.base import Backbone
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats
from shared.recipes.registry import suggest
from shared.weights.transfer import Transfer, fill

BACKBONES = {
    "ResNet18_Weights": "resnet18",
    "ResNet34_Weights": "resnet34",
    "ResNet50_Weights": "resnet_v1_50",
    "ResNet101_Weights": "resnet101_v1b",
    "ResNet152_Weights": "resnet152",
    "ResNeXt50_32X4D_Weights": "resnext50_32x4d",
    "ResNeXt101_32X8D_Weights": "resnext101_32x8d",
    "Wide_ResNet50_2_Weights": "wide_resnet50_2",
    "Wide_ResNet101_2_Weights": "wide_resnet101_2",
    "MobileNet_V3_Large_Weights": "tv_mobilenet_v3_large",
    "VGG16_Weights": "tv_vgg16",
}


class Published(NamedTuple):
    """
    backbone: name of the backbone.
    tensors: by torchvision's names, with the classifier.
    stats: pixel mean and std.
    file: the file they were read from.
    """

    backbone: str
    tensors: dict[str, Tensor]
    stats: PixelStats
    file: Path


class Filled(NamedTuple):
    transfer: Transfer
    stats: PixelStats


def published(name: str, *, offline: bool = False) -> Published:
    """Load published weights by torchvision's name.

    Args:
        offline: use the cache only.

    Raises:
        UsageError: an unknown name, or weights of a backbone that is not offered.
        WeightsError: they could not be downloaded, or are damaged.
    """
    from backbones.foreign import read_checkpoint

    path = cached(name, find(name).url, offline=offline)
    return Published(BACKBONES[name.partition(".")[0]], read_checkpoint(path), published_pixels(name), path)


def published_pixels(name: str) -> PixelStats:
    """Pixel mean and std of published weights; nothing is downloaded. Raises UsageError for an unknown name."""
    shown = find(name).transforms()
    return PixelStats(tuple(shown.mean), tuple(shown.std))


def find(name: str) -> Any:
    """torchvision's weights entry of that name."""
    from torchvision.models import get_weight

    family = name.partition(".")[0]
    if family not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise UsageError(
            f"no published backbone weights '{name}'{suggest(family, list(BACKBONES))}; there are those of {known}, "
            f"each followed by .IMAGENET1K_V1 or what else torchvision lists"
        )
    try:
        return get_weight(name)
    except (ValueError, KeyError, AttributeError, TypeError):
        import torchvision.models

        members = [f"{family}.{weights.name}" for weights in getattr(torchvision.models, family)]
        raise UsageError(
            f"no published weights '{name}'{suggest(name, members)}; there is {', '.join(members)}"
        ) from None


def cached(name: str, url: str, *, offline: bool) -> Path:
    """Path of a file in torch's hub cache; it is downloaded if missing."""
    from torch import hub

    path = Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    reason = "--offline"
    if not offline:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
            return path
        except (URLError, OSError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:120]
    raise WeightsError(
        f"torchvision's {name} could not be downloaded ({reason}); put {path.name} into {path.parent}, "
        f"or start without these weights"
    )


def fill_published(net: Backbone, name: str, *, offline: bool = False) -> Filled:
    """Load the published weights of that name into a backbone.

    Raises:
        UsageError: an unknown name.
        WeightsError: they could not be downloaded, or are of another backbone.
    """
    from backbones.foreign import COUNTERS, recognize
    from shared.files import file_digest

    found = published(name, offline=offline)
    inside = recognize(found.tensors, f"the backbone of {name}, {found.backbone}", net)
    transfer = fill(
        net,
        inside.tensors,
        source=name,
        digest=file_digest(found.file),
        allow_missing=(COUNTERS,),
        otherwise=f"they are those of --backbone {found.backbone}",
    )
    return Filled(transfer, found.stats)
