"""Everything a pretraining run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, and the method that trains it"""

    model: str = knob("resnet_v1_50", "backbone; `pretrain list backbones` shows all, and any timm name works")
    method: str = knob("supervised", "method; `pretrain list methods` shows all")
    method_args: dict[str, Any] = knob(dict, "options of the method; any flag not listed here is one of them")
    tag: str | None = knob(None, "word that will find the weights; after the method's name unless it is supervised")
    drop_path: float | None = knob(
        None, "stochastic depth of the backbone (default: what comes with it)", low=0, high=1
    )
    pretrained: bool = knob(False, "start from timm's published weights")
    keep_epochs: int = knob(0, "export the backbone every so many epochs, besides the last", low=0)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Shards of images"""

    data_path: str | None = knob(
        None, "folder, glob or URL of shards; the built-in demo data without it", "--train-data-dir", metavar="SHARDS"
    )
    val_path: str | None = knob(
        None, "shards to validate on (default: val-*.tar beside the others)", "--validation-data-dir", metavar="SHARDS"
    )
    size: tuple[int, ...] = knob(
        (224,), "height and width of the images, or one number for both", metavar="PIXELS", low=8
    )
    rgb_mode: str = knob("imagenet", "pixel statistics: imagenet, birder, clip, centered, neutral")
    num_classes: int | None = knob(None, "classes of the data (default: counted)", low=1)
    samples: int | None = knob(None, "images in an epoch of remote shards, which cannot be counted", low=1)
    verify_shards: bool = knob(False, "check every byte of the shards against their sha256 before training")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def export_tag(recipe: PretrainRecipe) -> str:
    """`vicreg`, or `vicreg-imagenet21k` when a tag is given; supervised weights carry the given tag alone."""
    method_name, tag = recipe.model.method, recipe.model.tag
    if tag is None:
        return method_name
    return tag if method_name == "supervised" else f"{method_name}-{tag}"


def run_stem(recipe: PretrainRecipe) -> str:
    return f"{recipe.model.model}-{export_tag(recipe)}".replace("/", "_")
