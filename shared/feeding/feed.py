"""Loading of training and evaluation batches; a pure function of the position in the run.

    position p of the run -> (epoch, position in the epoch) -> plan -> sample index -> load(index, random generator)

A step is a fixed number of micro batches, distributed over the processes in order. Order and random numbers are
functions of integers, so any number of processes and workers loads the same step, bit for bit, also after a crash.
The end of an epoch may fall inside a batch; every sample comes once per epoch.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from shared.devices.flat import flatten, pinned_memory, shared_memory
from shared.errors import BadSample, DataError, Refusal
from shared.feeding.grouped import GroupedPlan
from shared.feeding.plan import Plan, RepeatPlan, rng_for, seed_of
from shared.feeding.repeat import Repeats
from shared.versions import ignore_known_warnings

log = logging.getLogger(__name__)
TRIES = 100  # consecutive unreadable samples to skip before giving up
OURS: weakref.WeakSet[Any] = weakref.WeakSet()  # loading processes that this page started


class Samples(Protocol):
    """The interface of a data set.

    sizes: samples per shard, in order; one entry if there are no shards.
    fingerprint: sha256 of the content; must be the same when a run is resumed.
    """

    @property
    def sizes(self) -> Sequence[int]: ...
    @property
    def fingerprint(self) -> str: ...
    def load(self, index: int, rng: np.random.Generator) -> Any:
        """Load and augment a sample; all random numbers come from `rng`. Raises BadSample."""
        ...

    def collate(self, samples: list[Any]) -> Any:
        """Samples -> one micro batch with uint8 pixels; a nest of dicts, lists and tuples that `flatten` takes."""
        ...


class Fetched(NamedTuple):
    """A micro batch and the samples that were skipped while it was filled."""

    batch: Any
    bad: list[str]


class Feed:
    """Micro batches of a training run, by optimizer step; those of a worker or for a GPU are `Flat`.

    Args:
        samples: the data.
        seed: of order and augmentation.
        batch_size: samples per micro batch.
        micro_batches: micro batches per optimizer step, over all processes; fixed for a run.
        rank, world: rank and number of processes; `world` divides `micro_batches`.
        workers: loading processes; 0 loads in this process.
        groups: (N,) group number of each sample; each micro batch then has samples of one group. Not for shards.
        repeats: how often samples come in an epoch; None for once.
        beside: called with (step, samples of the micro batch) to make the last item of a batch; see `Task.beside`.
        max_bad: fraction of the samples that may be unreadable before DataError is raised; one may be, unless it is 0.
        pin: pin batches in memory for a faster copy to the GPU.
    """

    whole_epochs = False  # it can be resumed at any step

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
        repeats: Repeats | None = None,
        beside: Callable[[int, int], Any] | None = None,
        max_bad: float = 0.001,
        pin: bool = False,
    ) -> None:
        self.samples, self.batch_size, self.micro_batches = samples, batch_size, micro_batches
        self.plan = plan_of(samples, seed, batch_size, groups, repeats)
        more = None if beside is None else Beside(beside, seed, micro_batches)
        self.fetch = Fetch(samples, self.plan, seed, pin, more)
        self.rank, self.world, self.workers, self.max_bad, self.pin = rank, world, workers, max_bad, pin
        self.bad: set[str] = set()
        if len(self.plan) == 0:
            raise DataError("the training data has no samples; check --data-path")

    @property
    def step_size(self) -> int:
        """Samples in one optimizer step."""
        return self.batch_size * self.micro_batches

    @property
    def steps_per_epoch(self) -> float:
        return len(self.plan) / self.step_size

    def steps(self, first: int, stop: int) -> Iterator[list[Any]]:
        """Yield this process's micro batches of each step in range(first, stop)."""
        mine = self.micro_batches // self.world
        order = Positions(first, stop, self.step_size, self.batch_size, self.rank * mine, (self.rank + 1) * mine)
        fetched = plainly(loader(self.fetch, order, self.workers, self.pin))
        try:
            for _ in range(first, stop):
                yield [self.unpack(next(fetched)) for _ in range(mine)]
        finally:
            fetched.close()  # ends the workers now, even if a traceback still refers to them

    def unpack(self, fetched: Fetched) -> Any:
        for sentence in fetched.bad:
            if sentence not in self.bad:
                self.bad.add(sentence)
                log.warning("skipped %s", sentence)
        allowed = max(1, self.max_bad * len(self.plan)) if self.max_bad else 0
        if len(self.bad) > allowed:
            raise DataError(
                f"{len(self.bad)} of {len(self.plan)} samples cannot be read, the last one is {fetched.bad[-1]}; "
                f"fix them or allow more with --max-bad-samples"
            )
        return fetched.batch


def plan_of(
    samples: Samples, seed: int, batch_size: int, groups: np.ndarray | None = None, repeats: Repeats | None = None
) -> Plan | RepeatPlan | GroupedPlan:
    """The order of a training run; the arguments are those of `Feed`."""
    if groups is not None:
        return GroupedPlan(groups, batch_size, seed, repeats)
    return Plan(samples.sizes, seed) if repeats is None else RepeatPlan(repeats, seed)


