"""XML is data: nothing in it is looked up or expanded."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection.data.formats.safe_xml import read_xml
from shared.errors import DataError

DOCTYPE = '<!DOCTYPE annotation [<!ENTITY name "cell">]><annotation><name>&name;</name></annotation>'
ELSEWHERE = '<!DOCTYPE annotation SYSTEM "other.dtd"><annotation/>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", [DOCTYPE, ELSEWHERE])
def test_entities_and_document_types_are_refused_in_any_encoding(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    with pytest.raises(DataError, match="declares a document type or an entity, which label files have not"):
        read_xml(tmp_path / "a.xml", "annotation")


def test_plain_files_are_read_in_any_encoding_and_deep_ones_are_not(tmp_path: Path) -> None:
    text = "<annotation><name>b\u00e4r &amp; bar &#233;</name></annotation>"
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="latin-1"?>{text}'.encode("latin-1"))
    assert read_xml(tmp_path / "a.xml", "annotation").findtext("name") == "b\u00e4r & bar \u00e9"
    (tmp_path / "b.xml").write_text("<a>" * 200 + "</a>" * 200)
    with pytest.raises(DataError, match="elements 101 deep"):
        read_xml(tmp_path / "b.xml", "a")
    (tmp_path / "c.xml").write_text("")
    with pytest.raises(DataError, match="is not readable XML"):
        read_xml(tmp_path / "c.xml", "a")
