"""Memory of this machine and of this process, as the system tells it. Imports no torch."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def process_peak(status: Path = Path("/proc/self/status")) -> int | None:
    """The most bytes that this process has held since it began; None where the system does not tell.

    VmHWM on Linux: getrusage there begins with the size of the process that started this one.
    """
    if (peak := kilobytes(status, "VmHWM")) is not None or sys.platform != "darwin":
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine_memory(info: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """Bytes of the machine, or of the container if that may use less; None where the system does not tell."""
    total = kilobytes(info, "MemTotal")
    try:
        of_container = int(limit.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" is no limit
        return total
    return of_container if total is None else min(total, of_container)


def kilobytes(path: Path, name: str) -> int | None:
    """Bytes of a line such as 'VmHWM:     1234 kB'."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