def in_order(
    samples: Samples, batch_size: int, *, rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False
) -> InOrderBatches:
    """Evaluation loader: every sample once, without shuffling; each process gets its share of the batches."""
    count = sum(samples.sizes)
    batches = [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)][rank::world]
    return InOrderBatches(loader(InOrder(samples, pin), batches, workers, pin), count)


class InOrderBatches:
    """A loader that can be iterated repeatedly.

    count: samples of all processes.
    """

    def __init__(self, batches: DataLoader, count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Iterator[Any]:
        return plainly(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Fetch(Dataset):
    """Dataset from lists of positions of the run to micro batches."""

    def __init__(
        self,
        samples: Samples,
        plan: Plan | RepeatPlan | GroupedPlan,
        seed: int,
        pin: bool = False,
        beside: Beside | None = None,
    ) -> None:
        self.samples, self.plan, self.seed, self.pin, self.beside = samples, plan, seed, pin, beside

    def __getitem__(self, positions: list[int]) -> Fetched:
        bad: list[str] = []
        loaded = [self.sample(*divmod(p, len(self.plan)), bad) for p in positions]
        batch = self.samples.collate(loaded)
        if self.beside is not None:
            batch = (*batch, self.beside.of(positions))
        return Fetched(handed_over(batch, self.pin), bad)

    def sample(self, epoch: int, place: int, bad: list[str]) -> Any:
        for attempt in range(TRIES):
            position = (place + attempt) % len(self.plan)
            index = self.plan.index(epoch, position)
            rng = rng_for(self.seed, epoch, self.plan.stream(epoch, position))
            torch.default_generator.manual_seed(int(rng.integers(2**62)))  # for torchvision's own random transforms
            try:
                return self.samples.load(index, rng)
            except BadSample as error:
                bad.append(str(error))
        raise DataError(f"{TRIES} consecutive samples cannot be read, the last one is {bad[-1]}; check --data-path")


class Beside(NamedTuple):
    """What comes with a micro batch besides its samples, a function of its number."""

    make: Callable[[int, int], Any]
    seed: int
    micro_batches: int

    def of(self, positions: list[int]) -> Any:
        number = positions[0] // len(positions)
        torch.default_generator.manual_seed(seed_of(self.seed, number))
        return self.make(number // self.micro_batches, len(positions))


class InOrder(Dataset):
    def __init__(self, samples: Samples, pin: bool = False) -> None:
        self.samples, self.pin = samples, pin

    def __getitem__(self, indices: list[int]) -> Any:
        try:
            loaded = [self.samples.load(i, rng_for(0, 0, i)) for i in indices]
            return handed_over(self.samples.collate(loaded), self.pin)
        except BadSample as error:
            raise DataError(f"{error}; validation data must be readable, fix or remove it") from None


class Positions(Sampler):
    """The positions of this process's micro batches, step by step."""

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


def handed_over(batch: Any, pin: bool = False) -> Any:
    """A batch as it leaves the loader: one buffer in shared memory from a worker, in pinned memory for a GPU, else as
    it is; `shared.devices.flat.opened` gives the batch back.
    """
    if get_worker_info() is not None:
        return flatten(batch, shared_memory)  # the main process pins it
    return flatten(batch, pinned_memory) if pin else batch


def as_it_is(batch: Any) -> Any:
    """DataLoader's own would walk through the batch, and make lists of its tuples."""
    return batch


def loader(dataset: Dataset, order: Any, workers: int, pin: bool) -> DataLoader:
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        pin_memory=pin and workers > 0,
        worker_init_fn=start_worker,
        prefetch_factor=4 if workers else None,
        # forking is unsafe once CUDA or OpenMP threads run; the DataLoader's default start method handles that
    )


def plainly(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """Iterate over batches. An error of ours raised in a worker is re-raised with its message, not a traceback text."""
    try:
        yield from known(iter(batches))
        return
    except Refusal as refusal:
        if "\n" not in str(refusal):
            raise
        kind, sentence = type(refusal), str(refusal).strip().rpartition("\n")[2].partition(": ")[2]
        refusal.__traceback__ = None  # its frames refer to the loader; without them the workers end now
    raise kind(sentence)


def known(batches: Iterator[Any]) -> Iterator[Any]:
    """The same iterator; its processes, if it has any, are remembered for `end_workers`."""
    OURS.update(getattr(batches, "_workers", ()))
    return batches


def start_worker(_: int) -> None:
    """Initialize a worker: one thread, and signals are ignored, since the parent handles them."""
    ignore_known_warnings()
    torch.set_num_threads(1)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Kill our loading processes at exit; they ignore SIGTERM, and Python would wait for them forever.

    Other processes are none of ours: a program that imports us ends its own.
    """
    for child in OURS:
        if child.pid is not None and child.is_alive():
            child.kill()


def choose_workers(asked: int, processes: int = 1) -> int:
    """Number of loading workers: as requested, or chosen from the number of cores per training process."""
    if asked >= 0:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores // processes - 1)
