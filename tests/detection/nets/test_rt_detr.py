"""RT-DETR v2: outputs, losses and gradients are those of transformers' with the same weights and the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.loss.loss_rt_detr import RTDetrLoss

from backbones import backbone
from detection.nets.rt_detr import RTDETR
from detection.parts.fixed import fixed_shapes
from detection.types import Images, Target
from shared.errors import UsageError
from shared.loop.optim import parameter_scales
from tests.detection.nets.of_rt_detr import as_ours, rt_detr_of_transformers
from tests.detection.nets.of_transformers import as_they_want, own_parameters

CLASSES = 5
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 3,
    "decoder_layers": 3,
    "feedforward": 48,
    "expansion": 0.5,
    "num_queries": 9,
    "denoising": 12,
    "look_forward_twice": False,  # transformers does not
}
FORMS = {
    "usual": {},
    "discrete": {"sampling": "discrete"},
    "wide": {"encoder_width": 48, "expansion": 1.0, "num_levels": 4, "encoder_layers": 2},
}


def both(tiny_backbone: Any, **form: Any) -> tuple[RTDETR, Any]:
    torch.manual_seed(3)
    net = RTDETR(tiny_backbone(), CLASSES, **(SMALL | form)).eval()
    method = {"decoder_method": "discrete"} if form.get("sampling") == "discrete" else {}
    return net, rt_detr_of_transformers(net, CLASSES, **method)


def of_scenes(scenes: Callable, counts: list[int]) -> tuple[Images, list[Target]]:
    images, targets = scenes(counts, classes=CLASSES, smallest=0.1)
    whole = Images(images.pixels, [(128, 128)] * len(counts))  # transformers knows no padding here
    return whole, targets


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_boxes_are_those_of_transformers(tiny_backbone: Any, scenes: Callable, form: str) -> None:
    images, targets = of_scenes(scenes, [2, 1])
    net, theirs = both(tiny_backbone, **FORMS[form])
    found = net.predict(images)
    out = theirs(**as_they_want(images, targets))
    torch.testing.assert_close(found.logits.transpose(0, 1), out.intermediate_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes.transpose(0, 1), out.intermediate_reference_points, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.selected.logits, out.enc_topk_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.selected.boxes.sigmoid(), out.enc_topk_bboxes, rtol=1e-4, atol=1e-5)
    assert found.boxes[-1].std(1).max() > 0.01, "queries differ"


class Names(TorchDispatchMode):
    """Names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", ["bilinear", "discrete"])
def test_an_export_samples_no_grid_if_it_samples_discretely(
    tiny_backbone: Any, scenes: Callable, sampling: str
) -> None:
    net = RTDETR(tiny_backbone(), CLASSES, **(SMALL | {"sampling": sampling})).eval()
    images, _ = of_scenes(scenes, [1])
    with fixed_shapes(), Names() as names:
        net.detect(images)
    assert any("grid_sampler" in name for name in names.seen) == (sampling == "bilinear")


@pytest.mark.parametrize("counts", [[3, 1], [2, 0], [0, 0]], ids=str)
def test_losses_and_gradients_with_the_same_noise_are_those_of_transformers(
    tiny_backbone: Any, scenes: Callable, counts: list[int]
) -> None:
    images, targets = of_scenes(scenes, counts)
    net, theirs = (one.train() for one in both(tiny_backbone))
    torch.manual_seed(7)
    losses = net(images, targets)
    torch.manual_seed(7)
    batch = as_they_want(images, targets)
    expected = losses_of_transformers(theirs(**batch), batch["labels"], theirs.config)
    objects = sum(counts) > 0
    assert len(losses) == 3 * (3 + 1 + 3) and len(expected) == (len(losses) if objects else 12)
    for ours, name in named_alike(3).items():
        wanted = expected[name] if objects or "dn" not in name else torch.zeros(())
        torch.testing.assert_close(losses[ours], wanted, rtol=1e-4, atol=1e-5, msg=lambda said, n=ours: f"{n}: {said}")
    torch.stack(list(losses.values())).sum().backward()
    ours = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    torch.stack(list(expected.values())).sum().backward()
    wanted = as_ours({n: p.grad for n, p in own_parameters(theirs).items() if p.grad is not None})
    assert len(wanted) > 100
    for name, gradient in wanted.items():
        mine = ours[name]
        assert mine is not None
        torch.testing.assert_close(mine, gradient, rtol=1e-3, atol=1e-4, msg=lambda said, n=name: f"{n}: {said}")
    first = next(net.backbone.parameters())
    torch.testing.assert_close(next(v for n, v in ours.items() if "backbone" in n), first.grad, rtol=1e-3, atol=1e-4)


