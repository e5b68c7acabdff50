"""A run that is killed anywhere and resumed until it is done ends bit for bit where the uninterrupted run ends."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# 28 images in steps of 8: 3.5 steps an epoch, so that steps straddle epochs and saves fall beside their ends
PRETRAIN = (
    "pretrain train --model test_resnet --drop-path 0.2 --size 32 --mixup 0.4 --dropout 0.1 --epochs 4 --batch-size 4 "
    "--grad-accum-steps 2 --opt adamw --lr 0.002 --lr-scheduler cosine --warmup-epochs 1 --clip-grad-norm 1 "
)
DETECT = (
    "detect train --backbone test_resnet --drop-path 0.2 --size 64 --epochs 3 --batch-size 2 "
    "--grad-accum-steps 2 --opt nesterov --lr 0.005 --lr-scheduler cosine --pictures 1 "
)
COMMON = "--model-ema --model-ema-decay 0.9 --save-every 2 --log-every 1 --device cpu --seed 3 --name run "
NETWORKS = {
    "fcos": "--network fcos --width 64 --depth 1 ",
    "faster_rcnn": "--network faster_rcnn --width 8 --hidden 16 ",
    "deformable_detr_boxref": "--network deformable_detr_boxref --width 32 --heads 4 --encoder-layers 1 "
    "--decoder-layers 2 --feedforward 32 --num-queries 10 --dropout 0.1 ",
    "ssdlite": "--network ssdlite --extra-width 0.125 ",
}
RESUMED_TO_THE_BIT = ("step", "task", "average", "optimizer", "scaler", "best", "metrics")


def with_bfloat16() -> None:
    """Let --amp mean bfloat16 even where the processor has to emulate it."""
    from shared.devices import device

    device.has_native_bfloat16 = lambda: True


def killed_after(micro_batches: int) -> Callable[[], None]:
    """A fault: SIGKILL after so many micro batches, be that in the middle of a step or at its end."""

    def prepare() -> None:
        from shared.loop.pace import Losses

        add, left = Losses.add, itertools.count(micro_batches - 1, -1)

        def counted(self: Losses, losses: Any, share: float) -> None:
            add(self, losses, share)
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        Losses.add = counted  # type: ignore[method-assign]

    return prepare


@pytest.fixture
def finish_despite_kills(run: Callable[..., Any]) -> Callable[..., int]:
    """Run a command, kill it at random micro batches, resume it until it is done; how often it was killed."""

    def persist(words: str, *, seed: int, longest: int, prepare: Callable[[], None] = lambda: None) -> int:
        rng = random.Random(seed)
        for kills in range(40):
            fault = killed_after(rng.randint(3, longest))

            def both(fault: Callable[[], None] = fault) -> None:
                prepare()
                fault()

            ended = run(words + (" --resume" if kills else ""), prepare=both)
            if ended.code == 0:
                return kills
            assert ended.code == -signal.SIGKILL, ended.out + ended.err
        pytest.fail("40 attempts were not enough")

    return persist


@pytest.fixture(scope="session")
def undisturbed(warm: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs that nobody interrupted, by their command; each is run once for all tests."""
    return {}


@pytest.fixture
def reference(undisturbed: dict, tmp_path_factory: Any, run: Callable, left: Callable) -> Callable:
    def finished(words: str, **how: Any) -> Any:
        if words not in undisturbed:
            folder = tmp_path_factory.mktemp("undisturbed")
            ended = run(words, cwd=folder, **how)
            assert ended.code == 0, ended.err
            undisturbed[words] = folder
        return left("run", undisturbed[words])

    return finished


