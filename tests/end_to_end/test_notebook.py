"""The notebook runs from its first cell to its last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "recipes" / "notebooks" / "photographs_to_verdict.ipynb"
SMALL = """
from shared.runs import curves
curves.draw_curves = lambda *_: []  # drawing takes longer than these runs
EPOCHS, LIMIT = 1, 4
MODEL = "test_resnet"
NETWORK = {"network": "fcos", "width": 64, "depth": 1, "device": "cpu"}
"""


def cells() -> list[str]:
    """The code of its cells, in order, with small values in place of the parameters."""
    page = json.loads(PAGE.read_text(encoding="utf-8"))
    code = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert all(not cell["outputs"] for cell in code), "outputs are not kept"
    return [SMALL, *("".join(cell["source"]) for cell in code[1:])]


@pytest.mark.slow
def test_the_notebook_gets_from_photographs_to_a_verdict(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(cells()), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "from scratch" in ended.stdout and "pretraining is" in ended.stdout
    assert (tmp_path / "runs" / "tagged" / "report.html").is_file()
