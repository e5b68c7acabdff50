"""`detect doctor` on a COCO file of 118,000 images and 860,000 objects, with and without the headers of the images.

    python tests/bench/bench_doctor.py

The file is made first, as in bench_opening.py, with a small picture of its own for each image. Each figure is of a
process of its own: seconds from start to end, CPU seconds, and memory at the peak. Headers are read in the first round
and kept.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_opening import NAME, make

HERE = Path(__file__).parents[2]


def looked_at(root: Path, flags: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and megabytes of one process."""
    paths = {"PYTHONPATH": str(HERE), "CHORDATE_CACHE": str(root / "cache"), "XDG_CACHE_HOME": str(root / "cache")}
    words = ["doctor", str(root / "train2017"), "--coco-json-path", str(root / NAME), *flags]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    told = ["-c", f"from detection.cli import main\nmain({words!r})\n{PEAK}"]
    environment = {**os.environ, **paths}
    done = subprocess.run(
        [sys.executable, *told], env=environment, cwd=HERE, check=True, capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, float(done.stdout.split()[-1]) / 1024


# ru_maxrss would be at least that of the process which started this one
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, options.images)
        content = (root / "train2017" / "picture.jpg").read_bytes()
        (root / "train2017" / "picture.jpg").unlink()
        for number, link in enumerate(sorted((root / "train2017").iterdir())):
            link.unlink()
            link.write_bytes(content + number.to_bytes(8, "little"))  # behind the picture's end
        for name, flags in (("annotations alone", ["--no-images"]), ("with the headers of the images", [])):
            rounds = [looked_at(root, flags) for _ in range(options.rounds)]
            seconds, cpu, megabytes = (statistics.median(values) for values in zip(*rounds, strict=True))
            print(f"{options.images} images, {name}: {seconds:.1f} s, {cpu:.1f} s CPU, {megabytes:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
