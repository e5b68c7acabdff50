"""`pretrain eval` and `--probe`: what the representation knows, by command, and at no price to the training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAIN = (
    "pretrain train --model test_resnet --size 32 --epochs 4 --batch-size 4 --opt adamw --lr 0.002 --drop-path 0.1 "
    "--mixup 0.3 --dropout 0.1 --log-every 1 --device cpu --num-workers 0 --seed 2 "
)
MASKED = (
    "pretrain train --method mim --variant simmim --model test_resnet --size 32 --epochs 3 --batch-size 4 --opt adamw "
    "--lr 0.002 --log-every 1 --device cpu --num-workers 0 --seed 2 --save-every 2 "
)
EVAL = "pretrain eval --model test_resnet --device cpu --num-workers 0 --batch-size 8 "
WEIGHTS = ("step", "task", "average", "optimizer", "scaler", "bad")
HEALTH = ["knn", "std", "covariance", "rank"]


def val_rows(left: Any) -> list[dict[str, Any]]:
    return [row for row in left.rows() if row["kind"] == "val"]


# --- along the way ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "--model-ema --model-ema-decay 0.9"])
def test_a_probed_run_ends_with_the_weights_of_one_that_was_not(
    extra: str, shards: Path, run: Callable, left: Callable
) -> None:
    words = TRAIN + f"--data-path {shards} {extra} --name "
    assert run(words + "plain").code == 0
    probed = run(words + "probed --probe 3 --probe-bank 24")
    assert probed.code == 0, probed.err
    plain, with_probe = left("plain"), left("probed")
    assert {part: with_probe.state()[part] for part in WEIGHTS} == {part: plain.state()[part] for part in WEIGHTS}
    assert with_probe.card()["sha256"] == plain.card()["sha256"]
    rows = val_rows(with_probe)
    assert [[name for name in row if name in HEALTH] for row in rows] == [[], [], HEALTH, HEALTH]
    own = [{k: v for k, v in row.items() if k not in HEALTH} for row in rows]
    assert own == val_rows(plain), "the method's own numbers are what they were, and come first"
    assert list(with_probe.result()["metrics"]) == ["top1", *HEALTH]
    assert re.search(r"epoch 4: top1 \d\.\d+ .*knn \d\.\d+ .*rank \d", probed.out)
    table = (with_probe.folder / "results.csv").read_text().splitlines()[0]
    assert all(f"val/{name}" in table for name in HEALTH)


@pytest.mark.slow
def test_a_method_without_labels_is_probed_on_the_labels_there_are_and_resumes_exactly(
    shards: Path, run: Callable, left: Callable
) -> None:
    words = MASKED + f"--data-path {shards} --probe --name "

    def stop_at_step_nine() -> None:
        from shared.loop.trainer import Trainer

        step = Trainer.train_step

        def counted(self: Trainer, micro_batches: list) -> None:
            self.asked_to_stop |= self.step == 9
            step(self, micro_batches)

        Trainer.train_step = counted  # type: ignore[method-assign]

    straight = run(words + "straight")
    assert straight.code == 0, straight.err
    assert run(words + "stopped", prepare=stop_at_step_nine).code == 75
    assert run(words + "stopped --resume").code == 0
    assert left("stopped").state() == left("straight").state()
    assert left("stopped").rows() == left("straight").rows()
    assert [list(row)[:4] for row in val_rows(left("straight"))] == [HEALTH] * 3
    assert left("straight").card()["metrics"] == left("straight").result()["metrics"]


@pytest.mark.slow
def test_two_processes_probe_what_one_process_probes(
    shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = MASKED.replace("test_resnet", "test_vit") + f"--data-path {shards} --probe --name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    for ours, theirs in zip(val_rows(left("two")), val_rows(left("one")), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert left("two").card()["sha256"] == left("one").card()["sha256"]
    assert other.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--probe --data-path {bare}", 3, "a probe needs class labels"),
        ("--probe --data-path {bare} --probe-path {shards} --probe-k 29", 2, "--probe-k"),
        ("--probe --data-path {bare} --probe-path {empty}", 3, "there is no jpg"),
        ("--probe --data-path {bare} --probe-path {shards} --dry-run", 0, ""),
        ("--probe --data-path {bare}/train-000000.tar", 3, "--probe-path"),
    ],
)
def test_a_probe_that_cannot_be_made_is_refused_before_anything_is_trained(
    words: str, code: int, complaint: str, shards: Path, run: Callable, tmp_path: Path
) -> None:
    bare, empty = tmp_path / "bare", tmp_path / "empty"
    empty.mkdir()
    without_labels(shards, bare)
    ended = run(MASKED + words.format(bare=bare, shards=shards, empty=empty))
    assert ended.code == code, ended.err
    assert not (tmp_path / "runs").exists()
    assert code == 0 or complaint in ended.complaint


def without_labels(shards: Path, out: Path) -> None:
    """The same shards with their `.cls` members left out."""
    import tarfile

    out.mkdir()
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as old, tarfile.open(out / shard.name, "w") as new:
            for member in old:
                if not member.name.endswith(".cls"):
                    new.addfile(member, old.extractfile(member))


@pytest.mark.slow
def test_unlabeled_shards_are_probed_with_the_images_of_a_folder(
    shards: Path, class_folders: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    without_labels(shards, tmp_path / "bare")
    told = f"--probe 2 --probe-path {class_folders} --probe-val-path {class_folders} --probe-k 1"
    ended = run(MASKED + f"--data-path {tmp_path / 'bare'} {told} --name run")
    assert ended.code == 0, ended.err
    rows = val_rows(left("run"))
    assert [row["epoch"] for row in rows] == [2, 3]
    assert all(row["knn"] == 1.0 for row in rows), "the nearest neighbor of a known image is itself"


# --- collapse ---------------------------------------------------------------------------------


def shrink() -> None:
    """A fault: what the loss compares is nearly the same for all images."""
    from pretrain.methods.mim import MaskedImages

    MaskedImages.embed = lambda self, vectors: 0.001 * vectors  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_collapse_is_told_once_at_every_probe_on_the_console_and_in_the_log(
    shards: Path, ranks: Callable, left: Callable
) -> None:
    words = MASKED.replace("test_resnet", "test_vit") + f"--data-path {shards} --probe --name run"
    main, other = ranks(words, 2, prepare=shrink)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    assert len([line for line in main.out.splitlines() if line.startswith("warning: the representation has")]) == 3
    assert (left("run").folder / "train.log").read_text().count("collapsed") == 3
    assert other.out == other.err == ""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the demo data."""
    from shared.feeding.demo import demo_data

    cache = tmp_path_factory.mktemp("cache")
    demo_data(cache / "demo")
    return cache


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "warned"), [("0", True), ("25", False)])
def test_vicreg_without_its_variance_term_is_warned_of_within_an_epoch_of_the_demo_data(
    weight: str, warned: bool, demo: Path, run: Callable, left: Callable
) -> None:
    words = (
        f"pretrain train --method vicreg --model test_resnet --std-coeff {weight} --expander-width 256 "
        "--limit 1600 --epochs 1 --batch-size 16 --probe --probe-bank 200 --probe-queries 50 -j 0 --device cpu --name v"
    )
    ended = run(words, env={"CHORDATE_CACHE": str(demo)})
    assert ended.code == 0, ended.err
    sentences = [line for line in ended.out.splitlines() if "collapsed" in line]
    assert len(sentences) == warned, ended.out
    assert (left("v").result()["metrics"]["embedding_std"] < 0.1) == warned


