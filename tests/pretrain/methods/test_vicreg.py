"""VICReg: the loss is lightly's, in either form and with its own gradient; views and expander are the official ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrain.methods import Facts, method
from pretrain.methods.vicreg import VICReg, spread
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS
from shared.feeding.plan import rng_for

FACTS = Facts(size=(32, 32), num_classes=None, pixels=PIXEL_STATS["imagenet"])
SMALL = {"expander_width": 16}


def build(tiny_backbone: Callable[..., Any], **told: Any) -> VICReg:
    task = method.build("vicreg", tiny_backbone(), FACTS, **(SMALL | told))
    assert isinstance(task, VICReg)
    return task.train()


def batch(count: int = 6) -> tuple[tuple[Tensor, Tensor], Tensor]:
    first, second = torch.randint(0, 256, (2, count, 3, 32, 32), dtype=torch.uint8)
    return (first, second), torch.full((count,), -1)


# --- the loss -------------------------------------------------------------------------------


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor, z_: Tensor) -> list[Tensor]:
    """[loss, its gradient with respect to either embedding], in float64."""
    leaves = [z.clone().requires_grad_(), z_.clone().requires_grad_()]
    value = loss(*leaves)
    value.backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf.grad is not None)]


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


SHAPES = [(2, 8), (24, 96), (96, 24), (64, 64), (63, 64), (600, 8)]


@pytest.mark.parametrize(("count", "width"), SHAPES)
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_loss_and_gradients_are_lightlys_in_double_precision_to_a_millionth(
    tiny_backbone: Callable[..., Any], count: int, width: int, weights: tuple[float, float, float]
) -> None:
    from lightly.loss import VICRegLoss

    told = dict(zip(("sim_coeff", "std_coeff", "cov_coeff"), weights, strict=True))
    task = build(tiny_backbone, **told)
    reference = VICRegLoss(*weights)
    mixing = torch.randn(width, width) / width**0.5 + torch.eye(width)  # dimensions that have something in common
    z = torch.randn(count, width) @ mixing * torch.linspace(0.2, 1.4, width) + torch.randn(width)
    z_ = z + 0.3 * torch.randn(count, width)
    exact = with_gradients(reference, z.double(), z_.double())
    ours = with_gradients(lambda a, b: torch.stack(list(task.compare(a, b).values())).sum(), z, z_)
    assert len(ours) == 3
    assert max(error(a, b) for a, b in zip(ours, exact, strict=True)) < 1e-5


@pytest.mark.parametrize(("count", "width"), [(4, 7), (7, 4), (5, 5), (2, 3)])
def test_the_own_backward_pass_is_the_derivative(count: int, width: int) -> None:
    z = (0.8 * torch.randn(count, width, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(spread(x)), (z,))
    assert torch.autograd.gradcheck(lambda x: spread(x).covariance, (z,))
    assert torch.autograd.gradcheck(lambda x: spread(x).variance, (z,))


def test_small_batches_never_make_a_matrix_of_dimensions_and_large_ones_none_of_images() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.size = max(self.size, out.numel())
            return out

    for shape in ((8, 200), (200, 8)):
        z = torch.randn(shape, requires_grad=True)
        with Largest() as seen:
            sum(spread(z)).backward()  # type: ignore[union-attr]
        assert seen.size == 8 * 200


def test_embeddings_that_are_all_alike_cost_one_and_have_a_finite_gradient() -> None:
    z = torch.ones(6, 4, requires_grad=True)
    terms = spread(z)
    assert terms.variance.item() == pytest.approx(1 - 0.01) and terms.covariance.item() == 0  # sqrt(1e-4) is left
    (terms.variance + terms.covariance).backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_terms_are_named_and_weighted(tiny_backbone: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    z, z_ = torch.randn(2, 6, 16) * 0.5
    plain = build(tiny_backbone, sim_coeff=1, std_coeff=1, cov_coeff=1).compare(z, z_)
    weighted = build(tiny_backbone).compare(z, z_)
    assert list(weighted) == ["invariance", "variance", "covariance"]
    assert all(value > 0 for value in plain.values())
    for name, weight in (("invariance", 25), ("variance", 25), ("covariance", 1)):
        torch.testing.assert_close(weighted[name], weight * plain[name])
    assert build(tiny_backbone, std_coeff=0.0).compare(z, z_)["variance"] == 0


def test_under_mixed_precision_the_loss_is_computed_in_float32(tiny_backbone: Callable[..., Any]) -> None:
    task, seen = build(tiny_backbone), []
    compare = task.compare

    def watched(z: Tensor, z_: Tensor) -> dict[str, Tensor]:
        seen.append((z.dtype, torch.is_autocast_enabled("cpu")))
        return compare(z, z_)

    task.compare = watched  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch())
    assert seen == [(torch.float32, False)]
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_without_the_variance_term_embeddings_shrink_and_with_it_they_do_not(tiny_backbone: Callable[..., Any]) -> None:
    deviations = {}
    for std_coeff in (0.0, 25.0):
        torch.manual_seed(0)
        task, data = build(tiny_backbone, std_coeff=std_coeff), batch(8)
        optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
        for _ in range(25):
            torch.stack(list(task(data).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            vectors = task.backbone(task.normalize(data[0][0]))
            deviations[std_coeff] = float(task.embed(vectors).std(0).mean())
    assert deviations[0.0] < 0.1 < 0.5 < deviations[25.0]


# --- the network and the views --------------------------------------------------------------


def test_hidden_layers_of_the_expander_have_biases_and_its_last_has_none(tiny_backbone: Callable[..., Any]) -> None:
    kinds = [type(layer) for layer in build(tiny_backbone).expander]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    linear = [layer for layer in build(tiny_backbone).expander if isinstance(layer, nn.Linear)]
    assert [layer.bias is not None for layer in linear] == [True, True, False]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(8, 16), (16, 16), (16, 16)]
    assert [type(layer) for layer in build(tiny_backbone, expander_layers=1).expander] == [nn.Linear]
    with torch.device("meta"):
        official = VICReg(tiny_backbone(), FACTS)
    assert sum(p.numel() for p in official.expander.parameters()) == 8 * 8192 + 2 * 8192**2 + 2 * 3 * 8192


def test_the_views_of_an_image_are_two_crops_with_chances_of_their_own(tiny_backbone: Callable[..., Any]) -> None:
    view = build(tiny_backbone).view()
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 60, 80), dtype=np.uint8))
    first, second = view(image, rng_for(0, 0, 1))
    assert first.shape == second.shape == (3, 32, 32) and first.dtype == second.dtype == torch.uint8
    assert not torch.equal(first, second)
    again = view(image, rng_for(0, 0, 1))
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])


def test_colors_of_the_views_are_the_papers(tiny_backbone: Callable[..., Any]) -> None:
    task = VICReg(tiny_backbone(), FACTS._replace(size=(224, 256)), expander_width=4)
    for color, blur, solarize in ((task.pair.first, 1.0, 0.0), (task.pair.second, 0.1, 0.2)):
        assert (color.jitter, color.gray, color.blur, color.solarize) == (0.8, 0.2, blur, solarize)
        assert color.strengths == (0.4, 0.4, 0.2, 0.1) and color.sigma == (0.1, 2.0)


def test_smaller_images_are_blurred_in_proportion(tiny_backbone: Callable[..., Any]) -> None:
    assert build(tiny_backbone).pair.first.sigma == pytest.approx((0.1 * 32 / 224, 2.0 * 32 / 224))


def test_each_view_gets_its_own_colors(tiny_backbone: Callable[..., Any]) -> None:
    """With every chance at 0 the views are what came; the first view's options change the first alone."""
    off: dict[str, Any] = {"jitter": 0.0, "gray": 0.0, "blur_first": 0.0, "blur_second": 0.0, "solarize_second": 0.0}
    for name, changed in (("none", []), ("solarize_first", [0]), ("solarize_second", [1]), ("jitter", [0, 1])):
        task = build(tiny_backbone, **off | ({name: 1.0} if changed else {}))
        (first, second), _ = batch()
        for i, (color, images) in enumerate(((task.pair.first, first), (task.pair.second, second))):
            assert torch.equal(color(images), images.float()) == (i not in changed)


