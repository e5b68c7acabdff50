"""What goes wrong is said in one line that ends with the way out, with the exit code of its kind, without a traceback.

2 usage or recipe, 3 data, 4 weights, 1 anything else. Each case is a command as a person might mistype it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PRETRAIN = (
    "pretrain train --model test_resnet --size 32 --batch-size 8 --device cpu --num-workers 0 --data-path {shards} "
)
DETECT = (
    "detect train --network fcos --backbone test_resnet --size 64 --width 64 --depth 1 --batch-size 4 --device cpu "
    "--num-workers 0 --pictures 0 --data-path {coco} "
)


@pytest.fixture
def refused(run: Callable, shards: Path, coco: Path, tmp_path: Path) -> Callable[..., str]:
    """refused("pretrain train --nonsense", 2) -> the one line it printed."""

    def expect(words: str, code: int, **how: Any) -> str:
        ended = run(words.format(shards=shards, coco=coco, here=tmp_path), **how)
        assert ended.code == code, (ended.code, ended.out, ended.err)
        assert ended.complaint.startswith(words.split()[0] + ": ")
        return ended.complaint

    return expect


# --- the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pretrain trai", "no command 'trai', did you mean 'train'?"),
        (PRETRAIN + "--epoch 3", "no flag --epoch, did you mean '--epochs'?"),
        (PRETRAIN + "--zzzz 3", "pretrain train has no flag --zzzz"),
        (DETECT + "--num-querys 3", "detect train has no flag --num-querys, did you mean '--num-queries'?"),
        (PRETRAIN + "--lr-scheduler cosin", "did you mean 'cosine'?"),
        (PRETRAIN + "--lr fast", "lr is 'fast'; give a number"),
        (PRETRAIN + "--lr nan", "lr is 'nan'; give a number"),
        (PRETRAIN + "--epochs -1", "epochs is -1; it must be from 0 to 1000000"),
        (PRETRAIN + "--epochs 2.5", "epochs is '2.5'; give a whole number"),
        (PRETRAIN + "--batch-size 0", "batch_size is 0; it must be from 1 to 1000000"),
        (PRETRAIN + "--size 3", "size is 3; it must be from 8 to 16384"),
        (PRETRAIN + "--size 32 32 32", "size has 3 values; give 1 or 2"),
        (PRETRAIN + "--size big", "size is 'big'; give a whole number"),
        (DETECT + "--size 16", "size is 16; it must be from 32 to 16384"),
        (PRETRAIN + "--save-every 0", "save_every is '0'; give steps"),
        (PRETRAIN + "--save-every often", "save_every is 'often'; give steps"),
        (PRETRAIN + "--label-smoothing 2", "label_smoothing is 2"),
        (PRETRAIN + "--epochs", "expected one argument"),
        (PRETRAIN + "epochs 3", "'epochs' follows no flag"),
        (PRETRAIN + "--tag a/b", "'a/b' is not a valid tag or name"),
        (PRETRAIN + "--tag ../../etc", "'../../etc' is not a valid tag or name"),
        (DETECT + "--tag a/b", "'a/b' is not a valid tag or name"),
        (PRETRAIN + "--name ../outside", "is not a valid tag or name"),
        (PRETRAIN + "--model resnet_v1_5O", "did you mean 'resnet_v1_50'?"),
        (PRETRAIN + "--method supervized", "did you mean 'supervised'?"),
        (PRETRAIN + "--rgb-mode imagnet", "did you mean 'imagenet'?"),
        (DETECT + "--network faster_rcn", "did you mean 'faster_rcnn'?"),
        (DETECT + "--aug-type hflop", "did you mean 'hflip'?"),
        (DETECT + "--backbone resnet_v1_5O", "did you mean 'resnet_v1_50'?"),
        (DETECT + "--freeze-backbone --freeze-body", "mutually exclusive"),
        (DETECT + "--freeze-backbone-stages 9", "this backbone has a stem and 4 stages"),
        (DETECT.replace("--width 64", "--width 40"), "multiple of 64"),
        (DETECT.replace("--width 64", "--width wide"), "width is 'wide'; give a whole number"),
        (DETECT + "--val-path {coco}/val", "--val-path and --coco-val-json-path go together"),
        ("detect train --coco-json-path x.json", "add --data-path"),
        (PRETRAIN + "--recipe nonsense", "no recipe 'nonsense'"),
        (PRETRAIN + "--recipe nonsense.yaml", "there is no file nonsense.yaml"),
        (DETECT + "--recipe nonsense", "no recipe 'nonsense'"),
        ("detect eval", "either --weights or --results"),
        ("detect eval --results truth --eval-backend pycoco --data-path {coco}", "did you mean 'pycocotools'"),
        ("detect predict x.jpg", "--weights"),
        ("detect list network", "did you mean 'networks'?"),
        ("pretrain list weight", "did you mean 'weights'?"),
        ("pretrain pack", "required: folder, out"),
        (PRETRAIN + "--resume nothing", "--resume nothing is not a run folder"),
        (DETECT + "--resume runs/nothing", "--resume runs/nothing is not a run folder"),
        (PRETRAIN + "--device gpu", "device is 'gpu'; give cpu, cuda"),
        (PRETRAIN.replace("--device cpu", "--device cuda"), "no CUDA device was found; use --device cpu"),
        (DETECT.replace("--device cpu", "--device cuda"), "no CUDA device was found; use --device cpu"),
        ("pretrain train --data-path https://example.invalid/a.tar", "give the images per epoch with --samples"),
    ],
)
def test_a_command_that_cannot_be_understood_is_refused_with_2(words: str, says: str, refused: Callable) -> None:
    assert says in refused(words, 2)


def test_a_misuse_without_any_word_prints_the_commands(run: Callable) -> None:
    for command in ("pretrain", "detect"):
        ended = run(command)
        assert ended.code == 2
        assert ended.out.startswith(f"usage: {command} COMMAND")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: [1", "line 1 is not YAML"),
        ("epochs: 1\n\tlr: 2\n", "line 2 is not YAML"),
        ("epochs: 1\nepochs: 2\n", "key 'epochs' appears twice"),
        ("epoch: 1\n", "no key 'epoch', did you mean 'epochs'?"),
        ("lr_scheduler: cosinus\n", "did you mean 'cosine'?"),
        ("- 1\n", "is not a recipe"),
        ("base: nowhere\n", "no recipe 'nowhere'"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("pretrained: yes please\n", "pretrained is 'yes please'; give true or false"),
    ],
)
def test_a_broken_recipe_is_refused_with_its_line_and_key(
    text: str, says: str, tmp_path: Path, refused: Callable
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert says in refused(PRETRAIN + "--recipe mine.yaml", 2)


# --- data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pretrain train --data-path nowhere", "there is nothing at 'nowhere'"),
        ("pretrain train --data-path {here}/empty", "contains no .tar shards"),
        ("pretrain train --data-path {here}/photos", "is an image folder: pack it first with `pretrain pack"),
        ("pretrain train --data-path pipe:cat", "'pipe:cat' is neither"),
        (PRETRAIN + "--num-classes 2", "class 2 of train-000000.tar:00002 is outside the 2 classes"),
        ("pretrain pack nowhere out", "nowhere"),
        ("pretrain pack {here}/empty out", "expected FOLDER/<class>/<image>"),
        ("detect train --data-path nowhere", "there is nothing at nowhere; check --data-path"),
        (DETECT + "--coco-json-path nowhere.json", "cannot read the annotations nowhere.json"),
        (DETECT + "--class-file nowhere.txt", "cannot read the class file nowhere.txt"),
        (DETECT + "--class-file {here}/classes.txt", "'square' is not among the 1 classes"),
        (DETECT + "--ignore-file nowhere.txt", "cannot read the ignore file nowhere.txt"),
        ("detect eval --results nowhere.json --data-path {coco}", "nowhere.json cannot be read as COCO results"),
    ],
)
def test_data_that_cannot_be_used_is_refused_with_3(
    words: str, says: str, tmp_path: Path, class_folders: Path, refused: Callable
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes.txt").write_text("disc\n")
    assert says in refused(words, 3)


def broken(coco: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """The training annotations, changed; as the flags that name them."""
    told = json.loads((coco / "annotations" / "instances_train.json").read_text())
    change(told)
    (tmp_path / "changed.json").write_text(json.dumps(told))
    return f"--data-path {coco}/train --coco-json-path changed.json "


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda told: told["images"].clear(), "lists no images"),
        (lambda told: told["annotations"].clear(), "has no boxes"),
        (lambda told: told.pop("categories"), "has no list 'categories'"),
        (
            lambda told: [im.update(file_name="gone-" + im["file_name"]) for im in told["images"]],
            "--allow-missing-images 14",
        ),
        (lambda told: told["images"][0].update(file_name="../secret.jpg"), "it must stay in"),
        (lambda told: told["annotations"][0].update(image_id=999), "belongs to image 999, which is not listed"),
        (lambda told: told["annotations"][0].update(category_id=99), "has category 99, which is not listed"),
        (lambda told: told["annotations"][0].update(bbox=[1, 2, 3]), "four finite numbers x y w h belong"),
        (lambda told: told["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "four finite numbers"),
        (lambda told: [a.update(bbox=[5, 5, 0, 0]) for a in told["annotations"]], "no usable boxes"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused_with_3(
    change: Callable, says: str, coco: Path, tmp_path: Path, refused: Callable
) -> None:
    assert says in refused(DETECT + broken(coco, tmp_path, change), 3)


def test_boxes_that_are_degenerate_or_outside_are_noted_and_trained_around(
    coco: Path, tmp_path: Path, run: Callable
) -> None:
    def change(told: dict[str, Any]) -> None:
        odd = ([-20, -20, 40, 40], [5, 5, 0, 10], [60, 40, 500, 500], [30, 30, -4, -4], [1000, 1000, 9, 9])
        for annotation, box in zip(told["annotations"], odd, strict=False):
            annotation["bbox"] = list(box)

    ended = run(DETECT.format(coco=coco) + broken(coco, tmp_path, change) + "--epochs 1")
    assert ended.code == 0, ended.err
    assert "2 boxes reach outside the image, clipped" in ended.out
    assert "3 boxes are narrower than 1 pixel, dropped" in ended.out


def test_more_unreadable_images_than_allowed_are_refused_and_fewer_stepped_over(
    coco: Path, tmp_path: Path, run: Callable
) -> None:
    import shutil

    copy = shutil.copytree(coco, tmp_path / "copy")
    for name in ("000.jpg", "001.jpg"):
        (copy / "train" / name).write_bytes((copy / "train" / name).read_bytes()[:300])
    words = DETECT.format(coco=copy) + "--epochs 1 "
    ended = run(words)
    assert ended.code == 3
    assert "allow more with --max-bad-samples" in ended.complaint
    ended = run(words + "--max-bad-samples 0.2")
    assert ended.code == 0, ended.err
    assert ended.out.count("warning: skipped") == 2


# --- weights and folders ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (DETECT + "--backbone-tag nothing", "no weights tagged 'nothing' for test_resnet in weights"),
        (DETECT + "--backbone-epoch 3", "has no weights for test_resnet; train some with"),
        (DETECT + "--backbone-pretrained --offline", "published weights for test_resnet could not be downloaded"),
        ("detect eval --weights nothing", "no weights tagged 'nothing'"),
        ("detect predict x.jpg --weights nothing", "no weights tagged 'nothing'"),
    ],
)
def test_weights_that_are_not_there_are_refused_with_4(words: str, says: str, refused: Callable) -> None:
    assert says in refused(words, 4, env={"HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize("flag", ["--output-dir", "--weights-dir"])
def test_a_file_in_the_place_of_a_folder_is_refused(flag: str, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "taken").write_text("a file")
    told = refused(PRETRAIN + f"--epochs 1 {flag} taken/inside", 2)
    assert f"give another {flag}" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="to root every folder is writable")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "give another --output-dir" in refused(PRETRAIN + "--output-dir closed", 2)


def test_a_run_of_that_name_is_not_overwritten(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("epochs: 1\n")
    assert "already exists; give another --name, or --resume" in refused(PRETRAIN + "--name mine", 2)
    assert [path.name for path in (tmp_path / "runs" / "mine").iterdir()] == ["recipe.yaml"]


def test_a_loss_that_is_not_finite_stops_the_run_names_it_and_is_run_again(refused: Callable, run: Callable) -> None:
    told = refused(PRETRAIN + "--lr 1000 --lr-batch 1 --wd 100 --opt sgd --epochs 9 --warmup-epochs 0", 1)
    assert "is NaN or Inf at step" in told
    assert "classification" in told
    file = re.search(r"saved in (\S+)\)", told)[1]  # type: ignore[index]
    again = run(f"pretrain replay {file}")
    assert again.code == 0 and "first NaN or Inf: backbone." in again.out
    assert "is not a step of `detect train`" in refused(f"detect replay {file}", 4)


def test_what_a_broken_step_of_a_detector_saw_is_named_kept_and_run_again(
    refused: Callable, run: Callable, coco: Path, tmp_path: Path
) -> None:
    import torch

    told = refused(DETECT + "--lr 1000 --lr-batch 1 --wd 100 --opt sgd --epochs 9 --name broken", 1)
    said = re.search(r"of images ([\d, ]+) \(saved in (\S+)\)", told)
    assert said is not None, told
    kept = torch.load(tmp_path / said[2], weights_only=True)
    pictures, targets = kept["batches"][0]
    assert said[1] == ", ".join(str(target["image_id"]) for target in targets) and len(pictures) == 4
    assert not all(math.isfinite(value) for value in kept["losses"].values())
    assert "detector.head.classification_head.cls_logits.weight" in kept["task"]
    (tmp_path / said[2]).rename(tmp_path / "sent.pt")  # the file is all it needs
    again = run("detect replay sent.pt")
    assert again.code == 0 and again.out.startswith(f"step {kept['step']} of images {said[1]}\n")
    assert "first NaN or Inf: detector." in again.out and len(re.findall("^  image", again.out, re.MULTILINE)) == 4
    assert "give a replay-step-*.pt of a run" in refused("detect replay nothing.pt", 4)


def test_weights_that_are_not_finite_are_not_saved(refused: Callable, tmp_path: Path) -> None:
    def break_one() -> None:
        import torch

        from shared.loop.trainer import Trainer

        after = Trainer.account

        def account(self: Trainer, waited: float) -> None:
            after(self, waited)
            if self.step == 3:
                with torch.no_grad():
                    next(self.task.parameters()).view(-1)[0] = float("nan")

        Trainer.account = account  # type: ignore[method-assign]

    told = refused(PRETRAIN + "--epochs 2 --save-every 1 --name run", 1, prepare=break_one)
    assert "1 tensor of weights, such as " in told
    assert "NaN or Inf at step 3" in told
    states = sorted(path.name[:13] for path in (tmp_path / "runs" / "run" / "last").glob("*.pt"))
    assert states == ["step-00000001", "step-00000002"]


def test_nothing_is_trained_before_a_mistake_is_found(refused: Callable, tmp_path: Path) -> None:
    refused(PRETRAIN + "--lr-scheduler cosin", 2)
    refused(DETECT + "--network faster_rcn", 2)
    refused(DETECT + "--backbone-tag nothing", 4)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "weights").exists()


def test_the_traceback_is_there_for_those_who_ask(run: Callable, shards: Path) -> None:
    ended = run(PRETRAIN.format(shards=shards) + "--lr fast --debug")
    assert "Traceback" in ended.err


WORDS = [
    *("--epochs", "--lr", "--size", "--batch-size", "--model", "--opt", "--tag", "--seed", "--device", "--recipe"),
    *("--amp", "--resume", "--save-every", "--data-path", "--val-path", "--num-classes", "--warmup-epochs", "--epcohs"),
]
VALUES = ["-1", "0", "1e400", "nan", "abc", "", "..", "/", "x" * 100, "1.5", "\u00e9", "[1", "none", "--", "\n"]


def test_no_generated_command_line_shows_a_traceback(start: Callable, tmp_path: Path) -> None:
    """25 command lines of words and values drawn at random: one line, an exit code of ours, never a traceback."""
    rng = np.random.default_rng(7)
    for _ in range(25):
        argv = ["pretrain", "train", "--dry-run", "--data-path", "nowhere"]
        for _ in range(int(rng.integers(1, 4))):
            argv += [str(rng.choice(WORDS)), str(rng.choice(VALUES))]
        trial = start("", argv=argv)
        ended = trial.wait()
        assert ended.code in (1, 2, 3, 4), (argv, ended)
        assert "Traceback" not in ended.err, argv
        assert ended.code != 1 or "run again with --debug" not in ended.err, (argv, ended.err)
        assert len(ended.err.splitlines()) <= 2, (argv, ended.err)
