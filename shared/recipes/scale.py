"""`--scale tiny`: the same recipe in a minute on a laptop.

What makes a recipe long or large shrinks: images, epochs, batches, data. What makes it this recipe stays: model,
method, losses, optimizer, the shape of the schedule. A recipe says under `tiny:` what else has to shrink.
"""

from __future__ import annotations

from typing import Any

EPOCHS, BATCH = 2, 4


def tiny(recipe: Any) -> dict[str, Any]:
    """The knobs that differ in the small form of a recipe; the halves add their own."""
    schedule, runtime, optim = recipe.schedule, recipe.runtime, recipe.optim
    epochs = min(schedule.epochs, EPOCHS)
    share = epochs / max(schedule.epochs, 1)
    batch = min(runtime.batch_size, BATCH)
    warmup = {"warmup_steps": min(schedule.warmup_steps, 2)} if schedule.warmup_steps is not None else {}
    return {
        "epochs": epochs,
        "warmup_epochs": schedule.warmup_epochs * share,
        "lr_steps": [moment * share for moment in schedule.lr_steps],
        "lr_step_size": schedule.lr_step_size * share,
        **warmup,
        # rates are meant for the whole recipe's batch, and a small one wants smaller rates
        "lr_batch": optim.lr_batch or runtime.batch_size * runtime.grad_accum_steps,
        "batch_size": batch,
        "grad_accum_steps": min(runtime.grad_accum_steps, 2),
        "eval_every": epochs or 1,
        "log_every": 1,
        "num_workers": 0,
        **dict.fromkeys(
            ("amp", "compile", "compile_backbone", "compile_opt", "sync_bn", "fsdp", "channels_last"), False
        ),
    }
