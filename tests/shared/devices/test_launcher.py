"""What mpirun and srun say becomes what torchrun says."""

from __future__ import annotations

import pytest

from shared.devices.launcher import adopt, first_host
from shared.errors import UsageError


def adopted(**environ: str) -> dict[str, str]:
    adopt(environ)
    return environ


def test_alone_and_under_torchrun_nothing_changes() -> None:
    assert adopted(HOME="/") == {"HOME": "/"}
    told = {"WORLD_SIZE": "2", "RANK": "1", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"}
    assert adopted(**told) == told
    assert "RANK" not in adopted(OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0")


def test_open_mpi_on_one_host_needs_nothing_more() -> None:
    told = adopted(
        OMPI_COMM_WORLD_SIZE="8",
        OMPI_COMM_WORLD_RANK="3",
        OMPI_COMM_WORLD_LOCAL_RANK="3",
        OMPI_COMM_WORLD_LOCAL_SIZE="8",
    )
    assert (told["WORLD_SIZE"], told["RANK"], told["LOCAL_RANK"]) == ("8", "3", "3")
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("127.0.0.1", "29500")


def test_open_mpi_on_two_hosts_must_be_told_where_the_first_is() -> None:
    told = {
        "OMPI_COMM_WORLD_SIZE": "16",
        "OMPI_COMM_WORLD_RANK": "9",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
    }
    with pytest.raises(UsageError, match="-x MASTER_ADDR=HOST"):
        adopted(**told)
    assert adopted(**told, MASTER_ADDR="node7")["MASTER_ADDR"] == "node7"


def test_srun_names_the_first_host_and_a_port_of_the_job() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "123456"}
    told = adopted(**step, SLURM_STEP_NODELIST="gpu[003-004]")
    assert (told["WORLD_SIZE"], told["RANK"], told["LOCAL_RANK"]) == ("4", "2", "0")
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("gpu003", str(20000 + 123456 % 20000))


def test_a_batch_script_is_no_step() -> None:
    assert "RANK" not in adopted(SLURM_NTASKS="8", SLURM_PROCID="0", SLURM_LOCALID="0")


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("", "127.0.0.1"), ("gpu1", "gpu1"), ("gpu1,gpu2", "gpu1"), ("gpu[003-004,7],big1", "gpu003"),
     ("n-[1,3]-eth0,x", "n-1-eth0")],
)  # fmt: skip
def test_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
