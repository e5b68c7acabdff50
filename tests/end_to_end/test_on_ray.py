"""--engine ray: the files of one process, whatever is killed; and one sentence where a cluster cannot go on.

One process starts a small cluster and does all of it (on_ray.py), since a cluster takes seconds to start, keeps pipes
open and does not end well without its head.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ray", reason="ray is not installed; pip install 'chordate[cluster]'")
    root = tmp_path_factory.mktemp("on_ray")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with (root / "said.txt").open("w") as said:
        command = [sys.executable, "-m", "tests.end_to_end.on_ray", str(root)]
        subprocess.call(command, cwd=ROOT, env=environ, stdout=said, stderr=said, timeout=240)
    return root


@pytest.fixture(scope="module")
def told(root: Path) -> dict[str, Any]:
    told = json.loads((root / "told.json").read_text())
    assert "end" in told, (told, (root / "said.txt").read_text()[-3000:])
    return told


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_killed_program_and_a_killed_node_leave_the_bytes_of_one_process(told: dict[str, Any], root: Path) -> None:
    assert told["killed program"] == -9
    assert 3 <= told["kept"] < 12, told
    assert files(root / "again") == files(root / "straight")
    assert not (root / ".again.partial").exists() or not os.listdir(root / ".again.partial" / "shards")


@pytest.mark.slow
def test_annotated_images_are_packed_to_the_same_bytes(told: dict[str, Any], root: Path) -> None:
    assert told["detection"] == [2]
    assert files(root / "boxes_again") == files(root / "boxes")


@pytest.mark.slow
def test_a_node_with_a_full_disk_gets_no_more_tasks_and_without_another_the_error_is_said(told: dict[str, Any]) -> None:
    numbers = list(range(12))
    assert told["head cannot write"] == {"numbers": numbers, "nodes": 1, "done": numbers}
    assert told["nobody can write"] == {"refused": "ENOSPC"}


@pytest.mark.slow
def test_a_cluster_that_ends_is_said_in_a_sentence_and_its_shards_are_kept(told: dict[str, Any], root: Path) -> None:
    assert told["ended"].startswith("DataError: the Ray cluster at "), told["ended"]
    assert told["ended"].endswith("finished shards are kept, start the cluster and run the same command again")
    assert told["finished"] >= 6
    assert files(root / "late") == files(root / "straight")
