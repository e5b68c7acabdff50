"""Key layouts of torchvision's detectors, including those of files from before version 0.13.

Class 0 is background. torchvision's FCOS and RetinaNet have an unused row for it in the class head; ours do not.
"""

from __future__ import annotations

from collections.abc import Callable

from backbones.copies import Tensors
from detection.published.layout import Layout, Options, Rules, count_of


def without_background(groups: int) -> Callable[[Tensors], Tensors]:
    """A function that removes the background row from each of the groups (anchors) of the class head's rows."""

    def settle(tensors: Tensors) -> Tensors:
        made = dict(tensors)
        for name in ("head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"):
            made[name] = tensors[name].unflatten(0, (groups, -1))[:, 1:].flatten(0, 1)
        return made

    return settle


PYRAMID: Rules = (
    (r"^backbone\.body\.", "backbone.net."),
    (r"^backbone\.fpn\.", "neck.fpn."),
    (r"((?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),  # before torchvision 0.13, also below
)
R_CNN: Rules = (
    *PYRAMID,
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    *((rf"mask_head\.mask_fcn{i + 1}\.", f"mask_head.{i}.0.") for i in range(4)),
)
RETINANET: Rules = (*PYRAMID, *((rf"_head\.conv\.{2 * i}\.(weight|bias)$", rf"_head.conv.{i}.0.\1") for i in range(4)))
SSD300: Rules = (
    (r"^backbone\.features\.", "backbone.net."),
    (r"^backbone\.scale_weight$", "first.0.scale"),
    (r"^backbone\.extra\.0\.7\.", "first.1."),
    *((rf"^backbone\.extra\.0\.{i}\.", f"backbone.net.{23 + i}.") for i in (1, 3, 5)),
    *((rf"^backbone\.extra\.{i + 1}\.", f"extras.{i}.") for i in range(4)),
)
SSDLITE: Rules = (
    (r"^backbone\.features\.0\.13\.", "backbone.net.13.block.0."),
    (r"^backbone\.features\.0\.", "backbone.net."),
    (r"^backbone\.features\.1\.0\.", "backbone.net.13.block."),
    *((rf"^backbone\.features\.1\.{i}\.", f"backbone.net.{13 + i}.") for i in (1, 2, 3)),
    (r"^backbone\.extra\.", "extras."),
)
BOXES = ("roi_heads.box_predictor.cls_score.weight", 1, 1)
LOGITS = "head.classification_head.cls_logits.weight"
FINEST = "head.classification_head.module_list.0"


def of_pyramid(tensors: Tensors) -> Options:
    older, newer = (f"backbone.fpn.inner_blocks.0.{last}weight" for last in ("", "0."))
    return {"width": len(tensors[older] if older in tensors else tensors[newer])}


def of_fcos(tensors: Tensors) -> Options:
    """Each of the head's layers is a convolution and a norm with parameters, and a ReLU without."""
    return of_pyramid(tensors) | {"depth": count_of(tensors, r"head\.classification_head\.conv\.(\d+)\.") // 2}


def of_r_cnn(tensors: Tensors) -> Options:
    return of_pyramid(tensors) | {"hidden": len(tensors["roi_heads.box_head.fc6.weight"])}


def of_second_r_cnn(tensors: Tensors) -> Options:
    """The box head is convolutions, a flatten and a linear layer."""
    depth = count_of(tensors, r"roi_heads\.box_head\.(\d+)\.0\.")
    return of_pyramid(tensors) | {"hidden": len(tensors[f"roi_heads.box_head.{depth + 1}.weight"]), "depth": depth}


def of_masks(tensors: Tensors) -> Options:
    return {
        "mask_width": tensors["roi_heads.mask_predictor.conv5_mask.weight"].shape[1],
        "mask_depth": count_of(tensors, r"roi_heads\.mask_head\.(?:mask_fcn)?(\d+)\."),
    }


def of_retinanet(tensors: Tensors) -> Options:
    """retinanet_resnet50_fpn_v2 has norms in its heads, and was trained with the GIoU loss."""
    options, p6 = of_pyramid(tensors), tensors["backbone.fpn.extra_blocks.p6.weight"]
    second = "head.classification_head.conv.0.1.weight" in tensors
    return options | {
        "norm": "group" if second else "none",
        "box_loss": "giou" if second else "l1",
        "p6_from": "p5" if p6.shape[0] == p6.shape[1] else "c5",
    }


def of_keypoints(tensors: Tensors) -> Options:
    width, count = tensors["roi_heads.keypoint_predictor.kps_score_lowres.weight"].shape[:2]
    depth = count_of(tensors, r"roi_heads\.keypoint_head\.(\d+)\.")
    return of_r_cnn(tensors) | {"num_keypoints": count, "keypoint_width": width, "keypoint_depth": depth}


LAYOUTS = [
    Layout("torchvision keypoint r-cnn", r"roi_heads\.keypoint_", "keypoint_rcnn", R_CNN, BOXES, True, of_keypoints),
    Layout(
        "torchvision mask r-cnn v2", r"roi_heads\.mask_head\.0\.1\.", "mask_rcnn_v2", R_CNN, BOXES, True,
        lambda tensors: of_second_r_cnn(tensors) | of_masks(tensors),
    ),
    Layout(
        "torchvision mask r-cnn", r"roi_heads\.mask_", "mask_rcnn", R_CNN, BOXES, True,
        lambda tensors: of_r_cnn(tensors) | of_masks(tensors),
    ),
    Layout(
        "torchvision faster r-cnn v2", r"roi_heads\.box_head\.0\.1\.", "faster_rcnn_v2", R_CNN, BOXES, True,
        of_second_r_cnn,
    ),
    Layout("torchvision faster r-cnn", r"roi_heads\.box_", "faster_rcnn", R_CNN, BOXES, True, of_r_cnn),
    Layout(
        "torchvision fcos", r"head\.regression_head\.bbox_ctrness\.", "fcos", PYRAMID, (LOGITS, 1, 1), True,
        of_fcos, without_background(1),
    ),
    Layout(
        "torchvision retinanet", r"head\.regression_head\.bbox_reg\.", "retinanet", RETINANET, (LOGITS, 9, 1), True,
        of_retinanet, without_background(9),
    ),
    Layout("torchvision ssd300", r"backbone\.scale_weight$", "ssd", SSD300, (f"{FINEST}.weight", 4, 1), True),
    Layout(
        "torchvision ssdlite", r"backbone\.features\.1\.0\.", "ssdlite", SSDLITE, (f"{FINEST}.1.weight", 6, 1), True
    ),
]  # fmt: skip