# --- pretrain eval ----------------------------------------------------------------------------


@pytest.fixture
def trained(shards: Path, run: Callable) -> Path:
    """A store with one supervised tag, and the shards it was trained on."""
    assert run(TRAIN + f"--data-path {shards} --epochs 2 --val-share 1.0 --rgb-mode clip").code == 0
    return shards


def packed_out(shards: Path, out: Path) -> Path:
    """The images of shards as files in class folders."""
    import tarfile

    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in content.items():
            if name.endswith(".jpg"):
                kind = ["ant", "bee", "cat"][int(content[name[:-3] + "cls"])]
                place = out / shard.name.partition("-")[0] / kind / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
    return out


@pytest.mark.slow
def test_a_tag_is_measured_on_shards_and_on_the_folder_of_the_same_images_alike(
    trained: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    words = EVAL + "--tag supervised --k 5 --protocol knn,linear --linear-on-features --epochs 20 --lr 0.5 "
    first = run(words + f"--data-path {trained} --json numbers.json --name shards")
    assert first.code == 0, first.err
    metrics = left("shards").result()["metrics"]
    assert list(metrics) == [*HEALTH, "linear"]
    assert json.loads((tmp_path / "numbers.json").read_text()) == metrics
    assert re.search(rf"^knn +{metrics['knn']:.4g} +accuracy with 5 neighbors", first.out, re.MULTILINE)
    assert "28 training and 9 validation images of 3 classes, 32x32 pixels, 100% of the short side" in first.out
    assert re.search(r"loaded test_resnet supervised@\w{6} \(epoch 2\): (\d+)/\1 tensors", first.out)
    again = run(words + f"--data-path {packed_out(trained, tmp_path / 'folder')} --name folder --batch-size 5")
    assert again.code == 0, again.err
    other = left("folder").result()["metrics"]
    assert {k: other[k] for k in HEALTH} == pytest.approx({k: metrics[k] for k in HEALTH}, rel=1e-3)


@pytest.mark.slow
def test_the_linear_probe_is_a_run_of_its_own_that_stops_and_goes_on(
    trained: Path, run: Callable, left: Callable
) -> None:
    words = EVAL + f"--tag supervised --data-path {trained} --protocol linear --epochs 6 --save-every 2 --name "

    def stop_at_step_five() -> None:
        from shared.loop.trainer import Trainer

        step = Trainer.train_step

        def counted(self: Trainer, micro_batches: list) -> None:
            self.asked_to_stop |= self.step == 5
            step(self, micro_batches)

        Trainer.train_step = counted  # type: ignore[method-assign]

    assert run(words + "straight").code == 0
    assert run(words + "stopped", prepare=stop_at_step_five).code == 75
    assert run(words + "stopped --resume").code == 0
    assert left("stopped").state() == left("straight").state()
    assert left("stopped").result()["metrics"] == left("straight").result()["metrics"]
    assert len(val_rows(left("straight"))) == 6


@pytest.mark.slow
def test_two_processes_measure_what_one_process_measures(
    trained: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = EVAL + f"--tag supervised --data-path {trained} --protocol knn,linear --epochs 2 --lr 0.5 --name "
    one = run(words + "one --grad-accum-steps 2")
    assert one.code == 0, one.err
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    assert left("two").result()["metrics"] == pytest.approx(left("one").result()["metrics"], rel=1e-5)
    assert other.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--tag nothing --data-path {shards}", 4, "test_resnet has supervised"),
        ("--tag supervised --data-path {shards} --k 29", 2, "29 nearest neighbors are more than the 28 images"),
        ("--tag supervised --data-path {bare}", 3, "no classes"),
        ("--tag supervised --data-path {empty}", 3, "there is no jpg"),
        ("--tag supervised --data-path {shards}/train-000000.tar", 3, "--val-path"),
        ("--tag supervised --data-path {shards} --val-path {other}", 3, "put a classes.txt next to"),
        ("--tag supervised --data-path nowhere", 3, "nowhere"),
        ("--tag supervised --data-path {shards} --protocol nn", 2, "no protocol 'nn', did you mean 'knn'?"),
        ("--tag supervised --data-path {shards} --tempreature 1", 2, "did you mean '--temperature'?"),
    ],
)
def test_bad_input_has_its_sentence_and_its_exit_code(
    words: str, code: int, complaint: str, trained: Path, run: Callable, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    without_labels(trained, tmp_path / "bare")
    other = packed_out(trained, tmp_path / "other")
    shutil.move(other / "train" / "cat", other / "train" / "dog")
    places = {name: tmp_path / name for name in ("empty", "bare")} | {"shards": trained, "other": other / "train"}
    before = set((tmp_path / "runs").iterdir())
    ended = run(EVAL + words.format(**places))
    assert ended.code == code, ended.err + ended.out
    assert complaint in ended.complaint
    assert set((tmp_path / "runs").iterdir()) == before


@pytest.mark.slow
def test_a_dry_run_measures_nothing(trained: Path, run: Callable, tmp_path: Path) -> None:
    before = set((tmp_path / "runs").iterdir())
    ended = run(EVAL + f"--tag supervised --data-path {trained} --dry-run")
    assert ended.code == 0, ended.err
    assert "28 training and 9 validation images" in ended.out and re.search(r"wd +1e-06 ", ended.out)
    assert set((tmp_path / "runs").iterdir()) == before
