"""The report is one honest file: it says who is ahead, needs nothing else, and no text of the data is markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")

from detection.cli import main as detect
from shared.runs import curves, report
from shared.runs.curves import moving_average
from shared.runs.folders import read_runs
from shared.runs.report import generation, show_number, verdict, write_report

VOID = {"meta", "img", "br"}
EVIL = "<script>alert(1)</script>"
PIXEL = bytes.fromhex(  # the smallest PNG
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)


def make_run(folder: Path, ap: float | None, *, tag: str | None = None, finished: bool = True) -> Path:
    (folder / "pictures").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for step in range(1, 7):
        rows.append({"kind": "train", "step": step, "epoch": step / 3, "cls": 1 / step, "box": 0.5, "lr": 0.1})
    rows.append({"kind": "val", "step": 6, "epoch": 2.0, "box_ap": 0.1, "box_ap50": 0.2})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text("network: fcos\n")
    (folder / "pictures" / "0001.png").write_bytes(PIXEL)
    metrics = {} if ap is None else {"box_ap": ap, "box_ap50": 0.5}
    write(folder / "result.json", {"metrics": metrics, "finished": finished, "seconds": 90, "weights": "weights/a/b"})
    parents = ["aaaa1111"] if tag else []
    lineage = [{"digest": f"{folder.name}22", "arch": "fcos", "tag": folder.name, "parents": parents}]
    if tag:
        lineage.insert(0, {"digest": "aaaa1111", "arch": "resnet18", "tag": tag, "metrics": {"top1": 0.9}})
        write(folder / "transfer.json", {"tag": tag, "arch": "resnet18", "matched_tensors": 62, "total_tensors": 62})
    write(folder / "lineage.json", lineage)
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


class Checker(HTMLParser):
    """Every element closed in turn; collects tags, ids, and what attributes point to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")


def checked(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text())
    checker.close()
    assert checker.open == []
    return checker


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "scratch", 0.3), make_run(tmp_path / "tagged", 0.42, tag="supervised")]


def test_the_page_is_whole_and_needs_nothing_from_outside(two: list[Path], tmp_path: Path) -> None:
    page = checked(write_report(two, tmp_path / "new" / "report.html", pictures=[two[0] / "pictures" / "0001.png"]))
    assert "script" not in page.tags and "link" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert len(page.ids) == len(set(page.ids)) > 10
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.tags.count("img") == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_everything_the_runs_know_is_on_the_page(two: list[Path], tmp_path: Path) -> None:
    text = checked(write_report(two, tmp_path / "report.html")).text
    for words in (
        "scratch", "tagged", "0.42", "loss (training)", "box_ap (validation)", "cls (training)", "62 of 62",
        "Lineage of the weights", "resnet18", "top1 0.9", "network: fcos", "after 1.5 minutes", "weights/a/b",
    ):  # fmt: skip
        assert words in text


def test_text_of_the_data_is_never_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0.3, tag=EVIL)
    write(run / "transfer.json", {"tag": EVIL, "arch": EVIL, "missing": [EVIL], "pixel_note": EVIL, "path": EVIL})
    write(run / "lineage.json", [{"digest": EVIL, "arch": EVIL, "tag": "'\"><b>", "data": EVIL}])
    write(run / "result.json", {"metrics": {EVIL: 0.5}, "weights": EVIL})
    row = {"kind": "train", "step": 1, "epoch": 1.0, EVIL: 0.5, "$\\frac{": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "recipe.yaml").write_text(f"names: ['{EVIL}']\n")
    (run / "pictures" / "0001.png").rename(run / "pictures" / "<script>x.png")
    page = checked(write_report([run], tmp_path / "report.html", title=EVIL))
    assert "script" not in page.tags and "b" not in page.tags
    assert page.text.count(EVIL) >= 9


def test_the_tagged_run_is_said_to_be_ahead_whichever_comes_first(two: list[Path]) -> None:
    expected = "The run from tag 'supervised' ('tagged') is ahead of 'scratch' by 0.12: box_ap 0.42 against 0.3."
    assert verdict(read_runs(two)) == verdict(read_runs(two[::-1])) == expected


def test_a_tagged_run_that_is_not_ahead_is_said_to_be_so(two: list[Path], tmp_path: Path) -> None:
    behind = make_run(tmp_path / "behind", 0.25, tag="vicreg")
    assert "is not ahead of 'scratch', it is behind by 0.05" in verdict(read_runs([two[0], behind]))
    level = make_run(tmp_path / "level", 0.3, tag="vicreg")
    assert "is not ahead of 'scratch': both have box_ap 0.3" in verdict(read_runs([two[0], level]))
    assert "is not ahead" in checked(write_report([two[0], behind], tmp_path / "report.html")).text


