"""What both programs do around a training run: device, folder, feed, loop, results."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.devices import dist
from shared.devices.device import pick_device
from shared.errors import UsageError
from shared.feeding.feed import Feed, choose_workers, in_order
from shared.feeding.image import limit_pixels
from shared.files import write_json
from shared.logs.console import setup_logging
from shared.loop.state import load_state
from shared.loop.trainer import Trainer
from shared.recipes.recipe import Resolved, RuntimeConfig, flat, plain
from shared.runs.run import keep_recipe, open_run
from shared.weights.card import Exported
from shared.weights.store import Store

log = logging.getLogger(__name__)


class Session:
    """One training run: sets up device, processes and seeds, then opens, feeds and fits.

    Args:
        resolved: the recipe.
        stem: default name of the run of a recipe.
    """

    def __init__(self, resolved: Resolved, stem: str) -> None:
        self.resolved, self.recipe, self.stem = resolved, resolved.recipe, stem
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

    def replace_recipe(self, resolved: Resolved) -> Resolved:
        """Replace the recipe by one with values that were found at run time; it is the one that is saved."""
        self.resolved, self.recipe = resolved, resolved.recipe
        return resolved

    def open(self) -> Path:
        """Create or resume the run's folder."""
        self.run_dir = open_run(self.runtime, self.stem, self.resolved)
        setup_logging(self.run_dir, enabled=dist.is_main())
        return self.run_dir

    def feed(self, samples: Any, groups: np.ndarray | None = None) -> Any:
        """The training feed. A resumed run keeps its number of micro batches per step, for any number of processes.

        Args:
            groups: (N,) group number of each sample, if each micro batch is to hold samples of one group.
        """
        runtime, world = self.runtime, dist.world()
        micro_batches = runtime.grad_accum_steps * world
        if self.run_dir is not None and runtime.resume is not None:
            state = load_state(self.run_dir / "last")
            if state is not None and state["batch_size"] == runtime.batch_size:
                micro_batches = state["micro_batches"]
        if micro_batches % world:
            raise UsageError(
                f"a step of this run has {micro_batches} micro batches, not divisible by {world} processes; "
                f"resume it with a number of processes that divides {micro_batches}"
            )
        shares = {"batch_size": runtime.batch_size, "micro_batches": micro_batches, "rank": dist.rank(), "world": world}
        workers = choose_workers(runtime.num_workers, world)
        if hasattr(samples, "stream_feed"):
            return samples.stream_feed(workers=workers, **shares)
        return Feed(
            samples,
            seed=runtime.seed,
            workers=workers,
            groups=groups,
            max_bad=runtime.max_bad_samples,
            pin=self.device.type == "cuda",
            **shares,
        )

    def in_order(self, samples: Any) -> Any:
        """Evaluation loader: this process's share of a data set, every sample once."""
        workers = choose_workers(self.runtime.num_workers, dist.world())
        return in_order(samples, self.runtime.batch_size, rank=dist.rank(), world=dist.world(), workers=workers)

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
        trainer = Trainer(
            task,
            feed,
            val_loader,
            optim=self.recipe.optim,
            schedule=self.recipe.schedule,
            runtime=self.runtime,
            run_dir=self.run_dir,
            device=self.device,
            publish=publish if dist.is_main() else None,
            publish_every=publish_every,
            begin=self.begin,
            **more,
        )
        return trainer.fit()

    def begin(self) -> None:
        """Save the recipe, only after all checks: a refused resume must not change the run's recipe."""
        if dist.is_main() and self.run_dir is not None:
            keep_recipe(self.run_dir, self.recipe)

    def write(self, name: str, what: Any) -> None:
        """Write a JSON file of the run, in the main process."""
        if dist.is_main() and self.run_dir is not None:
            write_json(self.run_dir / name, what)

    def finish(self, exported: Exported, metrics: dict[str, float], store: Store) -> None:
        """Write the results of a finished run: metrics, weights and lineage."""
        result = {"metrics": metrics, "weights": str(exported.path), "finished": True, "seconds": self.seconds()}
        self.write("result.json", result)
        self.write("lineage.json", store.lineage(exported))

    def recipe_values(self) -> dict[str, Any]:
        """The resolved recipe as a dict for the card."""
        return {name: plain(value) for name, value in flat(self.recipe).items()}

    def seconds(self) -> float:
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
