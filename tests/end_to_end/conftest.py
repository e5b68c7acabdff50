"""What the end-to-end tests share: tiny data, and trials, which are commands in forked children.

A trial is a real process with its own signals, locks and exit code, and costs a fork instead of seconds of imports.
So a SIGKILL is a result, not the end of pytest.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing.util
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"disc": (220, 60, 40), "square": (50, 90, 220), "bar": (60, 200, 80)}
CATEGORIES = {3: "disc", 11: "square"}  # neither from 0 nor without gaps: ids must survive the way there and back


# --- tiny data --------------------------------------------------------------------------------


def draw_shape(pen: ImageDraw.ImageDraw, kind: str, box: tuple[int, int, int, int]) -> None:
    (pen.ellipse if kind == "disc" else pen.rectangle)(box, fill=COLOURS[kind])


def noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(60, 130, (height, width, 3), dtype=np.uint8))


def colored_picture(rng: np.random.Generator, kind: str, side: int = 40) -> Image.Image:
    """One shape on noise, for classification."""
    image = noise(rng, side, side)
    x, y = (int(v) for v in rng.integers(4, 14, 2))
    draw_shape(ImageDraw.Draw(image), kind, (x, y, x + 20, y + (8 if kind == "bar" else 20)))
    return image


def as_bytes(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "jpeg", quality=92)
    return out.getvalue()


def write_shards(folder: Path, train: int = 28, val: int = 9) -> Path:
    """WebDataset shards of three classes, written as others write them: no index, no class names."""
    import webdataset

    folder.mkdir(parents=True)
    rng, kinds = np.random.default_rng(0), list(COLOURS)
    for split, count, per_shard in (("train", train, 16), ("val", val, 100)):
        pattern = str(folder / f"{split}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as out:  # type: ignore[attr-defined]
            for i in range(count):
                jpg = as_bytes(colored_picture(rng, kinds[i % 3]))
                out.write({"__key__": f"{i:05d}", "jpg": jpg, "cls": str(i % 3).encode()})
    return folder


def write_scenes(root: Path, split: str, count: int, seed: int) -> dict[str, Any]:
    """`count` pictures of 64 x 48 with one or two shapes each, and their annotations, in a COCO folder."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(count):
        image, image_id = noise(rng, 64, 48), 10 * i + 7
        images.append({"id": image_id, "file_name": f"{i:03d}.jpg", "width": 64, "height": 48})
        for category in rng.choice(list(CATEGORIES), size=int(rng.integers(1, 3)), replace=False).tolist():
            side = int(rng.integers(14, 24))
            x, y = int(rng.integers(0, 64 - side)), int(rng.integers(0, 48 - side))
            draw_shape(ImageDraw.Draw(image), CATEGORIES[category], (x, y, x + side - 1, y + side - 1))
            box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": category, **box})
        image.save(root / split / f"{i:03d}.jpg", quality=95)
    told = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(told))
    return told


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 training and 9 validation images of three classes."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 14 training and 6 validation scenes of two classes."""
    root = tmp_path_factory.mktemp("data") / "coco"
    write_scenes(root, "train", 14, seed=1)
    write_scenes(root, "val", 6, seed=2)
    return root


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """12 images in three class folders."""
    rng = np.random.default_rng(5)
    for kind in COLOURS:
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(4):
            colored_picture(rng, kind).save(tmp_path / "photos" / kind / f"{i}.jpg")
    return tmp_path / "photos"


# --- trials -----------------------------------------------------------------------------------


