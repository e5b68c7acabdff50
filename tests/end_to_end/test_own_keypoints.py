"""A person's own keypoints, one JSON for each image: trained on as they lie, converted, evaluated, drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import cli

SMALL = "--backbone test_resnet --width 32 --hidden 32 --size 96 --epochs 1 --batch-size 2 --device cpu --threads 1 "
SMALL += "--num-workers 0 --aug-level 0 --keypoint-width 32 --keypoint-depth 1"


@pytest.fixture
def custom(in_folder: Path) -> Path:
    """custom/train and custom/test of four and two images, one object of two points in the first, two in the others."""
    root = in_folder / "custom"
    (root / "result" / "weights").mkdir(parents=True)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("images", "annotations"):
            (root / split / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 100, (96, 128, 3), np.uint8)
            boxes = [[10, 12, 50, 60], [70, 20, 120, 80]][: i + 1]
            points = [[[(x0 + x1) // 2, y0 + 4, 2], [x0 + 4, (y0 + y1) // 2, 1]] for x0, y0, x1, y1 in boxes]
            for x0, y0, x1, y1 in boxes:
                pixels[y0:y1, x0:x1] += 150
            Image.fromarray(pixels).save(root / split / "images" / f"{i}.png")
            told = {"bboxes": boxes, "keypoints": points}
            (root / split / "annotations" / f"{i}.json").write_text(json.dumps(told))
    return root


def metrics_of(words: str, capsys: pytest.CaptureFixture) -> dict[str, float]:
    assert cli.main(["eval", *words.split(), "--json", "metrics.json"]) == 0, capsys.readouterr().err
    return json.loads(Path("metrics.json").read_text())


@pytest.mark.slow
def test_the_manual_of_the_seed_works_as_it_stands(custom: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(f"train --dataset custom --data-path custom --name mine {SMALL}".split()) == 0
    weights = list((custom / "result" / "weights").glob("keypoint_rcnn-test_resnet/*/*/card.json"))
    assert len(weights) == 1
    card = json.loads(weights[0].read_text())
    assert card["args"]["network_args"]["num_keypoints"] == 2 and len(card["classes"]["skeleton"]["names"]) == 2
    as_it_lies = metrics_of("--weights runs/mine --dataset custom --data-path custom", capsys)
    assert "keypoint_ap" in as_it_lies

    assert cli.main(["convert", "custom", "coco", "custom", "as-coco"]) == 0
    assert metrics_of("--weights runs/mine --data-path as-coco", capsys) == as_it_lies
    assert metrics_of("--results truth --dataset coco_kp --data-path as-coco", capsys)["keypoint_ap"] == 1.0
    assert cli.main(["convert", "custom", "coco", "custom", "as-coco"]) == 3
    assert "already exists" in capsys.readouterr().err

    assert cli.main(["predict", "custom/test/images", "--weights", "runs/mine", "--min-score", "0"]) == 0
    results = json.loads(Path("predictions/results.json").read_text())
    assert results and all(len(entry["keypoints"]) == 6 for entry in results)


@pytest.mark.slow
def test_sigmas_of_ones_own_change_the_measure_and_a_wrong_count_is_refused(
    custom: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["convert", "custom", "coco", "custom", "as-coco"]) == 0
    told = "--results found.json --dataset coco_kp --data-path as-coco"
    truth = json.loads(Path("as-coco/annotations/person_keypoints_val.json").read_text())
    found = [{**a, "score": 1.0, "keypoints": [k + (2 if i % 3 == 0 else 0) for i, k in enumerate(a["keypoints"])]}
             for a in truth["annotations"]]  # fmt: skip
    Path("found.json").write_text(json.dumps(found))
    strict, lenient = (metrics_of(f"{told} --oks-sigmas {s}", capsys)["keypoint_ap"] for s in ("0.005", "1"))
    assert strict < 0.5 < lenient == 1.0
    assert cli.main(["eval", *told.split(), "--oks-sigmas", "1", "1", "1"]) == 3
    assert "3 sigmas for 2 keypoints" in capsys.readouterr().err
    Path("sigmas.txt").write_text("1\n1\n")
    assert metrics_of(f"{told} --oks-sigmas sigmas.txt", capsys)["keypoint_ap"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ('{"bboxes": [[1, 1, 9, 9]]\n"keypoints": [[[3, 3, 2]]]}', "comma"),
        ('{"bboxes": [[1, 1, 9, 9]], "keypoints": [[[3, 3, 5]]]}', "visibility"),
        ('{"bboxes": [[1, 1, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]], "keypoints": [[[3, 3, 2], [4, 4, 2]]]}', "3"),
    ],
    ids=["no comma, as the manual prints it", "a visibility of 5", "more boxes than keypoint rows"],
)
def test_wrong_annotations_are_one_sentence_that_names_the_file(
    wrong: str, sentence: str, custom: Path, capsys: pytest.CaptureFixture
) -> None:
    (custom / "train/annotations/2.json").write_text(wrong)
    assert cli.main(f"train --dataset custom --data-path custom {SMALL}".split()) == 3
    said = capsys.readouterr().err
    assert "2.json" in said and sentence in said and said.count("\n") == 1


@pytest.mark.slow
def test_an_image_without_annotation_and_the_reverse_are_named(custom: Path, capsys: pytest.CaptureFixture) -> None:
    (custom / "train/annotations/1.json").rename(custom / "train/annotations/other.json")
    assert cli.main(f"train --dataset custom --data-path custom {SMALL}".split()) == 3
    said = capsys.readouterr().err
    assert "1.png" in said or "other.json" in said
