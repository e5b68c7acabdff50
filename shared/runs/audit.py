"""`audit`, of both programs: steps of a run are taken again from the states it kept, and their bits compared.

    audit RUN --steps 5    audit/step-*.pt of the run, its recipe, its data -> 5 of 5 steps replayed to the same bits
                                                                            -> or which step, what differs, and why
                                                                               that may be; exit 1

Nothing is written. Imports no torch at the top.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.errors import Refusal, UsageError, WeightsError, plural
from shared.recipes.flags import Parser
from shared.recipes.recipe import Resolved, read_device
from shared.recipes.values import whole, word
from shared.text import say

if TYPE_CHECKING:
    import numpy as np

    from shared.loop.audit import Kept
    from shared.loop.trainer import Trainer
    from shared.runs.session import Session


class Prepared(NamedTuple):
    """What trains again. marks: (I,) uint64 of the training images as they are now; None where they have none."""

    session: Session
    task: Any
    feed: Any
    marks: np.ndarray | None


def audit_flags(program: str) -> Parser:
    parser = Parser(
        prog=f"{program} audit",
        description=f"Take steps of a run again, from the states that `{program} train --keep-states` kept, and "
        "compare weights and optimizer bit by bit. The data has to be where the run had it.",
    )
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--steps", type=whole(1, 1000), default=5, help="steps to replay, spread evenly (default: 5)")
    parser.add_argument("--device", type=word(read_device), help="cpu, cuda or cuda:1 (default: as the run)")
    parser.add_argument("--threads", type=whole(1, 1024), help="CPU threads (default: as the run)")
    return parser


def audit(
    program: str, argv: list[str], resolve: Callable[[list[str]], Resolved], prepare: Callable[[Resolved], Prepared]
) -> int:
    """The command.

    Args:
        resolve: a command line of `train` as a recipe.
        prepare: builds what it trains.
    """
    args = audit_flags(program).parse_exactly(argv)
    run: Path = args.run
    if not (run / "recipe.yaml").is_file():
        raise UsageError(f"{run} is not a run folder; give one, such as runs/mine")
    from shared.logs.console import setup_logging
    from shared.loop.audit import kept_in

    kept = kept_in(run)
    if not kept:
        raise UsageError(f"{run} has kept no states to replay from; train with --keep-states 5 for a run that has")
    setup_logging()
    bad: list[str] = []
    opened: tuple[Any, Trainer, Any] | None = None
    chosen = spread(kept, args.steps)
    for one in chosen:
        key = (one.recipe, one.where.get("threads"), micro_batches(one))
        if opened is None or opened[0] != key:
            opened = (key, *open_again(one, args, run, resolve, prepare))
        line, same = judged(one, opened[1], opened[2])
        say(line)
        if not same:
            bad.append(line)
    if bad:
        raise Refusal(f"{len(bad)} of {plural(len(chosen), 'step')} did not come out the same: {bad[0]}")
    say(f"{len(chosen)} of {plural(len(chosen), 'step')} replayed to the same bits")
    return 0


def spread(kept: Sequence[Kept], count: int) -> list[Kept]:
    """So many of them, the first and the last among them."""
    count = min(count, len(kept))
    return [kept[round(number * (len(kept) - 1) / max(count - 1, 1))] for number in range(count)]


def micro_batches(kept: Kept) -> int:
    """Micro batches of the step, of all processes."""
    return len(kept.losses) * int(kept.where["processes"])


def open_again(
    kept: Kept, args: Any, run: Path, resolve: Callable[[list[str]], Resolved], prepare: Callable[[Resolved], Prepared]
) -> tuple[Trainer, Any]:
    """The loop of the run, with the recipe that it had at this step, and the marks of its images now."""
    import torch

    gpu = kept.where["kind"] == "cuda" and torch.cuda.is_available()
    device = args.device or ("cuda" if gpu else "cpu")
    flags = ["--device", device, "--num-workers", "0", "--threads", str(args.threads or kept.where["threads"])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(kept.recipe, encoding="utf-8")
        resolved = resolve(["--recipe", str(path), *flags, "--grad-accum-steps", str(micro_batches(kept))])
    session, task, feed, marks = prepare(resolved)
    session.run_dir = run
    return session.trainer_of(task, feed, None), marks


def judged(kept: Kept, trainer: Trainer, marks: Any) -> tuple[str, bool]:
    """A line about a step, and whether it is proved."""
    from shared.loop.audit import here, replayed
    from shared.loop.state import read_state

    name = f"step {kept.step}"
    try:
        state = read_state(kept.path)
    except WeightsError:
        return f"{name}: {kept.path.name} is not the file that was kept, by its digest", False
    difference, now = replayed(trainer, kept, state), here(trainer.device)
    loss = "loss {:.9g} then, {:.9g} now".format(*difference.loss)
    if kept.where["kind"] != now["kind"]:
        return f"{name}: trained on {kept.where['device']}, replayed on {now['device']}, so no proof; {loss}", False
    if not difference.tensors and not difference.losses:
        return f"{name}: the same bits, {difference.of} digests, loss {difference.loss[0]:.6g}", True
    what = f"{len(difference.tensors)} of {difference.of} digests of weights and optimizer differ"
    what += f", such as {difference.tensors[0]}" if difference.tensors else ""
    why = causes(kept, trainer, now, marks)
    told = f"; {'; '.join(why)}" if why else "; state, weights, code or an image may have been changed"
    return f"{name}: {what}; {loss if difference.losses else 'all losses are equal'}{told}", False


def causes(kept: Kept, trainer: Trainer, now: dict[str, Any], marks: Any) -> list[str]:
    """What is not as it was and may be the reason, as sentences without a full stop."""
    found = [f"{key} was {was}, and is {now.get(key)}" for key, was in kept.where.items() if now.get(key) != was]
    facts = json.loads(json.dumps(trainer.task.facts, default=str))
    found += [f"{key} of the network is another one" for key, was in kept.facts.items() if facts.get(key) != was]
    changed = changed_images(trainer.run_dir, marks)
    if changed:
        found.append(f"{plural(changed, 'training image')} changed since, by the digests that the run wrote")
    if now["kind"] == "cuda" and not trainer.runtime.use_deterministic_algorithms:
        found.append("a GPU repeats bits only with --use-deterministic-algorithms")
    return found


def changed_images(run: Path, marks: Any) -> int:
    """How many training images are not among those whose digests the run wrote."""
    import numpy as np

    files = sorted(run.glob("seen-*.npy"))
    if marks is None or not files:
        return 0
    known = np.concatenate([np.load(path, allow_pickle=False)[:, 0] for path in files])
    return int((~np.isin(marks[marks > 0], known)).sum())
