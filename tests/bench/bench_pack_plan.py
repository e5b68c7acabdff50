"""How long `pretrain pack` plans before it reads its first image, and with how much memory: 14 million lines of a list.

    python tests/bench/bench_pack_plan.py [--images 14000000]

The list is written first, of 21,841 classes as ImageNet-21k has, and names files that are not there: each is looked
for, as each of a real list is, and none is read. Time is of a processor, since the plan uses one; memory is the peak of
the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = 21_841
PLAN = """
import sys, time
from pathlib import Path
start, wall = time.process_time(), time.time()
from pretrain.packing.pack import Treatment, cut, find_source, stamp, tasks_of
imports = time.process_time() - start
source = find_source(Path(sys.argv[1]))
shards = {split: list(cut(entries, 10_000, 2 * 10**9)) for split, entries in source.splits.items()}
stamp(source, shards, Treatment())
tasks = tasks_of(shards, Path("partial"))
peak = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
took = time.process_time() - start
print(f"{len(tasks):,} shards planned: {took:.1f} s of a processor, {imports:.1f} s of them imports; ", end="")
print(f"{time.time() - wall:.1f} s in all; peak {peak * 1024 / 1e9:.2f} GB")
"""


def write_list(place: Path, images: int) -> None:
    with place.open("w") as file:
        for n in range(images):
            name = f"n{n % CLASSES + 1440764:08d}"
            file.write(f"{name}/{name}_{n // CLASSES * 7 + n % 5}.JPEG {name}\n")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--images", type=int, default=14_000_000)
    images = flags.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "list.txt"
        write_list(place, images)
        print(f"{images:,} images, {place.stat().st_size / 1e6:,.0f} MB of lines")
        subprocess.run([sys.executable, "-c", PLAN, str(place)], check=True)


if __name__ == "__main__":
    main()
