"""I-JEPA as a command: several processes are one run, a stopped run goes on, the average is what detection gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    "pretrain train --method i-jepa --model test_vit --drop-path 0.2 --size 96 128 --predictor-width 16 "
    "--predictor-depth 1 --momentum 0.9 --epochs 2 --batch-size 4 --opt adamw --lr 0.001 --save-every 1 --log-every 1 "
    "--device cpu --num-workers 0 "
)
EQUAL = ("step", "task", "optimizer", "best", "metrics")


@pytest.mark.slow
def test_two_processes_train_what_one_process_trains(
    shards: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    words = WORDS + f"--data-path {shards} --name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    one, two = left("one"), left("two")
    assert {part: two.state()[part] for part in EQUAL} == {part: one.state()[part] for part in EQUAL}
    assert two.card()["sha256"] == one.card()["sha256"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(shards: Path, run: Callable, left: Callable) -> None:
    words = WORDS + f"--data-path {shards} --name "

    def stop_at_step_five() -> None:
        from shared.loop.trainer import Trainer

        step = Trainer.train_step

        def counted(self: Trainer, micro_batches: list) -> None:
            self.asked_to_stop |= self.step == 4
            step(self, micro_batches)

        Trainer.train_step = counted  # type: ignore[method-assign]

    assert run(words + "straight").code == 0
    assert run(words + "stopped", prepare=stop_at_step_five).code == 75
    assert run(words + "stopped --resume").code == 0
    straight, stopped = left("straight"), left("stopped")
    assert {part: stopped.state()[part] for part in EQUAL} == {part: straight.state()[part] for part in EQUAL}
    assert stopped.card()["sha256"] == straight.card()["sha256"]


@pytest.mark.slow
def test_an_average_in_slices_follows_as_a_whole_one_does(shards: Path, ranks: Callable, left: Callable) -> None:
    import torch

    from shared.loop.state import load_state

    def slice_every_block() -> None:
        from shared.devices import sharding

        sharding.WORTHWHILE = 1

    words = WORDS.replace("--predictor-depth 1", "--predictor-depth 2") + f"--data-path {shards} --name "
    assert [each.code for each in ranks(words + "whole", 2)] == [0, 0]
    ended = ranks(words + "sliced --fsdp", 2, prepare=slice_every_block)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    whole, sliced = (load_state(left(name).folder / "last") for name in ("whole", "sliced"))
    assert whole is not None and sliced is not None
    for name, value in whole["task"].items():
        torch.testing.assert_close(sliced["task"][name], value, rtol=1e-4, atol=1e-5)


def test_the_tag_holds_the_average_and_loads_into_the_backbone(shards: Path, run: Callable, left: Callable) -> None:
    import torch
    from safetensors.torch import load_file

    from shared.loop.state import load_state

    assert run(WORDS + f"--data-path {shards} --name run").code == 0
    card, state = left("run").card(), load_state(left("run").folder / "last")
    assert (card["arch"], card["tag"], card["method"]) == ("test_vit", "i-jepa", "i-jepa")
    assert state is not None
    exported = load_file(left("run").folder.parent.parent / left("run").result()["weights"] / "model.safetensors")
    for name, value in exported.items():
        assert torch.equal(value, state["task"][f"target.{name}"])
    assert any(not torch.equal(value, state["task"][f"backbone.{name}"]) for name, value in exported.items())
    again = run(WORDS + f"--data-path {shards} --name again --export-target false --dry-run --dry-steps 1")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--model test_resnet --size 96", "use one such as vit_reg4_m16_rms_avg or vit_base_patch16_224"),
        ("--model test_vit --size 100", "take --size 96 96"),
        ("--model test_vit --size 64", "take a larger --size, a smaller patch or a smaller --min-keep"),
        ("--model test_vit --size 96 --num-target 2", "did you mean '--num-targets'?"),
    ],
)
def test_what_it_cannot_serve_ends_with_one_sentence(words: str, complaint: str, shards: Path, run: Callable) -> None:
    ended = run(f"pretrain train --method i-jepa --data-path {shards} --device cpu {words}")
    assert ended.code == 2
    assert complaint in ended.complaint
