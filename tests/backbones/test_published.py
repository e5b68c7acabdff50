"""Published backbone weights by torchvision's names, without a network: from the hub's cache, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from backbones import backbone
from backbones.published import BACKBONES, fill_published, published
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import pixel_stats

MOBILE = "MobileNet_V3_Large_Weights.IMAGENET1K_V1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's hub keeps its files here, and there is no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_file_in_the_cache_fills_the_backbone_and_tells_its_pixels(cache: Path) -> None:
    torch.manual_seed(0)
    theirs = models.mobilenet_v3_large().eval()
    torch.save(theirs.state_dict(), cache / "mobilenet_v3_large-8738ca79.pth")
    assert published(MOBILE).backbone == "tv_mobilenet_v3_large"
    ours = backbone.build("tv_mobilenet_v3_large", pretrained=True).eval()
    assert ours.pixels == pixel_stats("imagenet")
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(ours.forward_features(x)[-1], theirs.features(x), rtol=1e-4, atol=1e-5)
    for name in ("tv_mobilenet_v3_large_fpn", "tv_mobilenet_v3_large_ssdlite"):
        transfer = fill_published(backbone.build(name), MOBILE).transfer
        assert transfer.matched_params == transfer.total_params == 2_971_952
    with pytest.raises(WeightsError, match="they are those of --backbone tv_mobilenet_v3_large"):
        fill_published(backbone.build("tv_mobilenet_v3_large_ssdlite_reduced"), MOBILE)


def test_resnets_are_those_of_timm(cache: Path) -> None:
    torch.save(models.resnet18().state_dict(), cache / "resnet18-f37072fd.pth")
    net = backbone.build("resnet18")
    transfer, stats = fill_published(net, "ResNet18_Weights.IMAGENET1K_V1")
    assert transfer.matched_params == transfer.total_params and stats == pixel_stats("imagenet")


def test_vgg_of_ssd_expects_pixels_from_0_to_255_and_its_classifier_is_not_read(cache: Path) -> None:
    tensors = models.vgg.make_layers(models.vgg.cfgs["D"]).state_dict()
    tensors = {f"features.{name}": value for name, value in tensors.items()}
    tensors["classifier.0.weight"] = torch.tensor([float("nan")])
    torch.save(tensors, cache / "vgg16_features-amdegroot-88682ab5.pth")
    stats = fill_published(backbone.build("tv_vgg16"), "VGG16_Weights.IMAGENET1K_FEATURES").stats
    assert stats.std == pytest.approx((1 / 255,) * 3) and stats.mean == (0.48235, 0.45882, 0.40784)


def test_without_file_and_network_it_says_which_file_goes_where(cache: Path) -> None:
    wanted = "could not be downloaded .no route.; put resnet50-0676ba61.pth into .*checkpoints"
    with pytest.raises(WeightsError, match=wanted):
        published("ResNet50_Weights.IMAGENET1K_V1")
    with pytest.raises(WeightsError, match="could not be downloaded .--offline.; put"):
        published("ResNet50_Weights.IMAGENET1K_V1", offline=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ResNet50_Weight.IMAGENET1K_V1", "did you mean 'ResNet50_Weights'"),
        ("ResNet50_Weights.IMAGENET1K_V3", "there is ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V2"),
        ("ResNet50_Weights", "there is ResNet50_Weights.IMAGENET1K_V1"),
        ("Swin_T_Weights.IMAGENET1K_V1", "no published backbone weights"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        published(name)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), BACKBONES.items())
def test_every_family_has_the_tensors_of_its_backbone(family: str, name: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        theirs = get_model(family.removesuffix("_Weights").lower()).state_dict()
        ours: Any = backbone.build(name)
    mine = {n: v.shape for n, v in ours.net.state_dict().items()}
    plain = {n.removeprefix("features."): v.shape for n, v in theirs.items()}
    assert mine.items() <= plain.items()
