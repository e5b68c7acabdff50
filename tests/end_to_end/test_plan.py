"""A dry run refuses what the run would refuse, shows the values that were found, and says what may not be meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

PRETRAIN = "pretrain train --model test_resnet --size 32 --batch-size 8 -j 0 --device cpu --epochs 1 "
DETECT = (
    "detect train --network fcos --width 64 --depth 1 --backbone test_resnet --size 64 --batch-size 4 -j 0 "
    "--device cpu --epochs 1 "
)


@pytest.mark.parametrize("dry", ["", "--dry-run"])
@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("--tag ../up", "'../up' is not a valid tag"),
        ("--name a/b", "'a/b' is not a valid tag or name"),
        ("--epochs 0", "nothing would be trained"),
        ("--weights-dir taken", "--weights-dir taken cannot be written"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    extra: str, says: str, dry: str, shards: Path, coco: Path, run: Callable, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    for words in (f"{PRETRAIN} --data-path {shards}", f"{DETECT} --data-path {coco}"):
        ended = run(f"{words} {extra} {dry}")
        assert ended.code == 2 and says in ended.complaint
        assert not (tmp_path / "weights").exists() and not (tmp_path / "up").exists()


def test_a_dry_run_shows_what_was_found(shards: Path, coco: Path, run: Callable, tmp_path: Path) -> None:
    (tmp_path / "runs" / "fcos-test_resnet-scratch").mkdir(parents=True)
    lines = [
        " ".join(line.split()) for line in run(f"{DETECT} --data-path {coco} --dry-run --dry-steps 1").out.splitlines()
    ]
    for line in (
        "size 64 x 64",
        "device cpu",
        "workers 0",
        "classes 2: disc, square",
        "tag fcos-test_resnet-scratch-2",
    ):
        assert line in lines
    assert "run folder runs/fcos-test_resnet-scratch-2" in lines
    words = f"{PRETRAIN} --data-path {shards} --batch-size 1 --warmup-epochs 2 --dry-run --dry-steps 0"
    lines = [" ".join(line.split()) for line in run(words).out.splitlines()]
    assert "size 32 x 32" in lines and "classes 3" in lines and "run folder runs/test_resnet-supervised" in lines
    assert any(line.startswith("warning: the warm-up of 56 steps outlasts the run of 28") for line in lines)
    assert any(line.startswith("warning: batch norm takes its statistics from a single image") for line in lines)


def test_a_dry_run_takes_its_steps_in_all_processes_and_with_workers(
    shards: Path, ranks: Callable, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    main, other = ranks(f"{PRETRAIN} --data-path {shards} --batch-size 4 -j 1 --dry-run --dry-steps 4", 2)
    assert main.code == other.code == 0, main.err + other.err
    assert "measured in 4 steps on cpu" in main.out and "measured" not in other.out
    assert "4 steps of" in next(line for line in main.out.splitlines() if line.startswith("  time    about "))
    assert set(tmp_path.iterdir()) - before == set(tmp_path.glob("printed-*"))


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_a_batch_that_teaches_nothing_is_refused_at_the_door(
    dry: str, shards: Path, run: Callable, tmp_path: Path
) -> None:
    ended = run(f"{PRETRAIN} --data-path {shards} --method vicreg --expander-width 16 --batch-size 1 {dry}")
    assert ended.code == 2 and "give --batch-size 2 or more" in ended.complaint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_a_single_class_teaches_no_classifier(dry: str, run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "only"
    folder.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.jpg")
    assert run("pretrain pack photos shards --val-share 0").code == 0
    ended = run(f"{PRETRAIN} --data-path shards {dry}")
    assert ended.code == 3 and "the training data has one class" in ended.complaint
    assert run(f"{PRETRAIN} --data-path shards --method vicreg --expander-width 16 {dry} --dry-steps 1").code == 0


def test_ap_without_objects_of_a_size_is_na_everywhere(
    coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    ended = run(f"{DETECT} --data-path {coco} --name run")
    assert ended.code == 0 and "box_ap_large n/a" in ended.out and "-1.0" not in ended.out
    assert left("run").result()["metrics"]["box_ap_large"] is None
    assert next(iter(left("run").card()["metrics"])) == "box_ap"
    assert "box_ap_large" in (left("run").folder / "results.csv").read_text()
    assert ",n/a" in (left("run").folder / "results.csv").read_text()
    evaluated = run(f"detect eval --weights runs/run --data-path {coco} --json out.json")
    assert evaluated.code == 0 and "n/a" in evaluated.out
    assert json.loads((tmp_path / "out.json").read_text())["box_ap_large"] is None
    listed = run("detect list weights")
    assert "box_ap 0." in listed.out
