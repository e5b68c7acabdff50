"""The training loop of both programs.

    while steps are left:                      train_step -> at epoch ends: save -> evaluate -> export
        for micro batch of the step:
            losses = task(batch)               the only line that depends on what is trained

`pretrain train` and `detect train` both run it. Read `fit`, `train_step` and `save`, in that order.
A step is a function of (weights, step number): data, learning rate and random numbers all follow from the number. So a
run that is killed at any moment continues from its last state to the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.devices import dist
from shared.devices.ahead import ahead
from shared.devices.device import precision, to_device
from shared.devices.sharding import check_sharding, put_together, syncing, whole_state, whole_weights
from shared.errors import Refusal, UsageError, plural
from shared.feeding.feed import Feed
from shared.feeding.plan import seed_of
from shared.logs.metrics import RunLog, show_metric
from shared.logs.progress import Progress
from shared.loop.audit import keeping, steps_to_keep
from shared.loop.best import Best, check_measured, keep_weights, publish_both, read_best
from shared.loop.compiled import wrapped
from shared.loop.ema import Average
from shared.loop.epochs import EpochEnd, Epochs, is_finished, nan_for_none, plain_metrics, read_epoch_end
from shared.loop.optim import build_optimizer, for_batch
from shared.loop.pace import Cadence, Clock, Losses, mean_over_processes, rate
from shared.loop.replay import keep_replay, samples_of
from shared.loop.resuming import check_same_run, restore
from shared.loop.schedule import lr_scale, total_steps, wd_at
from shared.loop.signals import StopRequest
from shared.loop.state import insist_on_finite_weights, load_state, save_state
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig

log = logging.getLogger(__name__)


class Trainer:
    """Train a task.

    Args:
        task: the model to train; moved to the device, and wrapped in DDP or FSDP if there are several processes.
        feed: micro batches by step.
        val_loader: passed to `task.evaluate` after every epoch; None for no evaluation.
        optim, schedule, runtime: the recipe sections the loop reads.
        run_dir: folder of the training state and the logs.
        publish: called with (module holder, epoch, metrics, last, note for the card) to export; see `publish_every`.
        publish_every: export every N epochs and at the end; 0 for the end only.
        probe: called with the evaluated task, in eval mode; its metrics are appended to the task's.
        probe_every: probe every N epochs and at the end.
        device: device of the task.
        begin: called once with (step, total steps), after all checks and before the first step.
        command: the command that continues the run, for the messages of one that is stopped.
    """

    def __init__(
        self,
        task: Task,
        feed: Feed,
        val_loader: Iterable[Any] | None,
        *,
        optim: OptimConfig,
        schedule: ScheduleConfig,
        runtime: RuntimeConfig,
        run_dir: Path,
        device: torch.device,
        publish: Callable[..., None] | None = None,
        publish_every: int = 0,
        probe: Callable[[Any], dict[str, float]] | None = None,
        probe_every: int = 1,
        begin: Callable[[int, int], None] = lambda step, total: None,
        command: str = "--resume",
    ) -> None:
        self.optim, self.schedule, self.runtime = for_batch(optim, feed.step_size), schedule, runtime
        self.run_dir, self.device = run_dir, device
        self.whole: Task | None = None  # unsharded copy of an FSDP task, for export
        if runtime.fsdp:
            check_sharding(runtime)
            self.whole = deepcopy(task) if dist.world() > 1 and dist.is_main() else None
        self.task = task if self.sharded else task.to(device)
        self.amp_dtype = precision(runtime, device)
        if self.amp_dtype is not None or runtime.channels_last:
            self.task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.task, runtime.model_ema_decay).to(device) if runtime.model_ema else None
        self.model = wrapped(self.task, runtime, device, sharded=self.sharded)
        self.feed, self.val_loader = feed, val_loader
        self.publish, self.publish_every, self.begin, self.command = publish, publish_every, begin, command
        self.probe, self.probe_every = probe, probe_every
        self.optimizer = build_optimizer(self.task, self.optim)
        self.update = torch.compile(self.optimizer.step) if optim.compile_opt else self.optimizer.step
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype is torch.float16)
        self.total = total_steps(feed.steps_per_epoch, schedule)
        self.cadence = Cadence(runtime.save_every)
        self.losses = Losses()
        self.seen: list[Any] = []  # this process's micro batches of the last step
        self.seeds: list[int] = []  # random seed of each
        self.epochs = Epochs(feed.steps_per_epoch, self.total, schedule.epochs)
        self.done: EpochEnd | None = None  # what was done after the epoch that ended last
        self.stop = StopRequest()
        self.step = self.saved_step = 0
        self.of_step: list[dict[str, torch.Tensor]] = []  # losses of each micro batch of the last step
        self.kept = steps_to_keep(runtime.seed, self.total, runtime.keep_states, whole_epochs=feed.whole_epochs)
        self.clock = Clock()
        self.best = Best()
        self.metrics: dict[str, float] = {}

    # --- the loop ---------------------------------------------------------------------------

    def fit(self) -> dict[str, float]:
        """Train to the last step, from the saved state if there is one; returns the last metrics.

        Raises:
            Stopped: SIGTERM, SIGUSR1 or Ctrl-C came; the state is saved.
            Refusal: a loss is NaN or Inf, or the disk is full.
        """
        self.load()
        check_measured(self.task, self.runtime, validated=self.val_loader is not None, probed=self.probe is not None)
        ended = self.step == self.total or (self.done is not None and self.best.stale(self.runtime.patience))
        self.begin(self.step, self.step if ended else self.total)
        if is_finished(self.run_dir, self.step) and ended:
            return self.metrics
        pending = self.epochs.ends(self.step) and self.done is None
        services = {"enabled": dist.is_main(), "log_to": self.runtime.log_to, "offline": self.runtime.offline}
        with (
            StopRequest() as self.stop,
            RunLog(self.run_dir, **services, resume_step=self.step, repeat=pending) as self.log,
            Progress(log_every=self.runtime.log_every, enabled=dist.is_main()) as self.progress,
        ):
            if self.epochs.ends(self.step):
                self.end_epoch()  # the run was killed after it had saved
            self.run_steps()
        return self.metrics

    def run_steps(self) -> None:
        steps, workers = ahead(self.feed.steps(self.step, self.total), self.device), self.feed.workers
        counts = (self.total, self.feed.step_size, self.feed.steps_per_epoch, workers)
        log.info("%d steps of %d images, %.4g steps an epoch, %d workers", *counts)
        while self.step < self.total and not self.best.stale(self.runtime.patience):
            asked = self.clock.begin()
            micro_batches = next(steps)
            waited = time.perf_counter() - asked
            with keeping(self) if self.step in self.kept else nullcontext():
                self.advance(micro_batches)
            self.account(waited)
            self.clock.end()
            ends = self.epochs.ends(self.step)
            stop, save_now = dist.any_of([self.asked_to_stop, dist.is_main() and self.cadence.due(self.step)])
            if ends or ((save_now or stop) and not self.feed.whole_epochs):
                self.save()
            if stop:
                raise self.stop.stopped(self.stopped_at())
            if ends:
                self.end_epoch()
        if self.step < self.total:
            log.info("stopped early: %s without a better %s", plural(self.best.waited, "evaluation"), self.best.name)

    @property
    def asked_to_stop(self) -> bool:
        """Whether the run is to save and end after this step."""
        return self.stop.asked is not None

    @asked_to_stop.setter
    def asked_to_stop(self, asked: bool) -> None:
        self.stop.asked = "SIGTERM" if asked else None

    def stopped_at(self) -> str:
        return self.stop.at(self.step, self.total, saved=self.saved_step, command=self.command)

    def advance(self, micro_batches: list[Any]) -> None:
        """Take the next step."""
        self.train_step(micro_batches)
        self.step += 1
        self.task.after_step(progress=self.step / self.total)

    def train_step(self, micro_batches: list[Any]) -> None:
        """One optimizer step over this process's micro batches."""
        scale = lr_scale(self.step, self.feed.steps_per_epoch, self.schedule, self.optim.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * scale
            group["weight_decay"] = wd_at(self.step / self.total, group["initial_wd"], self.optim)
        self.model.train()
        self.task.before_step(self.step)
        first = self.step * self.feed.micro_batches + dist.rank() * len(micro_batches)
        # dropout and sampling are seeded by the position as well
        self.of_step = []
        seeds = [seed_of(self.runtime.seed, first + i) for i in range(len(micro_batches))]
        for i, (batch, seed) in enumerate(zip(micro_batches, seeds, strict=True)):
            torch.manual_seed(seed)
            with syncing(self.task, self.model, sharded=self.sharded, last=i + 1 == len(micro_batches)):
                losses = self.losses_of(batch)
                loss = torch.stack([value.float() for value in losses.values()]).sum() / len(micro_batches)
                self.scaler.scale(loss).backward()
            self.losses.add(losses, 1 / len(micro_batches))
            self.of_step.append({name: value.detach() for name, value in losses.items()})
        self.seen, self.seeds = micro_batches, seeds
        if self.device.type == "cpu":  # reading a loss makes a GPU wait; there `account` checks every log_every steps
            self.insist_on_finite_losses()
        if self.optim.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.task.parameters(), self.optim.clip_grad_norm)
        self.scaler.step(self.optimizer) if self.scaler.is_enabled() else self.update()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.follow(self.task)

    def losses_of(self, batch: Any) -> dict[str, torch.Tensor]:
        try:
            with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
                return self.model(to_device(batch, self.device))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "batch norm needs more than one value per channel, and a batch of one small image has one; give a "
                "larger --batch-size or --size"
            ) from None

    def account(self, waited: float) -> None:
        """Update the progress line; every `log_every` steps read, check and log the losses."""
        epoch, values = self.step / self.feed.steps_per_epoch, None
        if self.step % self.runtime.log_every == 0 or self.step == self.total:
            self.insist_on_finite_losses()
            losses = mean_over_processes(self.losses.take())
            values = {"loss": sum(losses.values()), **losses}
        self.progress.update(self.step, self.total, values, self.feed.step_size, waited, epoch=epoch)
        if values:
            lr = self.optimizer.param_groups[0]["lr"]
            self.log.metrics(self.step, epoch, {**values, "lr": lr, **self.progress.rates()}, kind="train")

    def insist_on_finite_losses(self) -> None:
        losses = self.losses.so_far()
        if not all(math.isfinite(value) for value in losses.values()):
            values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            step = (self.task, self.seen, self.seeds, self.amp_dtype)
            path = None if self.sharded else keep_replay(self.run_dir, self.step, losses, *step)
            raise Refusal(
                f"a loss is NaN or Inf at step {self.step}, epoch {self.step / self.feed.steps_per_epoch:.2f}: {values}"
                f"{samples_of(self.task, self.seen)}{f' (saved in {path})' if path else ''}; "
                f"lower --lr, lengthen --warmup-epochs or set --clip-grad-norm, then --resume from the last saved step"
            )

    def end_epoch(self) -> None:
        """Evaluate and export, in the epochs where each is due and not done yet; the state of the epoch is saved."""
        epoch = self.epochs.number(self.step)
        done = self.done if self.done is not None and self.done.step == self.step else None
        if done is None:
            self.measure(epoch)
            done = self.note_done(exported=False)
        last = self.step == self.total or self.best.stale(self.runtime.patience)
        asked = self.publish_every > 0 and self.epochs.due(self.step, self.publish_every)
        if last or (asked and not done.exported):
            self.deliver(epoch, last)
            self.note_done(exported=True)
        dist.wait()

    def measure(self, epoch: int) -> None:
        """Evaluate and probe the epoch's weights. A signal stops the run at once: the state is saved."""
        probing = self.probe is not None and self.epochs.due(self.step, self.probe_every)
        due = self.epochs.due(self.step, self.runtime.eval_every)
        self.stop.idle = self.stopped_at if dist.world() == 1 else None
        self.metrics = self.evaluate(probing) if due or probing else {}
        self.stop.idle = None
        if self.metrics:
            self.log.metrics(self.step, epoch, self.metrics, kind="val")
            # all of them where none is a headline, as of a network that is measured by recall alone
            named = {k: v for k, v in self.metrics.items() if not self.task.detail(k)} or self.metrics
            self.log.note(f"epoch {epoch}: " + "  ".join(f"{k} {show_metric(v)}" for k, v in named.items()))
            self.best = self.best.after(self.metrics, self.step, epoch)
            if self.runtime.keep_best and self.best.step == self.step:
                keep_weights(self.run_dir, self.best, self.exported())

    def note_done(self, *, exported: bool) -> EpochEnd:
        self.done = EpochEnd(self.step, self.metrics, self.best, exported)
        if dist.is_main():
            self.done.write(self.run_dir / "last")
        return self.done

    @torch.no_grad()
    def evaluate(self, probing: bool = False) -> dict[str, float]:
        """Metrics of the weights that would be exported: the EMA if there is one."""
        if self.val_loader is None and not probing:
            return {}
        task: Any = self.average.module if self.average is not None else self.task
        # batch norm statistics differ between processes; the main process's are used
        dist.copy_from_main(task.buffers())
        task.eval()
        together = put_together(task) if self.sharded else nullcontext()
        with together, torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            metrics = {}
            if self.val_loader is not None:
                began = time.perf_counter()
                metrics = task.evaluate(ahead(self.val_loader, self.device))
                if metrics and (count := getattr(self.val_loader, "count", 0)):
                    log.info("evaluated %s", rate(count, time.perf_counter() - began))
            return metrics | (self.probe(task) if probing and self.probe else {})

    def deliver(self, epoch: int, last: bool) -> None:
        weights = self.exported()
        if self.publish:
            try:
                if last and self.runtime.keep_best and self.best.step:
                    publish_both(self.publish, weights, self.best, self.run_dir, self.step, epoch, self.metrics)
                else:
                    self.publish(weights, epoch, self.metrics, last)
            except UsageError as refusal:  # the store's, of a disk that is full or read-only
                raise UsageError(f"{refusal}, and continue with `{self.command}`") from None

    def exported(self) -> Task:
        """The unsharded task to evaluate and export: the EMA if there is one. Called by all processes together."""
        if self.sharded:
            weights = whole_weights(self.task)
            if self.whole is not None:
                self.whole.load_state_dict(weights)
                return self.whole
        return self.average.module if self.average is not None else self.task  # type: ignore[return-value]

    # --- the state --------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; sample order and random numbers are functions of `step`."""
        if self.runtime.fsdp:
            task, optimizer = whole_state(self.task, self.optimizer)
        else:
            task, optimizer = self.task.state_dict(), self.optimizer.state_dict()
        return {
            "format": 1,
            "fsdp": self.runtime.fsdp,
            "step": self.step,
            "clock": self.clock.state(),
            "batch_size": self.feed.batch_size,
            "micro_batches": self.feed.micro_batches,
            "seed": self.runtime.seed,
            "data": self.feed.samples.fingerprint,
            "task": task,
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "best": self.best.plain(),
            "metrics": plain_metrics(self.metrics),
            "bad": sorted(self.feed.bad),
        }

    def save(self) -> None:
        """Write the state atomically: a killed run keeps the previous one."""
        self.insist_on_finite_losses()  # a state with NaN must not replace a good one
        insist_on_finite_weights(self.task, self.step)
        state = self.state() if self.sharded or dist.is_main() else {}
        if dist.is_main():
            save_state(self.run_dir / "last", self.step, state)
            self.cadence.saved(self.step)
        self.saved_step = self.step
        dist.wait()

    def load(self) -> None:
        """Load the saved state of the run if --resume is given and there is one."""
        if self.runtime.resume is None:
            return
        state = load_state(self.run_dir / "last")
        if state is None:
            log.info("%s has no saved state yet; starting at step 0", self.run_dir)
            return
        averaged = self.average is not None
        check_same_run(state, self.run_dir, self.feed, self.runtime, averaged=averaged, total=self.total)
        self.put_back(state)
        self.done = read_epoch_end(self.run_dir / "last", self.step)
        if self.done is not None:
            self.metrics, self.best = self.done.metrics, self.done.best
        log.info("resuming %s at step %d of %d", self.run_dir, self.step, self.total)

    def put_back(self, state: dict[str, Any]) -> None:
        """Everything as it was when the state was saved."""
        restore(state, self.run_dir, self.task, self.optimizer, self.average)
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.saved_step = state["step"]
        self.clock.load(state.get("clock"))
        self.metrics, self.best = nan_for_none(state["metrics"]), read_best(state["best"])
        self.feed.bad |= set(state["bad"])

    # --- several processes ------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        return self.runtime.fsdp and dist.world() > 1
