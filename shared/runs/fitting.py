"""`--batch-size auto`: the images of a step in the largest forward passes that fit the GPU.

    images of a step and process = --batch-size x --grad-accum-steps of the recipe, which stay as they are
    1, 2, 4, 8, ... of them, all that divide them --two steps each, of the largest images--> peak of memory
    the largest that leaves MARGIN free in every process                                   -> batch_size in recipe.yaml

The steps are taken on a copy (`shared.loop.trial`), so the run is bit for bit the one with that number typed. A run
that is resumed keeps the number it has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from shared.devices import dist
from shared.devices.device import to_device
from shared.devices.memory import Memory, gigabytes, memory_of, ran_out, release
from shared.errors import UsageError, plural
from shared.loop.task import Task
from shared.loop.trial import Step, on_trial, random_states_kept
from shared.runs.plan import learns_statistics
from shared.runs.resume import find_run
from shared.runs.session import Session

log = logging.getLogger(__name__)

MARGIN = 0.1  # of the memory, for shapes that come in another order, other processes, and evaluation
STEPS = 2  # the optimizer's moments are there from the second one on
ORIGIN = "found by --batch-size auto"
BatchOf = Callable[[int], Any]


class Tried(NamedTuple):
    """A number of images of a forward pass, and the peak of memory with them in bytes; None if they did not fit."""

    images: int
    peak: int | None


def fit_batch(session: Session, task: Task, largest: Callable[[], BatchOf]) -> None:
    """Replace batch size and accumulation of the session's recipe by the ones that fit, if --batch-size auto is asked.

    Args:
        largest: called once if it is, gives: a number of images -> a micro batch of the largest that training can give.

    Raises:
        UsageError: not on a GPU, with --fsdp or --sync-bn, or not even the smallest fits.
    """
    runtime = session.runtime
    if not runtime.fit_batch:
        return
    found = dist.from_main(find_run(runtime, session.stem) if dist.is_main() else None)
    micro, passes = runtime.batch_size, runtime.grad_accum_steps
    if found is not None:
        log.info("%s goes on with its %s", found, split_words(micro, passes))
    else:
        memory = memory_of(session.device)
        check_possible(session, memory)
        assert memory is not None
        micro, passes = chosen(session, task, largest(), memory)
    fitted = replace(runtime, batch_size=micro, grad_accum_steps=passes, fit_batch=False)
    origins = session.resolved.origins | dict.fromkeys(("batch_size", "grad_accum_steps"), ORIGIN)
    session.replace_recipe(replace(session.resolved, recipe=replace(session.recipe, runtime=fitted), origins=origins))


def check_possible(session: Session, memory: Memory | None) -> None:
    runtime = session.runtime
    for flag in [flag for flag in ("fsdp", "sync_bn") if getattr(runtime, flag) and dist.world() > 1]:
        raise UsageError(
            f"--batch-size auto measures each GPU alone, and --{flag.replace('_', '-')} needs all of them in every "
            f"step; give a number"
        )
    if memory is None:
        raise UsageError(
            f"--batch-size auto measures the memory of a GPU, and this run is on {session.device}; give a number"
        )


def chosen(session: Session, task: Task, batch_of: BatchOf, memory: Memory) -> tuple[int, int]:
    """(images of a forward pass, forward passes of a step); the same in every process."""
    runtime = session.runtime
    usual, total = runtime.batch_size, runtime.batch_size * runtime.grad_accum_steps
    sizes = [usual] if task.compares_images else [size for size in divisors(total) if allowed(task, size)]
    room, tried, refused = memory.room(), list[Tried](), None
    for size in sizes:
        try:
            tried.append(Tried(size, peak_of(session, task, batch_of, size, total // size, memory)))
        except UsageError as refusal:  # batch norm of a single value
            refused = refusal
            continue
        if not fits(tried[-1], room):
            break
    if refused is not None and not tried:
        raise refused
    best = max((one.images for one in tried if fits(one, room)), default=0)
    micro = min(dist.gather(best))
    if micro == 0:
        raise UsageError(too_large(task, tried[-1], room, memory.name))
    peak = next(one.peak for one in tried if one.images == micro)
    log.info(
        "--batch-size auto: %s; with the largest images a step takes %s of %s GB%s",
        split_words(micro, total // micro),
        gigabytes(peak or 0),
        gigabytes(room),
        "" if fits(tried[-1], room) else f", and with {tried[-1].images} at a time {taken(tried[-1])}",
    )
    if micro != usual and learns_statistics(task):
        log.warning("batch norm takes its statistics from %d images, not %d as in the recipe", micro, usual)
    return micro, total // micro


def peak_of(session: Session, task: Task, batch_of: BatchOf, size: int, passes: int, memory: Memory) -> int | None:
    """The peak of memory of a step that has so many forward passes of `size` images each; None if it does not fit."""
    device = session.device
    try:
        with on_trial(task, Step(size, passes), session.recipe, device, apart=True) as trainer:
            with random_states_kept(device):
                batch = batch_of(size)
            # two passes are enough to have the gradients of one beside the activations of the next; the images of the
            # others, and of the step that `ahead` has on its way, lie there too
            now = [to_device(batch, device) for _ in range(min(passes, 2))]
            beside = [to_device(batch, device) for _ in range(2 * passes - len(now))]
            for _ in range(STEPS):
                memory.begin()
                trainer.advance(now)
            del now, beside
            return memory.peak()
    except RuntimeError as error:
        if not ran_out(error):
            raise
    release(device)  # now that the error with its frames is gone
    return None


def fits(tried: Tried, room: int) -> bool:
    return tried.peak is not None and tried.peak <= (1 - MARGIN) * room


def divisors(total: int) -> list[int]:
    """All that divide it, the smallest first: 12 -> [1, 2, 3, 4, 6, 12]."""
    return [number for number in range(1, total + 1) if total % number == 0]


def allowed(task: Task, images: int) -> bool:
    """Whether the task can learn from so few images at a time."""
    try:
        task.check_batch(images)
    except UsageError:
        return False
    return True


def split_words(micro: int, passes: int) -> str:
    """'16 images in 2 forward passes of 8'"""
    return f"{plural(micro * passes, 'image')} of a step in {plural(passes, 'forward pass')} of {micro}"


def taken(tried: Tried) -> str:
    return "it does not fit" if tried.peak is None else f"{gigabytes(tried.peak)} GB, which leaves too little free"


def too_large(task: Task, least: Tried, room: int, name: str) -> str:
    """The sentence that not even the smallest forward pass fits."""
    needs = "does not fit" if least.peak is None else f"takes {gigabytes(least.peak)} GB and does not fit"
    way = "give smaller images, --amp, --grad-checkpointing or a smaller network"
    if task.compares_images:
        way = "the loss compares images with each other, so they are not split: give a smaller --batch-size"
    return (
        f"a forward pass of {plural(least.images, 'image')}, the largest there are, {needs} in the {gigabytes(room)} "
        f"GB of {name}, of which {MARGIN:.0%} stay free; {way}"
    )
