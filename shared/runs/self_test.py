"""Self-tests of both doctors: small trainings of the person's own data, in processes of their own.

    words -> `train` -> Tried: losses of each step          -> begins where theory says, halves
                        states kept before random steps     -> a copy of the run that has only such a state
                     -> `train --resume` in a second process, with other loading workers
                     -> weights, moments and random steps after the last step: the same bits, or what differs

On the processor, where a run that continues promises the bits of one that was never stopped. Imports no torch at the
top.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import plural

Result = tuple[str, bool, str]  # name of the test, passed, what came out
RESUME = "resume"
LEARNED = 0.5  # of the first loss, which one batch falls below
STRAIGHT, RESUMED = "straight", "resumed"
TRIED = "--log-every 1 --save-every 1000000 --num-workers 0 --offline"
EXACT = (
    f"--keep-states 2 --device cpu --seed 0 --limit 14 --batch-size 4 --epochs 3 --name {STRAIGHT}"  # 3.5 steps each
)


class Tried(NamedTuple):
    """A training that has ended.

    losses: rows of metrics.jsonl, by step.
    complaint: the last sentence of one that failed; None for one that did not.
    """

    folder: Path
    losses: list[dict[str, Any]]
    complaint: str | None


def train(program: str, words: Sequence[Any], folder: Path, name: str) -> Tried:
    """Train in a process of its own.

    Args:
        program: "detection" or "pretrain", as after `python -m`.
        words: flags of the data, network and optimizer.
        folder: for the run and its weights.
        name: of the run.
    """
    own = ["--output-dir", folder, "--weights-dir", folder / "weights", *TRIED.split()]
    told = [sys.executable, "-m", program, "train", *own, *words]
    done = subprocess.run(list(map(str, told)), capture_output=True, text=True)
    path = folder / name / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    losses = [row for row in rows if row["kind"] == "train"]
    last = (done.stderr.strip().splitlines() or ["training did not begin"])[-1]
    return Tried(folder / name, losses, last if done.returncode or not losses else None)


def begun(name: str, loss: str, value: float, expected: float, tolerance: float) -> Result:
    """The loss of the first step against what theory says; `tolerance` is a share of that."""
    near = abs(value - expected) <= tolerance * expected
    return name, near, f"{loss} {value:.2f}, where theory says {expected:.2f}"


def learned(name: str, loss: str, images: int, losses: Sequence[Mapping[str, Any]]) -> Result:
    """Whether a loss halves that was trained on a few images alone."""
    first, last = losses[0][loss], losses[-1][loss]
    fell = last < LEARNED * first
    went = f"the {loss} loss of {plural(images, 'image')} went from {first:.2f} to {last:.2f}"
    return name, fell, f"{went} in {losses[-1]['step']} steps{'' if fell else ', and should halve'}"


def resume(program: str, words: Sequence[Any], folder: Path) -> Result:
    """Whether a run of these flags that stops and continues ends as one that does not."""
    exact = [*words, *EXACT.split()]
    straight = train(program, exact, folder, STRAIGHT)
    if straight.complaint is not None:
        return RESUME, False, straight.complaint
    step = stopped_copy(straight.folder, folder / RESUMED)
    if step is None:
        return RESUME, False, "the run had no step to stop before; give more images"
    flags = ["--resume", folder / RESUMED, "--num-workers", 2]
    continued = train(program, [*exact, *flags], folder, RESUMED)
    if continued.complaint is not None:
        return RESUME, False, continued.complaint
    return compared(straight.folder, continued.folder, step)


def stopped_copy(run: Path, copy: Path) -> int | None:
    """A copy of a run as if it had been killed in the middle: its recipe, and the last of the kept states.

    Returns:
        Steps that were done then; None if it kept no state but that of the start.
    """
    from shared.loop.audit import kept_in

    kept = [one for one in kept_in(run) if one.step]
    if not kept:
        return None
    (copy / "last").mkdir(parents=True)
    shutil.copy(run / "recipe.yaml", copy)
    shutil.copy(kept[-1].path, copy / "last")
    return kept[-1].step


def compared(straight: Path, resumed: Path, step: int) -> Result:
    """The last states of both runs, bit by bit.

    Args:
        step: at which the second was resumed.
    """
    from shared.loop.audit import digests_of
    from shared.loop.state import load_state

    ended, again = load_state(straight / "last"), load_state(resumed / "last")
    if ended is None or again is None:
        return RESUME, False, f"{straight if ended is None else resumed} has no state at its end"
    one, other, total = digests_of(ended), digests_of(again), ended["step"]
    differ = [name for name in one | other if one.get(name) != other.get(name)]
    told = f"stopped after step {step} of {total} and resumed in a second process: "
    if again["step"] != total:
        return RESUME, False, f"{told}it ended at step {again['step']}"
    if differ:
        what = f"{len(differ)} of {len(one)} digests of weights and optimizer differ, such as {differ[0]}"
        return RESUME, False, f"{told}{what}; files that change while they are read, or a broken memory, may do that"
    return RESUME, True, f"{told}the same bits in all {len(one)} digests of weights and optimizer"
