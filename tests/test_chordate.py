"""`import chordate`: the boxes, weights and refusals of the commands, in a process that stays as it was."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import chordate
from backbones import backbone
from backbones.base import Backbone
from detection.cli import main as detect
from detection.data.annotations.skeleton import Skeleton
from detection.nets import detector
from shared.errors import DataError, Refusal, UsageError, WeightsError
from shared.feeding.feed import known
from shared.weights.card import Card
from shared.weights.store import Store

ROOT = Path(__file__).parents[1]
CLASSES = {"names": ["kite", "traffic cone"], "source_ids": [7, 90]}
NAMED = {7: "kite", 90: "traffic cone"}
TINY = {"width": 16, "hidden": 16, "max_detections": 6, "min_score": 0.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "fcos": {"width": 64, "depth": 1, "min_score": 0.0},
    "mask_rcnn": TINY | {"mask_width": 8, "mask_depth": 1},
    "keypoint_rcnn": TINY | {"keypoint_width": 8, "keypoint_depth": 1, "num_keypoints": 3},
}


@pytest.fixture
def export(in_folder: Path, card: Callable[..., Card]) -> Callable[[str], str]:
    """Name of a network -> the tag of an export with random weights, in ./weights."""

    def make(network: str) -> str:
        net = detector.build(network, backbone.build("test_resnet"), 2, **OPTIONS[network])
        args = {"network": network, "network_args": OPTIONS[network], "backbone": "test_resnet", "backbone_args": {}}
        classes: dict[str, Any] = {**CLASSES}
        if network == "keypoint_rcnn":
            names, edges, mirrored = ("head", "left", "right"), ((0, 1), (0, 2)), (0, 2, 1)
            classes["skeleton"] = Skeleton(names, edges, mirrored, (0.1, 0.1, 0.1)).to_dict()
        recipe = {"size": [64, 64], "max_size": None, "multiscale": False, "aug_type": "hflip"}
        about = {"arch": f"{network}-test_resnet", "tag": "mine", "kind": "detector", "recipe": recipe}
        Store(Path("weights")).put(net, card(**about, args=args, classes=classes))
        return "mine"

    return make


@pytest.fixture
def photos(in_folder: Path) -> Path:
    """Three photographs: a JPEG, one that lies on its side by EXIF, and a gray PNG."""
    folder, rng = in_folder / "photos", np.random.default_rng(0)
    folder.mkdir()
    pixels = rng.integers(0, 255, (48, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "b.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(folder / "c.png")
    return folder


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", sorted(OPTIONS))
def test_a_folder_gives_the_very_results_of_detect_predict(network: str, export: Callable, photos: Path) -> None:
    tag = export(network)
    assert detect(["predict", str(photos), "--weights", tag, "--output", "out", "--device", "cpu"]) == 0
    found = chordate.load(tag, device="cpu").predict(photos)
    entries = [entry for i, one in enumerate(found, start=1) for entry in one.to_coco(i)]
    assert entries == json.loads(Path("out/results.json").read_text())
    assert len(entries) > 0 and {entry["category_id"] for entry in entries} <= {7, 90}
    assert {entry["category_id"]: entry["category_name"] for entry in entries}.items() <= NAMED.items()
    for one, name in zip(found, ("a.jpg", "b.jpg", "c.png"), strict=True):
        assert one.path is not None and one.path.name == name
        drawn = Path("out/again.jpg")
        one.plot().convert("RGB").save(drawn, quality=90)
        assert drawn.read_bytes() == Path("out", name).with_name(name.replace("png", "png.jpg")).read_bytes()


def test_photographs_of_one_name_keep_their_folders_and_boxes_are_rows_of_a_csv(export: Callable, photos: Path) -> None:
    shutil.copytree(photos, photos / "cam2")
    words = ["predict", str(photos / "cam2"), str(photos / "a.jpg"), str(photos / "a.jpg"), "--weights", export("fcos")]
    assert detect([*words, "--csv", "--conf", "0.01", "--output", "out", "--device", "cpu"]) == 0
    pictures = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.jpg")}
    assert pictures == {"cam2/a.jpg", "cam2/b.jpg", "cam2/c.png.jpg", "a.jpg", "000005-a.jpg"}
    with Path("out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    entries, files = json.loads(Path("out/results.json").read_text()), json.loads(Path("out/images.json").read_text())
    assert len(rows) == len(entries) > 0
    file_names = {image["id"]: image["file_name"] for image in files["images"]}
    for row, entry in zip(rows, entries, strict=True):
        assert row["file_name"] == file_names[entry["image_id"]] and row["class_name"] == entry["category_name"]
        x, y, w, h = entry["bbox"]
        corners = [float(row[name]) for name in ("x0", "y0", "x1", "y1")]
        assert int(row["class_id"]) == entry["category_id"] and corners == pytest.approx([x, y, x + w, y + h], abs=1e-3)
        assert float(row["score"]) == pytest.approx(entry["score"], abs=1e-5)


@pytest.mark.slow
def test_an_exported_model_predicts_what_it_was_made_from(export: Callable, photos: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install 'chordate[export]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'chordate[export]'")
    model = chordate.load(export("fcos"), device="cpu")
    folder = model.export("exported", photos=[photos])
    for own, other in zip(model.predict(photos), chordate.load(folder).predict(photos), strict=True):
        assert len(own) == len(other) > 0
        apart = np.abs(own.boxes[:, None] - other.boxes).max(2) + (own.labels[:, None] != other.labels) * 1e3
        apart += np.abs(own.scores[:, None] - other.scores) * 100
        assert (apart.min(1) < 0.1).all()  # in pixels, and hundredths of the score
    with pytest.raises(UsageError, match="exported already"):
        chordate.load(folder).export("again")


def test_a_prediction_says_what_was_found_where(export: Callable, photos: Path) -> None:
    model = chordate.load(export("mask_rcnn"), device="cpu")
    assert (model.names, model.network, model.backbone) == (CLASSES["names"], "mask_rcnn", "test_resnet")
    found = model.predict(photos / "b.jpg")
    count = len(found)
    assert count > 0 and found.image.shape == (80, 48, 3)  # turned upright
    assert found.boxes.shape == (count, 4) and (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert (np.diff(found.scores) <= 0).all() and found.keypoints is None
    assert [CLASSES["names"][label] for label in found.labels] == found.names
    assert [CLASSES["source_ids"][label] for label in found.labels] == found.category_ids.tolist()
    assert found.masks is not None and found.masks.shape == (count, 80, 48) and found.masks.dtype == bool
    best = model.predict(photos / "b.jpg", min_score=float(found.scores[0]))
    assert 0 < len(best) <= count and best.scores.min() >= found.scores[0]
    assert "48x80" in repr(found) and found.names[0] in repr(found)


@pytest.mark.parametrize("network", ["fcos", "mask_rcnn"])
def test_tiles_are_looked_into_as_photographs_and_a_large_tile_changes_nothing(
    network: str, export: Callable, photos: Path
) -> None:
    tag = export(network)
    model, picture = chordate.load(tag, device="cpu"), chordate.load(tag).predict(photos / "a.jpg").image
    plain = model.predict(picture, tiles=80)
    assert plain.to_coco() == model.predict(picture).to_coco()
    places = [(0, 0, 80, 48), (0, 0, 40, 40), (40, 0, 80, 40), (0, 8, 40, 48), (40, 8, 80, 48)]
    alone = [model.predict(picture[y0:y1, x0:x1].copy()).boxes + np.array([x0, y0] * 2) for x0, y0, x1, y1 in places]
    found = model.predict(picture, tiles=40, tile_overlap=0)
    apart = np.abs(found.boxes[:, None] - np.concatenate(alone)).max(2)
    assert len(found) > len(plain) / 2 and (apart.min(1) < 1e-3).all()
    assert (np.diff(found.scores) <= 0).all()
    assert found.masks is None or found.masks.shape == (len(found), 48, 80)
    assert found.plot().size[0] >= 640
    words = [
        "predict",
        str(photos / "a.jpg"),
        "--weights",
        tag,
        "--tiles",
        "40",
        "--tile-overlap",
        "0",
        "--device",
        "cpu",
    ]
    assert detect([*words, "--output", "out"]) == 0
    boxes = [entry["bbox"] for entry in json.loads(Path("out/results.json").read_text())]
    x0, y0, x1, y1 = found.boxes.T
    assert np.array(boxes) == pytest.approx(np.stack((x0, y0, x1 - x0, y1 - y0), 1))


def test_keypoints_are_in_pixels_of_the_photograph(export: Callable, photos: Path) -> None:
    found = chordate.load(export("keypoint_rcnn"), device="cpu").predict(photos / "a.jpg")
    assert found.keypoints is not None and found.keypoints.shape == (len(found), 3, 3) and found.masks is None
    inside = (found.keypoints[..., 0] >= found.boxes[:, :1] - 1) & (found.keypoints[..., 0] <= found.boxes[:, 2:3] + 1)
    assert inside.all()


def test_every_kind_of_image_gives_the_same_boxes(export: Callable, photos: Path) -> None:
    model = chordate.load(export("fcos"), device="cpu")
    path = photos / "c.png"
    gray = np.asarray(Image.open(path))
    array = np.repeat(gray[..., None], 3, 2)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    asked: list[Any] = [path, str(path), Image.open(path), gray, gray[..., None], array, tensor, tensor[:1], tensor[0]]
    whole = [model.predict(one) for one in asked]
    whole += model.predict(asked[:3]) + model.predict(array[None]) + model.predict(tensor[None].repeat(2, 1, 1, 1))
    assert len(whole) == len(asked) + 6 and len(whole[0]) > 0
    for found in whole:
        assert np.array_equal(found.boxes, whole[0].boxes) and np.array_equal(found.scores, whole[0].scores)
        assert np.array_equal(found.image, array)
    turned = model.predict(Image.open(photos / "b.jpg"))
    assert np.array_equal(turned.image.shape, (80, 48, 3))


def test_images_that_are_none_are_refused_with_the_way_out(export: Callable, photos: Path) -> None:
    model = chordate.load(export("fcos"), device="cpu")
    for wrong, words in (
        (np.zeros((48, 64, 3)), r"\(255 \* image\)"),
        (np.zeros((3, 48, 64), np.uint8), "height, width, 3"),
        (torch.zeros(48, 64, 3, dtype=torch.uint8), r"permute\(2, 0, 1\)"),
        (torch.zeros(3, 48, 64), r"\.byte\(\)"),
        (12, "not int"),
    ):
        with pytest.raises(UsageError, match=words):
            model.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no file .*nowhere.jpg"):
        model.predict("nowhere.jpg")
    (photos / "d.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(DataError, match=r"d\.jpg"):
        model.predict(photos / "d.jpg")
    assert len(model.predict(photos)) == 3  # a folder's damaged file is left out, and logged
    with pytest.raises(UsageError, match="from 0 to 1"):
        model.predict(photos / "a.jpg", min_score=50)
    with pytest.raises(WeightsError, match="no weights tagged 'other'"):
        chordate.load("other")


def test_to_supervision_carries_boxes_names_and_masks(export: Callable, photos: Path) -> None:
    pytest.importorskip("supervision")
    found = chordate.load(export("mask_rcnn"), device="cpu").predict(photos / "a.jpg")
    there = found.to_supervision()
    assert len(there) == len(found) and there.data["class_name"].tolist() == found.names
    assert np.allclose(there.xyxy, found.boxes) and np.array_equal(there.mask, found.masks)
    assert there.class_id.tolist() == found.labels.tolist()


# --- train ----------------------------------------------------------------------------------------


def test_train_gives_the_run_and_leaves_the_process_as_it_was(in_folder: Path, write_coco: Callable) -> None:
    for part in ("train", "val"):
        write_coco(in_folder / "coco" / part, in_folder / "coco/annotations" / f"instances_{part}.json", {3: "kite"})
    before = state_of_the_process()
    wanted: dict[str, Any] = {"network": "fcos", "backbone": "test_resnet", "width": 64, "depth": 1, "epochs": 1}
    wanted |= {"data_path": in_folder / "coco", "size": 64, "batch_size": 2, "aug_type": "hflip", "pictures": 0}
    wanted |= {"device": "cpu", "num_workers": 0, "amp": False, "name": "mine", "min_score": 0.0, "tag": None}
    assert chordate.train("detect", **wanted, dry_run=True, dry_steps=0) is None
    run = chordate.train("detect", **wanted)
    assert run is not None and run.folder == Path("runs/mine") and "box_ap" in run.metrics
    after = state_of_the_process()
    for name in before.keys() - {"warnings"}:  # libraries that are imported for the first time add filters
        assert after[name] == before[name], name
    model = chordate.load(run.folder, device="cpu")
    assert model.path == run.weights and model.card.recipe["network_args"]["width"] == 64
    again = model.evaluate(in_folder / "coco")
    assert {name: again[name] for name in run.metrics} == run.metrics
    more = chordate.train("detect", resume="runs/mine", epochs=2)  # the lock of the first is gone
    assert more is not None and json.loads((more.folder / "result.json").read_text())["finished"]


def test_train_answers_unknown_fields_as_the_command_does() -> None:
    with pytest.raises(UsageError, match="has no flag --epoch, did you mean"):
        chordate.train("detect", epoch=3, data_path="coco")
    with pytest.raises(UsageError, match="neither 'detect'"):
        chordate.train("fcos")  # type: ignore[arg-type]


def test_a_run_in_another_thread_sets_no_handlers() -> None:
    from shared.loop.signals import StopRequest

    seen: list[str] = []

    def run() -> None:
        with StopRequest() as stop:
            seen.append(str(stop.asked))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == ["None"]


# --- backbones ------------------------------------------------------------------------------------


@pytest.fixture
def exported_backbone(in_folder: Path, card: Callable[..., Card]) -> Callable[[str], Backbone]:
    """Name of a backbone -> one with random weights and statistics, exported under the tag mine."""

    def make(name: str) -> Backbone:
        net = backbone.build(name)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
        Store(Path("weights")).put(net, card(arch=name, tag="mine", pixels={"mean": [0.5] * 3, "std": [0.25] * 3}))
        return net.eval()

    return make


def test_a_backbone_goes_to_timm_and_computes_the_same(exported_backbone: Callable) -> None:
    net, image = exported_backbone("test_resnet"), torch.rand(2, 3, 64, 64)
    mine = chordate.backbone("mine")
    made: Any = mine.to_timm()
    assert torch.equal(made(image), net(image)) and not made.training
    assert made.pretrained_cfg["mean"] == mine.mean == (0.5, 0.5, 0.5)
    next(made.parameters()).data += 1
    assert torch.equal(mine.net(image), net(image))  # it was a copy


@pytest.mark.parametrize("name", ["resnet18", "tv_mobilenet_v3_large"])
def test_a_backbone_goes_to_torchvision_and_computes_the_same(name: str, exported_backbone: Callable) -> None:
    net, image = exported_backbone(name), torch.rand(1, 3, 96, 64)
    state = torch.get_rng_state()
    made: Any = chordate.backbone("mine", name).to_torchvision()
    assert type(made).__module__.startswith("torchvision")
    assert torch.allclose(made(image), net(image), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_another_library_lacks_is_said(exported_backbone: Callable, export: Callable) -> None:
    exported_backbone("test_resnet")
    with pytest.raises(UsageError, match=r"torchvision has no network .* use to_timm"):
        chordate.backbone("mine").to_torchvision()
    export("fcos")
    with pytest.raises(WeightsError, match=r"is a detector; load it with chordate\.load"):
        chordate.backbone("mine", "fcos-test_resnet")


# --- a guest in the process -----------------------------------------------------------------------

OTHERS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")  # torch sets its own when its compiler is imported


def state_of_the_process() -> dict[str, Any]:
    """All that a library could change behind its caller's back."""
    return {
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "precision": (torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.is_grad_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "backends": (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.mkldnn.enabled,
        ),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "pixels": Image.MAX_IMAGE_PIXELS,
        "variables": {name: value for name, value in os.environ.items() if name not in OTHERS},
        "warnings": [str(entry) for entry in warnings.filters],
    }


def test_load_and_predict_change_nothing_of_the_process(export: Callable, photos: Path) -> None:
    tag = export("mask_rcnn")
    before = state_of_the_process()
    model = chordate.load(tag, device="cpu")
    model.predict(photos)
    assert state_of_the_process() == before


def in_a_new_process(lines: str, folder: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", lines]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_importing_imports_no_torch_and_changes_no_settings(tmp_path: Path) -> None:
    told = in_a_new_process(
        "import signal, sys, warnings\n"
        "before = [signal.getsignal(n) for n in signal.valid_signals()], [str(f) for f in warnings.filters]\n"
        "import chordate\n"
        "after = [signal.getsignal(n) for n in signal.valid_signals()], [str(f) for f in warnings.filters]\n"
        "print(before == after, 'torch' in sys.modules, 'numpy' in sys.modules)",
        tmp_path,
    )
    assert told.stdout.split() == ["True", "False", "False"], told.stderr


FOREIGN = """
import multiprocessing, os, pathlib, signal, sys, time
from torch.utils.data import Dataset

class Numbers(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i): return i

def guest(ready):
    def leave(number, frame):
        pathlib.Path("left.txt").write_text("in peace")
        os._exit(0)
    signal.signal(signal.SIGTERM, leave)
    ready.set()
    time.sleep(60)

if __name__ == "__main__":
    ready = multiprocessing.Event()
    other = multiprocessing.Process(target=guest, args=(ready,), daemon=True)
    other.start()
    ready.wait()
    import shared.feeding.feed as feed
    ours = feed.known(iter(feed.loader(Numbers(), range(1000), 1, False)))
    next(ours)
    pathlib.Path("pid.txt").write_text(str(ours._workers[0].pid))
"""  # the other process has 60 s; ours ignores SIGTERM, so Python would wait for it forever


def test_at_exit_only_our_own_loading_processes_are_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FOREIGN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, timeout=50
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "left.txt").read_text() == "in peace"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid.txt").read_text()), 0)


def test_loading_processes_are_known_by_their_iterator() -> None:
    from torch.utils.data import DataLoader

    from shared.feeding.feed import OURS

    batches: Any = known(iter(DataLoader(list(range(4)), num_workers=1)))  # type: ignore[arg-type]
    assert set(batches._workers) <= set(OURS)
    del batches


@pytest.mark.parametrize("name", ["shared", "detection"])
def test_somebody_elses_package_of_our_name_is_named_at_import(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    told = in_a_new_process("import chordate", tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: chordate's package '{name}' is {ROOT / name}"), told.stderr
    assert str(tmp_path / name) in last and "environment of its own" in last


def test_somebody_elses_recipes_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "__init__.py").write_text("")
    told = in_a_new_process(
        "import chordate\nfrom shared.recipes.files import recipe_names\nprint(len(recipe_names('detect')) > 10)",
        tmp_path,
        path=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    assert told.stdout.strip() == "True", told.stderr


def test_every_refusal_is_one_exception_of_the_module() -> None:
    assert issubclass(chordate.WeightsError, chordate.Refusal) and chordate.Refusal is Refusal
