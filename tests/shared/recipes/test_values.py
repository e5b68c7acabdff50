"""Values are read once: type, range, and one sentence for what is neither."""

from __future__ import annotations

import argparse
from typing import Any, Literal

import pytest

from shared.errors import UsageError
from shared.recipes.recipe import read_device, read_interval
from shared.recipes.values import Count, Range, convert, hint_of, number, whole


@pytest.mark.parametrize(
    ("allowed", "written"),
    [
        (Range(low=0, high=1), "from 0 to 1"),
        (Range(low=0, below=1), "from 0 to below 1"),
        (Range(above=0, high=0.5), "greater than 0 and up to 0.5"),
        (Range(low=1), "1 or more"),
        (Range(high=2**31), "2147483648 or less"),
        (Range(above=0), "greater than 0"),
        (Range(above=0, below=3), "greater than 0 and below 3"),
    ],
)
def test_a_range_is_written_as_people_say_it(allowed: Range, written: str) -> None:
    assert str(allowed) == written


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("3e1", int, 30),
        ("9007199254740993", int, 9007199254740993),
        ("2", float, 2.0),
        ("Yes", bool, True),
        ("AdamW", Literal["sgd", "adamw"], "adamw"),
        ("none", hint_of("Count | None"), None),
        (5, Count, 5),
        ("sine", hint_of("Literal['sine', 'learned']"), "sine"),
        ("80,365", tuple[int, ...], (80, 365)),
        ("a,b", tuple[str, ...], ("a,b",)),
    ],
)
def test_values_become_their_type(value: Any, hint: Any, expected: Any) -> None:
    got = convert(value, hint, "x")
    assert got == expected and type(got) is type(expected)


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(UsageError) as told:
        convert("9" * 10_000, float, "lr")
    assert len(str(told.value)) < 150


@pytest.mark.parametrize(("word", "device"), [("0", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("auto", "auto")])
def test_a_device_may_be_a_number(word: str, device: str) -> None:
    assert read_device(word) == device


@pytest.mark.parametrize("word", ["gpu", "cuda:x", "-1", "", "0,1", "cuda:0,1", "tpu"])
def test_what_is_no_device_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        read_device(word)


@pytest.mark.parametrize("text", ["200", "10m", "0.5m"])
def test_an_interval_is_steps_or_minutes(text: str) -> None:
    assert read_interval(text) == text


@pytest.mark.parametrize("text", ["0", "0m", "0.0m", "-3", "often", "1e9", "10h", "", "2.5"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="give steps, such as 200, or minutes"):
        read_interval(text)


def test_numbers_of_small_commands_are_checked_by_argparse() -> None:
    assert whole(1, 10)("1e1") == 10 and number(low=0, below=1)("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="the value is 0; it must be from 1 to 10"):
        whole(1, 10)("0")
