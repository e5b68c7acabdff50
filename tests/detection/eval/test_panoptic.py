"""Panoptic quality: by hand on small maps, and hotcoco's on many."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.panoptic_json import Segment, write_ids
from detection.data.panoptic import PanopticDetection, panoptic_layout
from detection.eval.panoptic import METRICS, Counts, PanopticEvaluator, compared, means, quality
from detection.eval.panoptic_output import PanopticFolder
from shared.errors import DataError, Refusal

THINGS = {1: True, 2: True, 7: False, 9: False}
REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "nowhere")) / "panoptic-sample"


def strip(*runs: tuple[int, int]) -> np.ndarray:
    """One row of pixels: so many of each id."""
    return np.concatenate([np.full(count, number) for number, count in runs])[None]


def told(counts: Counts) -> dict[int, list[float]]:
    return {category: row.tolist() for category, row in sorted(counts.items())}


def test_segment_is_found_by_one_of_its_class_that_shares_more_than_half_of_their_union() -> None:
    truth, segments = strip((5, 10), (6, 10)), [Segment(5, 1), Segment(6, 2)]
    claims = [Segment(1, 1), Segment(2, 2)]
    assert told(compared(truth, segments, strip((1, 8), (2, 12)), claims)) == {1: [0.8, 1, 0, 0], 2: [10 / 12, 1, 0, 0]}
    half = compared(truth, segments, strip((1, 5), (2, 15)), claims)
    assert told(half) == {1: [0, 0, 1, 1], 2: [10 / 15, 1, 0, 0]}, "half is not more than half"
    other = compared(truth, segments, strip((1, 10), (2, 10)), [Segment(1, 2), Segment(2, 2)])
    assert told(other) == {1: [0, 0, 0, 1], 2: [1, 1, 1, 0]}, "of another class, it is false, and the segment missed"


def test_nobodys_pixels_are_in_no_union_and_excuse_what_lies_mostly_on_them() -> None:
    truth, segments = strip((5, 10), (0, 10)), [Segment(5, 1)]
    whole = compared(truth, segments, strip((1, 20)), [Segment(1, 1)])
    assert told(whole) == {1: [1, 1, 0, 0]}
    mostly = compared(truth, segments, strip((1, 4), (2, 16)), [Segment(1, 1), Segment(2, 2)])
    assert told(mostly) == {1: [0, 0, 1, 1]}, "10 of the 16 pixels of segment 2 are nobody's"
    half = compared(strip((5, 8), (0, 8)), segments, strip((2, 16)), [Segment(2, 2)])
    assert told(half) == {1: [0, 0, 0, 1], 2: [0, 0, 1, 0]}


def test_crowd_is_never_missed_and_excuses_its_own_class_alone() -> None:
    truth, segments = strip((5, 10), (6, 10)), [Segment(5, 1, crowd=True), Segment(6, 7)]
    found = strip((1, 5), (2, 5), (3, 10))
    assert told(compared(truth, segments, found, [Segment(1, 1), Segment(2, 2), Segment(3, 7)])) == {
        2: [0, 0, 1, 0],
        7: [1, 1, 0, 0],
    }


def test_area_of_a_true_segment_is_that_of_the_json() -> None:
    truth, found, claims = strip((5, 10)), strip((1, 6), (0, 4)), [Segment(1, 1)]
    assert told(compared(truth, [Segment(5, 1, area=10.0)], found, claims)) == {1: [0.6, 1, 0, 0]}
    assert told(compared(truth, [Segment(5, 1, area=12.0)], found, claims)) == {1: [0, 0, 1, 1]}, "6 of 12 is half"
    counted = compared(truth, [Segment(5, 1, area=12.0)], found, claims, by_pixels=True)
    assert told(counted) == {1: [0.6, 1, 0, 0]}


def test_of_two_crowds_of_a_class_the_last_one_excuses() -> None:
    truth, crowds = strip((5, 10), (6, 10)), [Segment(5, 1, crowd=True), Segment(6, 1, crowd=True)]
    claims = [Segment(1, 1), Segment(2, 1)]
    assert told(compared(truth, crowds, strip((1, 10), (2, 10)), claims)) == {1: [0, 0, 1, 0]}
    assert told(compared(truth, crowds[::-1], strip((1, 10), (2, 3), (0, 7)), claims)) == {1: [0, 0, 1, 0]}
    assert told(compared(truth, crowds, strip((1, 10), (2, 10)), claims, by_pixels=True)) == {}


def by_definition(truth: np.ndarray, infos: list[Any], found: np.ndarray, claims: list[Any]) -> dict[int, list[float]]:
    """COCO's evaluation of one image by its published definition, pair by pair over sets of pixels."""
    pixels = [{n: set(np.flatnonzero(ids == n).tolist()) for n in np.unique(ids).tolist()} for ids in (truth, found)]
    nobody, rows = pixels[0].get(0, set()), {category: [0.0, 0, 0, 0] for category in THINGS}
    met: list[set[int]] = [set(), set()]
    for info in infos:
        for claim in claims:
            common = len(pixels[0][info["id"]] & pixels[1][claim.id])
            if not common or info["iscrowd"] or info["category_id"] != claim.category:
                continue
            union = info["area"] + len(pixels[1][claim.id]) - common - len(nobody & pixels[1][claim.id])
            if common / union > 0.5:
                rows[claim.category][0] += common / union
                rows[claim.category][1] += 1
                met[0].add(info["id"])
                met[1].add(claim.id)
    crowds = {info["category_id"]: info["id"] for info in infos if info["iscrowd"]}  # a later one replaces an earlier
    for info in infos:
        rows[info["category_id"]][3] += info["id"] not in met[0] and not info["iscrowd"]
    for claim in claims:
        own = pixels[1][claim.id]
        beside = len(own & nobody) + len(own & pixels[0].get(crowds.get(claim.category, -1), set()))
        rows[claim.category][2] += claim.id not in met[1] and beside / len(own) <= 0.5
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_the_published_definition(seed: int) -> None:
    """With several crowds of a class, and areas in the JSON that are not those of the PNG."""
    rng = np.random.default_rng(seed)
    ids, segments = random_map(rng, (48, 64), 24)
    segments = [s._replace(crowd=bool(rng.random() < 0.4), area=float((ids == s.id).sum())) for s in segments]
    segments = [s._replace(area=round((s.area or 0) * rng.uniform(0.8, 1.4))) for s in segments]
    found, claims = nudged(rng, ids, segments)
    infos = [{"id": s.id, "category_id": s.category, "iscrowd": s.crowd, "area": s.area} for s in segments]
    expected = {c: row for c, row in by_definition(ids, infos, found, claims).items() if any(row)}
    assert told(compared(ids, segments, found, claims)) == {c: pytest.approx(row) for c, row in expected.items()}


