"""transformers' RT-DETR v2 with random weights, and our network with the same, for tests and benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detection.nets.rt_detr import RTDETR
from detection.published.rt_detr import LAYOUTS
from tests.detection.nets.of_transformers import OurBackbone, stages


def config_of(net: RTDETR, num_classes: int, **told: Any) -> Any:
    from transformers import RTDetrV2Config

    channels = [net.backbone.maps[i].channels for i in net.used_maps]
    backbone = stages(channels[-1], len(channels))
    backbone.hidden_sizes = [*backbone.hidden_sizes[: 4 - len(channels)], *channels]
    cross: Any = net.decoder[0].cross_attention
    fuse, narrow = net.encoder.fuse_up[0], net.encoder.narrow[0]
    inner = narrow[0].out_channels  # type: ignore[index]
    return RTDetrV2Config(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=num_classes,
        d_model=net.look[0].in_features,
        encoder_hidden_dim=inner,
        encoder_in_channels=channels,
        decoder_in_channels=[inner] * len(channels),
        feat_strides=[8, 16, 32],
        encoder_layers=len(net.encoder.attend),
        decoder_layers=len(net.decoder),
        encoder_ffn_dim=net.encoder.attend[0].feed[0].out_features,
        decoder_ffn_dim=net.decoder[0].feed[0].out_features,
        encoder_attention_heads=cross.heads,
        decoder_attention_heads=cross.heads,
        decoder_n_points=cross.points,
        decoder_n_levels=cross.levels,
        num_feature_levels=cross.levels,
        hidden_expansion=fuse.into[0].out_channels / inner,  # type: ignore[index]
        num_queries=net.max_objects,
        num_denoising=net.noise["count"],
        label_noise_ratio=net.noise["label_noise"],
        box_noise_scale=net.noise["box_noise"],
        **told,
    )


def as_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names there -> by our names, without the backbone's."""
    (layout,) = LAYOUTS
    named = {}
    for name, value in tensors.items():
        if not name.startswith("model.backbone."):
            for pattern, replacement in layout.rules:
                name = re.sub(pattern, replacement, name)
            named[name] = value
    return layout.settle(named)


def loud(theirs: Any) -> Any:
    """Every parameter and statistic off its start, so that none can be left out unseen."""
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype.is_floating_point and not name.endswith("n_points_scale"):
                value.add_(0.2 * torch.randn_like(value))
        if hasattr(theirs.model, "denoising_class_embed"):
            theirs.model.denoising_class_embed.weight[-1] = 0  # of padding
        for own, other in ((theirs.class_embed, theirs.model.decoder.class_embed),
                           (theirs.bbox_embed, theirs.model.decoder.bbox_embed)):  # fmt: skip
            own.load_state_dict(other.state_dict())
    return theirs


def rt_detr_of_transformers(net: RTDETR, num_classes: int, **told: Any) -> nn.Module:
    """theirs, on our backbone; `net` gets its weights."""
    from transformers import RTDetrV2ForObjectDetection

    theirs: Any = RTDetrV2ForObjectDetection(config_of(net, num_classes, **told))
    theirs.model.backbone = nn.Identity()
    weights = as_ours(loud(theirs).state_dict())
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.startswith("backbone.") for name in missing)
    theirs.model.backbone = OurBackbone(net)  # type: ignore[arg-type]
    return theirs.train(net.training)
