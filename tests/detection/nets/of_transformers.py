"""transformers' DETR and Deformable DETR on our backbone, with our weights in them, for tests and benchmarks."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from detection.nets.deformable_detr import DeformableDETR
from detection.nets.detr import DETR
from detection.types import Images, Target

RENAMED = [
    (r"^model\.", ""),
    (r"^query_position_embeddings", "queries"),
    (r"^position_embedding\.row_embeddings\.weight", "positions.rows"),
    (r"^position_embedding\.column_embeddings\.weight", "positions.columns"),
    (r"^input_projection", "narrow"),
    (r"^input_proj", "levels.levels"),
    (r"^level_embed", "level_of"),
    (r"^reference_points", "start.references"),
    (r"^enc_output\.", "start.look.0."),
    (r"^enc_output_norm", "start.look.1"),
    (r"^pos_trans\.", "start.tell.0."),
    (r"^pos_trans_norm", "start.tell.1"),
    (r"^decoder\.layernorm", "decoder_norm"),
    (r"^(en|de)coder\.layers", r"\1coder"),
    (r"^decoder\.(class|bbox)_embed", r"\1_embed"),
    (r"^(class_labels_classifier|class_embed)", "classify"),
    (r"^(bbox_predictor|bbox_embed)", "locate"),
    (r"(?<=locate)(.*)\.layers\.0", r"\1.0"),
    (r"(?<=locate)(.*)\.layers\.1", r"\1.2"),
    (r"(?<=locate)(.*)\.layers\.2", r"\1.4"),
    (r"^encoder\.(\d+)\.self_attn_layer_norm", r"encoder.\1.around_attention.norm"),
    (r"self_attn_layer_norm", "around_self.norm"),
    (r"encoder_attn_layer_norm", "around_cross.norm"),
    (r"final_layer_norm", "around_feed.norm"),
    (r"mlp\.fc1", "feed.0"),
    (r"mlp\.fc2", "feed.3"),
    (r"^encoder\.(\d+)\.self_attn", r"encoder.\1.attention"),
    (r"self_attn", "self_attention"),
    (r"encoder_attn", "cross_attention"),
    (r"o_proj", "out_proj"),
]


class OurBackbone(nn.Module):
    """A backbone of ours as transformers wants one: maps and masks, true where there is image."""

    def __init__(self, net: DETR | DeformableDETR) -> None:
        super().__init__()
        self.backbone, self.used = net.backbone, net.used_maps

    def forward(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        maps = self.backbone.forward_features(pixels)
        maps = [maps[i] for i in self.used]
        return [(x, F.interpolate(mask[None].float(), size=x.shape[-2:])[0].bool()) for x in maps]


def stages(channels: int, count: int) -> Any:
    """What makes transformers expect so many maps of so many channels each."""
    from transformers import ResNetConfig

    out = [f"stage{4 - k}" for k in reversed(range(count))]
    return ResNetConfig(embedding_size=8, hidden_sizes=[channels] * 4, depths=[1] * 4, out_features=out)


def detr_of_transformers(net: DETR, num_classes: int, **told: Any) -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(
        backbone_config=stages(net.backbone.maps[-1].channels, 1),
        num_labels=num_classes,
        **common(net, len(net.encoder), len(net.decoder)),
        **told,
    )
    return filled(DetrForObjectDetection(config), net)


def deformable_detr_of_transformers(net: DeformableDETR, num_classes: int, **told: Any) -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    attention: Any = net.encoder[0].attention
    two_stage = len(net.classify) > len(net.decoder)
    channels = [net.backbone.maps[i].channels for i in net.used_maps]
    backbone = stages(channels[-1], len(channels))
    backbone.hidden_sizes = [*backbone.hidden_sizes[: 4 - len(channels)], *channels]
    config = DeformableDetrConfig(
        backbone_config=backbone,
        num_labels=num_classes,
        **common(net, len(net.encoder), len(net.decoder)),
        num_feature_levels=len(net.levels.levels),
        encoder_n_points=attention.points,
        decoder_n_points=attention.points,
        with_box_refine=net.refine,
        two_stage=two_stage,
        two_stage_num_proposals=net.num_queries,
        disable_custom_kernels=True,
        **told,
    )
    theirs = DeformableDetrForObjectDetection(config)
    for owner in (theirs, theirs.model.decoder):  # each layer's own, where transformers ties them
        for name in ("class_embed", "bbox_embed"):
            if isinstance(getattr(owner, name, None), nn.ModuleList):
                setattr(owner, name, nn.ModuleList(deepcopy(head) for head in getattr(owner, name)))
    for layers in theirs.model.input_proj:
        layers[1].num_groups = net.levels.levels[0][1].num_groups  # type: ignore[index]
    return filled(theirs, net)


def common(net: Any, encoder_layers: int, decoder_layers: int) -> dict[str, Any]:
    own = net.decoder[0].self_attention
    width = own.out_proj.in_features
    hidden = net.encoder[0].feed[0].out_features
    queries = net.queries.weight.shape[0] if isinstance(net, DETR) else net.num_queries
    return {
        "d_model": width,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": own.heads,
        "decoder_attention_heads": own.heads,
        "encoder_ffn_dim": hidden,
        "decoder_ffn_dim": hidden,
        "num_queries": queries,
        "dropout": own.dropout,
        "attention_dropout": own.dropout,
        "activation_dropout": own.dropout,
    }


def filled(theirs: Any, net: DETR | DeformableDETR) -> nn.Module:
    """The same network with our backbone and copies of our weights."""
    theirs.model.backbone = nn.Identity()
    ours = dict(net.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(as_theirs(name, ours))
    theirs.model.backbone = OurBackbone(net)
    return theirs.train(net.training)


def as_theirs(name: str, ours: dict[str, Tensor]) -> Tensor:
    """What is called `name` there, among tensors that are called as our parameters."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    if name == "queries.weight" and name not in ours:
        return torch.cat([ours["start.positions.weight"], ours["start.states.weight"]], 1)
    third = re.search(r"([qkv])_proj\.(weight|bias)$", name)
    if third:
        packed = name[: third.start()] + f"in_proj_{third[2]}"
        return ours[packed].chunk(3)["qkv".index(third[1])]
    shared = re.match(r"(classify|locate)\.\d+\.", name)
    if shared and name not in ours:  # one head for all layers
        name = re.sub(r"^(classify|locate)\.\d+\.", r"\1.0.", name)
    return ours[name]


def own_parameters(theirs: nn.Module) -> dict[str, nn.Parameter]:
    """All but the backbone's, which are ours."""
    return {name: p for name, p in theirs.named_parameters() if not name.startswith("model.backbone.")}


def as_they_want(images: Images, targets: list[Target]) -> dict[str, Any]:
    """Our batch as their keyword arguments."""
    mask = torch.zeros(len(images.sizes), *images.pixels.shape[-2:], dtype=torch.long, device=images.pixels.device)
    labels = []
    for own, target, (height, width) in zip(mask, targets, images.sizes, strict=True):
        own[:height, :width] = 1
        boxes = box_convert(target["boxes"], "xyxy", "cxcywh") / target["boxes"].new_tensor([width, height] * 2)
        labels.append({"class_labels": target["labels"], "boxes": boxes})
    return {"pixel_values": images.pixels, "pixel_mask": mask, "labels": labels}
