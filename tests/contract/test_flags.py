"""Every flag of every command: absurd values are refused in one sentence that names it, unknown flags at the door.

A knob, an option of a network or method, or a flag of a small command that is added later is in here by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from detection.recipe import DetectRecipe
from pretrain.probing.recipe import EvalRecipe
from pretrain.recipe import PretrainRecipe
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS
from shared.recipes.commands import collect
from shared.recipes.flags import Parser
from shared.recipes.offers import Offers, checked
from shared.recipes.other_programs import INSTEAD, OURS, SAME
from shared.recipes.recipe import all_knobs, make
from shared.recipes.values import Pixels, Range, hint_of

RECIPES = {"detect train": DetectRecipe, "pretrain train": PretrainRecipe, "pretrain eval": EvalRecipe}
OFFERS = [
    Offers("detection.nets", "detector"),
    Offers("pretrain.methods", "method"),
    Offers("detection.data.formats", "reader"),
    Offers("detection.data.formats", "writer"),
]
COMMANDS = {
    f"{program} {word}": command
    for program, package in (("detect", "detection"), ("pretrain", "pretrain"))
    for word, command in collect(package).items()
}
KNOBS = [(prog, name) for prog, recipe in RECIPES.items() for name in all_knobs(recipe)]
NEVER = ["nan", "inf", "-inf", "1e400", "three", "", "1,5", [], {}]  # whatever the range
FAR = [-1, -1e9, 1e18]  # refused, or valid by declaration


def kind_of(hint: Any) -> Any:
    """int, float, bool, Literal or another, of a type with None, several values or a range."""
    while get_origin(hint) not in (None, Literal):
        hint = get_args(hint)[0]
    return Literal if get_origin(hint) is Literal else hint


def refused(recipe: type, name: str, value: Any) -> str:
    with pytest.raises(UsageError) as told:
        make(recipe, {name: value})
    assert name in str(told.value) and "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(("prog", "name"), KNOBS)
def test_every_number_of_a_recipe_has_a_range_that_is_checked(prog: str, name: str) -> None:
    recipe = RECIPES[prog]
    _, field, hint = all_knobs(recipe)[name]
    kind, allowed = kind_of(hint), field.metadata["range"]
    if kind is Literal or kind is bool:
        refused(recipe, name, "perhaps")
    if kind not in (int, float):
        return
    assert (allowed.low, allowed.above) != (None, None), f"{name} has no smallest value"
    assert (allowed.high, allowed.below) != (None, None), f"{name} has no largest value"
    may_be_empty = "tuple" in str(hint) and (field.default == () or not field.metadata["count"])
    several = "tuple" in str(hint)  # as 1,5 is
    for value in NEVER[:-2] if may_be_empty else NEVER:
        if not (several and value == "1,5"):
            refused(recipe, name, value)
    for value in FAR:
        if not allowed.holds(value):
            refused(recipe, name, value if kind is float else int(value))
    if kind is int:
        refused(recipe, name, 2.5)
    if field.metadata["count"]:
        refused(recipe, name, [64] * 5 if kind is int else [0.5] * 5)


@pytest.mark.parametrize(
    ("offers", "name", "option"),
    [(offers, name, option) for offers in OFFERS for name in offers.table for option in offers.options(name)],
    ids=lambda part: part.kind if isinstance(part, Offers) else part,
)
def test_every_option_of_a_network_or_method_has_a_type_and_a_range(offers: Offers, name: str, option: str) -> None:
    annotation = offers.options(name)[option].annotation
    hint = hint_of(annotation)
    assert hint is not None, f"{option}: {annotation} is not a type of shared.recipes.values"
    inner = next((a for a in get_args(hint) if get_origin(a) is Annotated), hint)
    if get_origin(hint) is not Literal and kind_of(hint) in (int, float):
        allowed = next((about for about in get_args(inner) if isinstance(about, Range)), None)
        assert allowed is not None, f"{option} of {name} has no range; use Count, Width, Probability and the like"
        wrong = [*NEVER, *(value for value in FAR if not allowed.holds(value))]
        if get_origin(hint) is tuple:
            wrong = [value for value in wrong if value not in ([], "1,5")]  # none and two are several
    else:
        wrong = [[], {}, True] if kind_of(hint) is str else ["perhaps", [], 0.5]
    for value in wrong:
        with pytest.raises(UsageError, match=option) as told:
            checked(offers.kind, name, {option: value}, {option: annotation})
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_of_a_small_command_has_a_range(name: str) -> None:
    make_parser = COMMANDS[name].flags
    assert make_parser is not None, f"{name} declares no flags"
    parser = make_parser()
    assert isinstance(parser, Parser) and parser.prog == name
    for action in parser._actions:
        assert action.type not in (int, float), f"{action.dest} of {name} has no range; use whole(...) or number(...)"
        if action.type in (None, Path) or getattr(action.type, "__name__", "") == "key_value":
            continue
        assert callable(action.type)
        for value in ("nan", "inf", "1e400", "", "three", "-1", "1e18"):
            with pytest.raises(argparse.ArgumentTypeError):
                action.type(value)


@pytest.mark.parametrize("offers", OFFERS, ids=lambda offers: offers.kind)
def test_options_read_from_the_source_are_those_of_the_registry(offers: Offers) -> None:
    from detection.data.formats import reader, writer
    from detection.nets import detector
    from pretrain.methods import method

    registries: dict[str, Any] = {"detector": detector, "method": method, "reader": reader, "writer": writer}
    registry = registries[offers.kind]
    said = {name: {o: about.annotation for o, about in offers.options(name).items()} for name in offers.table}
    told = {name: {o: str(p.annotation) for o, p in registry.options(name).items()} for name in registry.names()}
    assert said == {name: options for name, options in told.items()}
    assert all(about.help for offer in offers.table.values() for about in offer.options.values())


def test_an_option_is_a_switch_everywhere_or_nowhere() -> None:
    for offers in OFFERS:
        for option in offers.all_options():
            kinds = {offers.options(name)[option].annotation == "bool" for name in offers.having(option)}
            assert len(kinds) == 1, option


WITHOUT_TORCH = """
import contextlib, io, json, logging, sys
for name in ("torch", "numpy", "PIL", "timm", "torchvision", "webdataset"):
    sys.modules[name] = None  # importing it raises
