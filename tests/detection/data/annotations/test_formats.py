"""A path is read by the format that recognizes it; a page of this folder adds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.formats import annotation_format, read_annotations
from shared.errors import DataError


def test_a_new_format_is_asked_before_those_that_take_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotation_format.names()
    monkeypatch.setattr(annotation_format, "builders", dict(annotation_format.builders))
    monkeypatch.setattr(annotation_format, "known", dict(annotation_format.known))
    seen = []

    @annotation_format("dots", recognizes=lambda path: path.suffix == ".dots")
    def read_dots(annotations: Path, images: Path, finds: object) -> CocoTable:
        seen.append((annotations, images, finds))
        raise DataError("dots were read")

    with pytest.raises(DataError, match="dots were read"):
        read_annotations(tmp_path / "labels.dots", tmp_path, ("masks",))
    assert seen == [(tmp_path / "labels.dots", tmp_path, ("masks",))]
    with pytest.raises(DataError, match="COCO JSON"):
        read_annotations(tmp_path / "labels.json", tmp_path)
