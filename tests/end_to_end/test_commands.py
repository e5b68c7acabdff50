"""The two steps as a person takes them: pack, pretrain, fine-tune on the tag, evaluate, report, list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

PRETRAIN = "pretrain train --model test_resnet --size 32 --batch-size 8 --epochs 2 --device cpu --num-workers 0 "
DETECT = (
    "detect train --network fcos --backbone test_resnet --size 64 --width 64 --depth 1 --batch-size 4 --epochs 1 "
    "--device cpu --num-workers 0 --pictures 1 "
)


def weights_of(tmp_path: Path, arch: str) -> list[dict]:
    """The cards of everything exported for an arch, oldest first."""
    cards = [json.loads(path.read_text()) for path in (tmp_path / "weights" / arch).glob("*/*/card.json")]
    return sorted(cards, key=lambda card: card["created"])


def first_tensors(folder: Path, prefix: str) -> dict:
    from safetensors.torch import load_file

    return {k[len(prefix) :]: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith(prefix)}


# --- asking what there is --------------------------------------------------------------------


@pytest.mark.slow
def test_asking_for_help_imports_no_torch() -> None:
    script = """
import sys
from contextlib import suppress
import detection.cli, pretrain.cli
for main, commands in ((pretrain.cli.main, ["train", "pack", "list"]),
                       (detection.cli.main, ["train", "eval", "predict", "report", "list"])):
    assert main(["--help"]) == 0
    for command in commands:
        with suppress(SystemExit):
            main([command, "--help"])
    assert main(["train", "--lr-scheduler", "cosin"]) == 2
heavy = {"torch", "torchvision", "timm", "webdataset", "tensorboard", "matplotlib", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, timeout=60)
    assert done.returncode == 0, done.stderr
    for word in (
        "--layer-decay",
        "--backbone-tag",
        "--freeze-backbone-stages",
        "--model-ema",
        "--print-freq",
        "--shard-size",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        ("pretrain list methods", ["methods (", "supervised", "label_smoothing="]),
        ("pretrain list backbones", ["hrnet_w32c", "resnet50_v1d", "darknet53"]),
        ("pretrain list recipes", ["recipes (", "cifar10_resnet18"]),
        ("pretrain list weights", ["weights (0)"]),
        ("detect list networks", ["faster_rcnn", "fcos", "center_radius=1.5"]),
        ("detect list backbones", ["vit_det_m16_rms"]),
        ("detect list augmentations", ["augmentations (", "birder", "lsj"]),
        ("detect list recipes", ["recipes ("]),
        ("detect list weights", ["weights (0)"]),
        ("pretrain list", ["methods (", "backbones (", "recipes (", "weights ("]),
        ("detect list", ["networks (", "backbones (", "recipes (", "weights ("]),
    ],
)
def test_every_catalogue_lists_what_there_is(words: str, shows: list[str], run: Callable) -> None:
    ended = run(words)
    assert ended.code == 0, ended.err
    for word in shows:
        assert word in ended.out


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing_behind(
    shards: Path, run: Callable, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 0.5\nlr_scheduler: cosine\nwarmup_epochs: 1\n")
    before = set(tmp_path.iterdir())
    ended = run(PRETRAIN + f"--data-path {shards} --recipe mine.yaml --norm-wd 0 --dry-run --dry-steps 3")
    assert ended.code == 0, ended.err
    assert re.search(r"lr +0\.5 +recipe mine", ended.out)
    assert re.search(r"epochs +2 +flag", ended.out)
    assert re.search(r"momentum +0\.9 +default", ended.out)
    assert re.search(r"backbone stage 4 +[1-9][\d,]* +0", ended.out)
    assert "7 optimizer steps of 8 images; 3.5 steps per epoch; warm-up over 4 steps" in ended.out
    assert "28 training images, 9 validation images" in ended.out
    assert "measured in 3 steps on cpu" in ended.out
    assert re.search(r"\n  time    about .* for 2 epochs, without evaluation: 7 steps of ", ended.out)
    assert set(tmp_path.iterdir()) - before == set(tmp_path.glob("printed-*"))  # those are this test's own


def test_a_dry_run_of_detection_tells_what_is_frozen_and_how_fast_the_rest_learns(
    coco: Path, run: Callable, tmp_path: Path
) -> None:
    flags = "--freeze-backbone-stages 2 --backbone-lr 0.001 --lr 0.01 --layer-decay 0.5 --wd 0.1 --norm-wd 0 --dry-run"
    ended = run(DETECT + f"--data-path {coco} {flags} --dry-steps 1")
    assert ended.code == 0, ended.err
    assert re.search(r"backbone stem +0 +[1-9]", ended.out)
    assert re.search(r"backbone stage 2 +0 +[1-9]", ended.out)
    assert re.search(r"backbone stage 3 +[1-9][\d,]* +0", ended.out)
    assert re.search(r"head +0\.01 +0\.1 ", ended.out)
    assert re.search(r"backbone +0\.0005 +0\.1 ", ended.out)  # the last block: 0.001 x 0.5
    assert "weights\n  random" in ended.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("extra", "code"), [("--backbone-tag nothing", 4), ("--coco-json-path nothing.json", 3)])