def test_chance_follows_the_random_state_of_the_loop(tiny_backbone: Callable[..., Any]) -> None:
    task, data, losses = build(tiny_backbone).eval(), batch(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(task(data)["invariance"].item())
    assert losses[0] == losses[1] != losses[2]


def test_the_backbone_alone_is_exported_and_the_probe_may_ask_for_embeddings(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone)
    assert task.exports() == {"backbone": task.backbone}
    assert task.embed(torch.randn(3, 8)).shape == (3, 16)


# --- at the door ----------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_one_image_alone_is_refused(tiny_backbone: Callable[..., Any], layers: int) -> None:
    with pytest.raises(UsageError, match="give --batch-size 2 or more"):
        build(tiny_backbone, expander_layers=layers)(batch(1))
    losses = build(tiny_backbone, expander_layers=layers)(batch(2))
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"jitter": 1.2}, "jitter is 1.2; it must be from 0 to 1"),
        ({"blur_second": -0.1}, "blur_second is -0.1; it must be from 0 to 1"),
        ({"expander_width": 0}, "expander_width is 0; it must be from 1"),
        ({"expander_layers": 0}, "expander_layers is 0; it must be from 1"),
        ({"std_coeff": -1.0}, "std_coeff is -1.0; it must be from 0"),
        ({"sim_coeff": float("nan")}, "sim_coeff is nan; give a number"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0; it must be greater than 0 and up to 1"),
        ({"expander": 64}, "no option 'expander', did you mean 'expander_(width|layers)'"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny_backbone: Callable[..., Any], told: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build(tiny_backbone, **told)
