"""The learning rate is a function of time: tables of moments and multipliers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.loop.schedule import lr_scale, total_steps, warmup_steps
from shared.recipes.recipe import ScheduleConfig

NAMES = ("constant", "step", "multistep", "cosine")
TABLES = {
    "constant": ({"lr_scheduler": "constant", "epochs": 10}, {0: 1, 50: 1, 99: 1}),
    "step": (
        {"lr_scheduler": "step", "epochs": 10, "lr_step_size": 4},
        {0: 1, 39: 1, 40: 0.1, 79: 0.1, 80: 0.01, 99: 0.01},
    ),
    "step after warm-up": (
        {"lr_scheduler": "step", "epochs": 10, "lr_step_size": 4, "lr_step_gamma": 0.5, "warmup_epochs": 1},
        {9: 0.901, 10: 1, 49: 1, 50: 0.5, 89: 0.5, 90: 0.25},
    ),
    "step of half an epoch": (
        {"lr_scheduler": "step", "epochs": 2, "lr_step_size": 0.5, "lr_step_gamma": 0.5},
        {4: 1, 5: 0.5, 10: 0.25, 15: 0.125},
    ),
    "multistep counts epochs of the run": (
        {"lr_scheduler": "multistep", "epochs": 10, "lr_steps": (8.0, 3.0), "warmup_epochs": 1},
        {10: 1, 29: 1, 30: 0.1, 79: 0.1, 80: 0.01, 99: 0.01},
    ),
    "cosine": (
        {"lr_scheduler": "cosine", "epochs": 10, "lr_cosine_min": 0},
        {0: 1, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 75: (1 - math.sqrt(0.5)) / 2, 100: 0, 120: 0},
    ),
    "cosine begins after warm-up": (
        {"lr_scheduler": "cosine", "epochs": 10, "lr_cosine_min": 0, "warmup_epochs": 2},
        {19: 0.9505, 20: 1, 60: 0.5, 100: 0},
    ),
    "cosine ends at a rate and not at a share": (
        {"lr_scheduler": "cosine", "epochs": 10, "lr_cosine_min": 0.05},
        {0: 1, 50: 0.625, 100: 0.25},
    ),
    "warm-up by steps goes before warm-up by epochs": (
        {"epochs": 10, "warmup_steps": 4, "warmup_epochs": 5, "warmup_start": 0.2},
        {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 1, 5: 1},
    ),
    "warm-up of no steps": ({"epochs": 10, "warmup_steps": 0, "warmup_epochs": 5}, {0: 1}),
}


@pytest.mark.parametrize("name", TABLES)
def test_multipliers_at_ten_steps_an_epoch_and_a_rate_of_a_fifth(name: str) -> None:
    config, table = TABLES[name]
    got = {step: lr_scale(step, 10, ScheduleConfig(**config), lr=0.2) for step in table}
    assert got == pytest.approx(table)


@given(
    samples=st.integers(1, 5000),
    step_size=st.integers(1, 256),
    epochs=st.integers(1, 60),
    name=st.sampled_from(NAMES),
    warmup=st.floats(0, 8),
)
def test_multipliers_stay_between_zero_and_one_and_never_rise_after_warm_up(
    samples: int, step_size: int, epochs: int, name: str, warmup: float
) -> None:
    config = ScheduleConfig(lr_scheduler=name, epochs=epochs, warmup_epochs=warmup, lr_steps=(2, 5), lr_step_size=3)
    every = samples / step_size
    total, warm = total_steps(every, config), warmup_steps(every, config)
    moments = sorted({*range(0, total, max(total // 40, 1)), *range(warm, warm + 3)})
    scales = [lr_scale(step, every, config, lr=0.1) for step in moments]
    assert all(0 <= scale <= 1 for scale in scales)
    after = [scale for step, scale in zip(moments, scales, strict=True) if step >= warm]
    before = [scale for step, scale in zip(moments, scales, strict=True) if step < warm]
    assert after == sorted(after, reverse=True) and before == sorted(before)


@given(samples=st.integers(1, 5000), step_size=st.integers(1, 256), size=st.integers(1, 40))
def test_decay_falls_on_the_very_step_at_which_the_epoch_is_full(samples: int, step_size: int, size: int) -> None:
    step_size = min(step_size, samples)
    every = samples / step_size
    first = -(-size * samples // step_size)  # in whole numbers: the first step at or after that many epochs
    for config in (
        ScheduleConfig(lr_scheduler="step", lr_step_size=size, epochs=size + 1),
        ScheduleConfig(lr_scheduler="multistep", lr_steps=(float(size),), epochs=size + 1),
    ):
        assert lr_scale(first - 1, every, config) == 1
        assert lr_scale(first, every, config) == pytest.approx(0.1)


@given(samples=st.integers(1, 5000), step_size=st.integers(1, 256), epochs=st.integers(0, 400))
def test_a_run_has_as_many_steps_as_its_samples_fill(samples: int, step_size: int, epochs: int) -> None:
    assert total_steps(samples / step_size, ScheduleConfig(epochs=epochs)) == -(-epochs * samples // step_size)


def test_rate_of_zero_is_no_division_by_zero() -> None:
    assert lr_scale(5, 10, ScheduleConfig(lr_scheduler="cosine", epochs=1), lr=0) == pytest.approx(0.5)


def test_warm_up_told_in_steps_and_in_epochs_is_the_shorter_of_both() -> None:
    told = ScheduleConfig(warmup_steps=1000, warmup_epochs=1)
    assert warmup_steps(7000, told) == 1000 and warmup_steps(50, told) == 50
    assert warmup_steps(50, ScheduleConfig(warmup_steps=1000)) == 1000
