"""Two stages: a localizer proposes, another network names what it finds; what does not belong together is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detection import cli

SMALL = "--backbone test_resnet --width 16 --hidden 32 --regions 16 --size 96 --epochs 1 --batch-size 2 --device cpu "
SMALL += "--threads 1 --num-workers 0 --data-path coco --pictures 1"
FIRST = f"train --network unidetector_cln --candidates 50 --max-detections 60 {SMALL}"
SECOND = (
    f"train --network unidetector_regions --region layers --vocabulary-width 16 --min-score 0 --soft-floor 0 {SMALL}"
)


@pytest.fixture
def said(in_folder: Path, write_coco: Callable[..., None], capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """A COCO folder of four and five images, and a runner of commands that gives what a failing one says."""
    for split in ("train", "val"):
        write_coco(
            in_folder / "coco" / split,
            in_folder / f"coco/annotations/{split}.json",
            {2: "red", 5: "green"},
            4 + (split == "val"),
        )
        (in_folder / f"coco/annotations/{split}.json").rename(in_folder / f"coco/annotations/instances_{split}.json")

    def run(line: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = cli.main(line.split())
        told = capsys.readouterr()
        assert ended == code, told.err
        return told.err if code else told.out

    return run


@pytest.mark.slow
def test_two_stages_from_training_to_pictures_of_new_images(said: Callable[..., str]) -> None:
    said(f"{FIRST} --name cln")
    metrics = json.loads(Path("runs/cln/result.json").read_text())["metrics"]
    assert [*metrics][:3] == ["box_ar100", "box_ar300", "box_ar1000"]
    by_class = said("eval --weights runs/cln --data-path coco")
    assert "box_ar100" in by_class and "ar100 of red" in by_class and "ar100 of green" in by_class

    told = said("propose --weights runs/cln --data-path coco --output proposals")
    assert "instances_train.safetensors: " in told and "240 boxes on 4 images, box_ar100" in told
    assert "needs stored proposals; make them with `detect propose" in said(SECOND, 2)
    assert "epoch 1: box_ar100 0." in Path("runs/cln/train.log").read_text()
    said(f"{SECOND} --proposals proposals --name regions")
    card = json.loads(next(Path("weights/unidetector_regions-test_resnet").rglob("card.json")).read_text())
    made = json.loads(next(Path("weights/unidetector_cln-test_resnet").rglob("card.json")).read_text())
    assert card["data"]["proposals"]["tag"] == made["tag"] == "cln" and card["data"]["proposals"] in card["parents"]

    scores = {}
    for name, flags in {"own": "", "mixed": "--beta 0.3", "truth": "--proposals truth"}.items():
        proposals = "" if "truth" in flags else "--proposals proposals"
        said(f"eval --weights runs/regions --data-path coco --json {name}.json {proposals} {flags}")
        scores[name] = json.loads(Path(f"{name}.json").read_text())["box_ap"]
    in_training = json.loads(Path("runs/regions/result.json").read_text())["metrics"]["box_ap"]
    assert scores["own"] == pytest.approx(in_training, abs=1e-6)

    evaluate = "eval --weights runs/regions --data-path coco --proposals proposals"
    said(f"{evaluate} --counts counts.json --save first.json")
    counts = json.loads(Path("counts.json").read_text())
    assert sum(counts["counts"]) == len(json.loads(Path("first.json").read_text()))
    said(f"{evaluate} --calibrate 0.6 --prior counts.json --json prior.json")
    said(f"{evaluate} --calibrate 0.6 --json twice.json")
    assert json.loads(Path("prior.json").read_text()) == json.loads(Path("twice.json").read_text())

    predict = "predict coco/val --weights runs/regions --min-score 0"
    assert "add --proposal-weights cln" in said(predict, 2)
    said(f"{predict} --proposal-weights runs/cln --output found")
    assert json.loads(Path("found/results.json").read_text())
    assert "count over many images" in said(f"{predict} --proposal-weights runs/cln --calibrate 0.6 --output no", 2)


@pytest.mark.slow
def test_proposals_and_counts_of_others_are_refused(said: Callable[..., str]) -> None:
    for name, seed in (("cln", 0), ("other", 1)):
        said(f"{FIRST} --name {name} --seed {seed}")
        said(f"propose --weights runs/{name} --data-path coco --output proposals/{name}")
    said(f"{SECOND} --proposals proposals/cln --name regions")
    evaluate = "eval --weights runs/regions --data-path coco --proposals"
    told = said(f"{evaluate} proposals/other", 4)
    assert "was trained on proposals of unidetector_cln-test_resnet cln@" in told and "add --any-proposals" in told
    said(f"{evaluate} proposals/other --any-proposals --counts counts.json")
    assert "coco/val --weights" not in said("predict coco/val --weights runs/regions --proposal-weights runs/other", 4)
    said(f"{SECOND} --proposals proposals/cln --name again --seed 3")
    again = "eval --weights runs/again --data-path coco --proposals proposals/cln --calibrate 0.6 --prior counts.json"
    assert "was counted with other weights" in said(again, 4)

    mixed = Path("proposals/mixed")
    mixed.mkdir()
    for name, split in (("cln", "train"), ("other", "val")):
        file = Path(f"proposals/{name}/instances_{split}.safetensors")
        (mixed / file.name).write_bytes(file.read_bytes())
    assert "make all with the same weights" in said(f"{SECOND} --proposals proposals/mixed --name no", 4)
    assert "makes its own proposals; remove --proposals" in said(f"{FIRST} --proposals proposals/cln --name no", 2)
    assert "--beta is for networks on stored proposals" in said(
        "eval --weights runs/cln --data-path coco --beta 0.3", 2
    )
    assert "never overwritten" in said("propose --weights runs/cln --data-path coco --output proposals/cln", 3)
    assert "makes no proposals" in said("propose --weights runs/regions --data-path coco --output proposals/no", 2)
