"""The flags of `pretrain eval`.

Optimizer and schedule are those of the linear probe; their defaults are VICReg's published protocol, so
`pretrain eval --protocol linear` needs no recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.recipes import scale
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob
from shared.recipes.values import Pixels


def redefault(section: Any, name: str, default: Any) -> Any:
    """A field of another section with another default."""
    return field(default=default, metadata=section.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class SubjectConfig:
    """The evaluated backbone"""

    model: str | None = knob(None, "backbone (default: the only one that has the tag)", "--backbone")
    tag: str | None = knob(None, "tag or tag@digest of its weights (default: random weights)", "--backbone-tag")
    backbone_epoch: int | None = knob(
        None, "the export of this epoch (default: the finished one)", low=0, high=1_000_000
    )
    pretrained: bool = knob(False, "timm's published weights instead of a tag")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Labeled images"""

    data_path: str | None = knob(
        None, "training images: shards or class folders (default: the demo data)", metavar="SHARDS|FOLDER"
    )
    val_path: str | None = knob(
        None, "validation images (default: the validation split of --data-path)", metavar="SHARDS|FOLDER"
    )
    size: tuple[int, ...] = knob(
        (),
        "height and width of the images, or one number for both (default: as in training)",
        metavar="PIXELS",
        low=8,
        high=16_384,
        count=(1, 2),
    )
    rgb_mode: Pixels | None = knob(None, "pixel mean and std (default: those of the weights)")
    probe_share: float | None = knob(
        None, "size of the center crop as a fraction of the short side (default: as in training)", above=0, high=1
    )
    probe_bank: int = knob(0, "number of training images, chosen at random; 0 for all", low=0, high=1e9)
    probe_queries: int = knob(0, "number of validation images, chosen at random; 0 for all", low=0, high=1e9)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Protocol"""

    protocol: tuple[str, ...] = knob(("knn",), "knn, linear, or both: knn,linear", metavar="PROTOCOL")
    k: int = knob(20, "knn: number of neighbors", low=1, high=1e9)
    temperature: float = knob(0.07, "knn: a neighbor's vote is exp(cosine / temperature)", above=0, high=1e6)
    linear_on_features: bool = knob(False, "linear: compute every vector once, without augmentation (fast)")
    json: Path | None = knob(None, "also write the results to this JSON file", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class LinearOptimConfig(OptimConfig):
    """Optimizer of the linear probe; by default the published protocol of VICReg"""

    wd: float = redefault(OptimConfig, "wd", 1e-6)


@dataclass(frozen=True, kw_only=True)
class LinearScheduleConfig(ScheduleConfig):
    """Length of the linear probe; by default the published protocol of VICReg"""

    epochs: int = redefault(ScheduleConfig, "epochs", 100)
    lr_scheduler: Literal["constant", "step", "multistep", "cosine"] = redefault(
        ScheduleConfig, "lr_scheduler", "cosine"
    )
    lr_cosine_min: float = redefault(ScheduleConfig, "lr_cosine_min", 0.0)


@dataclass(frozen=True, kw_only=True)
class EvalRuntimeConfig(RuntimeConfig):
    """Device, batch size, folders"""

    batch_size: int = redefault(RuntimeConfig, "batch_size", 256)


@dataclass(frozen=True, kw_only=True)
class EvalRecipe:
    """All flags of `pretrain eval`."""

    subject: SubjectConfig = field(default_factory=SubjectConfig)
    data: JudgeConfig = field(default_factory=JudgeConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    optim: LinearOptimConfig = field(default_factory=LinearOptimConfig)
    schedule: LinearScheduleConfig = field(default_factory=LinearScheduleConfig)
    runtime: EvalRuntimeConfig = field(default_factory=EvalRuntimeConfig)


def tiny(recipe: EvalRecipe) -> dict[str, Any]:
    """What `--scale tiny` changes: a few images of the demo data, and a short linear probe."""
    return scale.tiny(recipe) | {"data_path": None, "val_path": None, "probe_bank": 256, "probe_queries": 64}


def eval_stem(recipe: EvalRecipe) -> str:
    subject = recipe.subject
    words = (subject.model, subject.tag or ("pretrained" if subject.pretrained else "random"), "eval")
    return "-".join(word for word in words if word).replace("/", "_").replace("@", "-")
