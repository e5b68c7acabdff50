"""The recipe of a detection run: every option with its flag, default and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.recipes import scale
from shared.recipes.offers import Offers
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig, knob
from shared.recipes.values import Pixels

OFFERED = Offers("detection.nets", "detector")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The detector and its backbone"""

    network: str = knob(
        "faster_rcnn",
        "detector, which without --recipe is trained as in its paper or reference; `detect list networks` shows all",
        "--model",
    )
    network_args: dict[str, Any] = knob(
        dict, "options of the detector; each is also a flag", options=(OFFERED, "network")
    )
    backbone: str | None = knob(
        None, "backbone; `detect list backbones` shows all, and any timm name works (default: the one with the tag)"
    )
    backbone_param: str | None = knob(None, "width of the backbone, where it has several")
    backbone_tag: str | None = knob(None, "weights to start from: a tag, or tag@digest; stops unless all of them load")
    backbone_epoch: int | None = knob(None, "epoch of --backbone-tag; 0 is the last", low=0, high=1_000_000)
    backbone_pretrained: bool = knob(
        False, "require pretrained weights: those of --backbone-tag, else timm's published ones"
    )
    weights_backbone: str | None = knob(
        None, "torchvision's published backbone weights, such as ResNet50_Weights.IMAGENET1K_V1", metavar="NAME"
    )
    dilation: bool = knob(False, "replace the stride of the backbone's last stage by dilation (DC5)")
    allow_missing: tuple[str, ...] = knob((), "tensors the weights may lack, as glob patterns", metavar="GLOB")
    drop_path: float | None = knob(
        None, "stochastic depth of the backbone (default: the backbone's own)", low=0, high=1
    )
    tag: str | None = knob(None, "tag of the exported weights (default: the run's name)", "-t")
    init_from: str | None = knob(
        None, "start from a trained detector: a run folder, an export, a tag, or network-backbone/tag", metavar="RUN"
    )
    resume_epoch: int | None = knob(
        None,
        "start from exported weights of this epoch, of --init-from or --tag; 0 is the last "
        "(--resume continues a run exactly)",
        low=0,
        high=1_000_000,
    )
    reset_head: bool = knob(False, "with --init-from: reinitialize the class head, for other classes")
    keep_epochs: int = knob(0, "export the detector every N epochs, besides the last", low=0, high=1_000_000)


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Frozen parts"""

    freeze_backbone: bool = knob(False, "freeze the whole backbone, in eval mode")
    freeze_backbone_stages: int | None = knob(
        None, "freeze the stem and the first N stages", metavar="N", low=0, high=1000
    )
    trainable_backbone_layers: int | None = knob(
        None,
        "with published weights: train the last N backbone layers, counted as in torchvision",
        low=0,
        high=6,
    )
    freeze_backbone_bn: bool = knob(False, "freeze statistics and affine parameters of the backbone's batch norm")
    freeze_body: bool = knob(False, "freeze everything but the class head")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and annotations"""

    data_path: Path | None = knob(
        None, "training images, a COCO folder, or shards (default: the built-in demo data)", "--coco-path"
    )
    dataset: Literal["auto", "coco", "coco_kp", "custom", "coco_panoptic", "lvis"] = knob(
        "auto", "kind of annotations in --data-path; auto: by folder and network", "--dataset-file"
    )
    val_path: Path | None = knob(None, "validation images, or shards (default: found in a COCO folder)")
    coco_json_path: Path | None = knob(None, "training annotations (default: found in a COCO folder)")
    coco_val_json_path: Path | None = knob(None, "validation annotations (default: found in a COCO folder)")
    class_file: Path | None = knob(
        None,
        "a file with one class name per line, or a list in recipes/classes (default: the categories of the "
        "annotations)",
    )
    vocabulary: str | None = knob(
        None,
        "vectors of the class names, for networks told their classes by name: a file of `detect vocabulary`, or the "
        "text model to look the names up in: clip:RN50, minilm, random:0 (default: that of --init-from, else random)",
        metavar="FILE",
    )
    class_map: Path | None = knob(
        None, "classes of several data sets joined by name: a YAML that `detect join-classes` proposed", metavar="YAML"
    )
    datasets: tuple[str, ...] = knob(
        (),
        "further training sets, after --data-path: for each a YAML of keys (data_path, coco_json_path, val_path, name, "
        "share, ...), or key=value,key=value; share is how often its images come in an epoch",
        "--also",
        metavar="SET",
    )
    ignore_file: Path | None = knob(
        None, "training images to skip: a file with one file name per line, or a list in recipes/classes"
    )
    binary_mode: bool = knob(False, "one class: object")
    proposals: Path | None = knob(
        None,
        "for networks on stored proposals: a file or folder that `detect propose` wrote, or truth for the true boxes",
    )
    limit: int | None = knob(
        None, "use only N training and N validation images, spread over the data, for tests", low=1, high=1e9
    )
    upright: bool = knob(
        False,
        "turn photographs by EXIF where the size in the annotations does not tell which way the labels were drawn: "
        "square ones, or turned by 180 degrees",
    )
    as_stored: bool = knob(False, "never turn those photographs, as COCO does; the default, without its note")
    drop_empty: bool = knob(False, "skip training images without a box")
    repeat_threshold: float = knob(
        0.0,
        "repeat images of classes that less than this share of the images has, as for LVIS (0.001); 0 repeats none",
        low=0,
        high=1,
    )
    allow_missing_images: int = knob(0, "number of annotated images that may be missing on disk", low=0, high=1e9)
    size: tuple[int, ...] | None = knob(
        None,
        "height and width, or one number for both; the short side where sizes vary (default: the network's own)",
        metavar="PIXELS",
        low=32,
        high=16_384,
        count=(1, 2),
    )
    max_size: int | None = knob(None, "longest side; images then keep their aspect ratio", low=32, high=16_384)
    smallest_side: int = knob(480, "multiscale and detr: smallest random short side", low=32, high=800)
    multiscale: bool = knob(
        False,
        "random short side from 480 to 800 per image, in proportion below --size 640; images keep their aspect ratio",
    )
    short_side_range: tuple[int, ...] | None = knob(
        None,
        "random short side per image, any whole number of pixels between these two; images keep their aspect ratio",
        metavar="PIXELS",
        low=32,
        high=16_384,
        count=(2,),
    )
    antialias: bool = knob(True, "antialias when downsizing; torchvision's detectors were trained without")
    resize_rule: Literal["torchvision", "detr", "transformers", "legacy"] | None = knob(
        None,
        "rounding of sizes that keep the aspect ratio: that of torchvision, of DETR's authors, of transformers, or of "
        "this program's older weights (default: detr for the DETR family, else torchvision)",
    )
    aug_type: str = knob("birder", "augmentation; `detect list augmentations` shows all", "--data-augmentation")
    aug_level: int = knob(4, "strength of the birder augmentation", low=0, high=10)
    use_copypaste: bool = knob(False, "with lsj: copy-paste of objects with their masks")
    aspect_ratio_group_factor: int = knob(
        -1,
        "batch images of similar aspect ratio: 0 separates wide from tall, k makes 2k+2 groups, -1 turns it off",
        low=-1,
        high=1000,
    )
    keypoints_file: Path | None = knob(
        None, "YAML with the keypoints' names, skeleton, flip_pairs, sigmas (default: from the annotations)"
    )
    oks_sigmas: tuple[str, ...] = knob(
        (), "OKS sigma of the keypoints: one number, one for each, a file of them, or coco", metavar="SIGMA"
    )
    rgb_mode: Pixels | None = knob(None, "pixel mean and std (default: those of the backbone's weights, else imagenet)")
    eval_backend: Literal["auto", "pycocotools", "hotcoco"] = knob("auto", "implementation of COCO AP")
    ap_fixed: bool = knob(
        False,
        "with --dataset lvis: also AP fixed, of the 10,000 best detections of each class, not limited per image",
    )
    class_agnostic: bool = knob(
        False, "evaluate box recall (AR) at 100, 300 and 1,000 detections per image, whatever the class, instead of AP"
    )
    pictures: int = knob(8, "number of validation images drawn for the report", low=0, high=10_000)


