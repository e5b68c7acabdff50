"""CLIP's files fill the trunk and, in the same export, what follows it; files of something else are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone
from backbones.clip_files import image_part
from backbones.foreign import read_checkpoint
from detection.nets import detector
from detection.recipe import DetectRecipe
from detection.training.build import fill_what_follows, open_backbone
from pretrain.weights.importing import Import, import_weights
from shared.errors import WeightsError
from shared.feeding.pixels import pixel_stats
from shared.weights.card import expected_pixels
from shared.weights.store import Store

TEXT = {
    "text_projection": torch.zeros(4, 4),
    "token_embedding.weight": torch.zeros(9, 4),
    "logit_scale": torch.ones(()),
}


@pytest.fixture(scope="module")
def net() -> Backbone:
    torch.manual_seed(0)
    return backbone.build("clip_resnet50")


@pytest.fixture(scope="module")
def image(net: Backbone) -> dict[str, Tensor]:
    """An image part with values of its own, in half precision as OpenAI's."""
    torch.manual_seed(1)
    rest = net.rest()
    assert rest is not None
    return {
        name: torch.randn(value.shape).mul(0.02).half() if value.is_floating_point() else value
        for name, value in (net.state_dict() | rest.state_dict()).items()
    }


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def wanted(file: Path, model: str = "clip_resnet50") -> Import:
    return Import(file=file, model=model, tag="clip")


@pytest.mark.slow
def test_openais_file_fills_trunk_and_rest_under_one_tag(
    net: Backbone, image: dict[str, Tensor], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(behind("visual.", image) | TEXT, tmp_path / "RN50.pt")
    exported = import_weights(wanted(tmp_path / "RN50.pt"), store)
    said = capsys.readouterr().out
    assert "layout: clip" in said and "continues with it: attnpool, layer4" in said and "text_projection" in said
    assert expected_pixels(exported) == pixel_stats("clip")
    stored = load_file(exported.path / "model.safetensors")
    assert len(stored) == len(image) and all(value.dtype != torch.float16 for value in stored.values())
    recipe = DetectRecipe()
    model = replace(recipe.model, network="unidetector", backbone="clip_resnet50", backbone_tag="clip")
    opened = open_backbone(replace(recipe, model=model), store)
    built = detector.build("unidetector", opened.net, 3)
    filled = fill_what_follows(built, opened)
    assert filled.transfer is not None and filled.transfer.matched_tensors == filled.transfer.total_tensors == len(
        image
    )
    assert filled.transfer.matched_params == 8_562_528 + 14_964_736 + 14_789_632
    state = built.state_dict()
    assert torch.equal(state["backbone.layer3.5.conv3.weight"], image["layer3.5.conv3.weight"].float())
    assert torch.equal(state["head.region.attnpool.c_proj.weight"], image["attnpool.c_proj.weight"].float())
    layers = detector.build("unidetector", opened.net, 3, region="layers", width=8, hidden=8, vocabulary_width=8)
    assert fill_what_follows(layers, opened) == opened, "it does not continue with CLIP's, and takes the trunk alone"


def test_regionclips_file_gives_the_students_copy_and_says_what_is_left_out(
    net: Backbone, image: dict[str, Tensor]
) -> None:
    teacher = {name: value + 1 for name, value in image.items()}
    content = {"model": behind("backbone.", image) | behind("offline_backbone.", teacher)}
    content["model"] |= behind("teacher_backbone.", teacher) | behind("lang_encoder.", TEXT)
    found = image_part(content, "clip_resnet50", net, None)
    assert found.layout == "regionclip" and found.copies_note == ""
    assert torch.equal(found.trunk["conv1.weight"], image["conv1.weight"].float())
    assert torch.equal(found.rest["layer4.0.conv1.weight"], image["layer4.0.conv1.weight"].float())
    assert len(found.trunk) + len(found.rest) == len(image)
    assert {name.partition(".")[0] for name in found.left_out} == {
        "offline_backbone",
        "teacher_backbone",
        "lang_encoder",
    }
    with pytest.raises(WeightsError, match="only the teacher's copy"):
        image_part(behind("teacher_backbone.", teacher), "clip_resnet50", net, None)


@pytest.mark.parametrize(("prefix", "layout"), [("", "clip, image part"), ("module.visual.", "clip")])
def test_other_prefixes_are_found_too(net: Backbone, image: dict[str, Tensor], prefix: str, layout: str) -> None:
    found = image_part({"state_dict": behind(prefix, image)}, "clip_resnet50", net, None)
    assert found.layout == layout and not found.left_out and len(found.trunk) + len(found.rest) == len(image)


def test_files_without_clips_resnet_are_refused_with_what_they_are(net: Backbone) -> None:
    def refused(content: Any) -> str:
        with pytest.raises(WeightsError) as told:
            image_part(content, "clip_resnet50", net, None)
        return str(told.value)

    assert "only the text part" in refused(TEXT) and "only the text part" in refused(behind("lang_encoder.", TEXT))
    assert "a ViT" in refused({**TEXT, "visual.class_embedding": torch.zeros(4)})
    assert "it has fc.weight" in refused({"fc.weight": torch.zeros(4)})
    assert "no named tensors" in refused({"epoch": 3})


@pytest.mark.slow
def test_an_incomplete_rest_is_refused(image: dict[str, Tensor], store: Store, tmp_path: Path) -> None:
    torch.save({name: value for name, value in image.items() if "attnpool.q" not in name}, tmp_path / "RN50.pt")
    with pytest.raises(WeightsError, match=r"attnpool.q_proj.*give a complete file"):
        import_weights(wanted(tmp_path / "RN50.pt"), store)
    assert not store.all()


@pytest.mark.slow
def test_the_image_part_without_a_rest_is_imported_and_a_detector_says_so(
    image: dict[str, Tensor], store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({n: v for n, v in image.items() if not n.startswith(("layer4", "attnpool"))}, tmp_path / "trunk.pt")
    import_weights(wanted(tmp_path / "trunk.pt"), store)
    recipe = DetectRecipe()
    opened = open_backbone(replace(recipe, model=replace(recipe.model, backbone_tag="clip")), store)
    with torch.device("meta"):
        built = detector.build("unidetector", opened.net, 3)
    assert fill_what_follows(built, opened) == opened
    assert "starts from random weights" in caplog.text


@pytest.mark.slow
def test_regionclip_is_not_laid_over_an_ordinary_resnet(image: dict[str, Tensor], store: Store, tmp_path: Path) -> None:
    """Names and shapes of three stages agree, and the stem does not: that is no reason to load the three."""
    file = tmp_path / "regionclip.pth"
    torch.save({"model": behind("backbone.", image)}, file)
    with pytest.raises(WeightsError) as told:
        import_weights(wanted(file, "resnet_v1_50"), store)
    assert told.value.exit_code == 4 and "conv1.weight" in str(told.value)
    import_weights(wanted(file), store)
    recipe = DetectRecipe()
    model = replace(recipe.model, backbone="resnet_v1_50", backbone_tag="clip")
    with pytest.raises(WeightsError, match="no weights tagged 'clip' for resnet_v1_50") as told:
        open_backbone(replace(recipe, model=model), store)
    assert told.value.exit_code == 4


def test_a_torchscript_archive_is_refused_with_the_line_that_saves_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "RN50.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(file))
    with pytest.raises(WeightsError, match=r"TorchScript archive.*torch.jit.load\(") as told:
        read_checkpoint(file)
    assert "RN50-tensors.pt" in str(told.value)
