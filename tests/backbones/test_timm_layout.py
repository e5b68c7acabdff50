"""A pushed backbone is loaded by timm from its folder with our outputs; what timm cannot build is told, not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from backbones import backbone
from backbones.timm_layout import config_of
from pretrain.weights.pushing import for_timm
from shared.errors import UsageError
from shared.feeding.pixels import PixelStats
from shared.weights.card import Card, Exported
from shared.weights.carried import take_in
from shared.weights.store import Store

STATS = PixelStats((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def export(store: Store, arch: str, size: int, **args: Any) -> tuple[Any, Exported]:
    torch.manual_seed(1)
    net: Any = backbone.build(arch, **args).eval()
    pixels = {"mean": list(STATS.mean), "std": list(STATS.std)}
    recipe = {"size": [size], "probe_share": 0.95}
    return net, store.put(net, Card(arch=arch, tag="t", epoch=1, args=args, pixels=pixels, recipe=recipe))


@pytest.mark.parametrize(
    ("arch", "size", "args"),
    [
        ("test_resnet", 64, {}),
        ("test_vit.r160_in1k", 96, {"img_size": [96, 96]}),
        ("mobilenet_v2", 64, {}),
    ],
)
def test_timm_loads_the_folder_with_our_outputs(tmp_path: Path, arch: str, size: int, args: Any) -> None:
    net, exported = export(Store(tmp_path / "weights"), arch, size, **args)
    (tmp_path / "out").mkdir()
    assert for_timm(exported, Store(tmp_path / "weights"), tmp_path / "out") is None
    theirs: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), net(image), rtol=1e-3, atol=1e-4)
    data = timm.data.resolve_model_data_config(theirs)
    assert (tuple(data["mean"]), tuple(data["std"])) == (STATS.mean, STATS.std)
    assert tuple(data["input_size"]) == (3, size, size) and data["crop_pct"] == 0.95
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_features"] == theirs.num_features
    headed: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7)
    assert headed.eval()(image).shape == (2, 7), "a classifier of one's own on top"
    taken, _ = take_in(tmp_path / "out", Store(tmp_path / "new"), "out")
    assert taken.digest == exported.digest
    assert (taken.path / "model.safetensors").read_bytes() == (exported.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arch", "args", "why"),
    [
        ("resnet18_vd", {}, "changed from timm's resnet18d"),
        ("tv_mobilenet_v3_large", {}, "not a network of timm"),
        ("darknet53", {}, "act_layer"),
        ("hrnet_w32c", {"aws_compat": True}, "changed from timm's hrnet_w32"),
    ],
)
def test_what_timm_cannot_build_from_words_is_told(arch: str, args: Any, why: str) -> None:
    with torch.device("meta"):
        net = backbone.build(arch, **args)
    with pytest.raises(UsageError, match=why):
        config_of(arch, net, STATS, args=args, size=(64, 64), share=0.9)


def test_a_config_that_gives_other_outputs_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrain.weights import pushing

    def with_other_pooling(*given: Any, **told: Any) -> dict[str, Any]:
        config = config_of(*given, **told)
        return config | {"model_args": {"global_pool": "max"}}

    _, exported = export(Store(tmp_path / "weights"), "test_resnet", 64)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(pushing, "config_of", with_other_pooling)
    reason = for_timm(exported, Store(tmp_path / "weights"), tmp_path / "out")
    assert reason is not None and "something else" in reason and not list((tmp_path / "out").iterdir())
