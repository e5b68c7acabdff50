"""Launchers: translate the environment variables of mpirun and srun to those of torchrun.

    WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT       what `shared.devices.dist` reads

Imports no torch, since the command line uses it before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping

from shared.errors import UsageError

# world size, rank, local rank
OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
MPICH = ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID")
SLURM = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")  # SLURM_NTASKS is also set in a batch script
PORT = "29500"


def adopt(environ: MutableMapping[str, str]) -> None:
    """Set torchrun's variables from those of mpirun or srun. Does nothing under torchrun or without a launcher.

    Raises:
        UsageError: several hosts without the address of the first.
    """
    if "WORLD_SIZE" in environ:
        return
    for names in (SLURM, OPEN_MPI, MPICH):
        size, rank, local = (environ.get(name) for name in names)
        if size is None or rank is None or int(size) == 1:
            continue
        variables = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": local or "0"}
        if names is SLURM:
            first = first_host(environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", "")))
            # two jobs on one host must not use the same port
            variables |= {
                "MASTER_ADDR": first,
                "MASTER_PORT": str(20000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000),
            }
        elif environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", environ.get("MPI_LOCALNRANKS", size)) == size:
            variables |= {"MASTER_ADDR": "127.0.0.1"}
        elif "MASTER_ADDR" not in environ:
            raise UsageError("mpirun started processes on several hosts; give the first one with -x MASTER_ADDR=HOST")
        environ.update({name: value for name, value in variables.items() if name not in environ})
        environ.setdefault("MASTER_PORT", PORT)
        return


def first_host(hosts: str) -> str:
    """'gpu[003-004,7],big1' -> 'gpu003'; an empty list is this host."""
    first = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^,\[]*)", hosts)
    return "".join(part or "" for part in first.groups()) if first and hosts else "127.0.0.1"
