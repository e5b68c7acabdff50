"""Every backbone on offer keeps the contract: maps as promised, a vector as wide as promised, each parameter once.

Asked on the meta device, where tensors have shapes and no memory: no weights, no arithmetic, milliseconds a layer.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbones import Backbone, backbone
from shared.errors import UsageError
from shared.versions import installed, release

SWIN_OF_ANY_SIZE = pytest.mark.skipif(release(installed("timm") or "") < (1, 0, 31), reason="as of timm 1.0.31")
SIZES = [(320, 256), (480, 800)]
QUICK = ["resnet_v1_50", "vit_reg4_m16_rms_avg", "vit_det_m16_rms"]  # the others take over 2 s each

# parameters with 1000 classes, as the networks have them that the seeds name, and those of the authors' own Hiera
PARAMETERS = {
    "regnet_y_4g": 21_360_224,
    "rdnet_s": 50_436_448,
    "csp_resnet_50": 21_616_168,
    "tiny_vit_5m": 5_392_764,
    "tiny_vit_11m": 10_996_972,
    "vit_reg4_m16_rms_avg": 38_828_008,
    "efficientnet_v1_b0": 5_288_548,
    "efficientnet_v1_b3": 12_233_232,
    "efficientnet_v2_s": 21_458_488,
    "efficientnet_v2_m": 54_139_356,
    "hieradet_base": 51_248_872,
    "convnext_v2_tiny": 28_635_496,
    "mobilenet_v4_m": 9_715_512,
    "mobilenet_v4_hybrid_m": 11_074_648,
    "mobilenet_v2": 3_504_872,
    "rope_i_vit_reg1_s16_pn_npn_avg_c1": 22_050_280,
    "vit_det_m16_rms": 38_865_896,
    "vit_sam_b16": 86_881_512,
    "resnet_v1_50": 25_557_032,
    "resnet18_vd": 11_712_968,  # timm's resnet18d, and 64 x 64 weights with their norm
    "resnet34_vd": 21_821_128,
    "hrnet_w32c": 41_232_680,
    "resnet50_v1b": 25_557_032,
    "resnet50_v1d": 25_680_808,
    "resnet101_v1b": 44_549_160,
    "resnet101_v1d": 44_672_936,
    "darknet53": 41_609_928,
    "hiera_tiny": 27_910_216,
    "hiera_small": 35_008_072,
    "hiera_base": 51_524_968,
    "hiera_base_plus": 69_896_616,
    "hiera_large": 213_739_912,
    "hiera_abswin_tiny": 27_634_120,
    "hiera_abswin_small": 34_731_976,
    "hiera_abswin_base": 51_248_872,
    "clip_resnet50": 9_587_528,  # without its fourth stage and its pool
    # torchvision's without the dense layers that come before its own classifier
    "tv_mobilenet_v3_large": 3_932_952,
    "tv_mobilenet_v3_large_fpn": 3_932_952,
    "tv_mobilenet_v3_large_ssdlite": 3_932_952,
    "tv_mobilenet_v3_large_ssdlite_reduced": 2_101_512,
    "tv_vgg16": 15_227_688,
}
# as the seed's own program built them: --aws-compat
AWS_PARAMETERS = {
    "hrnet_w32c": 41_232_680,
    "resnet50_v1d": 25_680_808,
    "resnet101_v1d": 44_672_936,
    "darknet53": 41_592_296,
}
# channels at strides 4, 8, 16, 32, or at 16 alone, but for what stands in STRIDES
MAPS = {
    "regnet_y_4g": (128, 256, 512, 1088),
    "rdnet_s": (264, 512, 760, 1264),
    "csp_resnet_50": (128, 256, 512, 1024),
    "tiny_vit_5m": (64, 128, 160, 320),
    "tiny_vit_11m": (64, 128, 256, 448),
    "vit_reg4_m16_rms_avg": (512,),
    "efficientnet_v1_b0": (24, 40, 112, 320),
    "efficientnet_v1_b3": (32, 48, 136, 384),
    "efficientnet_v2_s": (48, 64, 160, 256),
    "efficientnet_v2_m": (48, 80, 176, 512),
    "hieradet_base": (96, 192, 384, 768),
    "convnext_v2_tiny": (96, 192, 384, 768),
    "mobilenet_v4_m": (48, 80, 160, 256),
    "mobilenet_v4_hybrid_m": (48, 80, 160, 256),
    "mobilenet_v2": (24, 32, 96, 320),
    "rope_i_vit_reg1_s16_pn_npn_avg_c1": (384,),
    "vit_det_m16_rms": (512,),
    "vit_sam_b16": (256,),
    "resnet_v1_50": (256, 512, 1024, 2048),
    "resnet18_vd": (64, 128, 256, 512),
    "resnet34_vd": (64, 128, 256, 512),
    "hrnet_w32c": (128, 256, 512, 1024),
    "resnet50_v1b": (256, 512, 1024, 2048),
    "resnet50_v1d": (256, 512, 1024, 2048),
    "resnet101_v1b": (256, 512, 1024, 2048),
    "resnet101_v1d": (256, 512, 1024, 2048),
    "darknet53": (128, 256, 512, 1024),
    "hiera_tiny": (96, 192, 384, 768),
    "hiera_small": (96, 192, 384, 768),
    "hiera_base": (96, 192, 384, 768),
    "hiera_base_plus": (112, 224, 448, 896),
    "hiera_large": (144, 288, 576, 1152),
    "hiera_abswin_tiny": (96, 192, 384, 768),
    "hiera_abswin_small": (96, 192, 384, 768),
    "hiera_abswin_base": (96, 192, 384, 768),
    "clip_resnet50": (256, 512, 1024),
    "tv_mobilenet_v3_large": (24, 40, 112, 960),
    "tv_mobilenet_v3_large_fpn": (160, 960),
    "tv_mobilenet_v3_large_ssdlite": (672, 960),
    "tv_mobilenet_v3_large_ssdlite_reduced": (672, 480),
    "tv_vgg16": (256, 512, 512),
}
STRIDES = {
    "tv_mobilenet_v3_large_fpn": (32, 32),  # the one that offers two maps of a stride, as its detectors want
    "tv_mobilenet_v3_large_ssdlite": (16, 32),
    "tv_mobilenet_v3_large_ssdlite_reduced": (16, 32),
    "tv_vgg16": (4, 8, 16),
    "clip_resnet50": (4, 8, 16),
}


def named(names: list[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def on_meta(name: str, **options: Any) -> Backbone:
    """Built there, or moved there where older releases of timm compute with values of tensors while they build."""
    try:
        with torch.device("meta"):
            return backbone.build(name, **options).eval()
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
        return backbone.build(name, **options).to("meta").eval()


def insist_on_the_contract(
    net: Backbone, sizes: list[tuple[int, int]] = SIZES, strides: tuple[int, ...] | None = None
) -> None:
    for height, width in sizes:
        images = torch.zeros(2, 3, height, width, device="meta")
        with torch.no_grad():
            shapes = [tuple(x.shape) for x in net.forward_features(images)]
            assert net(images).shape == (2, net.width)
        assert shapes == [(2, c, -(-height // s), -(-width // s)) for c, s in net.maps]
    offered = [info.stride for info in net.maps]
    assert offered == list(strides or sorted(set(offered))) and offered[0] >= 4, "finest first, one map per stride"
    everything = sorted(id(p) for p in net.parameters())
    stages, blocks = net.stages(), net.blocks()
    for steps in (stages, blocks):
        assert all(steps), "no step is empty"
        assert sorted(id(p) for step in steps for p in step) == everything, "each parameter once"
    assert len(blocks) >= len(stages) > 1


@pytest.mark.parametrize("name", named(backbone.names()))
def test_backbone_keeps_the_contract_and_has_the_parameters_of_its_paper(name: str) -> None:
    net = on_meta(name)
    insist_on_the_contract(net, strides=STRIDES.get(name))
    if name not in PARAMETERS:
        pytest.skip(f"the contract holds; no published parameter count of {name} is in the table")
    assert sum(p.numel() for p in net.parameters()) + (net.width + 1) * 1000 == PARAMETERS[name]
    strides = STRIDES.get(name) or ((16,) if len(MAPS[name]) == 1 else (4, 8, 16, 32))
    assert tuple(net.maps) == tuple(zip(MAPS[name], strides, strict=True))


def test_the_tables_are_of_backbones_on_offer() -> None:
    assert PARAMETERS.keys() == MAPS.keys() <= set(backbone.names())
    assert len(PARAMETERS) >= 30, "the named backbones of the recipes are all in the table"


@pytest.mark.slow
@pytest.mark.parametrize("name", AWS_PARAMETERS)
def test_backbone_as_the_seeds_program_built_it_keeps_the_contract_too(name: str) -> None:
    net = on_meta(name, aws_compat=True)
    insist_on_the_contract(net)
    assert sum(p.numel() for p in net.parameters()) + (net.width + 1) * 1000 == AWS_PARAMETERS[name]
    assert tuple(net.maps) == tuple(zip(MAPS[name], (4, 8, 16, 32), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_reg4_m16_rms_avg", "vit_det_m16_rms", "vit_sam_b16"])
def test_backbone_with_tables_for_an_oblong_keeps_the_contract_too(name: str) -> None:
    insist_on_the_contract(on_meta(name, img_size=(480, 800)))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "test_resnet",
        "test_vit",
        "test_efficientnet",
        "convnext_atto",
        pytest.param("swin_tiny_patch4_window7_224", marks=[pytest.mark.slow, SWIN_OF_ANY_SIZE]),
        pytest.param("vit_small_patch16_224", marks=pytest.mark.slow),
        pytest.param("vgg16_bn", marks=pytest.mark.slow),
    ],
)
def test_any_other_timm_name_keeps_it_too(name: str) -> None:
    assert name not in backbone.names()
    insist_on_the_contract(on_meta(name))


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no backbone 'convnext_v2_tny', did you mean 'convnext_v2_tiny'"):
        backbone.build("convnext_v2_tny")
