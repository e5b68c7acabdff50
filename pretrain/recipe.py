"""The recipe of `pretrain train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.recipes import scale
from shared.recipes.files import tag_of
from shared.recipes.offers import Offers
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob
from shared.recipes.values import Pixels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone and method"""

    model: str = knob("resnet_v1_50", "backbone; `pretrain list backbones` shows all, and any timm name works")
    method: str = knob("supervised", "method; `pretrain list methods` shows all")
    method_args: dict[str, Any] = knob(
        dict, "options of the method; each is also a flag", options=(Offers("pretrain.methods", "method"), "method")
    )
    tag: str | None = knob(None, "tag of the exported weights; METHOD-TAG unless the method is supervised")
    drop_path: float | None = knob(None, "stochastic depth of the backbone (default: that of its name)", low=0, high=1)
    pretrained: bool = knob(False, "start from timm's published weights")
    init_tag: str | None = knob(None, "start from a tag (or tag@digest) of the same backbone")
    aws_compat: bool = knob(False, "build the backbone as AWS's program did, where that differs from the paper")
    keep_epochs: int = knob(0, "also export the backbone every N epochs", low=0, high=1_000_000)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Shards of images"""

    data_path: str | None = knob(
        None, "folder, glob or URL of shards (default: the demo data)", "--train-data-dir", metavar="SHARDS"
    )
    val_path: str | None = knob(
        None, "validation shards (default: val-*.tar in the same folder)", "--validation-data-dir", metavar="SHARDS"
    )
    size: tuple[int, ...] = knob(
        (224,),
        "height and width of the images, or one number for both",
        metavar="PIXELS",
        low=8,
        high=16_384,
        count=(1, 2),
    )
    rgb_mode: Pixels | None = knob(
        None,
        "pixel mean and std: imagenet, birder, clip, centered, neutral (default: those of the initial weights, "
        "else imagenet)",
    )
    num_classes: int | None = knob(None, "classes of the data (default: counted)", low=1, high=1_000_000)
    samples: int | None = knob(None, "images per epoch, for remote shards", low=1, high=1e12)
    limit: int | None = knob(None, "use only N training and N validation images, for tests", low=1, high=1e9)
    verify_shards: bool = knob(False, "verify the sha256 of all shards before training")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Measures during training"""

    probe: int = knob(
        0,
        "measure nearest neighbors and collapse every N epochs and at the end; without a value every epoch, 0 never",
        metavar="EPOCHS",
        low=0,
        high=1_000_000,
        may_be_bare=1,
    )
    probe_path: str | None = knob(
        None, "labeled shards or class folders for the probe (default: those of the run)", metavar="SHARDS|FOLDER"
    )
    probe_val_path: str | None = knob(
        None, "validation images of the probe (default: the validation split of --probe-path)", metavar="SHARDS|FOLDER"
    )
    probe_bank: int = knob(10_000, "training images of the probe, chosen at random; 0 for all", low=0, high=1e9)
    probe_queries: int = knob(2_000, "validation images of the probe, chosen at random; 0 for all", low=0, high=1e9)
    probe_k: int = knob(20, "number of neighbors", low=1, high=1e9)
    probe_share: float | None = knob(
        None,
        "center crop of the probe as a fraction of the short side (default: the method's val_share, else 0.875)",
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


FIXED = ("model", "method", "pretrained", "init_tag", "aws_compat", "rgb_mode")  # of a run that is resumed


def export_tag(recipe: PretrainRecipe) -> str:
    """The export's tag: `vicreg`, or `vicreg-imagenet21k` with a tag; for supervised weights the tag alone."""
    return tag_of(recipe.model.method, recipe.model.tag)


def tiny(recipe: PretrainRecipe) -> dict[str, Any]:
    """What `--scale tiny` changes: small images, the demo data, and a tag that ends in `-tiny`."""
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
    """Center crop of a probe as a fraction of the short side, from the values of a recipe."""
    return values.get("probe_share") or (values.get("method_args") or {}).get("val_share") or 0.875


def run_stem(recipe: PretrainRecipe) -> str:
    return f"{recipe.model.model}-{export_tag(recipe)}".replace("/", "_")
