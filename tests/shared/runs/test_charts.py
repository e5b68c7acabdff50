"""Charts of `explained.json`: each kind is drawn, damaged ones are left out, and no name of a class is markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from shared.runs.charts import draw_charts
from shared.runs.report import write_report
from tests.shared.runs.test_report import EVIL, PIXEL, checked, make_run

BARS = {"kind": "bars", "title": "AP", "labels": ["cat", "$\\frac{"], "values": [0.5, None], "counts": [3, 0]}
LINES = {"kind": "lines", "title": "PR", "x": [0, 0.5, 1], "series": {"mean": [1, 1, 0], EVIL: [1, 0.5, 0]}}
BINS = {"kind": "bins", "title": "sizes", "labels": ["0 to 8", "8+"], "counts": [3, 0], "shares": [0.5, None]}
MATRIX = {
    "kind": "matrix",
    "title": "taken for",
    "rows": ["cat", EVIL],
    "columns": ["cat", "x"],
    "counts": [[3, 0], [0, 1]],
}
ALL: list[dict[str, Any]] = [BARS, LINES, BINS, MATRIX]


def explain(run: Path, **more: Any) -> Path:
    (run / "explained.json").write_text(json.dumps({"sentence": "F1 is best.", "charts": ALL, "pictures": [], **more}))
    return run


@pytest.mark.parametrize("chart", ALL, ids=lambda chart: chart["kind"])
def test_every_kind_is_drawn_with_its_words(chart: dict[str, Any]) -> None:
    (drawn,) = draw_charts([chart], "why0")
    assert drawn.title == chart["title"] and drawn.svg.startswith("<svg")
    words = chart.get("labels") or [*chart.get("series", ())] or chart["rows"]
    assert words[0] in drawn.svg


def test_damaged_charts_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    damaged: list[dict[str, Any]] = [
        {"title": "no kind"},
        {"kind": "pie", "title": "unknown"},
        {**BARS, "values": [0.5]},
        {**MATRIX, "counts": [[1]]},
    ]
    assert [each.title for each in draw_charts([*damaged, BINS], "why0")] == ["sizes"]
    assert caplog.text.count("is not in the report") == len(damaged)


def test_the_page_says_why_and_no_name_is_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0.3)
    (run / "mistakes").mkdir()
    (run / "mistakes/00.png").write_bytes(PIXEL)
    (tmp_path / "secret.png").write_bytes(PIXEL)
    files = ("mistakes/00.png", "../secret.png", "/etc/hostname", "mistakes/lost.png")
    explain(run, pictures=[{"file": file, "name": EVIL, "caption": f"from {file}"} for file in files], sentence=EVIL)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "intervals": {"bounds": {"box_ap": [0.25, 0.36]}}}))
    page = checked(write_report([run], tmp_path / "report.html"))
    assert "Why this result" in page.text and "95 %: 0.25 to 0.36" in page.text
    assert "from mistakes/00.png" in page.text and page.text.count("from ") == 1
    assert "script" not in page.tags and len(page.ids) == len(set(page.ids))


def test_several_runs_say_whose_result_is_explained(tmp_path: Path) -> None:
    runs = [explain(make_run(tmp_path / name, 0.3)) for name in ("first", "second")]
    page = checked(write_report(runs, tmp_path / "report.html"))
    assert "Why this result: first" in page.text and "Why this result: second" in page.text
    assert len(page.ids) == len(set(page.ids))
