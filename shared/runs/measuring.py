"""What a dry run measures: steps of the training, with batches of its loader, on a copy of the task.

    a batch again and again -> warm-up: kernels are chosen, graphs compiled, moments made
    the loader's batches    -> seconds of each step, seconds that it waited for data, the peak of memory
                            -> "about 3.1 h for 12 epochs", "9.8 of 80.0 GB"

The loading workers are started behind the warm-up, so that no store of batches hides that they are too slow. Nothing is
written, and what is learnt is dropped.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from typing import Any, NamedTuple

import torch

from shared.devices import dist
from shared.devices.ahead import ahead
from shared.devices.device import to_device
from shared.devices.memory import gigabytes, memory_of, ran_out
from shared.errors import UsageError, plural
from shared.host import machine_memory, process_peak
from shared.loop.schedule import total_steps
from shared.loop.task import Task
from shared.loop.trial import on_trial
from shared.runs.fitting import BatchOf, peak_of
from shared.runs.session import Session

WARM_UP = 2  # steps
LEAST, SECONDS = 3, 60.0  # of slow steps, at least so many are taken, and no more after so long


class Taken(NamedTuple):
    """What steps took.

    seconds: of each step, without waiting for its batch. waited: for the batch of each; for the first, workers start.
    peak: bytes of a GPU at most, of room; None on a CPU. finite: whether all losses are numbers.
    """

    seconds: list[float]
    waited: list[float]
    peak: int | None
    room: int | None
    finite: bool

    @property
    def step(self) -> float:
        """Seconds that a step takes from the one before, by the median; waits are as long as their mean."""
        return statistics.median(self.seconds) + self.wait

    @property
    def wait(self) -> float:
        return statistics.fmean(self.waited[1:]) if len(self.waited) > 1 else 0.0


def measured(session: Session, task: Task, feed: Any, largest: Callable[[], BatchOf]) -> list[str]:
    """The lines of a dry run about time and memory; none if no steps are asked for.

    Args:
        feed: of the run.
        largest: as `fit_batch` takes it; on a GPU, memory is measured with it too.

    Raises:
        UsageError: a step does not fit in the memory of the GPU.
    """
    runtime = session.runtime
    if runtime.dry_steps == 0:
        return []
    try:
        taken = take_steps(session, task, feed, runtime.dry_steps)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise UsageError(
            f"a step of {plural(feed.step_size, 'image')} does not fit in the memory of {session.device}; give a "
            "smaller --batch-size with more --grad-accum-steps, or --batch-size auto"
        ) from None
    lines = [f"measured in {plural(len(taken.seconds), 'step')} on {session.device}, on a copy of the network"]
    lines.append(f"  time    {time_words(taken, total_steps(feed.steps_per_epoch, session.recipe.schedule), session)}")
    lines.append(f"  memory  {memory_words(session, task, feed, taken, largest)}")
    if not taken.finite:
        lines.append("warning: a loss became NaN or Inf in these steps; lower --lr or lengthen --warmup-epochs")
    return lines


def take_steps(session: Session, task: Task, feed: Any, count: int) -> Taken:
    """Take so many steps of the run on a copy of the task, after the warm-up; fewer if they are slow."""
    device, memory = session.device, memory_of(session.device)
    with on_trial(task, feed, session.recipe, device, apart=False) as trainer:
        first = first_step(feed)
        for _ in range(WARM_UP):
            trainer.advance(to_device(first, device))
        wait_for(device)
        del first
        if memory is not None:
            memory.begin()
        taken = Taken([], [], None, None, True)
        with closing(feed.steps(0, count)) as batches:
            began, steps = time.perf_counter(), ahead(batches, device)
            for _ in range(count):
                asked = time.perf_counter()
                micro_batches = next(steps)
                came = time.perf_counter()
                trainer.advance(micro_batches)
                wait_for(device)
                taken.seconds.append(time.perf_counter() - came)
                taken.waited.append(came - asked)
                late = len(taken.seconds) >= LEAST and time.perf_counter() - began > SECONDS
                if dist.any_of([late])[0]:
                    break
        finite = all(math.isfinite(value) for value in trainer.losses.so_far().values())
        if memory is not None:
            taken = taken._replace(peak=memory.peak(), room=memory.room())
    return taken._replace(finite=finite)


def first_step(feed: Any) -> list[Any]:
    """The micro batches of the first step, loaded in this process."""
    here = copy(feed)
    here.workers = 0
    batches: Iterator[Any] = here.steps(0, 1)
    with closing(batches):  # type: ignore[type-var]
        return next(batches)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_words(taken: Taken, total: int, session: Session) -> str:
    count = session.recipe.schedule.epochs
    epochs = "1 epoch" if count == 1 else f"{count} epochs"
    return (
        f"about {duration(total * taken.step)} for {epochs}, without evaluation: {plural(total, 'step')} of "
        f"{statistics.median(taken.seconds):.2g} s by the median ({min(taken.seconds):.2g} to "
        f"{max(taken.seconds):.2g}), each after waiting {taken.wait:.2g} s for data"
    )


def memory_words(session: Session, task: Task, feed: Any, taken: Taken, largest: Callable[[], BatchOf]) -> str:
    memory = memory_of(session.device)
    if memory is not None and taken.peak is not None and taken.room is not None:
        words = f"{gigabytes(taken.peak)} of {gigabytes(taken.room)} GB of {memory.name}"
        if session.runtime.fsdp or session.runtime.sync_bn:  # a process cannot be measured alone
            return words
        passes = feed.micro_batches // dist.world()
        peak = peak_of(session, task, largest(), feed.batch_size, passes, memory)
        if peak is None:
            return f"{words}; the largest images there can be do not fit: give --batch-size auto"
        return f"{words}; {gigabytes(peak)} GB with the largest images there can be"
    peak, room = process_peak(), machine_memory()
    if peak is None or room is None:
        return "not told by this system"
    return (
        f"{gigabytes(peak)} of {gigabytes(room)} GB: the peak of this process (VmHWM), with a second copy of the "
        "weights; loading workers come on top"
    )


def duration(seconds: float) -> str:
    """45 -> '45 s', 720 -> '12 min', 11_000 -> '3.1 h', 200_000 -> '2.3 days'."""
    for size, word in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (word == "h" and seconds >= 1.5 * size):
            return f"{seconds / size:.1f} {word}" if seconds < 10 * size else f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2g} s"