def test_a_dry_run_ends_as_the_run_would_have(extra: str, code: int, coco: Path, run: Callable) -> None:
    assert run(DETECT + f"--data-path {coco} {extra} --dry-run").code == code


# --- the chain --------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_folder_of_photographs_to_a_compared_detector(
    class_folders: Path, coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    packed = run(f"pretrain pack {class_folders} packed --val-share 0.25")
    assert packed.code == 0, packed.err
    assert "of 3 classes into" in packed.out
    pretrained = run(PRETRAIN + "--data-path packed --tag photos --model-ema --name pre", report=True)
    assert pretrained.code == 0, pretrained.err
    (card,) = weights_of(tmp_path, "test_resnet")
    assert card["tag"] == "photos"
    assert card["classes"]["names"] == ["bar", "disc", "square"]
    assert card["recipe"]["epochs"] == card["epoch"] == 2
    assert card["metrics"] == left("pre").result()["metrics"]

    words = DETECT.replace("--backbone test_resnet", "") + f"--data-path {coco} "
    tagged = run(words + "--backbone-tag photos --name tagged", report=True)  # the only backbone that has the tag
    assert tagged.code == 0, tagged.err
    assert re.search(r"loaded test_resnet photos@\w{6} \(epoch 2\): (\d+)/\1 tensors", tagged.out)
    scratch = run(DETECT + f"--data-path {coco} --name scratch")
    assert "starts from random weights" in scratch.out
    (card,) = [c for c in weights_of(tmp_path, "fcos-test_resnet") if c["tag"] == "tagged"]
    (parent,) = card["parents"]
    assert (tmp_path / "weights" / "test_resnet" / "photos" / parent["digest"]).is_dir()
    lineage = json.loads((left("tagged").folder / "lineage.json").read_text())
    assert [node["tag"] for node in lineage] == ["tagged", "photos"]
    transfer = json.loads((left("tagged").folder / "transfer.json").read_text())
    assert transfer["matched_tensors"] == transfer["total_tensors"] > 0
    assert transfer["moved"] > 0

    compared = run("detect report runs/scratch runs/tagged --output both.html", report=True)
    assert compared.code == 0, compared.err
    page = (tmp_path / "both.html").read_text()
    assert all(word in page for word in ("<svg", "scratch", "tagged", "data:image"))
    assert not re.search(r"""(src|href)=["']?https?://""", page)  # self-contained
    listed = run("detect list weights").out
    assert all(word in listed for word in ("photos@", "tagged@", "scratch@"))


@pytest.mark.slow
def test_a_run_leaves_everything_the_readme_promises_and_the_next_takes_another_folder(
    coco: Path, run: Callable, tmp_path: Path
) -> None:
    words = DETECT + f"--data-path {coco} --log-every 1"
    assert run(words, report=True).code == 0
    folder = tmp_path / "runs" / "fcos-test_resnet-scratch"
    names = {path.name.split(".tfevents")[0] for path in folder.iterdir()} - {".lock"}
    files = {"seen.npy" if name.startswith("seen-") else name for name in names}
    assert files == {
        *("recipe.yaml", "metrics.jsonl", "results.csv", "train.log", "events.out", "report.html"),
        *("last", "result.json", "lineage.json", "pictures", "seen.npy", "mistakes", "explained.json"),
    }
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(words).code == 0
    assert (tmp_path / "runs" / "fcos-test_resnet-scratch-2" / "result.json").is_file()
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    assert all({"loss", "lr", "images_per_s", "wait_share"} <= row.keys() for row in rows if row["kind"] == "train")


@pytest.mark.slow
def test_exports_kept_on_the_way_can_be_picked_by_their_epoch(
    shards: Path, coco: Path, run: Callable, tmp_path: Path
) -> None:
    assert run(PRETRAIN + f"--data-path {shards} --keep-epochs 1 --epochs 3").code == 0
    cards = weights_of(tmp_path, "test_resnet")
    assert [(card["epoch"], card["finished"]) for card in cards] == [(1, False), (2, False), (3, True)]
    words = DETECT + f"--data-path {coco} --backbone-tag supervised "
    for flags, epoch in (("--backbone-epoch 2", 2), ("--backbone-epoch 0", 3), ("", 3)):
        dry = run(words + flags + " --dry-run --dry-steps 0")
        assert f"(epoch {epoch}): " in dry.out, dry.err
    missing = run(words + "--backbone-epoch 7")
    assert missing.code == 4
    assert "has no 'supervised' at epoch 7; found" in missing.complaint


