"""A data set of another tool is answered with the command that converts it, which names a reader that there is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from detection.data.annotations.other_layouts import CONVERTED, other_layout, why_not_coco
from detection.data.formats import reader
from tests.shared.feeding.test_layouts import LAYOUTS, made


@pytest.mark.parametrize("layout", CONVERTED)
def test_the_command_names_a_reader_and_a_folder_beside_the_data(tmp_path: Path, layout: str) -> None:
    source = made(tmp_path / "my set", LAYOUTS[layout][0])
    sentence = why_not_coco(source, "nothing")
    assert sentence == other_layout(source)
    words = shlex.split(sentence.partition("`")[2].partition("`")[0])
    assert words[:2] == ["detect", "convert"] and words[2] in reader.names() and words[3] == "coco"
    assert words[4:] == [str(source), str(tmp_path / "my set-coco")]


def test_images_that_are_apart_are_in_the_command(tmp_path: Path) -> None:
    source = made(tmp_path / "set", LAYOUTS["Pascal VOC"][0])
    told = other_layout(source / "Annotations", source / "JPEGImages")
    assert told is not None and f"--images {source / 'JPEGImages'}`" in told
