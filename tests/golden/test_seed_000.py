"""birder's 33 detection commands, unchanged: each parses, and each equals one of the recipes.

`seed_000.txt` holds them without the program name. Their weights are not published, so a command that names weights
must fail with exit code 4; without the weights its dry run must succeed.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detection.recipe import DetectRecipe
from shared.recipes.files import recipe_folder
from shared.recipes.flags import from_args
from shared.recipes.recipe import flat

LINES = (Path(__file__).parent / "seed_000.txt").read_text().splitlines()
RECIPES = [
    "deformable_detr_regnet_y_4g",
    "deformable_detr_boxref_rdnet_s",
    "deformable_detr_boxref_rdnet_s_multiscale",
    "deformable_detr_boxref_rdnet_s_probe",
    "detr_csp_resnet_50",
    "detr_tiny_vit_11m",
    "detr_vit_reg4_m16_rms_avg",
    "efficientdet_d0_efficientnet_v1_b0",
    "efficientdet_d3_efficientnet_v1_b3",
    "faster_rcnn_efficientnet_v2_s",
    "faster_rcnn_hieradet_base_warmup",
    "faster_rcnn_hieradet_base",
    "fcos_tiny_vit_5m",
    "fcos_efficientnet_v2_s_warmup",
    "fcos_efficientnet_v2_s",
    "retinanet_convnext_v2_tiny",
    "retinanet_csp_resnet_50",
    "ssd_mobilenet_v4_m",
    "ssdlite_mobilenet_v2",
    "ssdlite_mobilenet_v4_hybrid_m",
    "ssdlite_rope_i_vit_reg1_s16_pn_npn_avg_c1",
    "vitdet_vit_det_m16_rms",
    "vitdet_vit_det_m16_rms_objects365",
    "vitdet_vit_det_m16_rms_coco",
    "vitdet_vit_sam_b16",
    "faster_rcnn_csp_resnet_50",
    "faster_rcnn_resnet_v1_50",
    "ssd_mobilenet_v4_m_coco",
    "auto_labeler_1_train",
    "auto_labeler_2_reset",
    "auto_labeler_3_finetune",
    "auto_labeler_fcos_1_warmup",
    "auto_labeler_fcos_2_train",
]
OF_A_PLACE = ("data_path", "val_path", "coco_json_path", "coco_val_json_path", "class_file", "ignore_file")
each_line = pytest.mark.parametrize(("name", "line"), list(zip(RECIPES, LINES, strict=True)), ids=RECIPES)


def told(*argv: str) -> dict[str, Any]:
    """The settings of a command line, without data paths and without those its schedule does not use."""
    recipe = from_args(DetectRecipe, list(argv), prog="detect train", folder="detect", own="network_args").recipe
    values = {name: value for name, value in flat(recipe).items() if name not in OF_A_PLACE}
    looks_at = {"step": ("lr_step_size", "lr_step_gamma"), "multistep": ("lr_steps", "lr_step_gamma")}
    unused = {"lr_step_size", "lr_steps", "lr_step_gamma"} - set(looks_at.get(values["lr_scheduler"], ()))
    return {name: value for name, value in values.items() if name not in unused}


def test_the_seed_has_33_commands_of_fifty_flags() -> None:
    flags = {word for line in LINES for word in shlex.split(line) if word.startswith("--")}
    assert len(LINES) == 33 and len(flags) == 50


@each_line
def test_command_is_one_of_the_recipes(name: str, line: str) -> None:
    assert told(*shlex.split(line)) == told("--recipe", name)


def test_files_that_only_a_recipe_names_come_with_it() -> None:
    recipe = from_args(
        DetectRecipe,
        ["--recipe", "vitdet_vit_det_m16_rms_objects365"],
        prog="detect train",
        folder="detect",
        own="network_args",
    ).recipe
    assert (recipe_folder() / "classes" / recipe.data.ignore_file).is_file()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, write_coco: Callable) -> Path:
    """A home folder with the data sets that the commands name, two images each, and birder's class and ignore lists."""
    root = tmp_path_factory.mktemp("home")
    names = (recipe_folder() / "classes" / "coco91.txt").read_text().splitlines()
    lists = root / "public_datasets_metadata"
    lists.mkdir()
    (lists / "coco-classes.txt").write_text("\n".join(names))
    (lists / "objects365_ignore.txt").write_text("images/v1/patch6/objects365_v1_00320534.jpg\n")
    coco = root / "Datasets/cocodataset"
    for split in ("train", "val"):
        write_coco(
            coco / f"{split}2017", coco / f"annotations/instances_{split}2017.json", {1: "person", 90: "toothbrush"}
        )
        o365 = root / "Datasets/Objects365-2020" / split
        write_coco(o365, o365 / f"zhiyuan_objv2_{split}.json", {1: "Person", 365: "Table Tennis "})
    return root


@pytest.fixture
def dry(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run a command as a dry run in that home -> exit code, stdout, stderr."""
    from detection import cli

    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CHORDATE_CACHE", os.environ.get("CHORDATE_CACHE", str(Path.home() / ".cache/chordate")))
    monkeypatch.chdir(home)
    coco = home / "Datasets/cocodataset"
    demo = (coco / "train2017", coco / "annotations/instances_train2017.json")
    from types import SimpleNamespace

    both = {"train_images": demo[0], "train_json": demo[1], "val_images": demo[0], "val_json": demo[1]}
    monkeypatch.setattr("shared.feeding.demo.demo_data", lambda _: SimpleNamespace(**both))

    def run(words: list[str]) -> tuple[int, str, str]:
        places = ["--weights-dir", str(tmp_path / "weights"), "--output-dir", str(tmp_path / "runs")]
        code = cli.main(
            [
                "train",
                *words,
                "--dry-run",
                "--dry-steps",
                "0",
                "--device",
                "cpu",
                "--offline",
                "--num-workers",
                "0",
                *places,
            ]
        )
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


WEIGHTS = r"--(backbone-pretrained|reset-head)|--(backbone-tag|backbone-epoch|resume-epoch) \S+"


@pytest.mark.slow
@each_line
def test_command_runs_dry_and_is_refused_for_its_weights_alone(name: str, line: str, dry: Callable) -> None:
    without = re.sub(WEIGHTS, "", line)
    if without != line:
        code, _, said = dry(shlex.split(line))
        assert code == 4, said
    code, out, said = dry(shlex.split(without))
    assert code == 0, said
    assert "2 training images" in out
