"""Imported DETR, Deformable DETR and SMCA checkpoints have the same outputs as the original networks."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detection.inference.trained import Trained
from detection.published.foreign import recognize
from detection.published.importing import classes_of
from shared.errors import WeightsError
from shared.weights.store import Store
from tests.detection.nets.of_transformers import (
    as_they_want,
    deformable_detr_of_transformers,
    detr_of_transformers,
)
from tests.detection.published.of_others import IMAGES, as_official, bring_in, loud_set_network


def insist_on_equal_sets(model: Any, ours: Trained) -> None:
    with torch.no_grad():
        wanted = model(**as_they_want(IMAGES, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 2))
        net: Any = ours.task.detector
        logits, boxes, *_ = net.predict(IMAGES)
    assert wanted.logits.std() > 0.05, "outputs of the queries differ"
    torch.testing.assert_close(logits[-1], wanted.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(boxes[-1], wanted.pred_boxes, rtol=1e-3, atol=1e-3)


def without_labels(model: Any) -> Any:
    return lambda **options: model(**{name: value for name, value in options.items() if name != "labels"})


def test_official_detr_files_say_what_transformers_detr_says(tmp_path: Path, store: Store) -> None:
    net = loud_set_network("detr")
    model = detr_of_transformers(net, 91)
    content = {"model": as_official(model, "detr", net), "args": argparse.Namespace(backbone="resnet18"), "epoch": 299}
    ours = bring_in(store, tmp_path / "detr.pth", content, "detr", network_args={"heads": 4})
    insist_on_equal_sets(without_labels(model), ours)
    assert ours.classes.source_ids == tuple(range(91)), "results have COCO's ids"
    assert (ours.classes.names[0], ours.classes.names[1], ours.classes.names[90]) == ("class 0", "person", "toothbrush")


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("deformable_detr", {}),
        ("deformable_detr_boxref", {"two_stage": True}),
        pytest.param("deformable_detr", {"num_levels": 1}, marks=pytest.mark.slow),
        pytest.param("deformable_detr_boxref", {}, marks=pytest.mark.slow),
    ],
)
def test_official_deformable_detr_files_say_what_transformers_does(
    network: str, options: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    net = loud_set_network(network, points=2, **options)
    model = deformable_detr_of_transformers(net, 91)
    official = as_official(model, "deformable", net)
    for name in [name for name in official if re.match(r"(class|bbox)_embed", name)]:  # also saved under the decoder
        if network == "deformable_detr_boxref" and (name.startswith("bbox") or options):
            official[f"transformer.decoder.{name}"] = official[name]
    args = {"heads": 4, "points": 2, "num_queries": 12}
    ours = bring_in(store, tmp_path / "deformable.pth", {"model": official}, network, network_args=args)
    insist_on_equal_sets(without_labels(model), ours)
    assert len(ours.classes) == 91


@pytest.mark.parametrize("kind", ["type4", *(pytest.param(f"type{i}", marks=pytest.mark.slow) for i in (1, 2, 3))])
def test_smca_files_say_what_they_said(kind: str, tmp_path: Path, store: Store) -> None:
    net = loud_set_network("smca_detr", dynamic_scale=kind)
    official: dict[str, Tensor] = {smca_name(name): value for name, value in net.state_dict().items()}
    for name in ("class_embed.weight", "class_embed.bias"):  # the last row is no object
        official[name] = torch.cat((official[name], official[name][:1]))
    ours = bring_in(store, tmp_path / "smca.pth", {"model": official}, "smca_detr")
    brought_in: Any = ours.task.detector
    with torch.no_grad():
        for wanted, found in zip(net.predict(IMAGES), brought_in.predict(IMAGES), strict=True):
            torch.testing.assert_close(found, wanted)
    assert ours.exported.card.args["network_args"].get("dynamic_scale", "type3") == kind


SMCA = [
    (r"^backbone\.net\.", "backbone.0.body."),
    (r"^narrow\.", "input_proj."),
    (r"^queries\.", "query_embed."),
    (r"^classify\.", "class_embed."),
    (r"^locate\.(\d)", r"bbox_embed.layers.\1"),
    (r"^refer\.(\d)", r"transformer.decoder.layers.0.point1.layers.\1"),
    (r"^gaussians\.(\d)\.norm", r"transformer.decoder.layers.\1.norm4"),
    (r"^gaussians\.(\d)\.move", r"transformer.decoder.layers.\1.point2"),
    (r"^gaussians\.(\d)\.scale", r"transformer.decoder.layers.\1.point3"),
    (r"^decoder_norm", "transformer.decoder.norm"),
    (r"^(en|de)coder\.(\d)", r"transformer.\1coder.layers.\2"),
    (r"around_attention\.norm|around_self\.norm", "norm1"),
    (r"(transformer\.encoder.*)around_feed\.norm", r"\1norm2"),
    (r"around_cross\.norm", "norm2"),
    (r"around_feed\.norm", "norm3"),
    (r"(encoder.*)\.attention\.", r"\1.self_attn."),
    (r"self_attention", "self_attn"),
    (r"cross_attention", "multihead_attn"),
    (r"feed\.0", "linear1"),
    (r"feed\.3", "linear2"),
    (r"layers\.2\.(weight|bias)$", r"layers.1.\1"),
    (r"layers\.4\.(weight|bias)$", r"layers.2.\1"),
]


def smca_name(name: str) -> str:
    for pattern, replacement in SMCA:
        name = re.sub(pattern, replacement, name)
    return name


PANOPTIC = [
    *((rf"^masks\.{part}\.conv\.", f"mask_head.lay{i}.") for i, part in enumerate(("first", "second"), 1)),
    *((rf"^masks\.{part}\.norm\.", f"mask_head.gn{i}.") for i, part in enumerate(("first", "second"), 1)),
    *((rf"^masks\.up\.{i}\.conv\.", f"mask_head.lay{i + 3}.") for i in range(3)),
    *((rf"^masks\.up\.{i}\.norm\.", f"mask_head.gn{i + 3}.") for i in range(3)),
    *((rf"^masks\.lateral\.{i}\.", f"mask_head.adapter{i + 1}.") for i in range(3)),
    (r"^masks\.mask\.", "mask_head.out_lay."),
    (r"^masks\.query\.", "bbox_attention.q_linear."),
    (r"^masks\.key\.", "bbox_attention.k_linear."),
    (r"^(?!mask_head|bbox_attention)", "detr."),
]


def test_panoptic_detr_files_draw_what_they_drew(tmp_path: Path, store: Store) -> None:
    net = loud_set_network("detr_panoptic")
    official: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        name = name if name.startswith("masks.") else smca_name(name)
        for pattern, replacement in PANOPTIC:
            name = re.sub(pattern, replacement, name)
        official[name] = value
    parts = {".".join(name.split(".")[:2]) for name in official if not name.startswith("detr.")}
    drawn = [*(f"lay{i}" for i in range(1, 6)), *(f"gn{i}" for i in range(1, 6)), *(f"adapter{i}" for i in (1, 2, 3))]
    asks = {"bbox_attention.q_linear", "bbox_attention.k_linear"}
    assert parts == {f"mask_head.{part}" for part in (*drawn, "out_lay")} | asks, "as facebookresearch/detr names them"
    ours = bring_in(store, tmp_path / "panoptic.pth", {"model": official}, "detr_panoptic", network_args={"heads": 4})
    theirs: list[Any] = net.detect(IMAGES)
    for wanted, found in zip(theirs, ours.task.detector.detect(IMAGES), strict=True):
        for field in ("boxes", "labels", "scores", "masks"):
            torch.testing.assert_close(dict(found)[field], wanted[field])


def test_rows_of_things_and_stuff_have_their_names_and_ids() -> None:
    """With the number of rows of the published panoptic files."""
    official = {
        "transformer.decoder.layers.0.norm1.weight": torch.ones(1),
        "bbox_attention.q_linear.bias": torch.ones(1),
    }
    official |= {"class_embed.weight": torch.ones(251, 4), "query_embed.weight": torch.ones(2, 4)}
    official |= {"transformer.encoder.layers.0.linear1.weight": torch.ones(8, 4)}
    classes = classes_of(recognize(official), None)
    assert classes.source_ids == tuple(range(250))
    assert [classes.names[i] for i in (1, 90, 92, 149, 200, 201)] == [
        "person", "toothbrush", "banner", "road", "rug-merged", "class 201",
    ]  # fmt: skip


def test_heads_that_layers_share_must_be_equal() -> None:
    net = loud_set_network("deformable_detr", points=2)
    official = as_official(deformable_detr_of_transformers(net, 91), "deformable", net)
    assert recognize(official).renamed().keys() >= {"classify.0.weight"}
    official["class_embed.1.weight"] = official["class_embed.1.weight"] + 1
    with pytest.raises(WeightsError, match="has two different tensors for classify.0.weight"):
        recognize(official).renamed()
