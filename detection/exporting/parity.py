"""The parity sheet: what an exported detector finds in photographs, beside the network that it was made from.

    photographs, resized -> network on the canvas, file in its runtime -> boxes matched, differences, milliseconds
    validation set       -> AP of both

A detection is matched if the other has one of the same label within PIXELS and SCORE that no better one has taken.
Detections are compared as sets, since equal scores are ordered differently.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detection.inference.exported import GraphTask
from detection.types import Detections
from shared.errors import Parted, plural

PIXELS, SCORE = 0.1, 0.001  # how far a matched detection may be: sides of the box in pixels of the input; score
MASK, CELLS = 0.01, 1.5  # mean difference of a mask's probabilities; distance of keypoints in pixels of the input
COUNTED, AT_LEAST = 0.05, 10  # detections that are compared: those of this score, and so many of the best in any case
ENOUGH = 0.99  # share of detections that must be matched
AP_APART = 0.002  # between the AP of the network and of the file


@dataclass
class Sheet:
    """Counts over photographs. Times are milliseconds of one photograph, both on the same threads."""

    photographs: list[dict[str, Any]] = field(default_factory=list)
    network_ms: list[float] = field(default_factory=list)
    exported_ms: list[float] = field(default_factory=list)
    ap: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        return sum(one["compared"] for one in self.photographs)

    @property
    def matched(self) -> int:
        return sum(one["matched"] for one in self.photographs)

    @property
    def alike(self) -> bool:
        near = all(abs(own - other) <= AP_APART for own, other in self.ap.values())
        return near and self.matched >= ENOUGH * self.compared

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        network, exported = statistics.median(self.network_ms), statistics.median(self.exported_ms)
        ratios = [own / other for own, other in zip(self.network_ms, self.exported_ms, strict=True)]
        return {
            "alike": self.alike,
            "compared": self.compared,
            "matched": self.matched,
            "within": {"pixels": PIXELS, "score": SCORE},
            "ap": {name: {"network": own, "exported": other} for name, (own, other) in self.ap.items()},
            "milliseconds": {"network": round(network, 2), "exported": round(exported, 2)},
            "times_as_fast": round(statistics.median(ratios), 3),
            "threads": torch.get_num_threads(),
            "photographs": self.photographs,
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        facts = self.facts()
        ms, most = facts["milliseconds"], max(one["pixels"] for one in self.photographs)
        lines = [
            f"parity: {self.matched} of {self.compared} detections in {plural(len(self.photographs), 'photograph')} "
            f"found by both, at most {most:.2g} pixels apart"
        ]
        lines += [f"{name}: {own:.4f} by the network, {other:.4f} exported" for name, (own, other) in self.ap.items()]
        lines.append(
            f"a photograph takes {ms['exported']:.0f} ms exported, {ms['network']:.0f} ms in torch, on "
            f"{facts['threads']} threads: {facts['times_as_fast']:.2f} times as fast"
        )
        return lines

    def check(self, file: str) -> None:
        """Raise Parted unless both find the same."""
        if self.alike:
            return
        worst = min(self.photographs, key=lambda one: one["matched"] / max(1, one["compared"]))
        apart = [f"{name} {own:.4f} and {other:.4f}" for name, (own, other) in self.ap.items()]
        raise Parted(
            f"{file} does not find what the network finds: {self.matched} of {self.compared} detections matched"
            f"{', ' + ', '.join(apart) if apart else ''}, fewest in {worst['file']} ({worst['matched']} of "
            f"{worst['compared']}); do not use it, and try another --format or other releases of its packages"
        )


def compare(
    eager: Callable[[Tensor], list[Detections]],
    exported: GraphTask,
    photographs: Sequence[tuple[str, Tensor]],
    clock: Callable[[], float] = time.perf_counter,
) -> Sheet:
    """Run both on each photograph, one after the other.

    Args:
        eager: what the network finds: uint8 (B, 3, h, w) on the processor -> detections.
        photographs: names and uint8 (3, h, w), of one size if the file takes several at once.
        clock: what is measured, in seconds.
    """
    sheet, count = Sheet(), exported.batch
    for first in range(0, len(photographs), count):
        names, pictures = zip(*photographs[first : first + count], strict=True)
        full = torch.stack([*pictures, *pictures[-1:] * (count - len(pictures))])
        if not first:  # the first run of either prepares the others
            eager(full)
            exported.graph(full)
        began = clock()
        own = eager(full)
        between = clock()
        found = exported.of_batch(list(full))
        ended = clock()
        sheet.network_ms.append((between - began) * 1000 / count)
        sheet.exported_ms.append((ended - between) * 1000 / count)
        for name, one, other in zip(names, own, found, strict=False):
            sheet.photographs.append({"file": name, **matches(one, other)})
    return sheet


def matches(own: Detections, other: Detections) -> dict[str, Any]:
    """How many of the network's detections the file has as well, and the largest differences among those."""
    count = max(int((own["scores"] >= COUNTED).sum()), min(AT_LEAST, len(own["scores"])))
    found = {"compared": count, "matched": 0, "pixels": 0.0, "score": 0.0}
    free = torch.ones(len(other["scores"]), dtype=torch.bool)
    for i in range(count):
        pixels = (other["boxes"] - own["boxes"][i]).abs().amax(1)
        score = (other["scores"] - own["scores"][i]).abs()
        near = free & (other["labels"] == own["labels"][i]) & (pixels <= PIXELS) & (score <= SCORE)
        for j in near.nonzero()[:, 0][pixels[near].argsort()].tolist():
            if alike_inside(own, i, other, j):
                free[j] = False
                found["matched"] += 1
                found["pixels"] = max(found["pixels"], float(pixels[j]))
                found["score"] = max(found["score"], float(score[j]))
                break
    return found


def alike_inside(own: Detections, i: int, other: Detections, j: int) -> bool:
    """Whether two detections have the same mask and keypoints, where there are any.

    A keypoint is also the same if the other's score of it is as good: heatmaps may have several equal places.
    """
    if "masks" in own and float((own["masks"][i] - other["masks"][j]).abs().mean()) > MASK:  # type: ignore[typeddict-item]
        return False
    if "keypoints" not in own:
        return True
    point, another = own["keypoints"][i], other["keypoints"][j]  # type: ignore[typeddict-item]
    near = (point[:, :2] - another[:, :2]).abs().amax(1) <= CELLS
    return bool((near | ((point[:, 2] - another[:, 2]).abs() <= 0.01)).all())
