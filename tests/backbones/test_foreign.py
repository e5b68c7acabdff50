"""A checkpoint of somebody else computes here what it computed there, whatever its tensors are called."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from backbones.foreign import read_checkpoint, recognize
from backbones.timm_zoo import Row, TimmBackbone
from shared.errors import WeightsError
from shared.feeding.pixels import PixelStats
from tests.backbones.of_foreign import behind, scrambled, taken, tiny_vit


def same(net: Any, reference: Callable[[Tensor], Tensor], size: int = 64, within: float = 1e-5) -> None:
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        ours, theirs = net(x), reference(x)
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < within


# --- convolutional networks -----------------------------------------------------------------


def torchvision_resnet(name: str) -> Any:
    import torchvision

    return scrambled(getattr(torchvision.models, name)())


def test_torchvision_resnet_computes_the_same_and_leaves_its_classifier_behind() -> None:
    theirs, ours = torchvision_resnet("resnet18"), backbone.build("resnet18")
    found = taken(theirs.state_dict(), ours, "resnet18")
    assert found.left_out == ["fc.weight", "fc.bias"] and found.layout == "plain" and found.pixels is None
    theirs.fc = nn.Identity()
    same(ours, theirs)


@pytest.mark.parametrize("full", [False, True], ids=["backbone alone", "full checkpoint"])
def test_official_vicreg_resnet50_computes_the_same(full: bool) -> None:
    theirs, ours = torchvision_resnet("resnet50"), backbone.build("resnet_v1_50")
    theirs.fc = nn.Identity()
    content: Any = theirs.state_dict()
    if full:
        projector = {"module.projector.0.weight": torch.ones(8, 2048), "module.projector.1.running_mean": torch.ones(8)}
        content = {"epoch": 1000, "model": behind("module.backbone.", content) | projector, "optimizer": {"state": {}}}
    found = taken(content, ours, "resnet_v1_50")
    assert found.layout == ("vicreg (model)" if full else "plain")
    assert found.left_out == (["module.projector.0.weight", "module.projector.1.running_mean"] if full else [])
    same(ours, theirs)


def test_file_without_batch_counters_is_whole() -> None:
    theirs, ours = torchvision_resnet("resnet18"), backbone.build("resnet18")
    old = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    taken(old, ours, "resnet18")
    theirs.fc = nn.Identity()
    same(ours, theirs)


# --- vision transformers --------------------------------------------------------------------


def test_torchvision_vit_computes_the_same() -> None:
    from torchvision.models import VisionTransformer

    theirs = scrambled(VisionTransformer(64, 16, 2, 2, 32, 128))
    ours = tiny_vit()
    found = taken(theirs.state_dict(), ours)
    assert found.layout == "torchvision vit" and found.left_out == ["heads.head.weight", "heads.head.bias"]
    theirs.heads = nn.Identity()
    same(ours, theirs)


@pytest.mark.parametrize("key", ["state_dict", "state_dict_ema", "model"])
def test_timm_training_checkpoint_computes_the_same(key: str) -> None:
    theirs, ours = scrambled(tiny_vit()), tiny_vit()
    head = {"head.weight": torch.ones(10, 32), "head.bias": torch.ones(10)}
    content = {"epoch": 3, "arch": "vit", "args": argparse.Namespace(lr=1), key: theirs.net.state_dict() | head}
    if key == "state_dict_ema":
        content["state_dict"] = tiny_vit().net.state_dict()  # the average is what counts
    assert taken(content, ours).left_out == ["head.weight", "head.bias"]
    same(ours, theirs)


def test_ijepa_gives_its_target_encoder() -> None:
    args = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    target, student, ours = (scrambled(tiny_vit(**args)) for _ in range(3))
    content = {
        "encoder": behind("module.", student.net.state_dict()),
        "predictor": {"module.mask_token": torch.ones(1, 1, 8)},
        "target_encoder": behind("module.", target.net.state_dict()),
        "opt": {"state": {}},
        "epoch": 300,
    }
    assert taken(content, ours).layout == "i-jepa (target_encoder)"
    same(ours, target)
    del content["target_encoder"]
    assert taken(content, ours).layout == "plain (encoder)"
    same(ours, student)


@pytest.mark.parametrize("decoder", [False, True], ids=["encoder alone", "with decoder"])
def test_mae_computes_the_same(decoder: bool, tmp_path: Path) -> None:
    theirs, ours = scrambled(tiny_vit()), tiny_vit()
    tensors = dict(theirs.net.state_dict())
    if decoder:
        tensors |= {
            "mask_token": torch.ones(1, 1, 16),
            "decoder_pos_embed": torch.ones(1, 17, 16),
            "decoder_blocks.0.norm1.weight": torch.ones(16),
            "decoder_pred.weight": torch.ones(768, 16),
        }
    torch.save({"model": tensors, "args": argparse.Namespace(mask_ratio=0.75, output_dir="out")}, tmp_path / "mae.pth")
    found = taken(read_checkpoint(tmp_path / "mae.pth"), ours)
    assert found.layout == ("mae (model)" if decoder else "plain (model)")
    assert len(found.left_out) == (4 if decoder else 0)
    same(ours, theirs)


def hub_dinov2(theirs: Any) -> dict[str, Tensor]:
    """The hub's names for what transformers calls otherwise."""
    tensors = theirs.state_dict()
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    made = {names[name]: value for name, value in tensors.items() if name in names}
    for i in range(theirs.config.num_hidden_layers):
        layer = {name.partition(f"layer.{i}.")[2]: v for name, v in tensors.items() if f"layer.{i}." in name}
        made |= behind(f"blocks.{i}.", as_hub_block(layer))
    return made


