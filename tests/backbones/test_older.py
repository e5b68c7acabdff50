"""Names that timm's networks do not have today: its own filters map them, and those of transformers are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from backbones.foreign import recognize
from backbones.timm_zoo import Row, TimmBackbone
from shared.errors import WeightsError
from shared.weights.transfer import fill
from tests.backbones.of_foreign import scrambled

SMALL = {
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
}


def facebooks_convnext(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of facebookresearch/ConvNeXt."""
    made = {}
    for name, value in tensors.items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        made[name.replace("head.norm.", "norm.")] = value
    return {**made, "head.weight": torch.ones(3, 32), "head.bias": torch.ones(3)}


def microsofts_swin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stages that end with their downsampling, and buffers of indices, as in microsoft/Swin-Transformer."""
    made = {re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", n): v
            for n, v in tensors.items()}  # fmt: skip
    return {**made, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("name", "rename"),
    [("convnext_tiny", facebooks_convnext), ("swin_tiny_patch4_window7_224", microsofts_swin)],
)
@pytest.mark.parametrize("wrap", [dict, lambda tensors: {"module." + n: v for n, v in tensors.items()}])
def test_layout_of_the_authors_computes_the_same(name: str, rename: Callable[..., Any], wrap: Any) -> None:
    theirs, ours = scrambled(TimmBackbone(Row(name, SMALL[name]))), TimmBackbone(Row(name, SMALL[name])).eval()
    found = recognize({"model": wrap(rename(theirs.net.state_dict()))}, name, ours)
    assert found.layout == "older names, by timm's filter (model)"
    assert all("head" in dropped or "relative_position_index" in dropped for dropped in found.left_out)
    fill(ours, found.tensors, source="file", digest="")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_filter_that_would_resample_a_kernel_is_not_used() -> None:
    told = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 64}
    theirs, ours = TimmBackbone(Row("vit_tiny_patch16_224", told)), TimmBackbone(Row("vit_tiny_patch16_224", told))
    tensors = {f"visual.trunk.{name}": value for name, value in theirs.net.state_dict().items()}
    tensors["visual.trunk.patch_embed.proj.weight"] = torch.ones(32, 3, 14, 14)
    with pytest.raises(WeightsError, match=r"would resample patch_embed.proj.weight|of another shape"):
        fill(ours, recognize(tensors, "vit", ours).tensors, source="file", digest="")


TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
STAGES = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 32}
THEIRS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": ("ViT", {**TINY, "image_size": 32}, "test_vit"),
    "DINOv2": ("Dinov2", {**TINY, "image_size": 28, "patch_size": 14}, "test_vit"),
    "ResNet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "test_resnet"),
    "Swin": ("Swin", STAGES, "test_vit"),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "test_convnext"),
}


@pytest.mark.parametrize("family", THEIRS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("saved", [True, False], ids=["file", "state_dict"])
def test_names_of_transformers_are_said(family: str, prefix: str, saved: bool, tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers", "5.0")
    word, told, model = THEIRS[family]
    theirs = getattr(transformers, f"{word}Model")(getattr(transformers, f"{word}Config")(**told))
    tensors = theirs.state_dict()
    if saved:  # its files have older names than its modules
        from safetensors.torch import load_file

        theirs.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"tensor names of transformers \({family}\), and .* has timm's; import"):
        recognize({prefix + name: value for name, value in tensors.items()}, model, TimmBackbone(Row(model)))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "swin_tiny_patch4_window7_224"])
def test_timms_own_names_are_not_taken_for_those_of_transformers(name: str) -> None:
    from backbones.older import of_transformers

    assert of_transformers(timm.create_model(name).state_dict()) is None
