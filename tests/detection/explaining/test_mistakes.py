"""Pictures of mistakes: the right photographs, truth beside what was found, in the photograph's own proportions."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from detection.explaining.charts import explained_json
from detection.explaining.explanation import explained
from detection.explaining.mistakes import GAP, draw_mistakes, most_mistaken
from tests.detection.explaining.test_explanation import evaluator_of


def test_half_of_them_miss_most_and_half_find_most_that_is_not_there() -> None:
    images = [(0, 9, 0), (1, 8, 7), (2, 0, 9), (3, 1, 1), (4, 0, 2)]
    assert [place for place, *_ in most_mistaken(images, 4)] == [0, 1, 2, 4]
    assert [place for place, *_ in most_mistaken(images, 1)] == [0]
    assert [place for place, *_ in most_mistaken([(0, 9, 0), (3, 1, 0)], 4)] == [0, 3], "there are no false ones"
    assert most_mistaken([], 4) == [] == most_mistaken(images, 0)


def test_truth_stands_beside_what_was_found(tmp_path: Path) -> None:
    box = (20.0, 30.0, 60.0, 60.0)
    evaluator = evaluator_of(tmp_path, [(10, 3, box, 0), (11, 3, box, 0)], [(10, 3, box, 0.9)])
    told = explained(evaluator)
    lines = draw_mistakes(evaluator, told, tmp_path / "mistakes", 8)
    assert lines == [{"file": "mistakes/00.jpg", "name": "1.png", "caption": "1 object missed, 0 false detections"}]
    with Image.open(tmp_path / "mistakes/00.jpg") as picture:
        width, height = picture.size
        side = (width - GAP) // 2
        assert abs(side / height - 200 / 150) < 0.01
        halves = picture.crop((0, 0, side, height)), picture.crop((side + GAP, 0, width, height))
    left, right = (sum(sum(pixel) > 300 for pixel in half.convert("RGB").getdata()) for half in halves)
    assert left > 100 and right == 0, "the photograph is black: the true box is drawn, and nothing was found"
    assert explained_json(told, lines)["pictures"] == lines


def test_charts_of_many_classes_are_of_the_most_frequent_confusions(tmp_path: Path) -> None:
    boxes = [(10 + n % 3, 3, (10.0 + 20 * (n % 8), 10, 15, 15 + n), 0) for n in range(20)]
    told = explained(evaluator_of(tmp_path, boxes, [(*row[:1], 18, row[2], 0.5) for row in boxes]))
    many = told._replace(classes=[{"name": f"c{n}", "objects": 1, "ap": 0.5} for n in range(30)] + told.classes)
    titles = [chart["title"] for chart in explained_json(many)["charts"]]
    assert "What objects were taken for" not in titles
    assert "What objects were taken for" in [chart["title"] for chart in explained_json(told)["charts"]]
