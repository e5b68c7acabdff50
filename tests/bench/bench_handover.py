"""What the training process spends on taking one micro batch from a loading worker, without a GPU.

    python tests/bench/bench_handover.py --data FOLDER

FOLDER holds bccd/ and imagenet-sample/. A detection batch is 16 photographs of 480x640 with their boxes; a pretraining
batch is 32 pairs of views of 224x224. Beside each, in the same run and alternating: the floor, five plain tensors of
the same size, and the same batch as a nest of separate tensors. Figures are medians over rounds of CPU time of this
process; ratios are to the floor of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection
from detection.recipe import DataConfig
from detection.training.datasets import places
from shared.devices.device import changed
from shared.devices.flat import Flat, flatten, shared_memory
from shared.feeding.feed import Feed, as_it_is

WARM, TAKEN = 6, 15  # batches taken before and while time is measured


class Same(Dataset):
    """The same batch again and again, made anew each time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> Any:
        return self.make()


def repeated(make: Callable[[], Any], workers: int) -> Iterator[Any]:
    loader = DataLoader(Same(make), batch_size=None, num_workers=workers, collate_fn=as_it_is, prefetch_factor=4)
    return iter(loader)


def tensors(nest: Any) -> int:
    """Tensors in a nest."""
    if isinstance(nest, dict | list | tuple):
        return sum(map(tensors, nest.values() if isinstance(nest, dict) else nest))
    return int(isinstance(nest, Tensor))


def taken(batches: Iterator[Any]) -> float:
    """CPU milliseconds of this process for taking a batch, and for letting go of the one before."""
    for _ in range(WARM):
        next(batches)
    start = time.process_time()
    for _ in range(TAKEN):
        next(batches)
    return (time.process_time() - start) / TAKEN * 1000


def compare(name: str, batch: Any, rounds: int, workers: int) -> None:
    size, count = flatten(batch).buffer.numel(), len(batch[0]) if isinstance(batch[0], list) else len(batch[1])
    flat = [torch.zeros(size, dtype=torch.uint8), *(torch.zeros(15 * count, 4) for _ in range(4))]
    makers: dict[str, Callable[[], Any]] = {
        "floor: five plain tensors": lambda: [tensor.clone() for tensor in flat],
        "separate tensors": lambda: changed(batch, Tensor.clone),
        "ours": lambda: flatten(batch, shared_memory),
    }
    counts = {label: tensors(make()) for label, make in makers.items()}
    times: dict[str, list[float]] = {label: [] for label in makers}
    for turn in range(rounds):
        order = list(makers)[turn % len(makers) :] + list(makers)[: turn % len(makers)]
        for label in order:
            times[label].append(taken(repeated(makers[label], workers)))
    print(f"{name}, {size / 1e6:.1f} MB:")
    for label, own in times.items():
        ratios = [a / b for a, b in zip(own, times["floor: five plain tensors"], strict=True)]
        print(
            f"  {label:28s} {counts[label]:3d} tensors {statistics.median(own):7.2f} ms CPU"
            f"   {statistics.median(ratios):5.2f} of the floor  (rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )


def detection(folder: Path, count: int) -> Any:
    training, _ = places(DataConfig(data_path=folder), ())
    data = CocoDetection(*training, augment=build_augment("hflip", size=(480, 640)))
    feed = Feed(data, seed=0, batch_size=count, workers=1)
    steps = feed.steps(0, 1)
    assert isinstance(next(steps)[0], Flat)  # what is measured is what training gets
    return data.collate([data.load(i, np.random.default_rng(i)) for i in range(count)])


def pretraining(count: int) -> Any:
    views = tuple(torch.randint(256, (count, 3, 224, 224), dtype=torch.uint8) for _ in range(2))
    return views, torch.zeros(count, dtype=torch.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with bccd/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    compare("16 photographs with boxes", detection(options.data / "bccd", 16), options.rounds, options.workers)
    compare("32 pairs of views", pretraining(32), options.rounds, options.workers)


if __name__ == "__main__":
    main()
