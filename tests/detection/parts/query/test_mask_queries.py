"""Masks of queries: what is computed once for an image is the same as computed for each, and what detections hold."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.base import MapInfo
from detection.parts.query.mask_queries import MaskHead, mask_losses, padded_masks, segmented, top_left
from detection.types import Detections, Target
from shared.errors import UsageError

MAPS = [MapInfo(8, 4), MapInfo(12, 8), MapInfo(16, 16), MapInfo(20, 32)]


def sight_of(head: MaskHead, maps: list[MapInfo], images: int = 2, side: int = 64) -> tuple[torch.Tensor, ...]:
    rows = side // maps[-1].stride
    pyramid = [torch.randn(images, c, side // s, side // s) for c, s in maps]
    return (
        torch.randn(images, 5, 32),
        torch.randn(images, rows * rows, 32),
        torch.randn(images, 32, rows, rows),
        *pyramid,
    )


@pytest.mark.parametrize(
    ("maps", "side"),
    [(MAPS, 4), (MAPS[:3], 4), (MAPS[1:], 8), ([MapInfo(16, 16)], 4), ([*MAPS[:3], MapInfo(20, 16)], 4)],
    ids=["pyramid", "to stride 16", "from stride 8", "plain ViT", "dilated"],
)
def test_masks_are_drawn_on_the_finest_map_there_is(maps: list[MapInfo], side: int) -> None:
    head = MaskHead(32, 4, maps)
    states, memory, narrow, *pyramid = sight_of(head, maps)
    sight = head.look(states, memory, None, narrow, pyramid)
    drawn = head.draw(sight, torch.tensor([0, 1, 1]), torch.tensor([4, 0, 2]))
    assert drawn.shape == (3, 64 // side, 64 // side) and drawn.dtype == torch.float32
    drawn.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_a_query_is_drawn_the_same_alone_and_among_others() -> None:
    head = MaskHead(32, 4, MAPS)
    states, memory, narrow, *pyramid = sight_of(head, MAPS)
    sight = head.look(states, memory, None, narrow, pyramid)
    image, query = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 3, 3, 1])
    together = head.draw(sight, image, query)
    own = head.look(states[1:], memory[1:], None, narrow[1:], [x[1:] for x in pyramid])
    alone = head.draw(own, torch.tensor([0]), torch.tensor([3]))
    torch.testing.assert_close(alone[0], together[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[2], together[3], atol=1e-6)


def test_attention_sums_to_one_over_all_heads_and_never_looks_at_padding() -> None:
    head = MaskHead(32, 4, MAPS)
    states, memory, narrow, *pyramid = sight_of(head, MAPS)
    hidden = torch.zeros(2, 1, 1, 4)
    hidden[1, ..., 2:] = -torch.inf
    attention = head.look(states, memory, hidden, narrow, pyramid).attention
    assert attention.shape == (2, 5, 4, 2, 2)
    torch.testing.assert_close(attention.sum((2, 3, 4)), torch.ones(2, 5))
    assert (attention[1, ..., 1, :] == 0).all() and (attention[0, ..., 1, :] > 0).all()


def test_width_that_cannot_be_halved_so_often_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 16 and of the 4 heads, not 24; give 256$"):
        MaskHead(24, 4, MAPS)


def test_losses_are_those_of_the_formulas() -> None:
    logits, wanted = torch.randn(3, 4, 4, dtype=torch.float64), torch.randint(0, 2, (3, 8, 8), dtype=torch.uint8)
    losses = mask_losses(logits, wanted, torch.tensor(2.0, dtype=torch.float64))
    focal = dice = 0.0
    for own, mask in zip(F.interpolate(logits[None], (8, 8), mode="bilinear")[0], wanted, strict=True):
        p, t = own.sigmoid(), mask.double()
        sure = torch.where(t > 0, p, 1 - p)
        focal += (torch.where(t > 0, 0.25, 0.75) * (1 - sure) ** 2 * -sure.log()).mean() / 2
        dice += (1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)) / 2
    torch.testing.assert_close(losses["masks"], torch.as_tensor(focal))
    torch.testing.assert_close(losses["dice"], torch.as_tensor(dice))


def test_masks_are_put_on_the_canvas_of_the_batch() -> None:
    first = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    told = {"boxes": torch.zeros(2, 4), "labels": torch.zeros(2)}
    targets = [Target(**told, masks=first), Target(**told, masks=torch.ones(2, 5, 2, dtype=torch.uint8))]
    canvas = padded_masks(targets, [torch.tensor([1, 0]), torch.tensor([1])], (6, 8))
    assert canvas.shape == (3, 6, 8) and torch.equal(canvas[0, :3, :4], first[1])
    assert canvas.sum().item() == first.sum().item() + 10
    with pytest.raises(UsageError, match="use --dataset coco_panoptic"):
        padded_masks([Target(**told)], [torch.tensor([0])], (6, 8))


def test_part_of_the_grid_lies_over_exactly_the_image() -> None:
    ramp = (torch.arange(16.0) + 0.5)[None, None].expand(1, 16, -1)  # 16 cells over 64 pixels, each its middle / 4
    assert torch.equal(top_left(ramp, (64, 64), (32, 48)), ramp[:, :8, :12])
    part = top_left(ramp, (64, 64), (64, 50))
    assert part.shape == (1, 16, 13)
    torch.testing.assert_close(
        part[0, 0, 1:], (torch.arange(1, 13) + 0.5) / 13 * 12.5
    )  # before the first middle: no ramp


def test_detections_hold_their_masks_over_the_box_and_over_the_image() -> None:
    logits = torch.full((1, 16, 24), -8.0)
    logits[0, 4:8, 2:4] = 8
    found = Detections(boxes=torch.tensor([[8.0, 16, 24, 32]]), labels=torch.tensor([0]), scores=torch.tensor([0.9]))
    full = segmented(found, logits, (64, 96), (48, 40))
    masks = full["masks"]  # type: ignore[typeddict-item]
    assert masks.shape == (1, 28, 28) and ((masks >= 0) & (masks <= 1)).all()
    inside = masks[0, 4:-4]
    assert inside[:, 4:12].min() > 0.5 and inside[:, 17:].max() < 0.5, "the left half of the box"
    assert full["segments"].shape == (1, 12, 10) and (full["segments"] > 0).sum() == 8
