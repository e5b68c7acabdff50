"""The table over timm: what comes with a name, what a stage is, what is said when timm cannot help."""

from __future__ import annotations

import time
from typing import Any

import pytest
import timm
import torch
from torch import nn

from backbones import backbone
from backbones.reach import map_reach
from backbones.timm_zoo import ZOO
from shared.errors import UsageError, WeightsError


def rates(net: nn.Module) -> list[Any]:
    """Stochastic depth of every residual branch that has some."""
    return [layer.drop_prob for layer in net.modules() if type(layer).__name__ == "DropPath" and layer.drop_prob]


def test_drop_path_comes_with_the_name_unless_it_is_told() -> None:
    with torch.device("meta"):
        assert max(rates(backbone.build("convnext_v2_tiny"))) == pytest.approx(ZOO["convnext_v2_tiny"].drop_path)
        assert max(rates(backbone.build("convnext_v2_tiny", drop_path=0.05))) == pytest.approx(0.05)
        assert rates(backbone.build("convnext_v2_tiny", drop_path=0.0)) == []
        assert rates(backbone.build("resnet_v1_50")) == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v4_m", "test_efficientnet", "convnext_atto", "vgg11_bn"])
def test_stage_k_ends_where_the_kth_map_does(name: str) -> None:
    with torch.device("meta"):
        net = backbone.build(name)
    names = {id(p): n for n, p in net.named_parameters()}
    staged = [{names[id(p)] for p in stage} for stage in net.stages()]
    reach = map_reach(net)
    assert len(staged) == len(net.maps) + 1
    seen: set[str] = set()
    for k, stage in enumerate(staged):
        seen |= stage
        if k == 0:
            assert stage < reach[0], "the stem is below the finest map"
        elif k < len(net.maps):
            assert seen == reach[k - 1]
    assert seen == set(names.values())


def test_reach_of_a_map_is_what_its_gradient_says(tiny_backbone: type) -> None:
    net = tiny_backbone()
    for k, expected in enumerate(map_reach(net)):
        net.zero_grad()
        net.forward_features(torch.randn(2, 3, 64, 64))[k].sum().backward()
        assert {name for name, p in net.named_parameters() if p.grad is not None} == expected
    assert net.training, "asking leaves the mode as it was"


def test_map_of_a_vit_keeps_the_places_of_the_image() -> None:
    """A bright corner is a change in that corner of the map, whatever the order of tokens inside."""
    net = backbone.build("test_vit").eval()
    image = torch.zeros(1, 3, 96, 160)
    marked = image.clone()
    marked[..., 64:80, 128:144] = 5.0
    with torch.no_grad():
        change = (net.forward_features(marked)[0] - net.forward_features(image)[0]).abs().sum(1)[0]
    assert change.shape == (6, 10)
    assert divmod(int(change.argmax()), 10) == (4, 8)


def test_published_weights_that_nobody_publishes_are_refused() -> None:
    with pytest.raises(WeightsError, match="timm has no published weights for this ViT"):
        backbone.build("vit_reg4_m16_rms_avg", pretrained=True)


def test_published_weights_out_of_reach_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", unreachable)
    with pytest.raises(
        WeightsError, match="published weights for resnet18 could not be downloaded .*no way there"
    ) as told:
        backbone.build("resnet18", pretrained=True)
    assert "\n" not in str(told.value) and told.value.exit_code == 4


def unreachable(*_: object, **__: object) -> None:
    raise OSError("no way there\nand a long story")


def test_network_without_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Linear(1, 1))  # every net of timm has maps by now
    with pytest.raises(UsageError, match="timm's resnet18 has no feature maps; use another backbone"):
        backbone.build("resnet18")


def test_stages_of_branches_side_by_side_are_those_of_the_network() -> None:
    """HRNet's finest map needs every branch, so its stages cannot end where maps do."""
    with torch.device("meta"):
        net = backbone.build("hrnet_w18_small")
    names = {id(p): name for name, p in net.named_parameters()}
    parts = [{names[id(p)].split(".")[1] for p in stage} for stage in net.stages()]
    assert parts[1:5] == [{"layer1", "transition1"}, {"stage2", "transition2"}, {"stage3", "transition3"}, {"stage4"}]
    assert sorted(id(p) for stage in net.stages() for p in stage) == sorted(id(p) for p in net.parameters())


def test_asking_which_parameters_a_map_needs_is_quick() -> None:
    with torch.device("meta"):
        net = backbone.build("resnet18")
    map_reach(net)
    begun = time.process_time()
    map_reach(net)
    assert time.process_time() - begun < 10  # a walk along every path of the graph takes minutes


# --- as the seed's program built it ---------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("resnet50_v1d", 25_680_808), ("darknet53", 41_592_296)])
def test_aws_networks_have_the_parameters_of_the_seeds(name: str, count: int) -> None:
    with torch.device("meta"):
        net = backbone.build(name, aws_compat=True)
    assert sum(p.numel() for p in net.parameters()) + (net.width + 1) * 1000 == count


def test_aws_hrnet_adds_no_negative_value_on_the_way_to_a_finer_branch() -> None:
    nets: list[Any] = [backbone.build("hrnet_w32c", aws_compat=told).eval() for told in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())  # the same tensors under the same names
    lowest: list[list[float]] = [[], []]
    for net, seen in zip(nets, lowest, strict=True):
        for way in (way for into in net.net.stage3[0].fuse_layers for way in into if isinstance(way, nn.Sequential)):
            if isinstance(way[0], nn.Conv2d) and way[0].kernel_size == (1, 1):
                way.register_forward_hook(lambda *told, seen=seen: seen.append(float(told[2].min())))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        fine = [net.forward_features(x)[0] for net in nets]
    assert len(lowest[0]) == len(lowest[1]) == 3 and min(lowest[0]) == 0 and max(lowest[1]) < 0
    assert not torch.allclose(*fine)


