"""Everything a pretraining run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.recipes import scale
from shared.recipes.files import tag_of
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob


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
    init_tag: str | None = knob(None, "start from weights of this backbone: a tag, or tag@digest; loads or refuses")
    aws_compat: bool = knob(False, "the backbone as the seed's own program built it, where that is not its paper's")
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
    rgb_mode: str | None = knob(
        None,
        "pixel statistics: imagenet, birder, clip, centered, neutral (default: those the weights it starts from "
        "expect, else imagenet)",
    )
    num_classes: int | None = knob(None, "classes of the data (default: counted)", low=1)
    samples: int | None = knob(None, "images in an epoch of remote shards, which cannot be counted", low=1)
    limit: int | None = knob(None, "use only so many training and validation images, for trying out", low=1)
    verify_shards: bool = knob(False, "check every byte of the shards against their sha256 before training")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is measured along the way, besides what the method says of itself"""

    probe: int = knob(
        0,
        "measure nearest neighbors and the health of the representation every so many epochs and at the end; "
        "alone after every epoch, 0 never",
        metavar="EPOCHS",
        low=0,
        may_be_bare=1,
    )
    probe_path: str | None = knob(
        None, "labelled shards or class folders to probe with (default: those of the run)", metavar="SHARDS|FOLDER"
    )
    probe_val_path: str | None = knob(
        None, "the same to be asked about (default: what --probe-path sets aside)", metavar="SHARDS|FOLDER"
    )
    probe_bank: int = knob(10_000, "training images to look for neighbors in, by chance; 0 for all", low=0)
    probe_queries: int = knob(2_000, "validation images to ask about, by chance; 0 for all", low=0)
    probe_k: int = knob(20, "neighbors that vote", low=1)
    probe_share: float | None = knob(
        None,
        "share of the short side that the probe's center crop shows (default: the method's val_share, else 0.875)",
        above=0,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    probing: ProbeConfig = field(default_factory=ProbeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def export_tag(recipe: PretrainRecipe) -> str:
    """`vicreg`, or `vicreg-imagenet21k` when a tag is given; supervised weights carry the given tag alone."""
    return tag_of(recipe.model.method, recipe.model.tag)


def tiny(recipe: PretrainRecipe) -> dict[str, Any]:
    """What `--scale tiny` changes: small images, the demo data, and a tag that nobody takes for the real one."""
    tag = recipe.model.tag or (recipe.model.method if recipe.model.method == "supervised" else None)
    small = {
        "limit": 24,
        "size": [64],
        "data_path": None,
        "val_path": None,
        "samples": None,
        "probe_path": None,
        "probe_val_path": None,
        "probe_bank": 256,
        "probe_queries": 64,
        "tag": f"{tag}-tiny" if tag else "tiny",
    }
    return scale.tiny(recipe) | small


def crop_share(values: dict[str, Any]) -> float:
    """Of the short side, what a probe's center crop shows; `values` are the values of a recipe by name."""
    return values.get("probe_share") or (values.get("method_args") or {}).get("val_share") or 0.875


def run_stem(recipe: PretrainRecipe) -> str:
    return f"{recipe.model.model}-{export_tag(recipe)}".replace("/", "_")
