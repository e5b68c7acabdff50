"""Checkpoints as published programs save them, and their import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import backbone
from detection.inference.trained import Trained
from detection.nets import detector
from detection.published.importing import Import, import_detector
from detection.types import Images
from shared.weights.store import Store
from tests.detection.nets.of_transformers import (
    own_parameters,
)


def bring_in(store: Store, path: Path, content: Any, network: str, **options: Any) -> Trained:
    torch.save(content, path)
    exported = import_detector(Import(file=path, network=network, tag="theirs", **options), store)
    return Trained(exported, torch.device("cpu"))


SHARED = [
    (r"^model\.", "transformer."),
    (r"^transformer\.input_projection", "input_proj"),
    (r"^transformer\.(input_proj|class_embed|bbox_embed)", r"\1"),
    (r"^transformer\.query_position_embeddings", "query_embed"),
    (r"^class_labels_classifier", "class_embed"),
    (r"^bbox_predictor", "bbox_embed"),
    (r"o_proj", "out_proj"),
    (r"mlp\.fc", "linear"),
    (r"decoder\.layernorm", "decoder.norm"),
    (r"(encoder\..*)self_attn_layer_norm", r"\1norm1"),
    (r"(encoder\..*)final_layer_norm", r"\1norm2"),
    (r"final_layer_norm", "norm3"),
]
OFFICIAL = {
    "detr": [
        *SHARED,
        (r"encoder_attn_layer_norm", "norm2"),
        (r"self_attn_layer_norm", "norm1"),
        (r"encoder_attn", "multihead_attn"),
    ],
    "deformable": [
        *SHARED,
        (r"encoder_attn_layer_norm", "norm1"),
        (r"self_attn_layer_norm", "norm2"),
        (r"encoder_attn", "cross_attn"),
    ],
}


def as_official(model: Any, kind: str, net: Any) -> dict[str, Tensor]:
    """Weights of a transformers model by the names of the authors' programs; our backbone's by torchvision's names."""
    made: dict[str, Tensor] = {}
    for name, value in own_parameters(model).items():
        for pattern, replacement in OFFICIAL[kind]:
            name = re.sub(pattern, replacement, name)
        made[name] = value.detach()
    for name in [name for name in made if ".q_proj." in name]:
        parts = [made.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        made[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    body = {f"backbone.0.body.{name}": value for name, value in net.backbone.net.state_dict().items()}
    return made | {name: value for name, value in body.items() if "num_batches_tracked" not in name}


TINY = {"width": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feedforward": 64, "num_queries": 12}
IMAGES = Images(torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2)), [(96, 128), (80, 100)])


def loud_set_network(network: str, **options: Any) -> Any:
    torch.manual_seed(3)
    net = detector.build(network, backbone.build("resnet18"), 91, **TINY, **options).eval()
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)  # also parameters initialized to constants: norms, shared heads, boxes
    return net
