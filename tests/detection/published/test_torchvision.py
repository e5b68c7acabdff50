"""Imported torchvision detectors have the same detections as in torchvision."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models import resnet18
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, RPNHead, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detection.inference.trained import Trained
from detection.published import references
from detection.published.foreign import recognize
from shared.weights.store import Store
from tests.detection.nets.same_detections import pairs_of_same
from tests.detection.published.of_others import bring_in

SIZE = (96, 128)
CLASSES = 4  # with background
PLAIN: dict[str, Any] = {"min_size": SIZE[0], "max_size": SIZE[1]}


def fpn(**options: Any) -> Any:
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, **options)


def r_cnn(kind: Any, **options: Any) -> nn.Module:
    head, last = TwoMLPHead(256 * 49, 32), FastRCNNPredictor(32, CLASSES)
    return kind(fpn(), None, box_head=head, box_predictor=last, **PLAIN, **options)


def dense(kind: Any, **options: Any) -> nn.Module:
    maps = fpn(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return kind(maps, CLASSES, **PLAIN, **options)


def fcos() -> nn.Module:
    return dense(theirs.FCOS)


def retinanet() -> nn.Module:
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    return dense(theirs.RetinaNet, anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5))


def mask_rcnn() -> nn.Module:
    heads = {"mask_head": MaskRCNNHeads(256, (16, 16), 1), "mask_predictor": MaskRCNNPredictor(16, 16, CLASSES)}
    return r_cnn(theirs.MaskRCNN, **heads)


def keypoint_rcnn() -> nn.Module:
    heads = {"keypoint_head": KeypointRCNNHeads(256, (16, 16)), "keypoint_predictor": KeypointRCNNPredictor(16, 5)}
    return r_cnn(theirs.KeypointRCNN, **heads)


def second_r_cnn(kind: Any, **options: Any) -> nn.Module:
    return kind(
        _resnet_fpn_extractor(resnet18(), 5, norm_layer=nn.BatchNorm2d),
        None,
        rpn_head=RPNHead(256, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((256, 7, 7), [256, 256], [32], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor(32, CLASSES),
        **PLAIN,
        **options,
    )


def as_published(name: str, classes: int = CLASSES, **options: Any) -> nn.Module:
    """torchvision's builder, with SIZE unless the model has a fixed size."""
    options |= {} if name.startswith("ssd") else PLAIN
    return getattr(theirs, name)(weights=None, weights_backbone=None, num_classes=classes, **options)


def second_mask_rcnn() -> nn.Module:
    heads = {"mask_head": MaskRCNNHeads(256, (16, 16), 1, nn.BatchNorm2d)}
    return second_r_cnn(theirs.MaskRCNN, **heads, mask_predictor=MaskRCNNPredictor(16, 16, CLASSES))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "faster_rcnn": lambda: r_cnn(theirs.FasterRCNN),
    "mask_rcnn": mask_rcnn,
    "faster_rcnn_v2": lambda: second_r_cnn(theirs.FasterRCNN),
    "mask_rcnn_v2": second_mask_rcnn,
    "keypoint_rcnn": keypoint_rcnn,
    "fcos": fcos,
    "retinanet": retinanet,
    "ssdlite": lambda: as_published("ssdlite320_mobilenet_v3_large"),
}
OFFERED = [name for name, r in references.REFERENCES.items() if hasattr(theirs, name)]


