"""`--scale tiny`: the same recipe in about a minute on a laptop.

Image size, epochs, batch size and data shrink; model, method, losses, optimizer and shape of the schedule stay. A
recipe lists further changes under `tiny:`.
"""

from __future__ import annotations

from typing import Any

EPOCHS, BATCH = 2, 4


def tiny(recipe: Any) -> dict[str, Any]:
    """The values that change; pretrain and detect add their own."""
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
        # learning rates are meant for the full batch size and are scaled down
        "lr_batch": optim.lr_batch or runtime.batch_size * runtime.grad_accum_steps,
        "batch_size": batch,
        "grad_accum_steps": min(runtime.grad_accum_steps, 2),
        "eval_every": epochs or 1,
        "log_every": 1,
        "num_workers": 0,
        **dict.fromkeys(
            ("amp", "compile", "compile_backbone", "compile_opt", "sync_bn", "fsdp", "channels_last", "fit_batch"),
            False,
        ),
    }