@dataclass
class Ended:
    """How a trial went. The code is negative for a signal, as in subprocess."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.out + self.err
        return lines[0]


class Trial:
    """One command in a forked child.

    Args:
        argv: the command's name, `pretrain` or `detect`, and its words.
        cwd: where it runs, and where what it prints is kept.
        prepare: called in the child first; faults are planted here.
        env: added to the environment.
        report: draw the curves of report.html, which takes longer than most runs here.
    """

    numbers = itertools.count()

    def __init__(
        self,
        argv: list[str],
        cwd: Path,
        prepare: Callable[[], None] | None = None,
        env: dict[str, str] | None = None,
        report: bool = False,
    ) -> None:
        number = next(self.numbers)
        self.printed = [cwd / f"printed-{number}.out", cwd / f"printed-{number}.err"]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            faults = [fault for fault in (None if report else without_curves, prepare) if fault is not None]
            self.live(argv, cwd, faults, env or {})

    def live(self, argv: list[str], cwd: Path, faults: list[Callable[[], None]], env: dict[str, str]) -> None:
        """The child's whole life; never returns."""
        code = 70
        try:
            for number, path in enumerate(self.printed, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            for name in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(name, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
            os.environ.update(env)
            without_hotcoco()
            os.chdir(cwd)
            import torch

            torch.set_num_threads(1)
            for fault in faults:
                fault()
            code = main_of(argv[0])(argv[1:])
            multiprocessing.util._exit_function()  # what a real process does at its end: workers are told to go
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = 90) -> Ended:
        """Until it ends; a trial that does not is killed and fails the test."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                out, err = (path.read_text(errors="replace") for path in self.printed)
                return Ended(os.waitstatus_to_exitcode(status), out, err)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        pytest.fail(f"still running after {seconds} s:\n" + "".join(path.read_text() for path in self.printed))

    def wait_until(self, happened: Callable[[], bool], seconds: float = 60) -> None:
        """Until something can be seen from outside; never for a while and hope."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.01)


def without_curves() -> None:
    from shared.runs import curves

    curves.draw_curves = lambda *_: []


def without_hotcoco() -> None:
    """hotcoco's threads do not survive a fork: a child of a process that has used it would wait forever."""
    import importlib.util

    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "hotcoco" else find(name, *rest)


def main_of(command: str) -> Callable[[list[str]], int]:
    import detection.cli
    import pretrain.cli

    return {"pretrain": pretrain.cli.main, "detect": detection.cli.main}[command]


@pytest.fixture(scope="session")
def warm() -> None:
    """Everything a command imports, imported once, so that a fork has it."""
    if hasattr(os, "fork") is False:
        pytest.skip("this system cannot fork")
    import torch
    import torch.utils.tensorboard.writer

    import backbones
    import detection.inference.trained
    import detection.nets
    import detection.training.train
    import pretrain.methods
    import pretrain.training.train

    if torch.cuda.is_available():
        pytest.skip("a process that shows a GPU cannot be forked safely; set CUDA_VISIBLE_DEVICES= for these tests")
    for registry in (backbones.backbone, detection.nets.detector, pretrain.methods.method):
        registry.names()
    backbones.backbone.builder("test_resnet")  # imports timm


@pytest.fixture
def start(warm: None, tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """start("pretrain train ...", prepare=..., env=...) -> Trial, in the test's own folder."""
    begun: list[Trial] = []

    def begin(words: str, **how: Any) -> Trial:
        cache = {"CHORDATE_CACHE": str(tmp_path / "cache"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        told = {"argv": words.split(), "cwd": tmp_path, **how}
        begun.append(Trial(**told | {"env": cache | (told.get("env") or {})}))
        return begun[-1]

    yield begin
    for trial in begun:  # a failed test must leave nothing running
        try:
            if os.waitpid(trial.pid, os.WNOHANG)[0] == 0:
                os.kill(trial.pid, signal.SIGKILL)
                os.waitpid(trial.pid, 0)
        except ChildProcessError:
            pass


@pytest.fixture
def run(start: Callable[..., Trial]) -> Callable[..., Ended]:
    """run("detect train ...") -> Ended."""
    return lambda words, **how: start(words, **how).wait()


@pytest.fixture
def ranks(start: Callable[..., Trial]) -> Callable[..., list[Ended]]:
    """ranks("pretrain train ...", 2): the same command in processes that a launcher would have started so."""

    def launch(words: str, world: int, **how: Any) -> list[Ended]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        envs = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
        return [trial.wait() for trial in [start(words, env=env, **how) for env in envs]]

    return launch


# --- what a run leaves ------------------------------------------------------------------------


class Left:
    """What a run left in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Left({self.folder})"

    def state(self) -> dict[str, str]:
        """sha256 of each part of the training state, without what the clock says."""
        from shared.loop.state import load_state

        state = load_state(self.folder / "last")
        assert state is not None, f"no state in {self.folder}"
        return {name: digest(part) for name, part in state.items() if name != "clock"}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl without what the clock says."""
        timed = ("time", "images_per_s", "wait_share", "seconds_per_step")
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]

    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def card(self) -> dict[str, Any]:
        """The card of what was exported last."""
        return json.loads((self.folder.parent.parent / self.result()["weights"] / "card.json").read_text())


def digest(thing: Any) -> str:
    """sha256 of tensors and plain values, however nested."""
    import torch

    sha = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            for key in part:
                sha.update(repr(key).encode())
                take(part[key])
        elif isinstance(part, list | tuple):
            for each in part:
                take(each)
        else:
            sha.update(repr(part).encode())

    take(thing)
    return sha.hexdigest()[:16]


@pytest.fixture
def left(tmp_path: Path) -> Callable[..., Left]:
    """left("name") -> what the run of that name left in the test's own folder."""
    return lambda name, folder=tmp_path: Left(folder / "runs" / name)
