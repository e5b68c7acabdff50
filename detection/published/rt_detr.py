"""Key layout of RT-DETR and RT-DETR v2 of transformers: that of the published checkpoints, and of newer releases.

Labels are those of the 80 classes of COCO, without the unused ids. A ResNet-50 or 101 there is timm's `resnet50d` or
`resnet101d`; the smaller ones have a convolution in their first shortcut that no network of timm has: `resnet18_vd`.
"""

from __future__ import annotations

import re

import torch

from backbones.copies import Tensors
from detection.published.layout import Layout, Options, Rules, count_of
from detection.published.transformers import insist_equal, mlp

# convolution and norm of the stem and of the parts of a block, by the names of timm's ResNet-D
STEM = (("0.convolution", "conv1.0"), ("0.normalization", "conv1.1"), ("1.convolution", "conv1.3"),
        ("1.normalization", "conv1.4"), ("2.convolution", "conv1.6"), ("2.normalization", "bn1"))  # fmt: skip
RESNET: Rules = (
    *((rf"^model\.backbone\.model\.embedder\.embedder\.{theirs}\.", f"backbone.net.{ours}.") for theirs, ours in STEM),
    *(
        (rf"^model\.backbone\.model\.encoder\.stages\.{i}\.layers\.(\d+)\.", rf"backbone.net.layer{i + 1}.\1.")
        for i in range(4)
    ),
    *((rf"^(backbone\..*)\.layer\.{i}\.convolution\.", rf"\1.conv{i + 1}.") for i in range(3)),
    *((rf"^(backbone\..*)\.layer\.{i}\.normalization\.", rf"\1.bn{i + 1}.") for i in range(3)),
    (r"^(backbone\..*)\.shortcut\.(?:1\.)?convolution\.", r"\1.downsample.1."),
    (r"^(backbone\..*)\.shortcut\.(?:1\.)?normalization\.", r"\1.downsample.2."),
)
ENCODER: Rules = (
    (r"^model\.encoder_input_proj\.", "encoder.narrow."),
    (r"^model\.encoder\.(?:encoder|aifi)\.0\.layers\.", "encoder.attend."),
    (r"^model\.encoder\.lateral_convs\.", "encoder.lateral."),
    (r"^model\.encoder\.downsample_convs\.", "encoder.halve."),
    (r"^model\.encoder\.fpn_blocks\.", "encoder.fuse_down."),
    (r"^model\.encoder\.pan_blocks\.", "encoder.fuse_up."),
    (r"^(encoder\.fuse.*)\.bottlenecks\.(\d+)\.conv1\.", r"\1.blocks.\2.wide."),
    (r"^(encoder\.fuse.*)\.bottlenecks\.(\d+)\.conv2\.", r"\1.blocks.\2.narrow."),
    *(
        (rf"^(encoder\.fuse\w+\.\d+)\.conv{i}\.", rf"\1.{ours}.")
        for i, ours in ((1, "into"), (2, "beside"), (3, "out"))
    ),
    (r"^(encoder\.(?:lateral|halve|fuse).*)\.conv\.", r"\1.0."),
    (r"^(encoder\.(?:lateral|halve|fuse).*)\.norm\.", r"\1.1."),
    (r"^(encoder\.attend\.\d+)\.self_attn_layer_norm\.", r"\1.around_attention.norm."),
    (r"^(encoder\.attend\.\d+)\.self_attn\.", r"\1.attention."),
)
DECODER: Rules = (
    (r"^model\.decoder_input_proj\.", "levels."),
    (r"^model\.enc_output\.", "look."),
    (r"^model\.enc_score_head\.", "classify_cells."),
    *mlp(r"model\.enc_bbox_head", "locate_cells"),
    (r"^model\.denoising_class_embed\.", "labels."),
    *mlp(r"model\.decoder\.query_pos_head", "place"),
    (r"^model\.decoder\.layers\.", "decoder."),
    (r"^(decoder\.\d+)\.self_attn_layer_norm\.", r"\1.around_self.norm."),
    (r"^(decoder\.\d+)\.encoder_attn_layer_norm\.", r"\1.around_cross.norm."),
    (r"^(decoder\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"^(decoder\.\d+)\.encoder_attn\.", r"\1.cross_attention."),
    (r"^class_embed\.", "classify."),
    *mlp(r"bbox_embed\.(\d+)", r"locate.\1"),
    (r"^model\.decoder\.class_embed\.", "again.classify."),
    *mlp(r"model\.decoder\.bbox_embed\.(\d+)", r"again.locate.\1"),
)
LAYERS: Rules = (
    (r"\.(?:mlp\.)?fc1\.", ".feed.0."),
    (r"\.(?:mlp\.)?fc2\.", ".feed.3."),
    (r"\.final_layer_norm\.", ".around_feed.norm."),
    (r"\.o_proj\.", ".out_proj."),
)


def options_of(tensors: Tensors) -> Options:
    """Options that shapes show; not the number of heads, of queries and of points for each level."""
    narrow, decoder = r"model\.encoder_input_proj\.(\d+)\.", r"model\.decoder\.layers\.(\d+)\."
    width = tensors["model.enc_output.0.weight"].shape[0]
    inner, levels = (
        len(tensors["model.encoder_input_proj.0.0.weight"]),
        count_of(tensors, r"model\.decoder_input_proj\.(\d+)\."),
    )
    feed = next(value for name, value in tensors.items() if re.match(decoder + r"(mlp\.)?fc1\.weight", name))
    options: Options = {
        "width": width,
        "encoder_width": 0 if inner == width else inner,
        "num_levels": levels,
        "encoder_layers": count_of(tensors, r"model\.encoder\.(?:encoder|aifi)\.0\.layers\.(\d+)\."),
        "decoder_layers": count_of(tensors, decoder),
        "feedforward": len(feed),
    }
    if count_of(tensors, narrow) > 1:
        options["expansion"] = len(tensors["model.encoder.fpn_blocks.0.conv1.conv.weight"]) / inner
    if "model.denoising_class_embed.weight" not in tensors:
        options["denoising"] = 0
    return options


def settle(tensors: Tensors) -> Tensors:
    """Pack queries, keys and values; remove constants, and the heads that are saved a second time under the decoder.

    Raises:
        WeightsError: those differ.
    """
    made = {n: v for n, v in tensors.items() if not re.search(r"n_points_scale$|^model\.(anchors|valid_mask)$", n)}
    for name in [name for name in made if name.startswith("again.")]:
        value, once = made.pop(name), name.removeprefix("again.")
        if once in made:
            insist_equal(made, once, value)
        made[once] = value
    for name in [name for name in made if ".q_proj." in name]:
        parts = [made.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        made[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return made


LAYOUTS = [
    Layout(
        "rt-detr of transformers", r"model\.encoder\.downsample_convs\.", "rt_detr",
        (*RESNET, *ENCODER, *DECODER, *LAYERS), ("model.enc_score_head.weight", 1, 0), False, options_of, settle,
    )
]  # fmt: skip
