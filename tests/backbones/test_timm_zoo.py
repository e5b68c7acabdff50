"""The table over timm: what comes with a name, what a stage is, what is said when timm cannot help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones import backbone
from backbones.timm_zoo import ZOO, map_reach
from shared.errors import UsageError, WeightsError


def rates(net: nn.Module) -> list[float]:
    """Stochastic depth of every residual branch that has some."""
    return [layer.drop_prob for layer in net.modules() if type(layer).__name__ == "DropPath" and layer.drop_prob]


def test_drop_path_comes_with_the_name_unless_it_is_told() -> None:
    with torch.device("meta"):
        assert max(rates(backbone.build("convnext_v2_tiny"))) == pytest.approx(ZOO["convnext_v2_tiny"].drop_path)
        assert max(rates(backbone.build("convnext_v2_tiny", drop_path=0.05))) == pytest.approx(0.05)
        assert rates(backbone.build("convnext_v2_tiny", drop_path=0.0)) == []
        assert rates(backbone.build("resnet_v1_50")) == []


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v4_m", "test_efficientnet", "convnext_atto"])
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
    with pytest.raises(WeightsError, match="nobody publishes timm weights for this ViT; name a --backbone-tag"):
        backbone.build("vit_reg4_m16_rms_avg", pretrained=True)


def test_published_weights_out_of_reach_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", unreachable)
    with pytest.raises(WeightsError, match="published weights for resnet18 cannot be had .*no way there") as told:
        backbone.build("resnet18", pretrained=True)
    assert "\n" not in str(told.value) and told.value.exit_code == 4


def unreachable(*_: object, **__: object) -> None:
    raise OSError("no way there\nand a long story")


def test_network_without_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Linear(1, 1))  # every net of timm has maps by now
    with pytest.raises(UsageError, match="timm's resnet18 has no feature maps to offer; take another backbone"):
        backbone.build("resnet18")
