"""Everything a detection run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.recipes import scale
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The detector, and the backbone it stands on"""

    network: str = knob("faster_rcnn", "detector; `detect list networks` shows all", "--model")
    network_args: dict[str, Any] = knob(dict, "options of the detector; any flag not listed here is one of them")
    backbone: str | None = knob(
        None, "backbone; `detect list backbones` shows all, and any timm name works (default: the one that has the tag)"
    )
    backbone_param: str | None = knob(None, "width of a backbone that comes in several, such as 1")
    backbone_tag: str | None = knob(None, "weights to start from: a tag, or tag@digest; loads or refuses")
    backbone_epoch: int | None = knob(None, "that epoch of --backbone-tag; 0 is its last", low=0)
    backbone_pretrained: bool = knob(
        False, "insist on weights: those of the tag, or timm's published ones without a tag"
    )
    weights_backbone: str | None = knob(
        None, "torchvision's published backbone weights, such as ResNet50_Weights.IMAGENET1K_V1", metavar="NAME"
    )
    dilation: bool = knob(False, "dilate the backbone's last stage and not stride it: a map twice as fine (DC5)")
    allow_missing: tuple[str, ...] = knob((), "tensors the weights may lack, as glob patterns", metavar="GLOB")
    drop_path: float | None = knob(
        None, "stochastic depth of the backbone (default: what comes with it)", low=0, high=1
    )
    tag: str | None = knob(None, "word that will find this run's weights (default: the run's name)", "-t")
    init_from: str | None = knob(
        None, "start from a trained detector: a run folder, an export, a tag, or network-backbone/tag", metavar="RUN"
    )
    resume_epoch: int | None = knob(
        None,
        "start from this detector's own weights of that epoch, of --init-from or --tag; 0 is the last "
        "(--resume continues a run exactly)",
        low=0,
    )
    reset_head: bool = knob(False, "with --init-from: begin the class head anew, for other classes")
    keep_epochs: int = knob(0, "export the detector every so many epochs, besides the last", low=0)


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """What holds still"""

    freeze_backbone: bool = knob(False, "freeze the whole backbone, in eval mode")
    freeze_backbone_stages: int | None = knob(None, "freeze the stem and this many stages", metavar="N", low=0)
    trainable_backbone_layers: int | None = knob(
        None,
        "with published weights: train this many of the backbone's last layers, as torchvision counts",
        low=0,
        high=6,
    )
    freeze_backbone_bn: bool = knob(False, "freeze statistics and scale of the backbone's batch norm")
    freeze_body: bool = knob(False, "freeze everything but the class head")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and annotations"""

    data_path: Path | None = knob(
        None, "training images, a COCO folder, or shards; the built-in demo data without it", "--coco-path"
    )
    dataset: Literal["auto", "coco", "coco_kp", "custom", "coco_panoptic"] = knob(
        "auto", "which annotations of --data-path (default: what the network learns)", "--dataset-file"
    )
    val_path: Path | None = knob(None, "validation images, or shards (default: found in a COCO folder)")
    coco_json_path: Path | None = knob(None, "training annotations (default: found in a COCO folder)")
    coco_val_json_path: Path | None = knob(None, "validation annotations (default: found in a COCO folder)")
    class_file: Path | None = knob(
        None, "one class name per line, or a list of recipes/classes (default: the categories of the annotations)"
    )
    ignore_file: Path | None = knob(
        None, "file names of training images to leave out, one per line, or a list of recipes/classes"
    )
    binary_mode: bool = knob(False, "one class: object")
    limit: int | None = knob(None, "use only so many training and validation images, for trying out", low=1)
    drop_empty: bool = knob(False, "leave out training images without a box")
    allow_missing_images: int = knob(0, "how many annotated images may be absent", low=0)
    size: tuple[int, ...] | None = knob(
        None,
        "height and width, or one number for both; the short side where sizes vary (default: the network's own)",
        metavar="PIXELS",
        low=32,
    )
    max_size: int | None = knob(None, "longest side; images then keep their shape", low=32)
    smallest_side: int = knob(480, "multiscale and detr: the shortest side that is drawn", low=32, high=800)
    multiscale: bool = knob(
        False, "random short side from 480 to 800 per image, in proportion below --size 640; images keep their shape"
    )
    antialias: bool = knob(True, "smooth images that are made smaller; torchvision's detectors were trained without")
    aug_type: str = knob("birder", "augmentation; `detect list augmentations` shows them", "--data-augmentation")
    aug_level: int = knob(4, "strength of the birder augmentation", low=0, high=10)
    use_copypaste: bool = knob(False, "with lsj: paste objects of other images into each, masks and all")
    aspect_ratio_group_factor: int = knob(
        -1, "batches of images of one shape: 0 tells wide from high, k has 2k+2 shapes, -1 mixes all", low=-1
    )
    keypoints_file: Path | None = knob(
        None, "YAML of the keypoints: names, skeleton, flip_pairs, sigmas (default: the annotations say)"
    )
    oks_sigmas: tuple[str, ...] = knob(
        (), "how exact each keypoint is: one number, one each, or a file of them", metavar="SIGMA"
    )
    rgb_mode: str | None = knob(None, "pixel statistics (default: those the backbone's weights expect, else imagenet)")
    eval_backend: Literal["auto", "pycocotools", "hotcoco"] = knob("auto", "who computes average precision")
    pictures: int = knob(8, "validation pictures kept for the report", low=0)


@dataclass(frozen=True, kw_only=True)
class DetectRecipe:
    model: ModelConfig = field(default_factory=ModelConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def defaults_for(data: DataConfig) -> dict[str, Any]:
    """What a data set suggests when nobody says otherwise: a network that learns what is in it, and of the layout with
    one JSON for each image, its own folder for weights."""
    networks = {"coco_kp": "keypoint_rcnn", "custom": "keypoint_rcnn", "coco_panoptic": "detr_panoptic"}
    values: dict[str, Any] = {"network": networks[data.dataset]} if data.dataset in networks else {}
    if data.dataset == "custom" and data.data_path is not None and (data.data_path / "result" / "weights").is_dir():
        values["weights_dir"] = data.data_path / "result" / "weights"
    return values


def tiny(recipe: DetectRecipe) -> dict[str, Any]:
    """What `--scale tiny` changes: few small images of the demo data or of those that are named, a small form of the
    network, random weights where nobody has the tag, and a tag that nobody takes for the real one."""
    from detection.nets import detector

    model, data = recipe.model, recipe.data
    small = {
        "network_args": detector.facts(model.network).get("tiny", {}),
        "backbone_tag": None,
        "backbone_pretrained": False,
        "weights_backbone": None,
        "backbone_epoch": None,
        "resume_epoch": None,
        "reset_head": False,
        "tag": f"{model.tag}-tiny" if model.tag else "tiny",
        "limit": 8,
        "size": [96],
        "max_size": 128 if data.max_size else None,
        "pictures": 2,
    }
    return scale.tiny(recipe) | small


def run_stem(recipe: DetectRecipe) -> str:
    """What a run is called when nobody names it: network, backbone, and where its weights came from."""
    model = recipe.model
    origin = model.backbone_tag or ("pretrained" if model.backbone_pretrained else "scratch")
    if model.init_from is not None or model.resume_epoch is not None:
        origin = "continued"
    parts = [
        model.network,
        model.backbone or "",
        origin if model.backbone_tag or not model.tag else "",
        model.tag or "",
    ]
    return "-".join(part.replace("/", "_").replace("@", "_") for part in parts if part)