def as_hub_block(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in layer.items():
        name = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", name)
        name = name.replace("attention.o_proj", "attn.proj").replace("up_proj", "fc1").replace("down_proj", "fc2")
        renamed[name] = value
    for kind in ("weight", "bias"):
        parts = [renamed.pop(f"attention.{which}_proj.{kind}", None) for which in "qkv"]
        some = next(part for part in parts if part is not None)
        renamed[f"attn.qkv.{kind}"] = torch.cat([torch.zeros_like(some) if p is None else p for p in parts])
    return renamed


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_computes_the_same(registers: int) -> None:
    transformers = pytest.importorskip("transformers", "5.0")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    told = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    told |= {"num_register_tokens": registers} if registers else {}
    theirs = scrambled(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**told)))
    apart = {"reg_tokens": registers, "no_embed_class": True} if registers else {}
    ours = tiny_vit(img_size=56, patch_size=14, init_values=1e-5, **apart)
    found = taken(hub_dinov2(theirs), ours)
    assert found.layout == "dinov2" and found.left_out == ["mask_token"]
    same(ours, lambda x: theirs(x).pooler_output, 56)


def test_dinov2_training_checkpoint_with_chunked_blocks_and_heads_computes_the_same() -> None:
    theirs, ours = scrambled(tiny_vit(init_values=1e-5)), tiny_vit(init_values=1e-5)
    tensors = {re.sub(r"blocks\.", "blocks.0.", name): value for name, value in theirs.net.state_dict().items()}
    teacher = behind("backbone.", tensors | {"mask_token": torch.ones(1, 32)})
    content = {"teacher": teacher | {"dino_head.last_layer.weight": torch.ones(3, 3)}, "student": {}}
    found = taken(content, ours)
    assert found.layout == "dinov2 (teacher)"
    assert found.left_out == ["dino_head.last_layer.weight", "backbone.mask_token"]
    same(ours, theirs)


def test_swiglu_of_dinov2_goes_where_timm_has_it() -> None:
    from timm.layers.mlp import SwiGLUPacked

    args = {"mlp_layer": lambda: SwiGLUPacked, "act_layer": lambda: nn.SiLU}
    theirs, ours = scrambled(tiny_vit(**args)), tiny_vit(**args)
    names = {name: name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") for name in theirs.net.state_dict()}
    taken({names[name]: value for name, value in theirs.net.state_dict().items()}, ours)
    same(ours, theirs)


@pytest.mark.parametrize("biased", [False, True], ids=["distilled, no bias", "bias"])
def test_dinov3_computes_the_same(biased: bool) -> None:
    transformers = pytest.importorskip("transformers", "5.0")
    told = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    told |= {"image_size": 64, "num_register_tokens": 4, "query_bias": biased, "value_bias": biased}
    theirs = scrambled(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**told)))
    name = "vit_small_patch16_dinov3_qkvb" if biased else "vit_small_patch16_dinov3"
    ours: Any = TimmBackbone(Row(name, {"embed_dim": 64, "depth": 2, "num_heads": 1}))
    found = taken(hub_dinov3(theirs), ours)
    assert found.layout == "dinov3" and "rope_embed.periods" in found.left_out and "mask_token" in found.left_out
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted, made = theirs(x).last_hidden_state, ours.net.forward_features(x)
    assert float((made - wanted).abs().max() / wanted.abs().max()) < 1e-4


