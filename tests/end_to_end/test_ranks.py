"""Several processes are one run: the same samples in the same steps, the same weights as one process alone.

Gradients of two processes are the mean of two micro batches, so a run of two processes with one micro batch each is
the run of one process with `--grad-accum-steps 2`: bit for bit where no layer looks at the batch as a whole.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PRETRAIN = (
    "pretrain train --model test_vit --drop-path 0.2 --size 32 --mixup 0.4 --epochs 2 --batch-size 4 --opt adamw "
    "--lr 0.001 --model-ema --model-ema-decay 0.9 --save-every 2 --log-every 1 --device cpu --num-workers 0 "
)
DETECT = (
    "detect train --backbone test_resnet --freeze-backbone-bn --drop-path 0.2 --size 64 --epochs 2 --batch-size 2 "
    "--lr 0.005 --model-ema --model-ema-decay 0.9 --log-every 1 --device cpu --num-workers 0 --pictures 0 "
)
NETWORKS = {
    "fcos": "--network fcos --width 64 --depth 1 ",
    "faster_rcnn": "--network faster_rcnn --width 8 --hidden 16 ",
}
EQUAL = ("step", "batch_size", "micro_batches", "task", "average", "optimizer", "best", "metrics")


def assert_same_run(ours: Any, theirs: Any) -> None:
    state, expected = ours.state(), theirs.state()
    assert {part: state[part] for part in EQUAL} == {part: expected[part] for part in EQUAL}
    assert ours.card()["sha256"] == theirs.card()["sha256"]
    for row, wanted in zip(ours.rows(), theirs.rows(), strict=True):
        assert row.pop("kind") == wanted.pop("kind")
        undefined = {name for name, value in wanted.items() if value is None}
        assert undefined == {name for name, value in row.items() if value is None}
        assert {name: row[name] for name in row.keys() - undefined} == pytest.approx(
            {name: wanted[name] for name in wanted.keys() - undefined}, rel=1e-6
        )


def torchrun(words: str, cwd: Path) -> subprocess.CompletedProcess:
    """The command in two processes, as a person launches it."""
    command, *rest = words.split()
    module = {"pretrain": "pretrain", "detect": "detection"}[command]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", module]
    repository = str(Path(__file__).parents[2])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": repository, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launcher, *rest], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_two_processes_under_torchrun_pretrain_what_one_process_pretrains(
    shards: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    words = PRETRAIN + f"--data-path {shards} --name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    launched = torchrun(words + "two --threads 1", tmp_path)
    assert launched.returncode == 0, launched.stderr
    assert_same_run(left("two"), left("one"))
    assert launched.stdout.count("exported test_vit") == 1  # only rank 0 says and writes anything
    assert len(list((tmp_path / "weights" / "test_vit" / "supervised").iterdir())) == 2
    assert len(list(left("two").folder.glob("events.out*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("network", ["fcos", "faster_rcnn"])
def test_two_processes_train_the_detector_that_one_process_trains(
    network: str, coco: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = DETECT + NETWORKS[network] + f"--data-path {coco} --name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    assert_same_run(left("two"), left("one"))
    assert other.out == ""


@pytest.mark.slow
def test_both_numbers_of_processes_see_the_same_samples_in_the_same_steps(
    shards: Path, run: Callable, ranks: Callable, tmp_path: Path
) -> None:
    def telling() -> None:
        from pretrain.data.shards import ShardSet

        load = ShardSet.load

        def told(self: ShardSet, index: int, rng: Any) -> Any:
            if self.view.__class__.__name__ == "Compose":
                with open(tmp_path / os.environ["SEEN"], "a") as file:
                    file.write(f"{index} {rng.bit_generator.state['state']['counter'].tolist()}\n")
            return load(self, index, rng)

        ShardSet.load = told  # type: ignore[method-assign]

    words = PRETRAIN + f"--data-path {shards} --name "
    assert run(words + "one --grad-accum-steps 2", prepare=telling, env={"SEEN": "alone"}).code == 0
    alone = (tmp_path / "alone").read_text().splitlines()
    rank_of = lambda: os.environ.update(SEEN="rank" + os.environ["RANK"])  # noqa: E731
    ended = ranks(words + "two", 2, prepare=lambda: (rank_of(), telling())[1])
    assert [each.code for each in ended] == [0, 0]
    halves = [(tmp_path / f"rank{rank}").read_text().splitlines() for rank in range(2)]
    assert len(alone) == 7 * 8
    for step in range(7):
        together = [line for half in halves for line in half[step * 4 : step * 4 + 4]]
        assert together == alone[step * 8 : step * 8 + 8]


@pytest.mark.slow
def test_a_run_of_two_processes_is_finished_by_one(
    shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = PRETRAIN + f"--data-path {shards} --name "

    def stopped_at_step_3() -> None:
        from shared.loop.trainer import Trainer

        account = Trainer.account

        def stop(self: Trainer, waited: float) -> None:
            account(self, waited)
            if self.step == 3 and os.environ["RANK"] == "1":  # whoever hears it, all stop at the same step
                os.kill(os.getpid(), signal.SIGTERM)

        Trainer.account = stop  # type: ignore[method-assign]

    ended = ranks(words + "two", 2, prepare=stopped_at_step_3)
    assert [each.code for each in ended] == [75, 75]
    assert run(words + "two --resume").code == 0
    assert run(words + "one --grad-accum-steps 2").code == 0
    assert_same_run(left("two"), left("one"))


@pytest.mark.slow
def test_three_processes_cannot_share_a_step_of_two_micro_batches(shards: Path, run: Callable, ranks: Callable) -> None:
    words = PRETRAIN + f"--data-path {shards} --name run "
    assert run(words + "--grad-accum-steps 2 --epochs 1").code == 0
    for ended in ranks(words + "--resume", 3):
        assert ended.code == 2
        assert "not divisible by 3 processes" in ended.err


@pytest.mark.slow
def test_with_batch_statistics_two_processes_still_measure_what_they_export(
    coco: Path, run: Callable, ranks: Callable, left: Callable, tmp_path: Path
) -> None:
    words = DETECT.replace("--freeze-backbone-bn ", "") + NETWORKS["fcos"] + "--lr 0.02 --epochs 6 "
    ended = ranks(words + f"--data-path {coco} --name two", 2)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    again = run(f"detect eval --weights runs/two --data-path {coco} --json again.json --device cpu")
    assert again.code == 0, again.err
    metrics = json.loads((tmp_path / "again.json").read_text())
    last = left("two").result()["metrics"]
    assert last["box_ar100"] > 0
    assert {name: metrics[name] for name in last} == last