def assert_same_end(ours: Any, theirs: Any) -> None:
    state, expected = ours.state(), theirs.state()
    assert {part: state[part] for part in RESUMED_TO_THE_BIT} == {part: expected[part] for part in RESUMED_TO_THE_BIT}
    assert ours.card()["sha256"] == theirs.card()["sha256"]
    assert ours.rows() == theirs.rows()
    assert (ours.folder / "results.csv").read_text().count("\n") == (
        (theirs.folder / "results.csv").read_text().count("\n")
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_pretraining_killed_at_random_steps_ends_the_same(
    workers: int, shards: Path, reference: Callable, finish_despite_kills: Callable, left: Callable
) -> None:
    words = PRETRAIN + COMMON + f"--data-path {shards} --num-workers "
    kills = finish_despite_kills(words + str(workers), seed=workers, longest=8)
    assert kills >= 4
    assert_same_end(left("run"), reference(words + "0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "workers"),
    [("fcos", 0), ("fcos", 2), ("faster_rcnn", 2), ("deformable_detr_boxref", 0), ("ssdlite", 0)],
)
def test_detection_killed_at_random_steps_ends_the_same(
    network: str, workers: int, coco: Path, reference: Callable, finish_despite_kills: Callable, left: Callable
) -> None:
    words = DETECT + NETWORKS[network] + COMMON + f"--data-path {coco} --num-workers "
    kills = finish_despite_kills(words + str(workers), seed=10 + workers, longest=8)
    assert kills >= 4
    assert_same_end(left("run"), reference(words + "0"))


@pytest.mark.slow
@pytest.mark.parametrize("half", ["pretrain", "detect"])
def test_a_run_in_bfloat16_killed_at_random_steps_ends_the_same(
    half: str, shards: Path, coco: Path, reference: Callable, finish_despite_kills: Callable, left: Callable
) -> None:
    halves = {
        "pretrain": PRETRAIN + COMMON + f"--data-path {shards} --num-workers 0",
        "detect": (DETECT + NETWORKS["faster_rcnn"]).replace("64", "32") + COMMON + f"--data-path {coco} -j 0",
    }
    words = halves[half] + " --amp"
    assert finish_despite_kills(words, seed=20, longest=8, prepare=with_bfloat16) >= 4
    in_bfloat16 = reference(words, prepare=with_bfloat16)
    assert_same_end(left("run"), in_bfloat16)
    if half == "pretrain":  # it really was another precision
        assert in_bfloat16.state()["task"] != reference(halves[half]).state()["task"]


# --- inside the save itself -----------------------------------------------------------------


def dies_at(point: str, time: int) -> Callable[[], None]:
    """A fault: SIGKILL at this point of saving, the n-th time it is passed."""

    def prepare() -> None:
        from shared.loop import state

        passed = [0]

        def die_when_due() -> None:
            passed[0] += 1
            if passed[0] == time:
                os.kill(os.getpid(), signal.SIGKILL)

        write, fsync, replace, sync = state.Hashing.write, os.fsync, Path.replace, state.sync_folder

        def dying_write(self: Any, data: Any) -> int:
            half = bytes(data)[: len(data) // 2]
            if passed[0] + 1 == time:
                write(self, half)
                self.flush()
            die_when_due()
            return write(self, data)

        def dying_replace(self: Path, target: Any) -> Path:
            if point == "before the rename" and self.name.startswith(".partial"):
                die_when_due()
            done = replace(self, target)
            if point == "after the rename" and self.name.startswith(".partial"):
                die_when_due()
            return done

        if point == "half a write":
            state.Hashing.write = dying_write  # type: ignore[method-assign]
        elif point == "before the flush to disk":
            os.fsync = lambda handle: (die_when_due(), fsync(handle))[1]
        elif point == "before the folder is flushed":
            state.sync_folder = lambda folder: (die_when_due(), sync(folder))[1]
        else:
            Path.replace = dying_replace  # type: ignore[method-assign]

    return prepare


POINTS = [
    ("half a write", 1),
    ("before the flush to disk", 1),
    ("before the rename", 1),
    ("after the rename", 1),
    ("before the folder is flushed", 1),
    ("half a write", 9),
    ("before the rename", 2),
    ("after the rename", 2),
]


@pytest.mark.slow
def test_a_run_killed_inside_its_saves_shows_no_broken_state_and_ends_the_same(
    shards: Path, run: Callable, left: Callable, reference: Callable
) -> None:
    words = PRETRAIN + COMMON + f"--data-path {shards} --num-workers 0"
    from shared.loop.state import load_state

    for number, (point, time) in enumerate(POINTS):
        ended = run(words + (" --resume" if number else ""), prepare=dies_at(point, time))
        assert ended.code == -signal.SIGKILL, f"{point}: {ended.code} {ended.err}"
        last = left("run").folder / "last"
        load_state(last)  # refuses a broken one; None before the first is whole
        assert not list(last.glob(".partial*"))
    assert run(words + " --resume").code == 0
    assert_same_end(left("run"), reference(words))


@pytest.mark.slow
def test_a_run_killed_after_its_last_save_still_gets_its_result(shards: Path, run: Callable, left: Callable) -> None:
    def dies_at_the_report() -> None:
        import pretrain.training.train

        pretrain.training.train.Session.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]

    words = f"pretrain train --model test_resnet --size 32 --epochs 1 --batch-size 8 --data-path {shards} --name run"
    assert run(words, prepare=dies_at_the_report).code == -signal.SIGKILL
    assert run(words + " --resume").code == 0
    assert left("run").result()["weights"] is not None
    assert left("run").card()["metrics"] == left("run").result()["metrics"]


@pytest.mark.slow
def test_resuming_a_finished_run_keeps_its_result_and_more_epochs_continue_it(
    shards: Path, run: Callable, left: Callable
) -> None:
    words = (
        f"pretrain train --model test_resnet --size 32 --batch-size 8 --data-path {shards} --num-workers 0 --lr 0.02 "
    )
    assert run(words + "--epochs 2 --name whole").code == 0
    assert run(words + "--epochs 1 --name part").code == 0
    before = left("part").result()
    assert run("pretrain train --resume runs/part").code == 0
    assert left("part").result()["weights"] == before["weights"]
    assert run("pretrain train --resume runs/part --epochs 2").code == 0
    assert left("part").state()["task"] == left("whole").state()["task"]


@pytest.mark.slow
def test_a_resumed_run_keeps_a_recipe_that_repeats_it(shards: Path, run: Callable, left: Callable) -> None:
    words = (
        f"pretrain train --model test_resnet --size 32 --batch-size 8 --epochs 2 --data-path {shards} --num-workers 0"
    )
    stopped = run(words, prepare=killed_between_epochs)
    assert stopped.code == -signal.SIGKILL
    assert run(words + " --resume").code == 0
    first = left("test_resnet-supervised")
    assert run(f"pretrain train --recipe {first.folder}/recipe.yaml").code == 0
    assert left("test_resnet-supervised-2").state()["task"] == first.state()["task"]


def killed_between_epochs() -> None:
    from shared.loop import trainer

    save = trainer.Trainer.save

    def save_and_die(self: Any) -> None:
        save(self)
        os.kill(os.getpid(), signal.SIGKILL)

    trainer.Trainer.save = save_and_die  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("--batch-size 2", "batch_size 4, not 2"),
        ("--seed 4", "seed 3, not 4"),
        ("--no-model-ema", "with --model-ema"),
        ("--model test_vit", "another network"),
    ],
)
def test_a_run_cannot_be_resumed_as_another_run(
    changed: str, says: str, shards: Path, run: Callable, reference: Callable
) -> None:
    folder = reference(PRETRAIN + COMMON + f"--data-path {shards} --num-workers 0").folder
    ended = run(f"pretrain train --resume {folder} --epochs 9 {changed}")
    assert ended.code == 2
    assert says in ended.complaint
    assert run(f"pretrain train --resume {folder}").code == 0  # and the refusal left no trace


@pytest.mark.slow
def test_a_damaged_state_gives_way_to_the_one_before_it(
    shards: Path, run: Callable, left: Callable, reference: Callable
) -> None:
    words = PRETRAIN + COMMON + f"--data-path {shards} --num-workers 0"
    assert run(words, prepare=dies_at("after the rename", 4)).code == -signal.SIGKILL
    newest = max((left("run").folder / "last").glob("step-*.pt"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    ended = run(words + " --resume")
    assert ended.code == 0
    assert "is damaged; trying the state before it" in ended.out
    assert_same_end(left("run"), reference(words))
