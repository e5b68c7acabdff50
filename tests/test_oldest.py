"""The pins of `make test-oldest` are the lower bounds of pyproject.toml, all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.oldest import pins

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_a_lower_bound_that_becomes_its_pin() -> None:
    for extras in ([], ["demo", "fast", "test"]):
        asked = [
            *PROJECT["dependencies"],
            *(text for extra in extras for text in PROJECT["optional-dependencies"][extra]),
        ]
        assert [re.split(">=|,", text)[:2] for text in asked] == [pin.split("==") for pin in pins(PROJECT, extras)]


@pytest.mark.parametrize("text", ["numpy", "numpy<3", "numpy~=2.0", "numpy==2.0", "numpy!=2.1"])
def test_dependency_without_a_lower_bound_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="has no lower bound"):
        pins({"dependencies": [text], "optional-dependencies": {}}, [])


def test_extra_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SystemExit, match="no extra tests; there is demo, fast, .*test, dev"):
        pins(PROJECT, ["tests"])
