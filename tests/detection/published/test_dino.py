"""Imported DINO checkpoints compute what they did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detection.published.foreign import recognize
from shared.errors import WeightsError
from shared.weights.store import Store
from tests.detection.published.of_others import IMAGES, bring_in, loud_set_network

OFFICIAL = [
    (r"^backbone\.net\.", "backbone.0.body."),
    (r"^levels\.levels\.", "input_proj."),
    (r"^level_of$", "transformer.level_embed"),
    (r"^queries\.", "transformer.tgt_embed."),
    (r"^labels\.", "label_enc."),
    (r"^look\.0\.", "transformer.enc_output."),
    (r"^look\.1\.", "transformer.enc_output_norm."),
    (r"^classify_cells\.", "transformer.enc_out_class_embed."),
    (r"^locate_cells\.", "transformer.enc_out_bbox_embed.layers."),
    (r"^place\.", "transformer.decoder.ref_point_head.layers."),
    (r"^decoder_norm\.", "transformer.decoder.norm."),
    (r"^(en|de)coder\.(\d)", r"transformer.\1coder.layers.\2"),
    (r"around_attention\.norm|around_cross\.norm", "norm1"),
    (r"(transformer\.encoder.*)around_feed\.norm", r"\1norm2"),
    (r"around_self\.norm", "norm2"),
    (r"around_feed\.norm", "norm3"),
    (r"(encoder.*)\.attention\.", r"\1.self_attn."),
    (r"self_attention", "self_attn"),
    (r"cross_attention", "cross_attn"),
    (r"feed\.0", "linear1"),
    (r"feed\.3", "linear2"),
    (r"layers\.2\.(weight|bias)$", r"layers.1.\1"),
    (r"(head|embed)\.layers\.4\.(weight|bias)$", r"\1.layers.2.\2"),
]


def official(net: Any) -> dict[str, Tensor]:
    """By the names of the authors' program, which saves the heads for each layer, and again under the decoder."""
    made: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        if "num_batches_tracked" in name:
            continue
        for pattern, replacement in OFFICIAL:
            name = re.sub(pattern, replacement, name)
        head = re.match(r"(classify|locate)\.(.*)", name)
        if head is None:
            made[name] = value
            continue
        last = head[2] if head[1] == "classify" else f"layers.{int(head[2][0]) // 2}.{head[2][2:]}"
        for layer in range(len(net.decoder)):
            once = f"{'class' if head[1] == 'classify' else 'bbox'}_embed.{layer}.{last}"
            made |= {once: value, f"transformer.decoder.{once}": value}
    return made


def test_dino_files_say_what_they_said(tmp_path: Path, store: Store) -> None:
    net = loud_set_network("dino_detr", points=2)
    content = {"model": official(net), "epoch": 11}
    ours = bring_in(store, tmp_path / "dino.pth", content, "dino_detr", network_args={"heads": 4, "points": 2})
    brought: Any = ours.task.detector
    with torch.no_grad():
        wanted, found = net.predict(IMAGES), brought.predict(IMAGES)
    assert wanted.logits.std() > 0.05
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.boxes, wanted.boxes)
    assert ours.classes.source_ids == tuple(range(91)) and ours.classes.names[1] == "person"
    assert (brought.labels.weight[-1] == 0).all(), "of padding; the authors' program does not use it"


def test_heads_of_layers_that_differ_are_refused() -> None:
    tensors = official(loud_set_network("dino_detr", points=2))
    tensors["transformer.decoder.class_embed.1.bias"] = tensors["class_embed.1.bias"] + 1
    with pytest.raises(WeightsError, match=r"has two different tensors for classify\.bias"):
        recognize(tensors).renamed()
