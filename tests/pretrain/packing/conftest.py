"""A folder of images in three classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.packing.of_images import put


@pytest.fixture
def folder(tmp_path) -> Path:
    put(tmp_path / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat", "ant") for n in range(8)))
    return tmp_path / "in"
