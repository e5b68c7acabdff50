"""What both programs do around a training run: device, folder, feed, loop, results."""

from __future__ import annotations

import json
import logging
import os
import random
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.devices import dist
from shared.devices.device import device_name, pick_device
from shared.errors import Refusal, UsageError, about_disk, plural
from shared.feeding.feed import Feed, choose_workers, in_order
from shared.feeding.image import limit_pixels
from shared.feeding.repeat import Repeats
from shared.files import write_json
from shared.logs.console import setup_logging
from shared.loop.epochs import is_finished, plain_metrics
from shared.loop.recompute import recompute_blocks
from shared.loop.state import load_state
from shared.loop.trainer import Trainer
from shared.recipes.recipe import Resolved, RuntimeConfig, flat, plain
from shared.runs.plan import describe_run, doubts, planned_folder
from shared.runs.resume import changes, described, effective, history
from shared.runs.run import keep_recipe, open_run
from shared.weights.card import Exported
from shared.weights.moved import where
from shared.weights.store import Store

log = logging.getLogger(__name__)


class Session:
    """One training run: sets up device, processes and seeds, then opens, feeds and fits.

    Args:
        resolved: the recipe.
        stem: default name of the run of a recipe.
        command: `pretrain train` or `detect train`.
    """

    def __init__(self, resolved: Resolved, stem: str, command: str) -> None:
        self.resolved, self.recipe, self.stem, self.command = resolved, resolved.recipe, stem, command
        self.changed: list[str] = []  # what resumed runs changed, and at which step
        self.total = 0  # optimizer steps of the whole run
        self.runtime: RuntimeConfig = resolved.recipe.runtime
        if self.runtime.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        limit_pixels(self.runtime.max_pixels)
        if self.runtime.threads:
            torch.set_num_threads(self.runtime.threads)
        self.device = pick_device(self.runtime.device)
        dist.start(self.device.type)
        setup_logging(enabled=dist.is_main(), hold=True)  # what the data is said to be, before there is a folder
        if self.device.type == "cuda":
            self.device = torch.device("cuda", dist.local_rank() if dist.world() > 1 else self.device.index or 0)
            torch.backends.cudnn.benchmark = not self.runtime.use_deterministic_algorithms
        if self.runtime.use_deterministic_algorithms:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
            torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("high" if self.runtime.fast_matmul else "highest")
        seed_everything(self.runtime.seed)
        self.started = time.time()
        self.run_dir: Path | None = None
        self.trainer: Trainer | None = None

    def replace_recipe(self, resolved: Resolved) -> Resolved:
        """Replace the recipe by one with values that were found at run time; it is the one that is saved."""
        self.resolved, self.recipe, self.runtime = resolved, resolved.recipe, resolved.recipe.runtime
        return resolved

    def open(self) -> Path:
        """Create or resume the run's folder."""
        self.run_dir = open_run(self.runtime, self.stem, self.resolved)
        setup_logging(self.run_dir, enabled=dist.is_main())
        return self.run_dir

    def feed(
        self,
        samples: Any,
        groups: np.ndarray | None = None,
        repeats: Repeats | None = None,
        beside: Callable[[int, int], Any] | None = None,
    ) -> Any:
        """The training feed. A resumed run keeps its number of micro batches per step, for any number of processes.

        Args:
            groups: (N,) group number of each sample, if each micro batch is to hold samples of one group.
            repeats: how often samples come in an epoch; None for once.
            beside: what comes with each micro batch, as `Task.beside` gives it.
        """
        runtime, world = self.runtime, dist.world()
        micro_batches = runtime.grad_accum_steps * world
        if self.run_dir is not None and runtime.resume is not None:
            state = load_state(self.run_dir / "last")
            if state is not None and state["batch_size"] == runtime.batch_size:
                was = state["micro_batches"]
                if micro_batches != was and "grad_accum_steps" in changes(self.run_dir, self.recipe):
                    raise UsageError(
                        f"a step of {self.run_dir} has {was} micro batches, and --grad-accum-steps "
                        f"{runtime.grad_accum_steps} with {plural(world, 'process')} makes {micro_batches}; leave "
                        f"--grad-accum-steps out to resume it"
                    )
                micro_batches = was
        if micro_batches % world:
            raise UsageError(
                f"a step of this run has {micro_batches} micro batches, not divisible by {world} processes; "
                f"resume it with a number of processes that divides {micro_batches}"
            )
        shares = {"batch_size": runtime.batch_size, "micro_batches": micro_batches, "rank": dist.rank(), "world": world}
        shares |= {"pin": self.device.type == "cuda"}
        workers = choose_workers(runtime.num_workers, world)
        if hasattr(samples, "stream_feed"):
            return samples.stream_feed(workers=workers, **shares)
        return Feed(
            samples,
            seed=runtime.seed,
            workers=workers,
            groups=groups,
            repeats=repeats,
            beside=beside,
            max_bad=runtime.max_bad_samples,
            **shares,
        )

    def in_order(self, samples: Any) -> Any:
        """Evaluation loader: this process's share of a data set, every sample once."""
        workers = choose_workers(self.runtime.num_workers, dist.world())
        shares = {"rank": dist.rank(), "world": dist.world(), "workers": workers, "pin": self.device.type == "cuda"}
        return in_order(samples, self.runtime.batch_size, **shares)

    def joins_batch_norms(self) -> bool:
        """True if --sync-bn is set and possible here."""
        if not self.runtime.sync_bn or dist.world() == 1:
            return False
        if self.device.type != "cuda":
            log.warning("--sync-bn is ignored: torch synchronizes batch norm on GPUs only")
        return self.device.type == "cuda"

    def fit(
        self, task: Any, feed: Any, val_loader: Any, publish: Callable | None, publish_every: int = 0, **more: Any
    ) -> dict[str, float]:
        """Train; returns the last metrics. `more` are further arguments of `Trainer`, such as a probe."""
        assert self.run_dir is not None
        for sentence in doubts(task.train(), feed, self.recipe.schedule) if dist.is_main() else []:
            log.warning("%s", sentence)
        told = {"publish": publish if dist.is_main() else None, "publish_every": publish_every, "begin": self.begin}
        self.trainer = trainer = self.trainer_of(task, feed, val_loader, **told, **more)
        metrics = trainer.fit()
        self.total = trainer.step  # fewer than planned, if it was stopped early
        return metrics

    def trainer_of(self, task: Any, feed: Any, val_loader: Any, **more: Any) -> Trainer:
        """The loop of this run; `more` are further arguments of `Trainer`."""
        assert self.run_dir is not None
        if self.runtime.grad_checkpointing:
            log.info("%s are computed again in the backward pass", plural(recompute_blocks(task), "block"))
        return Trainer(
            task,
            feed,
            val_loader,
            optim=self.recipe.optim,
            schedule=self.recipe.schedule,
            runtime=self.runtime,
            run_dir=self.run_dir,
            device=self.device,
            command=self.to_continue(),
            **more,
        )

    def to_continue(self) -> str:
        """The command that continues the run."""
        return f"{self.command} --resume {shlex.quote(str(self.run_dir))}"

    def stopped_by(self, error: OSError) -> Exception:
        """The error to raise when the disk stopped the run: it says how to go on."""
        sentence = about_disk(error, f"continue with `{self.to_continue()}`") if self.run_dir is not None else None
        return error if sentence is None else Refusal(sentence)

    def described(self, feed: Any, **facts: object) -> list[str]:
        """The lines of a dry run about this run; `facts` are those of the program, such as its size and classes."""
        return describe_run(
            {
                **facts,
                "device": self.device,
                "processes": dist.world(),
                "workers": feed.workers,
                "run folder": planned_folder(self.runtime, self.stem),
                "weights folder": self.runtime.weights_dir,
            }
        )

    def begin(self, step: int, total: int) -> None:
        """Say and save what a resumed run changes, only after all checks: a refused one must not change the recipe.

        Raises:
            UsageError: the run is finished, so that changed values would have no effect.
        """
        if self.run_dir is None:
            return
        self.total, self.changed = total, history(self.run_dir)
        changed = effective(changes(self.run_dir, self.recipe)) if step else {}
        if step == total and is_finished(self.run_dir, step):
            if changed:
                raise UsageError(
                    f"{self.run_dir} is finished, at step {step} of {total}, so {described(changed)} would train "
                    f"nothing; give more --epochs (or --patience) to train on, or start a new run without --resume"
                )
            log.info("%s is finished, at step %d of %d; more --epochs continue it", self.run_dir, step, total)
            return
        if changed:
            log.info("from step %d on: %s", step, described(changed))
            self.changed.append(f"step {step}: {described(changed)}")
        if dist.is_main():
            keep_recipe(self.run_dir, self.recipe, self.changed)
            result = self.run_dir / "result.json"
            if result.is_file():  # of the epochs before; the run goes on
                write_json(result, {**json.loads(result.read_text(encoding="utf-8")), "finished": False})

    def write(self, name: str, what: Any) -> None:
        """Write a JSON file of the run, in the main process."""
        if dist.is_main() and self.run_dir is not None:
            write_json(self.run_dir / name, what)

    def finish(self, exported: Exported, metrics: dict[str, float], store: Store) -> None:
        """Write the results of a finished run: metrics, weights and lineage."""
        assert self.run_dir is not None
        result = {"metrics": plain_metrics(metrics), **where(exported, self.run_dir)}
        result |= {"intervals": exported.card.intervals} if exported.card.intervals else {}
        result |= {"cost": exported.card.cost} if exported.card.cost else {}
        result |= {"finished": True, "step": self.total, "seconds": self.seconds()}
        self.write("result.json", result)
        self.write("lineage.json", store.lineage(exported))

    def recipe_values(self) -> dict[str, Any]:
        """The resolved recipe as a dict for the card."""
        values = {name: plain(value) for name, value in flat(self.recipe).items()}
        return {**values, "resumed": self.changed} if self.changed else values

    def cost(self) -> dict[str, Any]:
        """What all steps of the run took so far, for the card; empty where they were not counted from the start."""
        if self.trainer is None or not self.trainer.clock.known:
            return {}
        clock = self.trainer.clock
        told = {"seconds": round(clock.seconds, 1), "device": device_name(self.device), "processes": dist.world()}
        if self.device.type == "cpu":
            told |= {"threads": torch.get_num_threads(), "processor_seconds": round(clock.processor, 1)}
        return told

    def seconds(self) -> float:
        """Since the program was started."""
        return round(time.time() - self.started, 1)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, for initial weights; the loop and the feed are seeded by position."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pair(size: tuple[int, ...]) -> tuple[int, int]:
    """--size 640 or --size 480 800 as (height, width)."""
    if len(size) not in (1, 2):
        raise UsageError(f"--size takes one number or two, height and width; got {len(size)}")
    return size[0], size[-1]
