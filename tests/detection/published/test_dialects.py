"""Flags of torchvision's and DETR's programs are translated, or ignored with a note."""

from __future__ import annotations

import pytest

from detection.published.dialects import LEFT_OUT, translate
from shared.errors import UsageError

DETR_EVALUATION = "--batch_size 2 --no_aux_loss --eval --resume detr-r50-e632da11.pth --coco_path /path/to/coco"


def test_a_model_of_torchvision_is_the_recipe_of_that_name() -> None:
    assert translate(["--model", "fcos_resnet50_fpn", "--epochs", "3"]).argv == [
        *("--recipe", "fcos_resnet50_fpn", "--epochs", "3")
    ]
    assert translate(["--model=fcos_resnet50_fpn"]).argv == ["--recipe", "fcos_resnet50_fpn"]


def test_a_network_of_ours_stays_a_network() -> None:
    assert translate(["--model", "fcos"]).argv == ["--model", "fcos"]


def test_a_network_on_nothing_that_has_a_recipe_of_its_name_starts_from_it() -> None:
    words = ["--network", "smca_detr", "--coco-path", "coco"]
    assert translate(words).argv == ["--recipe", *words[1:]]
    assert translate([*words, "--backbone", "resnet18"]).argv == [*words, "--backbone", "resnet18"]
    assert translate(words[:2]).argv == words[:2]


def test_a_model_that_is_a_recipe_beside_a_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="--model fcos_resnet50_fpn is a recipe, and --recipe names another"):
        translate(["--recipe", "bccd_fcos", "--model", "fcos_resnet50_fpn"])


def test_detrs_words_for_its_transformer_and_its_losses_are_ours() -> None:
    said = translate(["--enc_layers", "3", "--set_cost_bbox=4", "--hidden_dim", "64", "--nheads", "4"])
    words = "--encoder-layers 3 --l1-cost 4 --width 64 --heads 4"
    assert said.argv == words.split() and said.only_evaluate is None


def test_what_says_nothing_here_is_left_out_with_a_reason() -> None:
    said = translate(["--backend", "pil", "--use-v2", "--world-size", "8", "--dist-url", "env://", "--lr", "0.1"])
    assert said.argv == ["--lr", "0.1"]
    assert len(said.notes) == 4 and all(" is ignored: " in note for note in said.notes)
    assert all(LEFT_OUT[note.split()[0]][1] in note for note in said.notes)


def test_the_evaluation_of_seed_002_is_understood() -> None:
    said = translate(DETR_EVALUATION.split())
    assert said.only_evaluate == "detr-r50-e632da11.pth"
    assert said.argv == ["--batch-size", "2", "--no-aux-loss", "--coco-path", "/path/to/coco"]


def test_torchvisions_test_only_evaluates_weights_by_name() -> None:
    said = translate(["--test-only", "--weights", "coco", "--model", "fcos_resnet50_fpn"])
    assert said.only_evaluate == "coco" and said.argv == ["--recipe", "fcos_resnet50_fpn"]


@pytest.mark.parametrize("words", ["--eval", "--test-only --resume", "--eval --resume --lr 1"])
def test_an_evaluation_of_nothing_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="give them with --resume FILE or --weights NAME"):
        translate(words.split())


def test_frozen_weights_are_a_detector_to_start_from_whose_boxes_hold_still() -> None:
    words = ["--frozen_weights", "detr.pth", "--mask_loss_coef", "2"]
    assert translate(words).argv == ["--frozen-boxes", "--init-from", "detr.pth", "--mask-weight", "2"]


def test_weights_to_start_from_are_a_detector_to_start_from() -> None:
    assert translate(["--weights", "coco"]).argv == ["--init-from", "coco"]
