"""The averaged copy follows the weights and the statistics, slowly, and counts for itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.loop.ema import Average


def moved(net: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net


def test_average_is_the_sum_by_hand_with_a_warm_up_that_forgets_the_start() -> None:
    net = moved(nn.Linear(2, 2), 0.0)
    average, expected = Average(net, decay=0.5), 0.0
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]):
        average.follow(moved(net, value))
        share = max(1 - 0.5, 1 - (1 + step) / (10 + step))
        expected += share * (value - expected)
        assert average.module.weight.flatten().tolist() == pytest.approx([expected] * 4)
    assert int(average.steps) == 10


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    net = nn.BatchNorm1d(3)
    average = Average(net, decay=0.9)
    net.train()
    net(torch.randn(8, 3) + 5)
    mean = net.running_mean.clone()
    average.follow(net)
    assert torch.allclose(average.module.running_mean, 0.9 * mean, rtol=1e-5)  # the first step takes nine tenths
    assert int(average.module.num_batches_tracked) == 1


def test_average_learns_nothing_and_stays_in_eval_mode_and_apart() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    average = Average(net, decay=0.9)
    assert not any(p.requires_grad for p in average.parameters())
    assert not average.module.training and net.training and all(p.requires_grad for p in net.parameters())
    moved(net, 3.0)
    assert not torch.equal(average.module[0].weight, net[0].weight)


def test_average_taken_up_from_its_state_goes_on_the_same() -> None:
    net = moved(nn.Linear(2, 2), 0.0)
    straight = Average(net, decay=0.99)
    for value in (1.0, 2.0, 3.0):
        straight.follow(moved(net, value))
    resumed = Average(nn.Linear(2, 2), decay=0.99)
    resumed.load_state_dict(straight.state_dict())
    for average in (straight, resumed):
        average.follow(moved(net, 4.0))
    assert torch.equal(straight.module.weight, resumed.module.weight) and int(resumed.steps) == 4
