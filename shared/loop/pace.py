"""Running sums of losses, the time that steps take, and when to save between epoch ends."""

from __future__ import annotations

import math
import time

from torch import Tensor

from shared.devices import dist
from shared.errors import UsageError


class Losses:
    """Sums of named losses, kept on the device until they are read, so that the host does not wait for the GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weight = 0.0

    def add(self, losses: dict[str, Tensor], share: float) -> None:
        """Add the losses of one micro batch; `share` is its weight in the step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float() * share
        self.weight += share

    def so_far(self) -> dict[str, float]:
        """The sums so far; NaN or Inf if any loss was."""
        return {name: float(value) for name, value in self.sums.items()}

    def take(self) -> dict[str, float]:
        """The means since the last call; the sums start again at 0."""
        means = {name: float(value) / self.weight for name, value in self.sums.items()}
        self.sums, self.weight = {}, 0.0
        return means


class Cadence:
    """When to save between epoch ends: every N steps (`200`) or N minutes (`10m`)."""

    def __init__(self, text: str | None) -> None:
        self.steps = self.seconds = math.inf
        try:
            if text and text.endswith("m"):
                self.seconds = float(text[:-1]) * 60
            elif text:
                self.steps = int(text)
            if not (self.steps > 0 and self.seconds > 0):
                raise ValueError
        except ValueError:
            raise UsageError(f"--save-every is {text!r}; give steps, such as 200, or minutes, such as 10m") from None
        self.last_step, self.last_time = 0, time.monotonic()

    def due(self, step: int) -> bool:
        return (
            step % self.steps == 0 if math.isfinite(self.steps) else time.monotonic() - self.last_time >= self.seconds
        )

    def saved(self, step: int) -> None:
        self.last_step, self.last_time = step, time.monotonic()


class Clock:
    """The time of all steps, over all starts of a run, without evaluation.

    seconds: by the clock. processor: of this process and all its threads, which other programs do not make longer.
    known: False in a run that an earlier version began, which did not count.
    """

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0
        self.known = True
        self.began = (0.0, 0.0)

    def begin(self) -> float:
        """A step begins; now, as `time.perf_counter` has it."""
        self.began = time.perf_counter(), time.process_time()
        return self.began[0]

    def end(self) -> None:
        self.seconds += time.perf_counter() - self.began[0]
        self.processor += time.process_time() - self.began[1]

    def state(self) -> list[float] | None:
        return [self.seconds, self.processor] if self.known else None

    def load(self, state: list[float] | None) -> None:
        """Go on from a saved state; None in those of earlier versions."""
        self.known = state is not None
        self.seconds, self.processor = state or (0.0, 0.0)


def mean_over_processes(losses: dict[str, float]) -> dict[str, float]:
    gathered = dist.gather(losses)
    return {name: sum(one[name] for one in gathered) / len(gathered) for name in losses}


def rate(count: int, seconds: float) -> str:
    """'87 images in 3.1 s, 28.1 images/s'."""
    return f"{count} images in {seconds:.1f} s, {count / max(seconds, 1e-9):.1f} images/s"
