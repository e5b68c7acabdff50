"""`pretrain launch sagemaker`: the description of a SageMaker training job, as JSON that the AWS command line takes.

Nothing is sent from here: the description is written, a person reads it and submits it.

    pretrain launch sagemaker --dry-run --image IMAGE --role ROLE --data s3://... --output s3://... -- TRAIN FLAGS
    aws sagemaker create-training-job --cli-input-json file://job.json

The container is the project's Dockerfile in a registry of one's own; one `torchrun` per host finds the others by the
names that SageMaker gives them (algo-1, algo-2, ...). Runs are kept on the checkpoint volume, so that a spot
instance that is taken away continues with --resume.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import UsageError

GPUS = {  # by instance type; others are asked for with --gpus
    "ml.p3.2xlarge": 1, "ml.p3.16xlarge": 8, "ml.p3dn.24xlarge": 8, "ml.p4d.24xlarge": 8, "ml.p4de.24xlarge": 8,
    "ml.p5.48xlarge": 8, "ml.g5.xlarge": 1, "ml.g5.12xlarge": 4, "ml.g5.48xlarge": 8, "ml.g6.xlarge": 1,
}  # fmt: skip
CHANNEL = "/opt/ml/input/data/train"
RUNS, WEIGHTS = "/opt/ml/checkpoints", "/opt/ml/model/weights"


class Job(NamedTuple):
    """What a job is made of.

    image: address of the container; role: ARN it runs under; data, output: S3 addresses.
    instances, instance_type, gpus: how many hosts, which, and processes per host (None: what the type has).
    volume_gb: disk per host; max_hours: after which it is ended; spot: on instances that may be taken away.
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
        UsageError: a name, an address or a number that SageMaker would refuse, or a flag the job sets itself.
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
        raise UsageError(f"'{job.name}' cannot name a job; use up to 63 letters, digits and dashes")
    for flag, address in (("--data", job.data), ("--output", job.output)):
        if not re.fullmatch(r"s3://[a-z0-9.-]{3,63}(/.*)?", address):
            raise UsageError(f"{flag} is '{address}'; give an address such as s3://bucket/folder")
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/.+", job.role):
        raise UsageError(f"--role is '{job.role}'; give the ARN of a role, such as arn:aws:iam::123456789012:role/name")
    if not job.instance_type.startswith("ml."):
        raise UsageError(
            f"--instance-type is '{job.instance_type}'; SageMaker's begin with ml., such as ml.p4d.24xlarge"
        )
    if job.gpus is None and job.instance_type not in GPUS:
        raise UsageError(f"how many GPUs {job.instance_type} has is not known here; say it with --gpus")
    if min(job.instances, job.volume_gb, job.max_hours, 1 if job.gpus is None else job.gpus) < 1:
        raise UsageError("--instances, --gpus, --volume-gb and --max-hours are 1 or more")
    own = ("--data-path", "--train-data-dir", "--output-dir", "--weights-dir", "--name", "--resume")
    words = [word.partition("=")[0].replace("_", "-") for word in train_flags]
    given = [word for word in words if word in own]
    if given:
        raise UsageError(f"{given[0]} is set by the job; leave it out, the data comes from --data")


def write_job(request: dict[str, Any], path: Path) -> None:
    """The description as a file; one that is there is not replaced."""
    import json

    try:
        with path.open("x") as file:
            file.write(json.dumps(request, indent=2) + "\n")
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file with --out") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file with --out") from None