def losses_of_transformers(out: Any, labels: Any, config: Any) -> dict[str, Tensor]:
    """Its criterion, on its outputs: the denoising queries apart, as its newest releases do."""
    noise = out.denoising_meta_values
    count = 0 if noise is None else noise["dn_num_split"][0]
    logits, boxes = (x.transpose(0, 1) for x in (out.intermediate_logits, out.intermediate_reference_points))
    layers = [{"logits": a[:, count:], "pred_boxes": b[:, count:]} for a, b in zip(logits, boxes, strict=True)]
    cells = {"logits": out.enc_topk_logits, "pred_boxes": out.enc_topk_bboxes}
    told: dict[str, Any] = {**layers[-1], "auxiliary_outputs": [*layers[:-1], cells]}
    if noise is not None:
        dn = [{"logits": a[:, :count], "pred_boxes": b[:, :count]} for a, b in zip(logits, boxes, strict=True)]
        told |= {"dn_auxiliary_outputs": dn, "denoising_meta_values": noise}
    return RTDetrLoss(config)(told, labels)


def named_alike(layers: int) -> dict[str, str]:
    """Our names of losses -> theirs."""
    names = {}
    for ours, theirs in (("classification", "loss_vfl"), ("boxes", "loss_bbox"), ("giou", "loss_giou")):
        last = {layers - 1: ""}
        names |= {f"{ours}{last.get(i, f'_{i}')}": theirs + ("" if i in last else f"_aux_{i}") for i in range(layers)}
        names |= {f"dn_{ours}{last.get(i, f'_{i}')}": f"{theirs}_dn_{i}" for i in range(layers)}
        names[f"enc_{ours}"] = f"{theirs}_aux_{layers - 1}"
    return names


@pytest.mark.parametrize("twice", [True, False])
def test_gradients_of_a_layers_boxes_reach_the_layer_before_it_if_it_looks_forward_twice(
    tiny_backbone: Any, scenes: Callable, twice: bool
) -> None:
    images, _ = of_scenes(scenes, [1])
    net = RTDETR(tiny_backbone(), CLASSES, **(SMALL | {"look_forward_twice": twice})).eval()
    for head in net.locate:
        nn.init.normal_(head[-1].weight, std=0.1)  # type: ignore[index]
    net.predict(images).boxes[-1].sum().backward()
    reached = [head[-1].weight.grad is not None and bool(head[-1].weight.grad.any()) for head in net.locate]  # type: ignore[index]
    assert reached == [False, twice, True]


def test_padding_of_a_batch_is_not_looked_at(tiny_backbone: Any) -> None:
    """Cells of the image: what stands in the padding changes nothing but what convolutions carry over its edge."""
    net = RTDETR(tiny_backbone(), CLASSES, **SMALL).eval()
    x = torch.randn(1, 32, 8, 8)
    images = Images(torch.zeros(1, 3, 256, 256), [(256, 160)])
    seen = net.encoder.within(images, x)[..., :5]
    x[..., 5:] = 9.0
    torch.testing.assert_close(net.encoder.within(images, x)[..., :5], seen)


def test_untrained_network_finds_every_class_rare_and_every_layer_has_the_boxes_of_the_cells(
    tiny_backbone: Any, scenes: Callable
) -> None:
    images, _ = of_scenes(scenes, [1, 1])
    net = RTDETR(tiny_backbone(), CLASSES, **SMALL).eval()
    found = net.predict(images)
    assert 0.001 < float(found.logits.sigmoid().mean()) < 0.05
    cells = found.selected.boxes.sigmoid().expand_as(found.boxes)
    torch.testing.assert_close(found.boxes, cells, rtol=1e-3, atol=2e-5)
    assert all(scale == 1 for scale in parameter_scales(net).values()), "all learn at the same rate"


def test_parameters_are_as_many_as_transformers_has_with_a_resnet_50() -> None:
    with torch.device("meta"):
        net = RTDETR(backbone.build("resnet50d"), 80)
    fixed = sum(p.numel() for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(p.numel() for p in net.parameters()) - fixed == 42_891_372  # its backbone's batch norm is constant


def test_denoising_is_left_out_when_evaluated_and_without_it(tiny_backbone: Any, scenes: Callable) -> None:
    images, targets = of_scenes(scenes, [2, 1])
    net = RTDETR(tiny_backbone(), CLASSES, **SMALL)
    assert any(name.startswith("dn_") for name in net(images, targets))
    assert not any(name.startswith("dn_") for name in net.eval()(images, targets))
    without = RTDETR(tiny_backbone(), CLASSES, **(SMALL | {"denoising": 0}))
    assert not any(name.startswith("dn_") for name in without(images, targets))
    assert not any("labels" in name for name, _ in without.named_parameters())


def test_width_that_the_heads_do_not_divide_is_refused(tiny_backbone: Any) -> None:
    with pytest.raises(UsageError, match="width 36 does not fit 8 heads"):
        RTDETR(tiny_backbone(), CLASSES, **(SMALL | {"encoder_width": 36, "heads": 8}))
