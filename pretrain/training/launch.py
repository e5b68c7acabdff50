"""`pretrain launch sagemaker`: write a SageMaker training job as JSON for the AWS command line. Nothing is submitted.

    pretrain launch sagemaker --dry-run --image IMAGE --role ROLE --data s3://... --output s3://... -- TRAIN FLAGS
    aws sagemaker create-training-job --cli-input-json file://job.json

The container is built from the project's Dockerfile; one `torchrun` per host finds the others by SageMaker's host names
(algo-1, algo-2, ...). Runs are kept on the checkpoint volume, so that an interrupted spot instance continues with
--resume.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import UsageError

GPUS = {  # by instance type; for others --gpus is required
    "ml.p3.2xlarge": 1, "ml.p3.16xlarge": 8, "ml.p3dn.24xlarge": 8, "ml.p4d.24xlarge": 8, "ml.p4de.24xlarge": 8,
    "ml.p5.48xlarge": 8, "ml.g5.xlarge": 1, "ml.g5.12xlarge": 4, "ml.g5.48xlarge": 8, "ml.g6.xlarge": 1,
}  # fmt: skip
CHANNEL = "/opt/ml/input/data/train"
RUNS, WEIGHTS = "/opt/ml/checkpoints", "/opt/ml/model/weights"


class Job(NamedTuple):
    """The settings of a job.

    image: address of the container; role: ARN it runs under; data, output: S3 addresses.
    instances, instance_type, gpus: number and type of hosts, processes per host (None: GPUs of the type).
    volume_gb: disk per host; max_hours: time limit; spot: use spot instances.
    """

    name: str
    image: str
    role: str
    data: str
    output: str
    instance_type: str = "ml.p4d.24xlarge"
    instances: int = 1
    gpus: int | None = None
    volume_gb: int = 200
    max_hours: int = 120
    spot: bool = False


def sagemaker_job(job: Job, train_flags: list[str]) -> dict[str, Any]:
    """The request of SageMaker's CreateTrainingJob.

    Raises:
        UsageError: an invalid name, address or number, or a flag that the job sets itself.
    """
    check(job, train_flags)
    seconds = job.max_hours * 3600
    processes = job.gpus or GPUS[job.instance_type]
    torchrun = [
        "torchrun",
        f"--nnodes={job.instances}",
        f"--nproc_per_node={processes}",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=algo-1:29500",
        f"--rdzv_id={job.name}",
        "-m",
        "pretrain",
        "train",
    ]
    places = ["--data-path", CHANNEL, "--output-dir", RUNS, "--weights-dir", WEIGHTS, "--name", job.name, "--resume"]
    stopping = {"MaxRuntimeInSeconds": seconds} | ({"MaxWaitTimeInSeconds": 2 * seconds} if job.spot else {})
    return {
        "TrainingJobName": job.name,
        "RoleArn": job.role,
        "AlgorithmSpecification": {
            "TrainingImage": job.image,
            "TrainingInputMode": "FastFile",
            "ContainerEntrypoint": torchrun,
            "ContainerArguments": [*train_flags, *places],
        },
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": job.data,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": job.output},
        "CheckpointConfig": {"S3Uri": f"{job.output.rstrip('/')}/{job.name}/runs", "LocalPath": RUNS},
        "ResourceConfig": {
            "InstanceType": job.instance_type,
            "InstanceCount": job.instances,
            "VolumeSizeInGB": job.volume_gb,
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": job.spot,
    }


def check(job: Job, train_flags: list[str]) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", job.name):
        raise UsageError(f"'{job.name}' is not a valid job name; use up to 63 letters, digits and dashes")
    for flag, address in (("--data", job.data), ("--output", job.output)):
        if not re.fullmatch(r"s3://[a-z0-9.-]{3,63}(/.*)?", address):
            raise UsageError(f"{flag} is '{address}'; give an address such as s3://bucket/folder")
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/.+", job.role):
        raise UsageError(f"--role is '{job.role}'; give the ARN of a role, such as arn:aws:iam::123456789012:role/name")
    if not job.instance_type.startswith("ml."):
        raise UsageError(
            f"--instance-type is '{job.instance_type}'; SageMaker's types begin with ml., such as ml.p4d.24xlarge"
        )
    if job.gpus is None and job.instance_type not in GPUS:
        raise UsageError(f"the number of GPUs of {job.instance_type} is unknown; give it with --gpus")
    if min(job.instances, job.volume_gb, job.max_hours, 1 if job.gpus is None else job.gpus) < 1:
        raise UsageError("--instances, --gpus, --volume-gb and --max-hours are 1 or more")
    own = ("--data-path", "--train-data-dir", "--output-dir", "--weights-dir", "--name", "--resume")
    words = [word.partition("=")[0].replace("_", "-") for word in train_flags]
    given = [word for word in words if word in own]
    if given:
        raise UsageError(f"{given[0]} is set by the job; remove it, the data is given by --data")


def write_job(request: dict[str, Any], path: Path) -> None:
    """Write the JSON; an existing file is not replaced."""
    import json

    try:
        with path.open("x") as file:
            file.write(json.dumps(request, indent=2) + "\n")
    except FileExistsError:
        raise UsageError(f"{path} already exists; give another file with --out") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); give another file with --out") from None
