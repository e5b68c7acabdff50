"""LARS: each weight moves by its own size, vectors move plainly, and a saved state goes on where it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.loop.lars import LARS
from shared.loop.optim import build_optimizer
from shared.recipes.recipe import OptimConfig


def by_hand(
    w: Tensor, gradients: list[Tensor], lr: float, wd: float, momentum: float = 0.9, eta: float = 0.001
) -> Tensor:
    """The formula, in float64: You et al., 2017, with the decay inside the norm; vectors take the plain step."""
    w, velocity = w.double(), torch.zeros_like(w, dtype=torch.float64)
    for gradient in gradients:
        step = gradient.double()
        if w.ndim > 1:
            step = step + wd * w
            if w.norm() > 0 and step.norm() > 0:
                step = step * (eta * w.norm() / step.norm())
        velocity = momentum * velocity + step
        w = w - lr * velocity
    return w


def stepped(w: Tensor, gradients: list[Tensor], **told: Any) -> Tensor:
    p = nn.Parameter(w.clone())
    optimizer = LARS([p], **told)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(p.grad, gradient), "the gradient is not the optimizer's to change"
    return p.detach()


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (7,), ()])
def test_steps_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    w, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    ours = stepped(w, gradients, lr=0.3, weight_decay=0.2)
    torch.testing.assert_close(ours.double(), by_hand(w, gradients, 0.3, 0.2), rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, w)


def test_a_step_is_a_share_of_the_weights_size_whatever_the_gradients() -> None:
    w, g = torch.randn(5, 5), torch.randn(5, 5)
    for scale in (1e-3, 1.0, 1e3):
        moved = w - stepped(w, [g * scale], lr=2.0)
        assert moved.norm() == pytest.approx(2.0 * 0.001 * w.norm().item(), rel=1e-3)  # of float32, near w


def test_decay_counts_in_the_norm_that_the_ratio_is_measured_by() -> None:
    """Where others use |g| + wd |p|, a decay against the gradient makes the step longer, not shorter."""
    w = torch.ones(4, 4)
    moved = w - stepped(w, [-0.5 * w], lr=1.0, weight_decay=0.4)
    torch.testing.assert_close(moved, -0.001 * w, rtol=1e-3, atol=0)


def test_weights_or_gradients_of_no_size_take_the_plain_step() -> None:
    zero, g = torch.zeros(3, 3), torch.randn(3, 3)
    torch.testing.assert_close(stepped(zero, [g], lr=0.1), -0.1 * g)
    w = torch.randn(3, 3)
    assert torch.equal(stepped(w, [zero], lr=0.1), w)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_vectors_are_left_alone_in_whatever_group_they_are() -> None:
    """One group for all, a group for each kind: the recipe's --norm-wd and --bias-wd change nothing."""
    models = [net(), net()]
    kinds: list[dict[str, Any]] = [{}, {"norm_wd": 0.5, "bias_wd": 0.0}]
    for model, told in zip(models, kinds, strict=True):
        optimizer = build_optimizer(model, OptimConfig(opt="lars", lr=0.5, wd=0.1, **told))
        assert isinstance(optimizer, LARS) and len(optimizer.param_groups) == (3 if told else 1)
        train(model, optimizer, range(3))
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, net().get_parameter(name)) or name == "0.bias"  # batch norm takes its gradient away


def test_a_resumed_state_goes_on_to_the_bit() -> None:
    config = OptimConfig(opt="lars", lr=0.5, wd=0.1, momentum=0.8)
    straight = net()
    train(straight, build_optimizer(straight, config), range(6))
    first = net()
    optimizer = build_optimizer(first, config)
    train(first, optimizer, range(3))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = nn.Sequential(*net())
    second.load_state_dict(saved[0])
    resumed = build_optimizer(second, config)
    resumed.load_state_dict(saved[1])
    assert resumed.param_groups[0]["momentum"] == 0.8
    train(second, resumed, range(3, 6))
    for a, b in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_without_a_gradient_stay() -> None:
    model = net()
    optimizer = LARS(model.parameters(), lr=1.0, weight_decay=0.1)
    model[0](torch.randn(2, 4)).sum().backward()
    optimizer.step()
    stayed = {name: torch.equal(p, net().get_parameter(name)) for name, p in model.named_parameters()}
    assert stayed["3.weight"] and stayed["3.bias"] and not stayed["0.weight"] and not stayed["0.bias"]


def test_a_closure_is_asked_for_the_loss() -> None:
    model = net()
    optimizer = LARS(model.parameters(), lr=1.0)

    def loss() -> Tensor:
        value = model(torch.ones(2, 4)).sum()
        value.backward()
        return value

    assert optimizer.step(loss) is not None
    assert not torch.equal(model.get_parameter("3.weight"), net().get_parameter("3.weight"))
