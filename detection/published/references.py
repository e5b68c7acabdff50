"""Published detectors by their published names: the settings that are not stored in their files.

    name -> network, backbone, options | size, longest side, pixel mean and std | published files

A file is recognized by the first 8 digits of its sha256, which are part of the published file name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.feeding.pixels import PixelStats, pixel_stats

USUAL_EPS = 1e-5  # epsilon of batch norm; 0 for older files of torchvision
PATIENT_EPS = 1e-3  # of torchvision's SSDlite
VGG_PIXELS = PixelStats((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))


class Reference(NamedTuple):
    """A published detector.

    network: name of our network.
    backbone: name of our backbone.
    args: options of the network that differ from our defaults.
    backbone_args: options of the backbone that differ from our defaults.
    size: height and width in pixels; with `longest`, the shorter side, and the aspect ratio is kept.
    longest: maximum of the longer side in pixels, or None to resize to exactly `size`.
    antialias: whether images are resized with antialiasing.
    pixels: mean and std.
    files: {start of the sha256 of a published file: epsilon of its batch norm}.
    """

    network: str
    backbone: str = "resnet_v1_50"
    args: Mapping[str, Any] = {}
    backbone_args: Mapping[str, Any] = {}
    size: tuple[int, int] = (800, 800)
    longest: int | None = 1333
    antialias: bool = True
    pixels: PixelStats = pixel_stats("imagenet")
    files: Mapping[str, float] = {}


MOBILE = {"rpn_all_sizes": True, "rpn_min_score": 0.05}
DC5 = {"dilation": True}
RT_DETR = Reference("rt_detr", "resnet50d", size=(640, 640), longest=None, pixels=pixel_stats("neutral"))
# fmt: off
TORCHVISION = {
    "fasterrcnn_resnet50_fpn": Reference("faster_rcnn", files={"258fb6c6": 0.0}),
    "fasterrcnn_resnet50_fpn_v2": Reference("faster_rcnn_v2", files={"dd69338a": USUAL_EPS}),
    "fasterrcnn_mobilenet_v3_large_fpn": Reference(
        "faster_rcnn", "tv_mobilenet_v3_large_fpn", MOBILE, files={"fb6a3cc7": USUAL_EPS}
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Reference(
        "faster_rcnn", "tv_mobilenet_v3_large_fpn", {**MOBILE, "rpn_candidates": 150, "rpn_proposals": 150},
        size=(320, 320), longest=640, files={"907ea3f9": USUAL_EPS},
    ),
    "fcos_resnet50_fpn": Reference("fcos", args={"min_score": 0.2}, files={"99b0c9b7": USUAL_EPS}),
    "retinanet_resnet50_fpn": Reference(
        "retinanet", args={"norm": "none", "box_loss": "l1"}, files={"eeacb38b": 0.0}
    ),
    "retinanet_resnet50_fpn_v2": Reference("retinanet", args={"p6_from": "c5"}, files={"5905b1c5": USUAL_EPS}),
    "ssd300_vgg16": Reference(
        "ssd", "tv_vgg16", {"ssd300": True}, size=(300, 300), longest=None, pixels=VGG_PIXELS,
        files={"b556d3b4": USUAL_EPS},
    ),
    "ssdlite320_mobilenet_v3_large": Reference(
        "ssdlite", "tv_mobilenet_v3_large_ssdlite_reduced", size=(320, 320), longest=None,
        pixels=pixel_stats("centered"), files={"a79551df": PATIENT_EPS},
    ),
    "maskrcnn_resnet50_fpn": Reference("mask_rcnn", files={"bf2d0c1e": 0.0}),
    "maskrcnn_resnet50_fpn_v2": Reference("mask_rcnn_v2", files={"73cbd019": USUAL_EPS}),
    "keypointrcnn_resnet50_fpn": Reference("keypoint_rcnn", files={"fc266e95": 0.0, "9f466800": USUAL_EPS}),
}
REFERENCES = {
    **{name: reference._replace(antialias=False) for name, reference in TORCHVISION.items()},
    # facebookresearch/detr
    "detr_resnet50": Reference("detr", files={"e632da11": USUAL_EPS}),
    "detr_resnet50_dc5": Reference("detr", backbone_args=DC5, files={"f0fb7ef5": USUAL_EPS}),
    "detr_resnet101": Reference("detr", "resnet101_v1b", files={"2c7b67e5": USUAL_EPS}),
    "detr_resnet101_dc5": Reference("detr", "resnet101_v1b", backbone_args=DC5, files={"a2e86def": USUAL_EPS}),
    "detr_resnet50_panoptic": Reference("detr_panoptic", files={"00ce5173": USUAL_EPS}),
    "detr_resnet50_dc5_panoptic": Reference("detr_panoptic", backbone_args=DC5, files={"da08f1b1": USUAL_EPS}),
    "detr_resnet101_panoptic": Reference("detr_panoptic", "resnet101_v1b", files={"40021d53": USUAL_EPS}),
    # fundamentalvision/Deformable-DETR and gaopengcuhk/SMCA-DETR, which publish no sha256
    "deformable_detr_resnet50": Reference("deformable_detr"),
    "deformable_detr_boxref_resnet50": Reference("deformable_detr_boxref"),
    "smca_detr_resnet50": Reference("smca_detr"),
    # IDEA-Research/DINO
    "dino_detr_4scale_resnet50": Reference("dino_detr"),
    "dino_detr_5scale_resnet50": Reference("dino_detr"),
    # PekingU/rtdetr_v2_* of transformers
    "rt_detr_v2_resnet18": RT_DETR._replace(backbone="resnet18_vd"),
    "rt_detr_v2_resnet34": RT_DETR._replace(backbone="resnet34_vd"),
    "rt_detr_v2_resnet50": RT_DETR,
    "rt_detr_v2_resnet101": RT_DETR._replace(backbone="resnet101d"),
}
# fmt: on


def of_file(digest: str) -> tuple[str, float] | None:
    """The name of the published detector with this sha256 and its batch norm epsilon, or None."""
    for name, reference in REFERENCES.items():
        for start, eps in reference.files.items():
            if digest.startswith(start):
                return name, eps
    return None


def nearest(network: str, backbone: str) -> Reference:
    """The first reference of this network, preferably with this backbone; the backbone is replaced if it differs."""
    same = [r for r in REFERENCES.values() if r.network == network] or [Reference(network)]
    return next((r for r in same if r.backbone == backbone), same[0]._replace(backbone=backbone))
