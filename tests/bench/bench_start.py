"""Start-up time of `--help`: `python tests/bench/bench_start.py`. Wall time of whole processes in seconds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python, argparse": [sys.executable, "-c", "import argparse; argparse.ArgumentParser().format_help()"],
    "pretrain --help": ["pretrain", "--help"],
    "pretrain train --help": ["pretrain", "train", "--help"],
    "detect --help": ["detect", "--help"],
    "detect train --help": ["detect", "train", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    here = Path(sys.executable).parent / command[0]
    began = time.perf_counter()
    subprocess.run([str(here) if here.exists() else command[0], *command[1:]], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    for name, times in taken.items():
        goal = "  (goal: under 0.3)" if "--help" in name else ""
        print(f"{name:<22} {statistics.median(times):.3f} s{goal}")


if __name__ == "__main__":
    main()
