"""From samples to batches: the plan says which, workers fetch them, nothing is remembered.

    position p of the run -> (epoch, place in the epoch) -> plan -> sample index -> load(index, its own random numbers)

A step is a fixed number of micro batches, shared out over the processes in order. Position, order and randomness are
functions of integers, so any step of a run can be fetched by any number of processes and workers, today or after a
crash, and is the same to the last bit. An epoch's end may fall inside a batch: every sample comes once an epoch.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.errors import BadSample, DataError, Refusal
from shared.feeding.grouped import GroupedPlan
from shared.feeding.plan import Plan, rng_for

log = logging.getLogger(__name__)
TRIES = 100  # how many bad samples in a row are stepped over before the data as a whole is called unreadable


class Samples(Protocol):
    """What a data set must be.

    sizes: samples per shard, in order; one entry for data in one piece.
    fingerprint: sha256 of what the data is; a resumed run insists on it.
    """

    @property
    def sizes(self) -> Sequence[int]: ...
    @property
    def fingerprint(self) -> str: ...
    def load(self, index: int, rng: np.random.Generator) -> Any:
        """One sample, augmented with these random numbers and no others. Raises BadSample."""
        ...

    def collate(self, samples: list[Any]) -> Any:
        """Samples -> one micro batch of uint8 pixels."""
        ...


class Fetched(NamedTuple):
    """A micro batch, and what had to be stepped over to fill it."""

    batch: Any
    bad: list[str]


class Feed:
    """Micro batches of a training run, by optimizer step.

    Args:
        samples: the data.
        seed: of order and augmentation.
        batch_size: samples in a micro batch.
        micro_batches: micro batches in an optimizer step, over all processes; fixed for the life of a run.
        rank, world: this process, and how many share the work; `world` divides `micro_batches`.
        workers: processes that load; 0 loads in line.
        groups: (N,) a number for each sample; a micro batch then holds samples of one number. Not for shards.
        max_bad: share of the samples that may turn out unreadable before the run is stopped.
        pin: lock batches in memory for a faster way to the GPU.
    """

    whole_epochs = False  # it can be taken up at any step

    def __init__(
        self,
        samples: Samples,
        *,
        seed: int,
        batch_size: int,
        micro_batches: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        groups: np.ndarray | None = None,
        max_bad: float = 0.001,
        pin: bool = False,
    ) -> None:
        self.samples, self.batch_size, self.micro_batches = samples, batch_size, micro_batches
        self.plan = Plan(samples.sizes, seed) if groups is None else GroupedPlan(groups, batch_size, seed)
        self.fetch = Fetch(samples, self.plan, seed)
        self.rank, self.world, self.workers, self.max_bad, self.pin = rank, world, workers, max_bad, pin
        self.bad: set[str] = set()
        if len(self.plan) == 0:
            raise DataError("the training data holds no sample; look at --data-path")

    @property
    def step_size(self) -> int:
        """Samples in one optimizer step."""
        return self.batch_size * self.micro_batches

    @property
    def steps_per_epoch(self) -> float:
        return len(self.plan) / self.step_size

    def steps(self, first: int, stop: int) -> Iterator[list[Any]]:
        """This process's micro batches of each step from `first` to before `stop`."""
        mine = self.micro_batches // self.world
        order = Positions(first, stop, self.step_size, self.batch_size, self.rank * mine, (self.rank + 1) * mine)
        fetched = plainly(loader(self.fetch, order, self.workers, self.pin))
        try:
            for _ in range(first, stop):
                yield [self.unpack(next(fetched)) for _ in range(mine)]
        finally:
            fetched.close()  # ends the workers now, and not when somebody drops the last traceback

    def unpack(self, fetched: Fetched) -> Any:
        for sentence in fetched.bad:
            if sentence not in self.bad:
                self.bad.add(sentence)
                log.warning("stepped over %s", sentence)
        if len(self.bad) > self.max_bad * len(self.plan):
            raise DataError(
                f"{len(self.bad)} of {len(self.plan)} samples cannot be read, the last being {fetched.bad[-1]}; "
                f"mend them or allow more with --max-bad-samples"
            )
        return fetched.batch


def in_order(
    samples: Samples, batch_size: int, *, rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False
) -> InOrderBatches:
    """Every sample once, without shuffling; each process gets its share of the batches. For evaluation."""
    count = sum(samples.sizes)
    batches = [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)][rank::world]
    return InOrderBatches(loader(InOrder(samples), batches, workers, pin))


class InOrderBatches:
    """The batches of an evaluation, as often as they are asked for."""

    def __init__(self, batches: DataLoader) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return plainly(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Fetch(Dataset):
    """Positions of the run -> one micro batch."""

    def __init__(self, samples: Samples, plan: Plan | GroupedPlan, seed: int) -> None:
        self.samples, self.plan, self.seed = samples, plan, seed

    def __getitem__(self, positions: list[int]) -> Fetched:
        bad: list[str] = []
        loaded = [self.sample(*divmod(p, len(self.plan)), bad) for p in positions]
        return Fetched(self.samples.collate(loaded), bad)

    def sample(self, epoch: int, place: int, bad: list[str]) -> Any:
        for attempt in range(TRIES):
            index = self.plan.index(epoch, (place + attempt) % len(self.plan))
            rng = rng_for(self.seed, epoch, index)
            torch.default_generator.manual_seed(int(rng.integers(2**62)))  # for torchvision's own random transforms
            try:
                return self.samples.load(index, rng)
            except BadSample as error:
                bad.append(str(error))
        raise DataError(f"{TRIES} samples in a row cannot be read, the last being {bad[-1]}; look at --data-path")


class InOrder(Dataset):
    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, indices: list[int]) -> Any:
        try:
            return self.samples.collate([self.samples.load(i, rng_for(0, 0, i)) for i in indices])
        except BadSample as error:
            raise DataError(f"{error}; validation data must be readable, mend or remove it") from None


class Positions(Sampler):
    """The positions of each micro batch that this process owes, step by step."""

    def __init__(self, first: int, stop: int, step_size: int, batch_size: int, low: int, high: int) -> None:
        self.first, self.stop, self.step_size, self.batch_size = first, stop, step_size, batch_size
        self.low, self.high = low, high

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.stop):
            for k in range(self.low, self.high):
                start = step * self.step_size + k * self.batch_size
                yield list(range(start, start + self.batch_size))

    def __len__(self) -> int:
        return (self.stop - self.first) * (self.high - self.low)


def loader(dataset: Dataset, order: Any, workers: int, pin: bool) -> DataLoader:
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=start_worker,
        prefetch_factor=4 if workers else None,
        # the parent's threads and locks do not survive a fork once CUDA or OpenMP run; DataLoader's default copes
    )


def plainly(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """What workers fetch. A refusal raised in one arrives as its sentence, not as the text of a traceback."""
    try:
        yield from iter(batches)
        return
    except Refusal as refusal:
        if "\n" not in str(refusal):
            raise
        kind, sentence = type(refusal), str(refusal).strip().rpartition("\n")[2].partition(": ")[2]
        refusal.__traceback__ = None  # its frames hold the loader; without them the workers end now
    raise kind(sentence)


def start_worker(_: int) -> None:
    """A worker decodes on one thread and leaves signals to its parent, which saves and then ends it."""
    torch.set_num_threads(1)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Loading processes ignore the SIGTERM with which Python would end them, and would then be waited for forever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def choose_workers(asked: int, processes: int = 1) -> int:
    """How many loading processes to start: as asked, or what this machine can feed one training process with."""
    if asked >= 0:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores // processes - 1)