def hub_dinov3(theirs: Any) -> dict[str, Tensor]:
    tensors = theirs.state_dict()
    made = {
        "cls_token": tensors["embeddings.cls_token"],
        "storage_tokens": tensors["embeddings.register_tokens"],
        "mask_token": tensors["embeddings.mask_token"][0],
        "patch_embed.proj.weight": tensors["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": tensors["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": torch.ones(16),
        "norm.weight": tensors["norm.weight"],
        "norm.bias": tensors["norm.bias"],
    }
    for i in range(theirs.config.num_hidden_layers):
        layer = {name.partition(f"layer.{i}.")[2]: v for name, v in tensors.items() if f"layer.{i}." in name}
        layer.setdefault("attention.q_proj.bias", torch.zeros(theirs.config.hidden_size))
        block = as_hub_block(layer)
        block["attn.qkv.bias_mask"] = torch.ones(3 * theirs.config.hidden_size)
        made |= behind(f"blocks.{i}.", block)
    return made


def test_bias_that_the_network_lacks_is_refused_unless_it_is_zero() -> None:
    ours: Any = TimmBackbone(Row("vit_small_patch16_dinov3", {"embed_dim": 64, "depth": 1, "num_heads": 1}))
    tensors = {
        **ours.net.state_dict(),
        "storage_tokens": ours.net.reg_token + 1,
        "blocks.0.attn.qkv.bias": torch.ones(192),
    }
    del tensors["reg_token"]
    with pytest.raises(WeightsError, match="1 unexpected .net.blocks.0.attn.qkv.bias"):
        taken(tensors, ours)
    taken(tensors | {"blocks.0.attn.qkv.bias": torch.zeros(192)}, ours)


# --- birder ---------------------------------------------------------------------------------


def birder_file(net: Any, **told: Any) -> dict[str, Any]:
    stats = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    return {
        "state": net.state_dict(),
        "birder_version": "0.8.4",
        "task": "image_classification",
        "rgb_stats": stats,
    } | told


def birder_net(name: str) -> Any:
    pytest.importorskip("birder")
    from birder.model_registry import registry

    return scrambled(registry.net_factory(name, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet_v1_50",
        "vit_reg4_m16_rms_avg",
        "regnet_y_4g",
        "hieradet_base",
        "csp_resnet_50",
        "convnext_v2_tiny",
        "mobilenet_v4_hybrid_m",
        "tiny_vit_5m",
        "efficientnet_v1_b0",
    ],
)
def test_birder_network_computes_the_same(name: str) -> None:
    theirs, ours = birder_net(name), backbone.build(name, drop_path=0.0)
    found = taken(birder_file(theirs), ours, name)
    assert found.layout == "birder 0.8.4, by order" and found.left_out == ["classifier.weight", "classifier.bias"]
    assert found.pixels == PixelStats((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps = list(zip(ours.forward_features(x), theirs.detection_features(x).values(), strict=True))
    assert len(maps) in (1, 4)
    assert all(float((a - b).abs().max() / b.abs().max()) < 2e-4 for a, b in maps)


def test_birder_file_is_taken_by_order_when_shapes_agree_one_to_one() -> None:
    theirs, ours = scrambled(backbone.build("mobilenet_v2")), backbone.build("mobilenet_v2")
    tensors = {f"body.layer{i}.{n.rpartition('.')[2]}": v for i, (n, v) in enumerate(theirs.net.state_dict().items())}
    taken(birder_file(nn.Linear(1, 1), state=tensors | {"classifier.bias": torch.ones(3)}), ours, "mobilenet_v2")
    same(ours, theirs)


def test_birder_file_of_another_network_is_refused() -> None:
    ours: Any = backbone.build("mobilenet_v2")
    tensors = dict(ours.net.state_dict())
    with pytest.raises(
        WeightsError, match="311 tensors do not match the 312 of mobilenet_v2 one to one .*give its --model"
    ):
        recognize(birder_file(ours, state=dict(list(tensors.items())[1:])), "mobilenet_v2", ours)
    swapped = dict(reversed(tensors.items()))
    with pytest.raises(WeightsError, match="do not match the 312 of mobilenet_v2 one to one .*bn2.num_batches_tracked"):
        recognize(birder_file(ours, state=swapped), "mobilenet_v2", ours)
    with pytest.raises(WeightsError, match="can be imported only for the named backbones .*, and resnet18 is not one"):
        recognize(birder_file(ours), "resnet18", ours)