def test_darknet_is_leaky_by_a_tenth_and_aws_leaves_its_first_convolution_out() -> None:
    for told, channels in ((False, 32), (True, 3)):
        net: Any = backbone.build("darknet53", aws_compat=told)
        slopes = {layer.negative_slope for layer in net.modules() if isinstance(layer, nn.LeakyReLU)}
        assert slopes == {0.1} and net.net.stages[0].conv_down.conv.in_channels == channels
        assert net.forward_features(torch.zeros(1, 3, 64, 96))[0].shape == (1, 128, 16, 24)


def test_aws_resnet_v1d_does_not_pool_its_shortcuts() -> None:
    pools = []
    for told in (False, True):
        net: Any = backbone.build("resnet50_v1d", aws_compat=told)
        pools.append(sum(isinstance(layer, nn.AvgPool2d) for layer in net.net.layer2.modules()))
        assert net.net.conv1[0].out_channels == 64 and net.net.conv1[6].out_channels == 128
    assert pools == [1, 0]


def test_network_that_aws_built_as_its_paper_has_it_says_so() -> None:
    with pytest.raises(UsageError, match="built resnet50 as in the paper; remove --aws-compat"):
        backbone.build("resnet50_v1b", aws_compat=True)
    with pytest.raises(WeightsError, match="no published weights for --aws-compat networks; remove one"):
        backbone.build("hrnet_w32c", aws_compat=True, pretrained=True)


def test_published_weights_of_a_net_that_differs_are_named() -> None:
    with pytest.raises(WeightsError, match="of a slightly different net; use that one: darknet53.c2ns_in1k"):
        backbone.build("darknet53", pretrained=True)


# --- sizes ----------------------------------------------------------------------------------


def test_network_of_one_size_says_which_when_it_gets_another() -> None:
    net = backbone.build("test_mlp_mixer" if "test_mlp_mixer" in timm.list_models() else "gmlp_s16_224")
    assert net.only == (224, 224) and net.forward_features(torch.zeros(1, 3, 224, 224))[0].shape[-2:] == (14, 14)
    for ask in (net, net.forward_features):
        with pytest.raises(UsageError, match="accepts only images of 224x224, not 96x128; give --size 224 224"):
            ask(torch.zeros(1, 3, 96, 128))


def test_patches_that_do_not_divide_an_image_look_over_its_edge() -> None:
    net = backbone.build("test_vit").eval()
    with torch.no_grad():
        assert net.forward_features(torch.zeros(1, 3, 100, 150))[0].shape[-2:] == (7, 10)
        assert net(torch.zeros(1, 3, 100, 150)).shape == (1, net.width)


def test_tables_are_made_for_the_size_that_is_told() -> None:
    with torch.device("meta"):
        net: Any = backbone.build("vit_det_m16_rms", img_size=(672, 672))
    assert net.net.pos_embed.shape == (1, 42, 42, 512) and net.net.blocks[2].attn.rel_pos_h.shape == (83, 64)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(39.18e6, rel=1e-3)  # the seed's own count at 672
    with pytest.raises(UsageError, match="timm's resnet50 has no option for an image size; remove the size"):
        backbone.build("resnet_v1_50", img_size=(320, 320))


# -- dilation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "test_efficientnet", "convnext_atto", "regnetx_002"])
def test_dilation_leaves_the_last_stage_at_the_stride_of_the_one_before(name: str) -> None:
    with torch.device("meta"):
        plain, dilated = backbone.build(name), backbone.build(name, dilation=True)
        found = dilated.eval().forward_features(torch.zeros(1, 3, 128, 192))
    assert [info.stride for info in dilated.maps] == [4, 8, 16, 16]
    assert [info.channels for info in dilated.maps] == [info.channels for info in plain.maps]
    assert [tuple(x.shape[-2:]) for x in found] == [(32, 48), (16, 24), (8, 12), (8, 12)]
    assert [p.shape for p in dilated.parameters()] == [p.shape for p in plain.parameters()], "the weights fit"
    assert len(dilated.stages()) == len(plain.stages()) and dilated.width == plain.width


@pytest.mark.slow
@pytest.mark.parametrize("dilation", [False, True])
def test_maps_of_a_resnet_50_are_torchvisions_with_the_same_weights(dilation: bool) -> None:
    from torchvision.models import resnet50

    ours: Any = backbone.build("resnet_v1_50", dilation=dilation).eval()
    theirs: Any = resnet50(replace_stride_with_dilation=[False, False, dilation]).eval()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if value.is_floating_point() and not name.startswith("fc."):
                own = ours.net.state_dict()[name]
                own.copy_(value if "bn" not in name else value + 0.1 * torch.rand_like(value))
                value.copy_(own)
        x = torch.randn(1, 3, 96, 128)
        found, expected = ours.forward_features(x), theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for own, layer in zip(found, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            expected = layer(expected)
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    assert found[-1].shape == (1, 2048, *((6, 8) if dilation else (3, 4)))


@pytest.mark.parametrize("name", ["test_vit", "mobilenetv4_conv_small_050", "vgg11_bn", "hrnet_w18_small"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_net_that_has_no_dilated_form_says_so(name: str, pretrained: bool) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="remove --dilation, or use a ResNet"):
        backbone.build(name, dilation=True, pretrained=pretrained)