def made_loud(model: Any) -> Any:
    """Random weights with outputs of std 1 in every layer, and hundreds of detections."""
    torch.manual_seed(1)
    norms: list[Any] = [layer for layer in model.modules() if isinstance(layer, FrozenBatchNorm2d | nn.BatchNorm2d)]
    for layer in norms:
        layer.running_var.uniform_(0.5, 1.5)
        layer.running_mean.uniform_(-0.1, 0.1)
        layer.weight.data.uniform_(0.8, 1.2)
    tamed = set()

    def tame(layer: Any, _: Any, said: Tensor) -> Tensor | None:
        if layer in tamed or said.numel() < 2:
            return None
        tamed.add(layer)
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.data /= said.std()
        return said / said.std()

    kinds = nn.Conv2d | nn.Linear | nn.ConvTranspose2d
    hooks = [layer.register_forward_hook(tame) for layer in model.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        model.eval()([image / 255 for image in pictures(model)])
    for hook in hooks:
        hook.remove()
    for name, parameter in model.named_parameters():
        if re.search(r"classification_head\.(cls_logits|module_list\.\d+(\.1)?)\.weight$|cls_score\.weight$", name):
            parameter.data *= 2
        if name == "head.classification_head.cls_logits.bias":
            rows = nn.init.constant_(parameter, 0.0).data.view(-1, CLASSES)
            rows[:, 0] = -1000.0  # as in trained models, background is never predicted
    return model


def pictures(model: Any, size: tuple[int, int] = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    only = getattr(model, "transform", None)
    size = only.fixed_size or size if only is not None else size
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)]


def insist_on_equal_detections(model: Any, ours: Trained) -> None:
    images = pictures(model)
    with torch.no_grad():
        (wanted,) = model([image / 255 for image in images])
        (found,) = ours.task.detect(images)
    assert len(wanted["scores"]) > 20, "many detections"
    ids = torch.tensor(ours.classes.source_ids)[found["labels"]]
    pairs_of_same({**found, "labels": ids}, wanted)
    for name in ("masks", "keypoints"):
        assert (name in found) == (name in wanted)


# --- torchvision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        "mask_rcnn",
        "mask_rcnn_v2",
        "retinanet",
        "ssdlite",
        pytest.param("faster_rcnn_v2", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", marks=pytest.mark.slow),
        pytest.param("keypoint_rcnn", marks=pytest.mark.slow),
        pytest.param("fcos", marks=pytest.mark.slow),
    ],
)
def test_what_torchvision_finds_is_found_here(network: str, tmp_path: Path, store: Store) -> None:
    torch.manual_seed(0)
    model, options = SMALL[network](), {}
    if network == "retinanet":  # as for its published file
        overwrite_eps(model, 0.0)
        options = {"norm_eps": 0.0}
    content = {"model": made_loud(model).state_dict(), "epoch": 3}  # as saved by torchvision's train.py
    insist_on_equal_detections(model, bring_in(store, tmp_path / "model.pth", content, network, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFERED)
def test_all_of_torchvisions_models_find_what_they_do_there(name: str, tmp_path: Path, store: Store) -> None:
    torch.manual_seed(0)
    their_options, options = {}, {}
    if "rcnn" in name:  # a thousand proposals would take a minute
        their_options = {"rpn_post_nms_top_n_test": 120, "box_detections_per_img": 40}
        options = {"network_args": {"rpn_proposals": 120, "max_detections": 40}}
    model = made_loud(as_published(name, **their_options))
    ours = bring_in(store, tmp_path / "model.pth", model.state_dict(), name, **options)
    insist_on_equal_detections(model, ours)
    if ours.skeleton is not None:
        assert ours.skeleton.is_person and len(ours.skeleton.edges) == 19


OLDER = [
    (r"(blocks\.\d)\.0\.", r"\1."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"mask_head\.0\.0\.", "mask_head.mask_fcn1."),
    (r"mask_head\.1\.0\.", "mask_head.mask_fcn2."),
    *((rf"_head\.conv\.{i}\.0\.", f"_head.conv.{2 * i}.") for i in (3, 2, 1, 0)),
]


@pytest.mark.parametrize("network", ["mask_rcnn", "retinanet"])
def test_files_from_before_version_0_13_mean_the_same(network: str) -> None:
    """Keys that torchvision still converts when loading."""
    model = SMALL[network]()
    tensors, older = dict(model.state_dict()), {}
    for name, value in tensors.items():
        for pattern, replacement in OLDER:
            name = re.sub(pattern, replacement, name)
        older[name] = value
    assert len(older.keys() - tensors.keys()) >= 10
    model.load_state_dict(older)
    ours, before = recognize(tensors).renamed(), recognize(older).renamed()
    assert ours.keys() == before.keys() and all(torch.equal(ours[name], before[name]) for name in ours)
