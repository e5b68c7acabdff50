"""Several data sets in one run: killed and resumed, or in two processes, they end bit for bit as one whole run."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_ranks import assert_same_run
from tests.end_to_end.test_resume import assert_same_end, killed_after

DETECT = (
    "detect train --backbone test_resnet --freeze-backbone-bn --drop-path 0.2 --size 64 --epochs 2 --batch-size 2 "
    "--lr 0.005 --model-ema --model-ema-decay 0.9 --log-every 1 --device cpu --num-workers 0 --pictures 0 "
    "--save-every 2 --aspect-ratio-group-factor 0 "
)
FCOS = "--network fcos --width 64 --depth 1 "
OWN = "--network unidetector --width 32 --hidden 32 --vocabulary-width 16 --regions 32 --region layers --lr 0.0005 "


@pytest.fixture(scope="session")
def other(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of the training scenes and the validation scenes with other names: discs are blobs, squares are Squares."""
    root = tmp_path_factory.mktemp("other") / "shapes"
    shutil.copytree(coco, root)
    for path in (root / "annotations").glob("*.json"):
        what = json.loads(path.read_text())
        what["images"] = what["images"][:9]
        kept = {image["id"] for image in what["images"]}
        what["annotations"] = [entry for entry in what["annotations"] if entry["image_id"] in kept]
        for category in what["categories"]:
            category["name"] = {"disc": "blob", "square": "Square"}[category["name"]]
        path.write_text(json.dumps(what))
    return root


@pytest.fixture
def sets(coco: Path, other: Path) -> str:
    return f"--data-path {coco} --also data_path={other},share=0.6,repeat_threshold=0.9 "


@pytest.fixture
def joined(coco: Path, other: Path, tmp_path: Path, run: Callable) -> str:
    files = [next((root / "annotations").glob("*train*.json")) for root in (coco, other)]
    words = f"detect join-classes {files[0]} {files[1]} --names coco shapes --output {tmp_path / 'map.yaml'}"
    ended = run(words)
    assert ended.code == 0 and "3 classes" in ended.out and "1 of several files" in ended.out
    return f"--class-map {tmp_path / 'map.yaml'} "


@pytest.mark.slow
@pytest.mark.parametrize("network", ["fcos", "unidetector"])
def test_killed_within_an_epoch_and_resumed_it_ends_the_same(
    network: str, sets: str, joined: str, run: Callable, left: Callable, tmp_path: Path
) -> None:
    words = DETECT + sets + (FCOS + joined if network == "fcos" else OWN)
    whole = run(words + "--name whole")
    assert whole.code == 0, whole.err
    assert run(words + "--name run", prepare=killed_after(7)).code == -signal.SIGKILL
    again = run(words + "--name run --resume")
    assert again.code == 0, again.err
    assert "resuming" in again.out
    assert_same_end(left("run"), left("whole"))
    seen = list(left("run").result()["metrics"])
    assert seen[0] == "coco/box_ap" and "shapes/box_ap50" in seen
    assert "data set shapes: 9 images, 2 of " in whole.out and "share 0.6" in whole.out
    card = left("run").card()
    assert [one["name"] for one in card["data"]["sets"]] == ["coco", "shapes"]
    if network == "fcos":
        assert card["classes"]["joined"]["shapes"] == {"blob": "blob", "Square": "square"}
        assert card["classes"]["names"] == ["disc", "square", "blob"]
    else:
        assert [one["names"] for one in card["classes"]["sets"]] == [["disc", "square"], ["blob", "Square"]]
        assert card["args"]["network_args"]["set_sizes"] == [2, 2]


@pytest.mark.slow
def test_two_processes_train_what_one_trains_on_several_sets(
    sets: str, joined: str, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = DETECT + FCOS + sets + joined + "--name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    assert_same_run(left("two"), left("one"))


@pytest.mark.slow
def test_each_file_is_evaluated_with_its_own_names(
    sets: str, joined: str, other: Path, coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    words = DETECT + FCOS + sets + joined + "--name joint --tag joint "
    assert run(words).code == 0
    metrics = left("joint").result()["metrics"]
    for root, name in ((coco, "coco"), (other, "shapes")):
        out = tmp_path / f"{name}.json"
        ended = run(f"detect eval --weights joint --data-path {root} --json {out} --device cpu")
        assert ended.code == 0, ended.err
        assert json.loads(out.read_text())["box_ap"] == metrics[f"{name}/box_ap"]


def test_refusals_name_the_way_out(coco: Path, other: Path, sets: str, run: Callable) -> None:
    for words, sentence, code in (
        (sets, "detect join-classes", 2),
        (f"--data-path {coco} --also {coco}/none.yaml", "is not there; give a YAML", 2),
        (f"--data-path {coco} --also data_path={coco}", "two data sets are called 'coco'", 2),
        (f"--data-path {coco} --also name=x,share=2", "has no data_path", 2),
        (f"--data-path {coco} --also data_path={other},share=0", "share", 2),
        (f"--data-path {coco} --also data_path={other},shares=1", "did you mean 'share'", 2),
        (f"--val-path {coco} --datasets data_path={other}", "--val-path is of a set", 2),
        (f"--datasets data_path={other},share=2", "there is one", 2),
    ):
        ended = run("detect train --backbone test_resnet --dry-run --dry-steps 0 " + FCOS + words)
        assert ended.code == code and sentence in ended.err, (words, ended.err)
        assert ended.err.count("\n") == 1


def test_a_dry_run_shows_each_set(sets: str, joined: str, run: Callable) -> None:
    ended = run(
        "detect train --backbone test_resnet --dry-run --dry-steps 1 --device cpu --size 64 " + FCOS + sets + joined
    )
    assert ended.code == 0, ended.err
    assert "data set coco: 14 images, 2 of 3 classes, share 1" in ended.out
    assert "23 training images, 12 validation images" in ended.out
    assert "shapes training data: " in ended.out
