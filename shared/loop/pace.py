"""Small parts of the loop: losses summed where they are, and when it is time to save."""

from __future__ import annotations

import math
import time

from torch import Tensor

from shared.devices import dist
from shared.errors import UsageError


class Losses:
    """Sums of named losses, kept on the device until somebody asks, so that a GPU does not wait for its own numbers."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weight = 0.0

    def add(self, losses: dict[str, Tensor], share: float) -> None:
        """The losses of one micro batch, which is this share of its step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float() * share
        self.weight += share

    def so_far(self) -> dict[str, float]:
        """The sums so far, which are not finite once any loss was not."""
        return {name: float(value) for name, value in self.sums.items()}

    def take(self) -> dict[str, float]:
        """The means since the last time, starting anew."""
        means = {name: float(value) / self.weight for name, value in self.sums.items()}
        self.sums, self.weight = {}, 0.0
        return means


class Cadence:
    """When to save between epoch ends: every so many steps (`200`) or minutes (`10m`)."""

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


def mean_over_processes(losses: dict[str, float]) -> dict[str, float]:
    gathered = dist.gather(losses)
    return {name: sum(one[name] for one in gathered) / len(gathered) for name in losses}
