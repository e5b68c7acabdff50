"""`detect doctor` names exactly what is wrong, accuses nothing clean, and mends copies alone."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from detection.cli import main
from detection.doctor.kinds import KINDS
from detection.doctor.self_test import judged
from shared.findings import Sheet


def load_corpus() -> Any:
    """The page beside this one; tests are no package."""
    spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = module
    spec.loader.exec_module(module)
    return module


corpus = load_corpus()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORDATE_CACHE", str(tmp_path / "cache"))


def examined(data: Any, *flags: str) -> tuple[int, set[str], dict[str, Any]]:
    """Exit code, kinds of errors and warnings, and the whole JSON."""
    told = data.root / "told.json"
    told.unlink(missing_ok=True)
    code = main(["doctor", str(data.root), "--json", str(told), *flags])
    page = json.loads(told.read_text())
    return code, {one["kind"] for one in page["findings"] if one["level"] != "note"}, page


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "told.json")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", sorted(corpus.CLEAN))
def test_a_clean_data_set_is_not_accused(name: str, tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    corpus.CLEAN[name](data)
    data.write()
    code, kinds, page = examined(data, "--strict", "--pixels")
    assert (code, kinds) == (0, set()), page["findings"]


@pytest.mark.slow
def test_the_self_tests_pass_on_clean_data(tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    data.write()
    page = examined(data, "--self-test", "--self-test-size", "64")[2]
    names = [test["name"] for test in page["self_tests"]]
    assert names == ["truth as detections", "loss at the start", "one batch", "resume"]
    assert all(test["passed"] for test in page["self_tests"]), page["self_tests"]
    resumed = page["self_tests"][-1]["result"]
    assert resumed.startswith("stopped after step 3 of 6 and resumed in a second process: the same bits in all ")


def test_self_tests_that_fail_say_what_came_out() -> None:
    rows = [{"classification": 3.0, "step": 1}, {"classification": 2.0, "step": 40}]
    start, batch = judged(rows)
    assert start == ("loss at the start", False, "classification 3.00, where theory says 1.13")
    assert not batch[1] and "from 3.00 to 2.00 in 40 steps, and should halve" in batch[2]
    assert all(
        passed for _, passed, _ in judged([{"classification": 1.2, "step": 1}, {"classification": 0.5, "step": 9}])
    )


@pytest.mark.parametrize("name", sorted(corpus.SPOILT))
def test_a_spoilt_data_set_is_named_exactly(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    change, wrong = corpus.SPOILT[name]
    change(data)
    data.write()
    before = digests(data.root)
    code, kinds, page = examined(data, "--pixels")
    assert kinds == wrong, page["findings"]
    assert code == (3 if any(KINDS[kind].level == "error" for kind in wrong) else 0)
    assert digests(data.root) == before
    out = capsys.readouterr().out
    assert all(f"  {kind}  " in out for kind in wrong) and "Traceback" not in out
    assert examined(data, "--pixels", "--strict")[0] == 3


def test_there_are_enough_of_both_and_every_kind_is_tried() -> None:
    assert len(corpus.SPOILT) >= 30 and len(corpus.CLEAN) >= 10
    tried = {kind for _, wrong in corpus.SPOILT.values() for kind in wrong}
    notes = {kind for kind, about in KINDS.items() if about.level == "note"}
    assert KINDS.keys() - tried - notes == {"point-format"}


MENDED = {
    "an_image_without_a_size", "a_box_of_three_numbers", "a_box_that_is_infinite", "two_annotations_of_one_id",
    "an_annotation_of_no_image", "an_annotation_of_no_category", "corners_for_sizes", "centers_for_corners",
    "shares_for_pixels", "a_box_over_the_edge", "a_box_without_a_height", "an_object_annotated_twice",
    "areas_that_are_all_one", "a_photograph_that_is_gone", "a_photograph_that_is_text", "a_photograph_of_both_splits",
    "a_polygon_of_two_points", "a_keypoint_too_few", "a_photograph_of_another_size", "two_categories_of_one_id",
    "two_categories_of_one_name", "a_keypoint_beside_its_image", "a_number_of_keypoints_that_is_wrong",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MENDED))
def test_a_mended_copy_is_clean_and_the_source_as_it_was(name: str, tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    corpus.SPOILT[name][0](data)
    data.write()
    before, out = digests(data.root), tmp_path / "mended"
    examined(data, "--fix", str(out))
    assert digests(data.root) == before
    changes = json.loads((out / "changes.json").read_text())
    assert any(one["changes"] for one in changes.values())
    words = ["doctor", str(data.root / "train"), "--coco-json-path", str(out / "instances_train.json")]
    words += ["--val-path", str(data.root / "val"), "--coco-val-json-path", str(out / "instances_val.json")]
    assert main([*words, "--strict"]) == 0


def test_boxes_in_another_format_are_mended_to_the_very_boxes(tmp_path: Path) -> None:
    for name in ("corners_for_sizes", "centers_for_corners", "shares_for_pixels"):
        data = corpus.Corpus.make(tmp_path / name)
        true = [entry["bbox"] for entry in data.objects]
        corpus.SPOILT[name][0](data)
        data.write()
        examined(data, "--fix", str(tmp_path / f"{name}-mended"))
        written = json.loads((tmp_path / f"{name}-mended" / "instances_train.json").read_text())
        for entry, box in zip(written["annotations"], true, strict=True):
            assert entry["bbox"] == pytest.approx(box, abs=0.01)


def test_several_faults_are_all_found_at_once(tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    wanted: set[str] = set()
    for name in (
        "a_box_of_words",
        "an_annotation_of_no_category",
        "a_photograph_of_both_splits",
        "a_box_over_the_edge",
    ):
        corpus.SPOILT[name][0](data)
        wanted |= corpus.SPOILT[name][1]
    data.objects[4]["image_id"] = 4711  # an entry that is refused already is not refused twice
    data.write()
    code, kinds, _ = examined(data)
    assert (code, kinds) == (3, wanted)


def test_gzipped_annotations_are_read_and_mended_to_plain_ones(tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    corpus.SPOILT["a_box_without_a_height"][0](data)
    data.write()
    corpus.packed(data)
    assert examined(data, "--fix", str(tmp_path / "out"))[1] == {"box-degenerate"}
    assert (tmp_path / "out" / "instances_train.json").is_file()


def test_the_page_as_html_and_the_annotations_alone(tmp_path: Path) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    data.train["categories"][0]["name"] = "<script>alert(1)</script>\x1b[2J"
    data.write()
    for path in (data.root / "train").iterdir():
        path.unlink()
    page = tmp_path / "page.html"
    code, kinds, _ = examined(data, "--no-images", "--html", str(page))
    assert (code, kinds) == (3, {"class-not-in-training"})
    assert "<script>" not in page.read_text() and "\x1b" not in page.read_text()


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--pixels", "--no-images"], 2, "give one of them"),
        (["--fix", "FULL"], 2, "is not empty"),
        (["--json", "ITSELF"], 2, "is one of the annotation files"),
        (["--val-path", "nowhere"], 2, "go together"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    flags: list[str], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    data.write()
    places = {"FULL": data.root, "ITSELF": data.root / "annotations" / "instances_train.json"}
    before = digests(data.root)
    assert main(["doctor", str(data.root), *(str(places.get(word, word)) for word in flags)]) == code
    assert sentence in capsys.readouterr().err
    assert digests(data.root) == before


def test_a_folder_that_is_no_data_set_is_refused_as_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith("detect: ")


def test_failed_self_tests_are_errors() -> None:
    sheet = Sheet("doctor", KINDS)
    assert sheet.exit_code(strict=True) == 0 and sheet.lines()[-1] == "nothing is wrong"
    sheet.tests.append(("truth as detections", False, "box_ap 0.5"))
    assert sheet.exit_code() == 3 and sheet.lines()[-1] == "1 error"
