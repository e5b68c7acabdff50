"""A job description says what SageMaker wants to hear, and what it would refuse is refused here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.cli import main
from pretrain.training.launch import CHANNEL, RUNS, Job, sagemaker_job
from shared.errors import UsageError

JOB = Job(
    name="hrnet-1",
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/chordate:1",
    role="arn:aws:iam::123456789012:role/trainer",
    data="s3://bucket/shards",
    output="s3://bucket/out",
)
FLAGS = ["--model", "hrnet_w32c", "-b", "128"]


def test_every_host_runs_torchrun_with_the_train_flags_and_the_places_of_the_container() -> None:
    request = sagemaker_job(JOB._replace(instances=2, instance_type="ml.p3.16xlarge"), FLAGS)
    how = request["AlgorithmSpecification"]
    assert {"--nnodes=2", "--nproc_per_node=8"} <= set(how["ContainerEntrypoint"])
    assert how["ContainerArguments"][:4] == FLAGS
    assert CHANNEL in how["ContainerArguments"] and "--resume" in how["ContainerArguments"]
    assert request["CheckpointConfig"] == {"S3Uri": "s3://bucket/out/hrnet-1/runs", "LocalPath": RUNS}
    assert request["ResourceConfig"]["InstanceCount"] == 2


def test_spot_instances_may_be_waited_for() -> None:
    stopping = sagemaker_job(JOB._replace(spot=True, max_hours=10), FLAGS)["StoppingCondition"]
    assert stopping == {"MaxRuntimeInSeconds": 36000, "MaxWaitTimeInSeconds": 72000}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "a_b"}, "is not a valid job name"),
        ({"data": "/data"}, "--data is '/data'"),
        ({"role": "me"}, "give the ARN"),
        ({"instance_type": "p3.16xlarge"}, "begin with ml."),
        ({"instance_type": "ml.x1.large"}, "--gpus"),
        ({"instances": 0}, "1 or more"),
    ],
)
def test_what_sagemaker_would_refuse_is_refused_here(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        sagemaker_job(JOB._replace(**change), FLAGS)


def test_flags_the_job_sets_itself_are_refused() -> None:
    with pytest.raises(UsageError, match="--output-dir is set by the job"):
        sagemaker_job(JOB, [*FLAGS, "--output-dir=/tmp"])


def words(tmp_path: Path, *more: str) -> list[str]:
    told = ["--name", JOB.name, "--image", JOB.image, "--role", JOB.role, "--data", JOB.data, "--output", JOB.output]
    return ["launch", "sagemaker", *told, "--out", str(tmp_path / "job.json"), *more]


def test_the_command_writes_the_description_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--dry-run", "--", *FLAGS)) == 0
    written = json.loads((tmp_path / "job.json").read_text())
    assert written["AlgorithmSpecification"]["ContainerArguments"][:2] == ["--model", "hrnet_w32c"]
    assert "create-training-job" in capsys.readouterr().out
    assert main(words(tmp_path, "--dry-run", "--", *FLAGS)) == 2
    assert "already exists" in capsys.readouterr().err


def test_train_flags_are_checked_before_a_host_is_paid_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--dry-run", "--", "--epoch", "3")) == 2
    assert "did you mean '--epochs'" in capsys.readouterr().err
    assert main(words(tmp_path, "--", *FLAGS)) == 2
    assert "--dry-run" in capsys.readouterr().err
