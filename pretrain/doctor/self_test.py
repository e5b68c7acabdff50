"""Tests of shards with the program that will use them.

    loss at the start      of a classifier, whose classes all begin alike: the logarithm of their number
    one batch              the classifier, trained on eight images alone, learns them: its loss halves
    resume                 a training, stopped in the middle of an epoch and resumed, ends with the same bits

Shards without classes are resumed alone, with SimCLR. A small network is trained in a folder of its own, in processes
of their own; a minute or two on a CPU. It reads links to the shards:
what training keeps beside shards is kept beside these.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from pretrain.data.shards import find_shards
from shared.findings import Sheet
from shared.runs import self_test

START, BATCH = "loss at the start", "one batch"
IMAGES, STEPS = 8, 40
TOLERANCE = 0.1  # of the logarithm: weights of the classifier are drawn, from a narrow distribution
NETWORK = "--model resnet10t --opt adamw --lr 0.001 --wd 0 --clip-grad-norm 5 --eval-every 1000"
LABELED = "--method supervised --label-smoothing 0"
PLAIN = f"--crop-scale 1 --crop-ratio 1 --hflip 0 --limit {IMAGES} --batch-size {IMAGES} --epochs {STEPS} --name probe"
UNLABELED = "--method simclr"
CLASSES = "classes.txt"


def train_on_some(path: str, classes: int, size: int, sheet: Sheet) -> None:
    """Train a small network on a few training images, stop and resume another, and add what came out.

    Args:
        path: shards, as `pretrain train --data-path` takes them.
        classes: their number; 0 for images without.
        size: height and width of the images, pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [*NETWORK.split(), *(LABELED if classes else UNLABELED).split(), "--size", size]
        words += ["--data-path", linked(path, Path(folder) / "shards")]
        if classes > 1:
            tried = self_test.train("pretrain", [*words, *PLAIN.split()], Path(folder), "probe")
            if tried.complaint is not None:
                sheet.tests.append((BATCH, False, tried.complaint))
                return
            first = tried.losses[0]["classification"]
            sheet.tests.append(self_test.begun(START, "classification", first, math.log(classes), TOLERANCE))
            sheet.tests.append(self_test.learned(BATCH, "classification", IMAGES, tried.losses))
        sheet.tests.append(self_test.resume("pretrain", words, Path(folder)))


def linked(path: str, folder: Path) -> str:
    """Links to the training shards of a path, a folder for each of theirs; the path of these."""
    folders: dict[Path, Path] = {}
    for shard in dict.fromkeys(Path(found).absolute() for found in find_shards(path, "train")):
        if shard.parent not in folders:
            own = folders[shard.parent] = folder / str(len(folders))
            own.mkdir(parents=True)
            if (names := shard.parent / CLASSES).is_file():
                (own / CLASSES).symlink_to(names)
        (folders[shard.parent] / shard.name).symlink_to(shard)
    return "::".join(map(str, folders.values()))