def test_unfinished_and_incomparable_runs_are_called_so(two: list[Path], tmp_path: Path) -> None:
    early = make_run(tmp_path / "early", None, tag="vicreg", finished=False)
    assert "box_ap 0.1 against 0.3. Not finished: 'early'." in verdict(read_runs([two[0], early]))
    (early / "metrics.jsonl").unlink()
    assert "cannot be compared" in verdict(read_runs([two[0], early]))


def test_an_empty_or_damaged_run_folder_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "no validation yet" in checked(write_report([tmp_path / "run"], tmp_path / "report.html")).text
    for name in ("result.json", "transfer.json", "lineage.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text('{"half": ')
    assert "no validation yet" in checked(write_report([tmp_path / "run"], tmp_path / "report.html")).text


def test_without_matplotlib_there_is_a_report_without_curves(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> str:
        raise ImportError

    monkeypatch.setattr(curves, "draw_chart", missing)
    text = checked(write_report(two, tmp_path / "report.html")).text
    assert "is ahead" in text and "Curves" not in text


def test_large_pictures_are_made_smaller(tmp_path: Path) -> None:
    import os

    from PIL import Image

    noise = Image.frombytes("RGB", (1500, 500), os.urandom(1500 * 500 * 3))
    noise.save(tmp_path / "noise.png")
    assert len(report.inline_picture(tmp_path / "noise.png")) < (tmp_path / "noise.png").stat().st_size / 2


def test_parents_stand_left_of_children_and_a_circle_ends() -> None:
    cards = [{"digest": "c", "parents": ["b", "a"]}, {"digest": "b", "parents": ["a"]}, {"digest": "a"}]
    nodes, arrows = report.draw_lineage(cards)
    assert sorted(node.x for node in nodes) == [10, 260, 510]
    assert len(arrows) == 3 and all(x0 < x1 for x0, _, x1, _ in arrows)
    circle = {"a": {"digest": "a", "parents": ["b"]}, "b": {"digest": "b", "parents": ["a"]}}
    assert generation("a", circle) == 1


def test_numbers_read_well() -> None:
    numbers = [0.41237, 0.0213, 23512130, 3e-7, "x", True]
    assert [show_number(n) for n in numbers] == ["0.412", "0.0213", "23,512,130", "3e-07", "x", "True"]


def test_every_card_has_its_other_metrics_and_what_is_undefined_is_na(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 0.4) for name in ("one", "two")]
    for run in runs:
        metrics = {"box_ap": None if run.name == "two" else 0.4, "box_ap50": 0.5, "box_ap_large": None}
        write(run / "result.json", {"metrics": metrics, "finished": True})
    page = write_report(runs, tmp_path / "page.html").read_text()
    assert page.count("box_ap50 0.5, box_ap_large n/a") == 2
    assert '<div class="figure">n/a</div>' in page and "have no common metric" in page


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").write_text("lr: 1\n")
    for name, says in (
        ("empty", "empty is not a run folder: it has no recipe.yaml"),
        ("nowhere", "nowhere is not a run folder"),
        ("begun", "begun has no metrics, results or pictures yet, so there is nothing to report"),
    ):
        assert detect(["report", str(tmp_path / name), "-o", str(tmp_path / "page.html")]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_moving_average_starts_at_the_first_value() -> None:
    assert moving_average([], 0.9) == []
    assert moving_average([4.0, 0.0, 10.0], 0.5) == [4.0, 2.0, 6.0]
    assert moving_average([7.0, 7.0, 7.0], 0.9) == pytest.approx([7.0, 7.0, 7.0])


def test_the_loss_of_a_run_is_a_picture_smoothed_without_a_first_point_that_hides_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "first", 0.4)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[0]["cls"] = 150.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["report", str(run), "--png", str(tmp_path / "plots"), "--smooth", "0.9", "--skip-first-above", "100"]
    assert detect(words) == 0
    assert (tmp_path / "plots" / "first.png").read_bytes().startswith(b"\x89PNG")
    assert detect(words) == 2 and "nothing is overwritten" in capsys.readouterr().err
    (read,) = read_runs([run])
    assert curves.line_of(curves.with_total(read), "loss", "train", None).values[0] == 150.5
    short = curves.line_of(curves.with_total(read), "loss", "train", 100.0)
    assert len(short.values) == 5 and short.epochs[0] == pytest.approx(2 / 3)
    assert detect(["report", str(run), "-o", str(tmp_path / "page.html"), *words[4:]]) == 0
    assert detect(["report", str(run)]) == 2 and "--output FILE.html, --png FOLDER" in capsys.readouterr().err
