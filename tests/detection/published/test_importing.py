"""`detect import`: complete or refused; the card has the settings for evaluation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detection.inference.trained import Trained
from detection.published import references
from detection.published.importing import Import, import_detector, take_eps
from detection.training.start import find_weights
from shared.errors import DataError, Refusal, UsageError, WeightsError
from shared.weights.store import Store
from tests.detection.nets.of_transformers import (
    detr_of_transformers,
)
from tests.detection.published.of_others import as_official, bring_in, loud_set_network


def test_scales_take_up_what_another_batch_norm_adds_to_variances() -> None:
    """Also for a variance of a millionth of our epsilon."""
    theirs_norm: Any = FrozenBatchNorm2d(6, eps=0.0)
    ours = nn.Sequential(nn.BatchNorm2d(6)).eval()
    theirs_norm.running_var.copy_(torch.tensor([1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e3]))
    theirs_norm.weight.uniform_(0.5, 2)
    theirs_norm.running_mean.copy_(torch.randn(6) * theirs_norm.running_var.sqrt())  # else lost to rounding in theirs
    tensors = {f"0.{name}": value.clone() for name, value in theirs_norm.state_dict().items()}
    assert take_eps(ours, tensors, 0.0) == ["0.weight"]
    ours.load_state_dict(tensors, strict=False)
    x = torch.randn(2, 6, 5, 5) * theirs_norm.running_var.sqrt()[:, None, None]
    x = x + theirs_norm.running_mean[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs_norm(x), rtol=1e-4, atol=1e-4)
    assert take_eps(ours, tensors, 1e-5) == [], "nothing to take up"


# --- the card, and refusals ---------------------------------------------------------------------


@pytest.fixture
def detr_file(tmp_path: Path) -> Path:
    net = loud_set_network("detr")
    path = tmp_path / "detr.pth"
    torch.save({"model": as_official(detr_of_transformers(net, 91), "detr", net)}, path)
    return path


def test_card_says_what_it_is_and_how_it_is_evaluated(detr_file: Path, store: Store, capsys: Any) -> None:
    wanted = Import(
        file=detr_file, network="detr", tag="theirs", network_args={"heads": 4}, source="a friend", licence="Apache-2.0"
    )
    card = import_detector(wanted, store).card
    assert (card.kind, card.method, card.arch, card.tag) == ("detector", "import", "detr-resnet18", "theirs")
    assert card.source["sha256"] == hashlib.sha256(detr_file.read_bytes()).hexdigest()
    assert (card.source["file"], card.source["layout"], card.source["told"]) == ("detr.pth", "detr (model)", "a friend")
    assert (card.recipe["size"], card.recipe["max_size"], card.licence) == ([800, 800], 1333, "Apache-2.0")
    assert card.pixels["mean"] == [0.485, 0.456, 0.406]
    said = capsys.readouterr().out
    assert "layout: detr (model)" in said and "tensors" in said and "classes: 91, ids 0 to 90" in said


def test_a_published_file_is_known_by_its_sha256(
    detr_file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the sha256 distinguishes DC5 from the same network without dilation."""
    start = hashlib.sha256(detr_file.read_bytes()).hexdigest()[:8]
    dc5 = references.REFERENCES["detr_resnet50_dc5"]._replace(files={start: 1e-5})
    monkeypatch.setitem(references.REFERENCES, "detr_resnet50_dc5", dc5)
    args = {"heads": 4}
    card = import_detector(Import(file=detr_file, network="detr", tag="a", network_args=args), store).card
    assert card.args["backbone_args"] == {"dilation": True} and card.source["published"] == "detr_resnet50_dc5"
    trained = Trained(Store(store.root).find(None, "a"), torch.device("cpu"))
    assert trained.task.detector.backbone.maps[-1].stride == 16