@dataclass(frozen=True, kw_only=True)
class DetectRecipe:
    model: ModelConfig = field(default_factory=ModelConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


LVIS_DETECTIONS = 300  # per image, in its evaluation

FIXED = (  # of a run that is resumed: its network, the weights it started from, its classes
    *("network", "backbone", "backbone_param", "backbone_tag", "backbone_epoch", "backbone_pretrained"),
    *("weights_backbone", "dilation", "init_from", "resume_epoch", "reset_head"),
    *("class_file", "class_map", "binary_mode", "keypoints_file", "rgb_mode", "vocabulary"),
)


def defaults_for(model: ModelConfig, data: DataConfig) -> dict[str, Any]:
    """Defaults that depend on the data set: a network that learns its annotations, LVIS's 300 detections per image,
    and for the layout with one JSON per image a separate folder for weights."""
    networks = {"coco_kp": "keypoint_rcnn", "custom": "keypoint_rcnn", "coco_panoptic": "detr_panoptic"}
    values: dict[str, Any] = {"network": networks[data.dataset]} if data.dataset in networks else {}
    if data.dataset == "lvis" and model.network in OFFERED.having("max_detections"):
        from detection.nets import is_agnostic

        if not is_agnostic(model.network):  # of which recall at 1,000 is measured
            values["network_args"] = {"max_detections": LVIS_DETECTIONS}
    if data.dataset == "custom" and data.data_path is not None and (data.data_path / "result" / "weights").is_dir():
        values["weights_dir"] = data.data_path / "result" / "weights"
    return values


def tiny(recipe: DetectRecipe) -> dict[str, Any]:
    """What `--scale tiny` changes: a few small images of the given or the demo data, a small variant of the
    network, random weights where the tag is missing, true boxes where the proposals are, and a tag that is marked as
    tiny."""
    from detection.nets import detector, takes_proposals

    model, data = recipe.model, recipe.data
    stored = data.proposals if data.proposals is not None and data.proposals.exists() else Path("truth")
    small = {
        "network_args": detector.facts(model.network).get("tiny", {}),
        "backbone_tag": None,
        "backbone_pretrained": False,
        "weights_backbone": None,
        "backbone_epoch": None,
        "resume_epoch": None,
        "reset_head": False,
        # names of the demo data have no vectors of a text model
        "vocabulary": "random:0" if data.vocabulary and data.data_path is None else data.vocabulary,
        "tag": f"{model.tag}-tiny" if model.tag else "tiny",
        "proposals": stored if takes_proposals(model.network) else None,
        "limit": 8,
        "size": [96],
        "max_size": 128 if data.max_size else None,
        "short_side_range": [64, 96] if data.short_side_range else None,
        "pictures": 2,
    }
    return scale.tiny(recipe) | small


def run_stem(recipe: DetectRecipe) -> str:
    """The default run name: network, backbone, and origin of the backbone's weights."""
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
