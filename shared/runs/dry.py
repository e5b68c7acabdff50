"""`--dry-run`: values, parameters, parameter groups, schedule; `measuring` adds time and memory."""

from __future__ import annotations

from torch import nn

from shared.devices import dist
from shared.loop.optim import parameter_groups
from shared.loop.schedule import lr_scale, total_steps, warmup_steps
from shared.recipes.recipe import OptimConfig, Resolved, ScheduleConfig, flat, plain
from shared.text import say


def describe_parameters(task: nn.Module, stages: list[list[nn.Parameter]]) -> list[str]:
    """Number of trained and frozen parameters: the backbone by stage, then the rest."""
    lines = ["parameters                 trained       frozen"]
    inside = {id(p) for stage in stages for p in stage}
    parts = [("backbone stem" if i == 0 else f"backbone stage {i}", stage) for i, stage in enumerate(stages)]
    parts.append(("everything else", [p for p in task.parameters() if id(p) not in inside]))
    for name, parameters in parts:
        learning = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sum(p.numel() for p in parameters if not p.requires_grad)
        lines.append(f"  {name:<20} {learning:>12,} {frozen:>12,}")
    return lines


def describe_groups(task: nn.Module, config: OptimConfig) -> list[str]:
    """The optimizer's groups with their learning rate and weight decay."""
    lines = [f"optimizer {config.opt}", "  part                       lr            wd       tensors  first tensor"]
    for group in parameter_groups(task, config):
        lines.append(
            f"  {group['name']:<20} {group['lr']:>10.3g}  {group['weight_decay']:>10.3g}  "
            f"{len(group['params']):>10}  {group['names'][0]}"
        )
    return lines


def describe_schedule(steps_per_epoch: float, step_size: int, schedule: ScheduleConfig, lr: float) -> list[str]:
    """Steps, global batch size, and the learning rate over time."""
    total = total_steps(steps_per_epoch, schedule)
    lines = [
        f"schedule {schedule.lr_scheduler}",
        f"  {total} optimizer steps of {step_size} images; {steps_per_epoch:.4g} steps per epoch; "
        f"warm-up over {warmup_steps(steps_per_epoch, schedule)} steps",
    ]
    moments = sorted({round(total * i / 8) for i in range(8)} | {max(total - 1, 0)}) if total else []
    for step in moments:
        rate = lr * lr_scale(step, steps_per_epoch, schedule, lr)
        bar = "#" * round(40 * rate / lr) if lr else ""
        lines.append(f"  step {step:>8}  epoch {step / steps_per_epoch:>7.2f}  lr {rate:<10.4g} {bar}")
    return lines


def announce_plan(resolved: Resolved, lines: list[str]) -> None:
    """Print every value and its origin, then the given lines, in the main process."""
    if not dist.is_main():
        return
    values = flat(resolved.recipe)
    origins = {name: origin for name, origin in resolved.origins.items() if origin != "default"}
    width = max((len(name) for name in values), default=0)
    say("recipe")
    for name, value in values.items():
        origin = origins.get(name, "default")
        say(f"  {name:<{width}}  {plain(value)!s:<24}  {origin}")
    announce(lines)


def announce(lines: list[str]) -> None:
    """Print lines, in the main process."""
    if dist.is_main():
        say(*(part for line in lines for part in line.split("\n")))
