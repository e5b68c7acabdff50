"""train --submit slurm: the job's script is run as SLURM would run it, stopped once, requeued, and goes on to its end.

SLURM itself is not here: sbatch, srun and scontrol are programs of three lines, which start one process and write down
what they were asked. So the options of sbatch are compared as text, and nothing is said of several nodes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.logs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "sbatch": """#!/bin/sh
echo "$@" > {folder}/asked
grep -q partition=none "$1" && {{ echo "sbatch: error: invalid partition specified: none" >&2; exit 1; }}
echo "Submitted batch job 4711"
""",
    # as SLURM does before the time limit: the first time, the process gets SIGUSR1 after its second step
    "srun": f"""#!{sys.executable}
import os, pathlib, signal, subprocess, sys, time
process = subprocess.Popen(sys.argv[sys.argv.index({sys.executable!r}) :])
requeued = pathlib.Path({{folder!r}}, "requeued")
steps = pathlib.Path("runs/slurm-4711/metrics.jsonl")
while not requeued.exists() and process.poll() is None:
    if steps.exists() and len(steps.read_text().splitlines()) >= 2:
        process.send_signal(signal.SIGUSR1)
        break
    time.sleep(0.05)
sys.exit(process.wait())
""",
    "scontrol": """#!/bin/sh
echo "$@" > {folder}/requeued
""",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("submitit", reason="submitit is not installed; pip install 'chordate[cluster]'")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text.format(folder=str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_script_asks_for_what_was_asked(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--submit slurm --slurm nodes=2 gpus-per-node=8 partition=big signal=USR1@600 --network fcos --name mine"
    assert detect(["train", *words.split()]) == 0
    said = capsys.readouterr().out
    assert "submitted job 4711 of 2 nodes with 8 GPUs each" in said
    script = Path("runs/submitted/4711_submission.sh")
    assert str(script.resolve()) in said
    lines = script.read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=2", "gpus-per-node=8", "ntasks-per-node=8", "partition=big", "time=24:00:00", "requeue"} <= asked
    assert {"signal=USR1@600", "job-name=mine", "open-mode=append"} <= asked
    assert lines[-3:-1] == ["code=$?", 'if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi']


def test_what_cannot_be_submitted_is_said_before_or_by_sbatch(
    slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(["train", "--submit", "slurm", "--modl", "test_resnet"]) == 2
    assert "--model" in capsys.readouterr().err and not (slurm / "asked").exists()
    assert pretrain(["train", "--submit", "slurm", "--slurm", "partition=none"]) == 1
    assert "sbatch does not take the job (sbatch: error: invalid partition" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert pretrain(["train", "--submit", "slurm"]) == 2
    assert "needs the program sbatch; run it where jobs of the cluster are submitted" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_that_is_stopped_is_requeued_and_goes_on(slurm: Path, tmp_path: Path) -> None:
    words = ["--model", "test_resnet", "--epochs", "2", "--limit", "400", "--batch-size", "8", "--log-every", "1"]
    words += ["--device", "cpu", "--num-workers", "0"]
    assert pretrain(["train", *words, "--submit", "slurm", "--slurm", "gpus-per-node=0"]) == 0
    script, environ = tmp_path / "runs/submitted/4711_submission.sh", {**os.environ, "PYTHONPATH": str(ROOT)}
    environ |= {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    for code in (75, 0):
        with (tmp_path / "said.txt").open("w") as said:
            ended = subprocess.call(["bash", str(script)], env=environ, stdout=said, stderr=said, timeout=120)
        assert ended == code, (tmp_path / "said.txt").read_text()
        assert (slurm / "requeued").read_text() == "requeue 4711\n"
    steps = [row["step"] for row in read_metrics(tmp_path / "runs/slurm-4711") if row["kind"] == "train"]
    assert steps == list(range(1, 101))
