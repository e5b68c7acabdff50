"""Imported RT-DETR v2 checkpoints of transformers have the same outputs as the original network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detection.inference.trained import Trained
from detection.published.importing import Import, import_detector
from detection.types import Images
from shared.errors import WeightsError
from shared.weights.store import Store
from tests.detection.nets.of_rt_detr import loud

IMAGES = Images(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2)), [(128, 128)] * 2)
ARGS = {"heads": 4, "num_queries": 12, "points": 2}


@pytest.fixture(scope="module")
def theirs() -> Any:
    """RT-DETR v2 on a ResNet-D of few layers."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    torch.manual_seed(4)
    body = RTDetrResNetConfig(depths=[2, 2, 2, 2], out_indices=[2, 3, 4])
    width = {"d_model": 32, "encoder_hidden_dim": 48, "decoder_in_channels": [48] * 3}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_n_points": 2, "num_queries": 12}
    more = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 2, "hidden_expansion": 0.5}
    config = RTDetrV2Config(backbone_config=body, num_labels=80, **width, **heads, **more)
    return loud(RTDetrV2ForObjectDetection(config)).eval()


@pytest.fixture(scope="module")
def small() -> Any:
    """RT-DETR v2 on a ResNet-18, whose blocks have two convolutions and a first shortcut with one."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    torch.manual_seed(5)
    body = RTDetrResNetConfig(
        depths=[2] * 4, hidden_sizes=[64, 128, 256, 512], layer_type="basic", out_indices=[2, 3, 4]
    )
    width = {"d_model": 32, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_n_points": 2, "num_queries": 12}
    config = RTDetrV2Config(backbone_config=body, num_labels=80, **width, **heads)
    return loud(RTDetrV2ForObjectDetection(config)).eval()


def bring_in(store: Store, file: Path, **options: Any) -> Trained:
    wanted = Import(file=file, network="rt_detr", tag="theirs", backbone="resnet26d", network_args=ARGS, **options)
    return Trained(import_detector(wanted, store), torch.device("cpu"))


def test_published_files_say_what_transformers_says(theirs: Any, tmp_path: Path, store: Store) -> None:
    theirs.save_pretrained(tmp_path)  # with the names of the published files, which differ from those in its programs
    ours = bring_in(store, tmp_path / "model.safetensors")
    with torch.no_grad():
        out = theirs(IMAGES.pixels)
        found = ours.task.detector.predict(IMAGES)  # type: ignore[operator]
    assert out.logits.std() > 0.05, "outputs of the queries differ"
    # 30 layers of other kernels; weights in other places differ by as much as the outputs of the queries do
    torch.testing.assert_close(found.logits[-1], out.logits, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(found.boxes[-1], out.pred_boxes, rtol=1e-3, atol=1e-3)
    assert (ours.classes.names[0], ours.classes.names[79]) == ("person", "toothbrush")
    assert (ours.classes.source_ids[0], ours.classes.source_ids[79]) == (1, 90), "results have COCO's ids"
    card = ours.exported.card
    assert card.pixels == {"mean": [0.0] * 3, "std": [1.0] * 3}
    assert tuple(card.recipe["size"]) == (640, 640) and card.recipe["max_size"] is None


def test_small_backbones_are_recognized_and_so_are_the_names_of_its_programs(
    small: Any, tmp_path: Path, store: Store
) -> None:
    torch.save(small.state_dict(), tmp_path / "small.pth")
    wanted = Import(file=tmp_path / "small.pth", network="rt_detr", tag="theirs", network_args=ARGS)
    ours = Trained(import_detector(wanted, store), torch.device("cpu"))
    assert ours.exported.card.args["backbone"] == "resnet18_vd"
    with torch.no_grad():
        found = ours.task.detector.predict(IMAGES)  # type: ignore[operator]
        torch.testing.assert_close(found.logits[-1], small(IMAGES.pixels).logits, rtol=1e-3, atol=2e-3)


def test_two_different_heads_of_a_layer_are_refused(theirs: Any, tmp_path: Path, store: Store) -> None:
    content = {name: value.clone() for name, value in theirs.state_dict().items()}
    content["class_embed.1.bias"] += 1
    torch.save(content, tmp_path / "rt_detr.pth")
    with pytest.raises(WeightsError, match=r"two different tensors for classify\.1\.bias"):
        bring_in(store, tmp_path / "rt_detr.pth")