def test_another_quality_by_pixels_is_said(
    maps: tuple[PanopticDetection, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    dataset, truth, found = maps
    caplog.set_level("INFO")
    same = PanopticEvaluator(dataset)
    same.merge([found])
    official = same.summary()["pq"]
    assert not caplog.records
    top = json.loads(truth.read_text())
    for info in (info for entry in top["annotations"] for info in entry["segments_info"]):
        info["area"] *= 1.3
    truth.write_text(json.dumps(top))
    other = PanopticEvaluator(PanopticDetection(truth.parent, truth, finds=("masks",)))
    other.merge([found])
    assert other.summary()["pq"] < official - 0.01
    assert f"and {official:.4f} if areas are counted in the PNGs" in caplog.text


def test_means_are_over_the_classes_that_are_there_of_all_of_things_and_of_stuff() -> None:
    counts = {1: np.array([1.6, 2, 1, 1]), 2: np.zeros(4), 7: np.array([0, 0, 0, 3.0])}
    assert quality(counts) == {1: (pytest.approx(1.6 / 3), 0.8, pytest.approx(2 / 3)), 7: (0, 0, 0)}
    summary = means(counts, THINGS)
    assert tuple(summary) == METRICS and next(iter(summary)) == "pq"
    assert summary["pq"] == pytest.approx(0.8 / 3) and summary["pq_things"] == pytest.approx(1.6 / 3)
    assert summary["pq_stuff"] == 0 and means({}, THINGS) == dict.fromkeys(METRICS, -1.0)


# -- many maps ------------------------------------------------------------------------------------


def random_map(rng: np.random.Generator, size: tuple[int, int], most: int) -> tuple[np.ndarray, list[Segment]]:
    """Rectangles on top of one another, some of them crowds, on nobody's ground."""
    ids = np.zeros(size, np.int64)
    for _ in range(int(rng.integers(1, most))):
        y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        ids[y : y + rng.integers(3, 24), x : x + rng.integers(3, 24)] = rng.integers(1, 2**24)
    seen: set[int] = set()
    segments = []
    for number in sorted(set(np.unique(ids).tolist()) - {0}):
        category = int(rng.choice(list(THINGS)))
        crowd = bool(rng.random() < 0.2) and THINGS[category] and category not in seen
        seen |= {category} if crowd else set()
        segments.append(Segment(number, category, crowd))
    return ids, segments


def nudged(rng: np.random.Generator, ids: np.ndarray, segments: list[Segment]) -> tuple[np.ndarray, list[Segment]]:
    """The map a little off, some of its classes wrong, and something that is not there."""
    found = np.roll(ids, (int(rng.integers(0, 3)), int(rng.integers(0, 3))), (0, 1))
    y, x = rng.integers(0, ids.shape[0] - 8), rng.integers(0, ids.shape[1] - 8)
    found[y : y + 8, x : x + 8] = 12345
    known = {s.id: s.category for s in segments}
    claims = []
    for number in sorted(set(np.unique(found).tolist()) - {0}):
        right = number in known and rng.random() < 0.8
        claims.append(Segment(number, known[number] if right else int(rng.choice(list(THINGS)))))
    return found, claims


def write(folder: Path, name: str, maps: list[tuple[np.ndarray, list[Segment]]]) -> Path:
    """A panoptic JSON with its PNGs."""
    (folder / name).mkdir(parents=True)
    annotations, images = [], []
    for i, (ids, segments) in enumerate(maps, start=1):
        (folder / name / f"{i}.png").write_bytes(write_ids(ids))
        infos = []
        for s in segments:
            rows, columns = np.nonzero(ids == s.id)
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            own = {"id": s.id, "category_id": s.category, "iscrowd": int(s.crowd), "area": len(rows), "bbox": box}
            infos.append(own)
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
        images.append({"id": i, "file_name": f"{i}.jpg", "height": ids.shape[0], "width": ids.shape[1]})
    categories = [{"id": i, "name": f"class {i}", "isthing": int(thing)} for i, thing in THINGS.items()]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def maps(tmp_path: Path) -> tuple[PanopticDetection, Path, Path]:
    """A data set of twenty images, its JSON, and that of what somebody found in them."""
    rng = np.random.default_rng(0)
    truth = [random_map(rng, (48, 64), 14) for _ in range(20)]
    path = write(tmp_path, "truth", truth)
    for i, (ids, _) in enumerate(truth, start=1):
        Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
    found = write(tmp_path, "found", [nudged(rng, *one) for one in truth])
    return PanopticDetection(tmp_path, path, finds=("masks",)), path, found


def test_numbers_are_those_of_hotcoco(maps: tuple[PanopticDetection, Path, Path]) -> None:
    from hotcoco import panoptic as oracle

    dataset, truth, found = maps
    assert sum(segment.crowd for own in dataset.book.segments.values() for segment in own) > 5
    evaluator = PanopticEvaluator(dataset)
    evaluator.merge([found])
    evaluation = oracle.PanopticEval(str(truth), str(found))
    evaluation.run()
    theirs = evaluation.results()
    ours = evaluator.summary()
    for group, of in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for word in ("pq", "sq", "rq"):
            assert ours[f"{word}{of}"] == pytest.approx(theirs[group][word], abs=1e-12)
    for category, row in evaluator.counts().items():
        own = theirs["per_class"][category]
        assert row.tolist() == pytest.approx([own["iou"], own["tp"], own["fp"], own["fn"]])
        assert min(row[1:]) > 0, "all kinds of answers occur"
    assert 0.1 < ours["pq"] < 0.9


def test_truth_scored_against_itself_is_perfect(maps: tuple[PanopticDetection, Path, Path]) -> None:
    dataset, truth, _ = maps
    evaluator = PanopticEvaluator(dataset)
    evaluator.merge([truth])
    assert evaluator.summary() == dict.fromkeys(METRICS, 1.0)
    assert set(evaluator.per_class().values()) == {1.0}


def test_image_that_is_never_added_misses_everything(maps: tuple[PanopticDetection, Path, Path]) -> None:
    dataset, truth, _ = maps
    evaluator = PanopticEvaluator(dataset)
    assert evaluator.summary() == dict.fromkeys(METRICS, 0.0)
    evaluator.merge([truth])
    dropped = evaluator.found.pop(1)
    assert 0 < evaluator.summary()["pq"] < 1
    evaluator.take({1: dropped})
    assert evaluator.summary()["pq"] == 1


# -- detections -----------------------------------------------------------------------------------


def detections_of(dataset: PanopticDetection, index: int) -> dict[str, Any]:
    """What a perfect detector would say, in images of half the size."""
    _, target = dataset.load(index, np.random.default_rng(0))
    order = list(range(len(target["boxes"])))
    masks = target["masks"].float()  # type: ignore[typeddict-item]
    return {
        "boxes": target["boxes"][order] / 2,
        "labels": target["labels"][order],
        "scores": torch.linspace(0.99, 0.9, len(order)),
        "segments": masks[order] * 20 - 10,
    }


def test_perfect_detections_find_every_thing_and_their_boxes(maps: tuple[PanopticDetection, Path, Path]) -> None:
    dataset, _, _ = maps
    evaluator = PanopticEvaluator(dataset)
    for index, image_id in enumerate(dataset.image_ids):
        evaluator.add(image_id, detections_of(dataset, index), (2.0, 2.0))  # type: ignore[arg-type]
    summary = evaluator.summary()
    assert summary["rq_things"] > 0.9 and summary["sq_things"] > 0.9, "pieces of 4 pixels are no segments"
    assert summary["box_ap"] > 0.95
    parts = PanopticEvaluator(dataset)
    parts.take(dict(list(evaluator.found.items())[:7]))
    parts.take(dict(list(evaluator.found.items())[5:]))
    assert parts.summary() == summary, "what ranks found together is what one finds"


def test_detections_without_masks_of_the_image_are_refused(maps: tuple[PanopticDetection, Path, Path]) -> None:
    dataset, _, _ = maps
    found = detections_of(dataset, 0)
    del found["segments"]
    with pytest.raises(Refusal, match="train detr_panoptic$"):
        PanopticEvaluator(dataset).add(1, found, (1.0, 1.0))  # type: ignore[arg-type]


def test_what_is_written_is_read_again_and_scores_the_same(
    maps: tuple[PanopticDetection, Path, Path], tmp_path: Path
) -> None:
    dataset, _, _ = maps
    direct, out = PanopticEvaluator(dataset), tmp_path / "out"
    out.mkdir()
    folder = PanopticFolder(out, dataset.classes, dataset.isthing)
    for index, image_id in enumerate(dataset.image_ids):
        found: Any = detections_of(dataset, index)
        direct.add(image_id, found, (2.0, 2.0))
        picture, _ = dataset.load(index, np.random.default_rng(0))
        shown = folder.add(image_id, f"{image_id}.jpg", picture, found)
        assert shown.size == (64, 48)
    path = folder.close()
    again = PanopticEvaluator(dataset)
    again.merge([path])
    assert again.summary() == {name: direct.summary()[name] for name in METRICS}
    reread = PanopticDetection(tmp_path, path, finds=("masks",))
    assert reread.isthing == dataset.isthing and reread.classes == dataset.classes
    for index, image_id in enumerate(dataset.image_ids):
        ids, segments = reread.truth(index)
        assert [s.id for s in segments] == [info["id"] for info in direct.found[image_id].segments_info]
        assert (ids > 0).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda top: top["annotations"][0]["segments_info"].pop(), "has pixels of segment .* does not list"),
        (
            lambda top: top["annotations"][0]["segments_info"][0].update(category_id=4),
            "the category 4, which is not in the ground truth",
        ),
        (lambda top: top["annotations"][0].update(image_id=99), "image 99 is not in"),
        (lambda top: top["annotations"][0].update(file_name="2.png"), "has pixels of segment|has no pixel of segment"),
        (lambda top: top.pop("annotations"), "no list 'annotations'"),
    ],
)
def test_results_that_do_not_fit_are_refused_in_a_sentence(
    maps: tuple[PanopticDetection, Path, Path], change: Callable[[Any], Any], sentence: str
) -> None:
    dataset, _, found = maps
    top = json.loads(found.read_text())
    change(top)
    found.write_text(json.dumps(top))
    with pytest.raises(DataError, match=sentence):
        PanopticEvaluator(dataset).merge([found])


def test_binary_mode_makes_everything_one_thing(maps: tuple[PanopticDetection, Path, Path]) -> None:
    dataset, truth, _ = maps
    one = PanopticDetection(truth.parent, truth, ClassMap.binary(), finds=("masks",))
    evaluator = PanopticEvaluator(one)
    assert one.isthing == [True] and set(evaluator.counts()) == {1}
    assert evaluator.counts()[1][3] == sum(not s.crowd for own in dataset.book.segments.values() for s in own)


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder with panoptic-sample")
def test_the_formats_own_sample_is_perfect_against_itself() -> None:
    dataset = PanopticDetection(*panoptic_layout(REAL, "val"), finds=("masks",))
    evaluator = PanopticEvaluator(dataset)
    evaluator.merge([REAL / "panoptic_examples.json"])
    assert evaluator.summary() == dict.fromkeys(METRICS, 1.0)
    assert len(evaluator.per_class()) == 8
