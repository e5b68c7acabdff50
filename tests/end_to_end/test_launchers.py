"""The same command under mpirun, under srun's variables, and on two hosts: the run of one process, bit for bit.

Seed 002's `srun python -m torch.distributed.launch --use_env` is understood as well.

The hosts are network namespaces joined by a virtual cable; where those cannot be made, that test is skipped by name.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

WORDS = (
    "train --model test_vit --drop-path 0.2 --size 32 --mixup 0.4 --epochs 2 --batch-size 4 --opt adamw --lr 0.001 "
    "--log-every 1 --device cpu --num-workers 0 --threads 1 --name "
)
REPOSITORY = str(Path(__file__).parents[2])
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": REPOSITORY, "CUDA_VISIBLE_DEVICES": ""} | more


def started(words: list[str], cwd: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        words, cwd=cwd, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(processes: list[subprocess.Popen]) -> list[str]:
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def assert_equals_one_process(shards: Path, run: Callable, left: Callable) -> None:
    assert run(f"pretrain {WORDS} one --data-path {shards} --grad-accum-steps 2").code == 0
    ours, one = left("two"), left("one")
    for part in ("step", "task", "optimizer", "metrics"):
        assert ours.state()[part] == one.state()[part], part
    assert ours.card()["sha256"] == one.card()["sha256"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mpirun"), reason="mpirun is not installed")
def test_mpirun_of_two_processes_is_one_run(shards: Path, run: Callable, left: Callable, tmp_path: Path) -> None:
    mpirun = ["mpirun", "-np", "2", "--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]
    words = [*mpirun, sys.executable, "-m", "pretrain", *WORDS.split(), "two", "--data-path", str(shards)]
    (said,) = ended([started(words, tmp_path)])
    assert said.count("exported test_vit") == 1, said
    assert_equals_one_process(shards, run, left)


@pytest.mark.slow
def test_srun_of_two_tasks_is_one_run(shards: Path, run: Callable, left: Callable, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pretrain", *WORDS.split(), "two", "--data-path", str(shards)]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(os.getpid())}
    ended([started(words, tmp_path, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **step) for i in range(2)])
    assert_equals_one_process(shards, run, left)


@pytest.mark.slow
def test_srun_of_the_old_launcher_trains_a_detector_in_two_processes(
    coco: Path, tmp_path: Path, left: Callable
) -> None:
    """As seed 002 types it: one task of srun, in which `torch.distributed.launch --use_env` starts the processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.launch", "--nproc_per_node=2", "--use_env", f"--master_port={port}"]
    seed = "--batch_size 4 --lr_drop 40 --num_queries 16 --epochs 1 --dynamic_scale type2 --query_mixture"
    here = "--recipe smca_detr --scale tiny --device cpu --num-workers 0 --threads 1 --offline --name two"
    step = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    words = [sys.executable, *launch, "-m", "detection", "train", *here.split(), "--coco_path", str(coco)]
    (said,) = ended([started([*words, *seed.split()], tmp_path, **step)])
    assert said.count("exported smca_detr-test_resnet") == 1, said
    assert left("two").result()["metrics"]["box_ap"] >= 0
    steps = [row for row in left("two").rows() if row["kind"] == "train"]
    assert steps and all(isinstance(row["loss"], float) for row in steps)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Names of two network namespaces at 10.77.0.1 and 10.77.0.2."""
    names = [f"chordate-{os.getpid()}-{i}" for i in (1, 2)]
    cables = [f"cd{os.getpid() % 100000}{i}" for i in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for i, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here: that takes Linux, iproute2 and the rights of root")
    finally:
        for name in names:
            with suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_train_together(
    two_hosts: list[str], shards: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc_per_node=1",
        "--master_addr=10.77.0.1",
    ]
    words += ["--master_port=29511"]
    command = ["-m", "pretrain", *WORDS.split(), "two", "--data-path", str(shards)]
    hosts: list[Any] = []
    for rank, name in enumerate(two_hosts):
        cable = subprocess.run(
            ["ip", "-n", name, "-o", "addr", "show", "to", "10.77.0.0/24"], capture_output=True, text=True
        )
        inside = ["ip", "netns", "exec", name, *words, f"--node_rank={rank}", *command]
        hosts.append(started(inside, tmp_path, GLOO_SOCKET_IFNAME=cable.stdout.split()[1].partition("@")[0]))
    ended(hosts)
    assert_equals_one_process(shards, run, left)