def test_sizes_are_those_of_the_reference_or_as_told(detr_file: Path, store: Store) -> None:
    args = {"heads": 4}
    wanted = Import(file=detr_file, network="detr", tag="a", network_args=args, size=(320,), max_size=640)
    recipe = import_detector(wanted, store).card.recipe
    assert (recipe["size"], recipe["max_size"]) == ([320], 640)


def test_class_file_names_the_classes(detr_file: Path, store: Store, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {i}" for i in range(91)))
    wanted = Import(file=detr_file, network="detr", tag="a", network_args={"heads": 4}, class_file=names)
    assert import_detector(wanted, store).card.classes["names"][3] == "thing 3"
    names.write_text("one\ntwo\n")
    with pytest.raises(DataError, match="has 2 class names for 91 classes; give one name per class"):
        import_detector(wanted, store)


@pytest.mark.parametrize(
    ("wanted", "error", "sentence"),
    [
        (
            {"network": "faster_rcnn"},
            WeightsError,
            "is not a checkpoint of faster_rcnn: its key layout is detr .model.; give --network",
        ),
        (
            {"network": "smca_detr"},
            WeightsError,
            "is not a checkpoint of smca_detr: .*; give --network detr or detr_resnet50 or",
        ),
        ({"network": "detrr"}, UsageError, "no detector 'detrr', did you mean 'detr'"),
        ({"tag": "../x"}, UsageError, "is not a valid tag or name"),
        ({"backbone": "resnet50"}, WeightsError, "give its --backbone and network options .key layout: detr., or list"),
        ({"network_args": {"head": 4}}, UsageError, "no option 'head', did you mean 'heads'"),
        ({"file": Path("nowhere.pth")}, WeightsError, "cannot be read .* give a checkpoint file"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    detr_file: Path, store: Store, wanted: dict[str, Any], error: type[Refusal], sentence: str
) -> None:
    usual = {"file": detr_file, "network": "detr", "tag": "a", "network_args": {"heads": 4}}
    with pytest.raises(error, match=sentence) as refusal:
        import_detector(Import(**(usual | wanted)), store)
    assert "\n" not in str(refusal.value)
    assert not store.root.exists() or not store.all()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"layer1.0.conv1.weight": torch.ones(1)}, "a backbone, not a known detector .* `pretrain import FILE"),
        (
            {"something.weight": torch.ones(1)},
            "not a checkpoint of a known detector .something.weight.; give one of",
        ),
        ({"epoch": 3}, "has no named tensors"),
        (
            {"roi_heads.box_head.fc6.weight": torch.ones(1, 1)},
            "faster r-cnn but lacks backbone.fpn.inner_blocks.0.0.weight",
        ),
    ],
)
def test_a_file_that_is_no_detector_says_so(content: Any, sentence: str, tmp_path: Path, store: Store) -> None:
    with pytest.raises(WeightsError, match=sentence):
        bring_in(store, tmp_path / "x.pth", content, "faster_rcnn")


def test_a_file_named_as_weights_is_brought_in_once_under_its_own_name(detr_file: Path, store: Store) -> None:
    first = find_weights(str(detr_file), store.root)
    assert (first.card.args["network"], first.card.tag) == ("detr", detr_file.stem)
    assert find_weights(str(detr_file), store.root) == first
    assert len(store.all()) == 1


def test_an_address_is_no_file(store: Store) -> None:
    with pytest.raises(WeightsError, match="is a URL; download the file and give its path"):
        find_weights("https://example.org/detr-r50.pth", store.root)


def test_a_folder_that_is_not_there_is_answered_with_the_run_that_may_be_meant(tmp_path: Path, store: Store) -> None:
    (tmp_path / "runs" / "fcos-mine-tiny").mkdir(parents=True)
    with pytest.raises(WeightsError, match="neither a run, an export nor a tag in .*, did you mean 'fcos-mine-tiny'"):
        find_weights(str(tmp_path / "runs" / "fcos-mine"), store.root)
    with pytest.raises(WeightsError, match="neither a run, an export nor a tag in"):
        find_weights("fcos-resnet18/mine", store.root)
