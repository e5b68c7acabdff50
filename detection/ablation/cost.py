"""What arms cost: seconds of training by the cards, pretraining with all its ancestors, and the epochs of `scratch+`.

    card of a run                   -> Cost: seconds, device, processes, threads
    export that an arm starts from  -> the costs of its training and of those before it; None if a card does not say
    both                            -> how many times longer `scratch+` trains, to cost what they cost together

He, Girshick, Dollar, "Rethinking ImageNet Pre-training", 2019: scratch is behind only if it is trained for less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.errors import UsageError
from shared.weights.card import Exported
from shared.weights.store import Store


class Cost(NamedTuple):
    """One training: the seconds of its steps, without evaluation. Of a CPU: threads and processor seconds of each of
    its processes, which other programs do not make longer."""

    seconds: float
    device: str
    processes: int
    threads: int
    processor: float | None

    @property
    def compute(self) -> float:
        """Seconds of one processor or GPU, comparable on the same device."""
        return (self.seconds if self.processor is None else self.processor) * self.processes


def read_cost(facts: Any) -> Cost | None:
    """The cost of a card or of a result.json; None if it does not say."""
    try:
        processor = facts.get("processor_seconds")
        return Cost(
            float(facts["seconds"]),
            str(facts["device"]),
            int(facts["processes"]),
            int(facts.get("threads", 1)),
            None if processor is None else float(processor),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def pretraining(store: Store, start: Exported) -> list[Cost] | None:
    """The cost of the training of an export and of all that it started from; None if one of them is not recorded."""
    costs = [read_cost(node.get("cost")) for node in store.lineage(start)]
    known = [cost for cost in costs if cost is not None]
    return known if len(known) == len(costs) else None


def times_longer(before: Mapping[str, list[Cost] | None], scratch: Cost | None) -> float:
    """Epochs of `scratch+`, as a multiple of those of scratch: (pretraining + training) / training.

    Args:
        before: pretraining of each arm; the one that took most counts.
        scratch: one run from scratch.

    Raises:
        UsageError: a cost is not known, or they are of different devices.
    """
    if not before:
        raise UsageError("scratch+ trains for as long as a pretraining would take, and no arm has one; give --longer")
    unknown = [arm for arm, costs in before.items() if costs is None]
    if scratch is None or unknown:
        whose = f"of {unknown[0]} or of its ancestors" if unknown else "of scratch"
        raise UsageError(
            f"the cards {whose} do not say how long the training took, so the length of scratch+ is not known; give "
            "--longer TIMES"
        )
    known = [cost for costs in before.values() for cost in costs or ()]
    if other := [cost.device for cost in known if cost.device != scratch.device]:
        raise UsageError(
            f"pretraining ran on {other[0]} and the detector on {scratch.device}, whose seconds cannot be compared; "
            "give scratch+ its length with --longer TIMES"
        )
    most = max(sum(cost.compute for cost in costs or ()) for costs in before.values())
    return 1 + most / max(scratch.compute, 1e-9)


def time_of(costs: Sequence[Cost] | None, over: int = 1) -> str:
    """The sum divided by a number of runs, as '24 s', '44 min' or '3.1 h'; or 'not recorded'."""
    if costs is None:
        return "not recorded"
    seconds = sum(cost.seconds for cost in costs) / over
    if seconds < 99.5:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 99.5 * 60 else f"{seconds / 3600:,.3g} h"