@pytest.mark.slow
def test_pretraining_starts_from_a_tag_which_becomes_its_parent(shards: Path, run: Callable, tmp_path: Path) -> None:
    import torch

    assert run(PRETRAIN + f"--data-path {shards} --rgb-mode centered --tag first").code == 0
    assert run(PRETRAIN + f"--data-path {shards} --init-tag first --tag second --lr 0").code == 0
    first, second = weights_of(tmp_path, "test_resnet")
    assert second["tag"] == "second" and [parent["tag"] for parent in second["parents"]] == ["first"]
    (export,) = (tmp_path / "weights/test_resnet/first").glob("*/card.json")
    assert second["parents"][0]["digest"] == export.parent.name
    old, new = (
        first_tensors(next((tmp_path / "weights/test_resnet").glob(f"{tag}/*/")), "") for tag in ("first", "second")
    )
    still = [name for name in old if "running" not in name and "num_batches" not in name]
    assert len(still) > 9 and all(torch.equal(old[name], new[name]) for name in still), "nothing learns at a rate of 0"
    assert second["pixels"] == first["pixels"], "pixels follow the weights"
    for flags, code, says in (
        ("--init-tag third", 4, "no weights tagged 'third'"),
        ("--init-tag first --rgb-mode clip", 4, "was trained with pixel mean"),
        ("--init-tag first --pretrained", 2, "keep one"),
    ):
        refused = run(PRETRAIN + f"--data-path {shards} {flags}")
        assert refused.code == code and says in refused.complaint


@pytest.mark.slow
def test_the_average_is_what_is_exported(shards: Path, run: Callable, left: Callable, tmp_path: Path) -> None:
    import torch

    from shared.loop.state import load_state

    assert run(PRETRAIN + f"--data-path {shards} --model-ema --name ema").code == 0
    state = load_state(left("ema").folder / "last")
    assert state is not None
    exported = first_tensors(tmp_path / left("ema").result()["weights"], "")
    for name, value in exported.items():
        torch.testing.assert_close(value, state["average"][f"module.backbone.{name}"], rtol=0, atol=0)
    assert any(not torch.equal(value, state["task"][f"backbone.{name}"]) for name, value in exported.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "still", "moves"),
    [
        ("--freeze-backbone", r"backbone\.", r"(neck|head)\."),
        ("--freeze-backbone-stages 1", r"backbone\.net\.(conv1|bn1|layer1)\.", r"backbone\.net\.layer2\."),
        ("--freeze-backbone-bn", r"backbone\..*bn\d\.", r"backbone\..*conv\d\.weight"),
        ("--freeze-body", r"(backbone|neck|head\.regression_head)\.", r"head\.classification_head\."),
    ],
)
def test_what_is_frozen_by_a_flag_holds_still_to_the_bit(
    flag: str, still: str, moves: str, coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    import torch

    assert run(DETECT + f"--data-path {coco} {flag} --name none --lr 0 --tag before").code == 0
    assert run(DETECT + f"--data-path {coco} {flag} --name some --lr 0.01 --momentum 0.5 --tag after").code == 0
    before, after = (first_tensors(tmp_path / left(name).result()["weights"], "") for name in ("none", "some"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if re.match(still, name)]
    assert any(re.match(moves, name) for name in changed)
    if "bn" in flag or flag == "--freeze-backbone":
        assert all(float(after[n].abs().sum()) == 0 for n in after if n.startswith("backbone") and "running_mean" in n)


@pytest.mark.slow
def test_without_data_flags_both_halves_take_the_demo_data_and_say_so(shards: Path, coco: Path, run: Callable) -> None:
    def small_demo() -> None:  # the real one takes its time and has tests of its own
        from shared.feeding import demo

        annotations = {f"{split}_json": coco / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
        images = {f"{split}_images": coco / split for split in ("train", "val")}
        demo.demo_data = lambda _: SimpleNamespace(shards=shards, **images, **annotations)

    for words in ("pretrain train --model test_resnet", "detect train --backbone test_resnet --network fcos"):
        ended = run(words + " --dry-run --dry-steps 0 --device cpu --num-workers 0", prepare=small_demo)
        assert ended.code == 0, ended.err
        assert ended.out.startswith("no --data-path: using the built-in demo data with --")
        assert re.search(r"size +\[(32|192)\] +base demo_", ended.out)
