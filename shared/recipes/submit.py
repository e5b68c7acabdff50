"""`train --submit slurm`: the same command line as a job of a SLURM cluster, which requeues itself until it is done.

    detect train --submit slurm --slurm nodes=2 gpus-per-node=8 partition=gpu --recipe ...
        -> the flags are checked here -> submitit writes a batch script and gives it to sbatch
        -> srun starts a process for each GPU of each node; rank and address come from SLURM (devices/launcher.py)

Five minutes before the time limit SLURM sends SIGUSR1; the run saves after its step and ends with 75, and the job is
requeued under the same id, where it finds the run by its name and goes on. Any other end is the end of the job.
`recipes/workflows/slurm.sbatch` is the same by hand. Imports no torch, and submitit only to submit.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import Refusal, UsageError, plural

SAVED = 75  # exit code of a run that was stopped with its state saved
DEFAULTS = {"nodes": "1", "gpus-per-node": "1", "time": "24:00:00", "signal": "USR1@300"}
OURS = ("ntasks", "ntasks-per-node", "array", "output", "error", "open-mode", "requeue", "no-requeue", "job-name")
AGAIN = ["code=$?", f'if [ "$code" -eq {SAVED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi', 'exit "$code"']


class Submission(NamedTuple):
    """Options of sbatch, and the words of the command line that are left for the training."""

    options: dict[str, str]
    argv: list[str]


class Submitted(NamedTuple):
    """A job that sbatch took, with its script and the file its processes write to."""

    job: str
    script: Path
    log: Path
    processes: str

    def lines(self) -> list[str]:
        return [
            f"submitted job {self.job} of {self.processes}; it is requeued whenever it stops with its state saved",
            f"  script {self.script}",
            f"  output {self.log}",
        ]


def add_submit_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("submit", "The command as a job of a cluster")
    group.add_argument(
        "--submit",
        choices=["slurm"],
        default=argparse.SUPPRESS,
        help="give this command to sbatch instead of running it; needs pip install 'chordate[cluster]'",
    )
    group.add_argument(
        "--slurm",
        nargs="+",
        type=option,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="options of sbatch, such as partition=gpu account=vision cpus-per-task=8 (default: "
        f"{' '.join(f'{key}={value}' for key, value in DEFAULTS.items())})",
    )


def option(text: str) -> tuple[str, str]:
    """'gpus_per_node=8' -> ('gpus-per-node', '8'), as the type of a flag."""
    key, equals, value = text.partition("=")
    key = key.strip().lstrip("-").replace("_", "-")
    if not equals or not key.replace("-", "").isalnum() or not value.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is no option of sbatch; write it as partition=gpu")
    if key in OURS:
        raise argparse.ArgumentTypeError(f"{key} is set by --submit; remove it")
    if key in ("nodes", "gpus-per-node") and not (value.isdecimal() and int(value) < 100_000):
        raise argparse.ArgumentTypeError(f"{key} is a number here, not '{value}'")
    return key, value.strip()


def submission(argv: list[str]) -> Submission | None:
    """What the words ask to submit; None if they do not. Raises UsageError for --slurm without --submit."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_submit_flags(parser)
    words = [word for word in argv if word.split("=")[0] in ("--submit", "--slurm")]
    if not words or {"-h", "--help"} & {*argv}:
        return None
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if not hasattr(known, "submit"):
        raise UsageError("--slurm goes with --submit slurm; add it, or remove the options")
    return Submission(dict(getattr(known, "slurm", [])), rest)


def submit(package: str, asked: Submission, folder: Path, name: str | None) -> Submitted:
    """Give a training to sbatch.

    Args:
        package: "detection" or "pretrain".
        folder: where the script, the job's output and what submitit needs are kept; on a disk that all nodes see.
        name: of the run; None for one with the job's id.

    Raises:
        UsageError: submitit or SLURM is not there.
        Refusal: sbatch does not take the job.
    """
    if find_spec("submitit") is None:
        raise UsageError("--submit slurm needs a package; pip install 'chordate[cluster]', or remove it")
    if missing := next((program for program in ("sbatch", "srun") if shutil.which(program) is None), None):
        raise UsageError(f"--submit slurm needs the program {missing}; run it where jobs of the cluster are submitted")
    import submitit
    from submitit.core.utils import FailedJobError

    options = {**DEFAULTS, **asked.options}
    nodes, gpus = int(options.pop("nodes")), int(options.pop("gpus-per-node"))
    executor = submitit.SlurmExecutor(folder.resolve())
    executor.update_parameters(
        job_name=name or package,
        nodes=nodes,
        ntasks_per_node=max(gpus, 1),
        gpus_per_node=gpus or None,
        stderr_to_stdout=True,
        setup=["export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not inherit it"],
        srun_args=["--kill-on-bad-exit=0", "--wait=120"],  # others may be saving after one has ended
        teardown=AGAIN,
        additional_parameters={"requeue": True, **options},
    )
    try:
        job = executor.submit(train_in_job, package, asked.argv)
    except FailedJobError as error:
        lines = [line for line in str(error).splitlines() if "sbatch" in line or "error" in line.lower()]
        raise Refusal(f"sbatch does not take the job ({' '.join(lines)[:300]}); check the options of --slurm") from None
    number = job.job_id
    processes = f"{plural(nodes, 'node')} with {plural(gpus, 'GPU') if gpus else 'no GPU'} each"
    script = folder.resolve() / f"{number}_submission.sh"
    return Submitted(number, script, job.paths.stdout, processes)


def train_in_job(package: str, argv: list[str], environ: Mapping[str, str] = os.environ) -> None:
    """In each process of the job: the training, which continues if there is a state of it."""
    main: Callable[[list[str]], Any] = importlib.import_module(f"{package}.cli").main
    named = any(word.split("=")[0] == "--name" for word in argv)
    name = [] if named else ["--name", f"slurm-{environ['SLURM_JOB_ID']}"]
    resumes = [] if any(word.split("=")[0] == "--resume" for word in argv) else ["--resume"]
    if code := main(["train", *argv, *name, *resumes]):
        sys.exit(code)
