"""Two evaluations of the same results side by side: each in processes of its own, CPU time, memory, largest difference.

annotations, results -> ours, theirs, in turns -> medians of ratios beside the goals
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from shared.host import process_peak

GOAL = 20  # times as fast


class Beside(NamedTuple):
    """theirs: the other program. what, numbers: in words. file: name of the annotations. exact: largest difference
    that is none. memory: share of theirs that is the goal. rounds: by default."""

    theirs: str
    what: str
    numbers: str
    file: str
    exact: float
    memory: float
    rounds: int


def main(
    beside: Beside, write_truth: Callable[[Path, int], None], measure: Callable[[str, Path], dict[str, Any]], doc: str
) -> None:
    """Run a benchmark of an evaluation; `measure` ("ours" or `theirs`, annotations) runs in a process of its own."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=beside.rounds)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--annotations", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(options.measure, options.annotations)))
        return
    print(beside.what.format(images=options.images), flush=True)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / beside.file
        write_truth(annotations, options.images)
        for turn in range(options.rounds):
            order = (beside.theirs, "ours") if turn % 2 else ("ours", beside.theirs)
            rounds.append({whose: child(whose, annotations) for whose in order})
            spent = {whose: f"{result['seconds']:.2f} s" for whose, result in rounds[-1].items()}
            print(f"  round {turn + 1}: {spent}", flush=True)
    compare(beside, [(one[beside.theirs], one["ours"]) for one in rounds])


def compare(beside: Beside, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Print the medians of (theirs, ours) beside the goals."""
    ratio = statistics.median(theirs["seconds"] / mine["seconds"] for theirs, mine in pairs)
    theirs, mine = medians(pairs, "seconds")
    print(f"  {beside.theirs} {theirs:.2f} s, ours {mine:.2f} s: {ratio:.1f} x (goal {GOAL}) {told(ratio >= GOAL)}")
    worst = max(abs(a - b) for one, other in pairs for a, b in zip(one["numbers"], other["numbers"], strict=True))
    first = pairs[0][1]["numbers"][0]
    print(f"  AP {first:.4f}; largest difference of {beside.numbers}: {worst:.1e} {told(worst <= beside.exact)}")
    for name, what in (("extra", "memory of the evaluation"), ("whole", "peak of the process")):
        theirs, mine = medians(pairs, name)
        reached = told(mine <= beside.memory * theirs)
        goal = f" (goal {beside.memory:.2f}) {reached}" if name == "extra" else ", torch and all"
        print(f"  {what}: {beside.theirs} {theirs:.0f} MB, ours {mine:.0f} MB: {mine / theirs:.2f} of it{goal}")


def medians(pairs: list[tuple[dict[str, Any], dict[str, Any]]], name: str) -> tuple[float, float]:
    theirs, mine = (statistics.median(side[name] for side in column) for column in zip(*pairs, strict=True))
    return theirs, mine


def child(whose: str, annotations: Path) -> dict[str, Any]:
    """What the benchmark that runs measures in a new process with one thread."""
    words = [sys.executable, "-W", "ignore", sys.argv[0], "--measure", whose, "--annotations", str(annotations)]
    one_thread = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=one_thread
    )
    return json.loads(done.stdout)


def timed(work: Callable[[], list[float]]) -> dict[str, Any]:
    """CPU seconds, MB and the numbers of one evaluation in this process."""
    before, start = peak(), time.process_time()
    numbers = work()
    return {"seconds": time.process_time() - start, "extra": peak() - before, "whole": peak(), "numbers": numbers}


def peak() -> float:
    """The most memory of this process so far, MB."""
    return (process_peak() or 0) / 2**20


def told(reached: bool) -> str:
    return "reached" if reached else "MISSED"
