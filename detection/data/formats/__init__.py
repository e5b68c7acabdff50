"""Data sets of other tools, by name: a page of this folder reads one, writes one, or both.

    @reader("yolo")                                   @writer("yolo")
    def read_yolo(source, asked): -> DataSet          def write_yolo(data, out): -> lines to print

Keyword-only parameters are options, and become flags of `detect convert`.
"""

from __future__ import annotations

from detection.data.formats.records import DataSet
from shared.recipes.registry import Registry

reader: Registry[DataSet] = Registry("reader", "detection.data.formats")
writer: Registry[list[str]] = Registry("writer", "detection.data.formats")