from detection.cli import main as detect
from pretrain.cli import main as pretrain
said = []
for program, words in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = {"detect": detect, "pretrain": pretrain}[program](words)
    said.append([code, told.getvalue()])
assert not logging.getLogger().handlers
print(json.dumps(said))
"""


def answers(lines: list[str], tmp_path: Path) -> list[tuple[int, str]]:
    """Exit code and stderr of each command line, in one process that cannot import torch, in an empty folder."""
    split = [(line.split()[0], line.split()[1:]) for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(split)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()), "a folder was made before the flags were read"
    return [(code, text) for code, text in json.loads(done.stdout.splitlines()[-1])]


def test_unknown_flags_are_answered_before_anything_is_opened(tmp_path: Path) -> None:
    lines = [f"{name} a b --nonsense-flag 3" for name in COMMANDS]
    lines += [f"{name} --nonsense_flag=3" for name in COMMANDS]
    for line, (code, text) in zip(lines, answers(lines, tmp_path), strict=True):
        assert code == 2 and "has no flag --nonsense-flag" in text and text.count("\n") == 1, (line, text)


ANSWERED = [
    ("detect train --network fcos --num-queries 300", "--num-queries is an option of deformable_detr"),
    ("detect train --network fcos --num-queries 300", "not of detector 'fcos', which has width"),
    ("detect train --network fcoss", "no detector 'fcoss', did you mean 'fcos'"),
    ("detect train --network detr --dropout 1.5", "dropout is 1.5; it must be from 0 to below 1"),
    ("detect train --network-args nonsense=3", "detector 'faster_rcnn' has no option 'nonsense'"),
    ("detect show-augment --early-stopping", "stopped early by --patience N"),
    ("detect import x.pth --network fcos --tag a --heads 4", "--heads is an option of deformable_detr"),
    ("detect predict --source a.jpg --weights x", "the images come first"),
    ("detect eval --weights x --data y --iou 0.5", "--nms-iou of `detect train`"),
    ("detect train --device 0,1", "a process uses one device"),
    ("detect train --world-size-x 2", "has no flag --world-size-x"),
    ("detect train data=coco.yaml", "'data=coco.yaml' follows no flag, did you mean '--data'"),
    ("detect train --size 1 2 3", "size is 1; it must be from 32"),
    ("detect train --size 64 64 64", "size has 3 values; give 1 or 2"),
    ("detect train --betas 0.9", "betas has 1 value; give 2"),
    ("detect train --rgb-mode imagnet", "'imagnet', did you mean 'imagenet'"),
    ("detect eval --weights x --dataset yolo", "--dataset is 'yolo'; it can be auto, coco"),
    ("detect eval --weights x --eval-backend mmeval", "it can be auto, pycocotools, hotcoco"),
    ("detect import x.pth --network fcos --tag a --rgb-mode rgb", "'rgb'; it can be imagenet, clip"),
    ("pretrain import x.pth --model resnet50 --tag a --rgb-mode rgb", "'rgb'; it can be imagenet, clip"),
    ("detect train --save-every 0", "save_every is '0'; give steps"),
    ("pretrain train --method vicreg --label-smoothing 0.1", "--label-smoothing is an option of supervised"),
    ("pretrain train --method vicregg", "no method 'vicregg', did you mean 'vicreg'"),
    ("pretrain train --weights x.pt", "`pretrain import FILE"),
    ("pretrain train --world-size 8", "torchrun"),
    ("pretrain pack --data-path a --output-dir b", "the folders come first"),
    ("pretrain launch sagemaker -- --lr 0", "the following arguments are required"),
]


def test_what_belongs_elsewhere_is_said_without_torch(tmp_path: Path) -> None:
    for (line, says), (code, text) in zip(ANSWERED, answers([line for line, _ in ANSWERED], tmp_path), strict=True):
        assert code == 2 and says in text and text.count("\n") == 1, (line, text)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("detect train", "--data x --imgsz 640 --batch 8", {"data_path": "x", "size": ["640"], "batch_size": "8"}),
        ("detect train", "--img=320 --lr0 0.01 --workers 2", {"size": ["320"], "lr": "0.01", "num_workers": "2"}),
        ("detect train", "--project out --name a --epochs=3", {"output_dir": "out", "name": "a", "epochs": "3"}),
        ("detect train", "--conf 0.2 --iou 0.6", {".min_score": "0.2", ".nms_iou": "0.6"}),
        ("detect train", "--coco_path c --lr_backbone 1e-5", {"data_path": "c", "backbone_lr": "1e-5"}),
        ("detect train", "--cos-lr --bf16", {"lr_scheduler": "cosine", "amp": True, "amp_dtype": "bfloat16"}),
        ("detect predict", "a --weights x --conf 0.25 --device 1", {"min_score": 0.25, "device": "cuda:1"}),
        ("detect eval", "--weights x --batch 4 --workers 1 --imgsz 64", {"batch_size": 4, "size": [64]}),
        (
            "pretrain train",
            "--model resnet50 --data-dir d --img-size 224 --batch-size 8 --opt adamw --sched cosine --output-dir o",
            {"model": "resnet50", "data_path": "d", "size": ["224"], "lr_scheduler": "cosine", "output_dir": "o"},
        ),
        ("pretrain train", "--mixup-alpha 0.2 --smoothing 0.1", {".mixup": "0.2", ".label_smoothing": "0.1"}),
        ("pretrain train", "--lr-warmup-epochs 5 --lr-min 0", {"warmup_epochs": "5", "lr_cosine_min": "0"}),
    ],
)
def test_habits_of_the_field_are_understood(name: str, line: str, expected: dict[str, Any]) -> None:
    make_parser = COMMANDS[name].flags
    assert make_parser is not None
    got = vars(make_parser().parse_exactly(line.split()))
    assert {key: got[key] for key in expected} == expected


def test_the_table_of_other_programs_names_flags_that_there_are() -> None:
    parsers = [command.flags() for command in COMMANDS.values() if command.flags is not None]
    known = {flag for parser in parsers for flag in parser.flags()}
    assert {ours.split()[0] for ours in SAME} <= known
    assert all(flag.startswith("--") and "_" not in flag for flag in (*OURS, *INSTEAD))


def test_the_names_of_pixel_statistics_are_those_there_are() -> None:
    assert set(get_args(Pixels)) == set(PIXEL_STATS)
