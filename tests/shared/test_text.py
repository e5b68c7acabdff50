"""Text from people's files moves no cursor, sets no color and starts no line of its own."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from shared.errors import DataError, guarded
from shared.logs.console import setup_logging
from shared.text import folded, plain, printable, say

NAUGHTY = {
    "cat\x1b[2Jdog": r"cat\x1b[2Jdog",
    "a\rb\nc\td": r"a\rb\nc\td",
    "\x9b31mred": r"\x9b31mred",
    "evil\u202egpj.exe": r"evil\u202egpj.exe",
    "two\u2028lines": r"two\u2028lines",
    "not utf8 \udcff": r"not utf8 \udcff",
}


@pytest.mark.parametrize("name", NAUGHTY)
def test_what_a_terminal_would_obey_is_escaped(name: str) -> None:
    assert printable(name) == NAUGHTY[name]


@pytest.mark.parametrize("name", ["Köln", "猫", "می‌خواهم", "क्‍ष", "👩‍🚀", "a\u00a0b", "<5", r"C:\new"])
def test_writing_of_all_kinds_stays(name: str) -> None:
    assert printable(name) == name


def test_an_encoding_without_the_character_is_no_crash() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("K\u00f6ln \x1b", stream=stream)
    stream.seek(0)
    assert stream.read() == "K\\xf6ln \\x1b\n"


def test_errors_console_and_log_file_escape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(tmp_path)
    logging.getLogger("shared.test").warning("class %s", "cat\x1b[2J\n2026-01-01 INFO all is well")
    setup_logging(None)

    @guarded("prog")
    def main(argv: list[str]) -> int:
        raise DataError("class cat\x1b[2J is unknown")

    assert main([]) == 3
    out, err = capsys.readouterr()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert len(lines) == 1 and "\x1b" not in lines[0] + out + err
    assert err == "prog: class cat\\x1b[2J is unknown\n"


def test_names_are_compared_without_case_and_blanks_or_by_letters_and_digits_alone() -> None:
    assert folded("Cell phone") == folded("cellphone") and folded("marker+") != folded("marker-")
    assert plain("Traffic Light") == plain("traffic_light") == plain("traffic-light") == "trafficlight"
    assert plain("Köln 4") == "köln4" and plain("++") == "++" != plain("--")
