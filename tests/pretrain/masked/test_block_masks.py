"""I-JEPA's masks: sizes follow the step, places the random state; the context sees no target unless it has to."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from pretrain.masked.block_masks import BlockMasks, Masks, Size, block_size
from shared.errors import UsageError

grids = st.tuples(st.integers(2, 20), st.integers(2, 20))
seeds = st.integers(0, 2**31)


def drawn(grid: Size, *, count: int = 4, step: int = 0, seed: int = 0, **told: int) -> Masks:
    torch.manual_seed(seed)
    return BlockMasks(grid, **told).draw(count, step)


def masks_of(grid: Size, min_keep: int, **told: int) -> BlockMasks:
    try:
        return BlockMasks(grid, min_keep=min_keep, **told)
    except UsageError:
        assume(False)
        raise


def is_block(indices: Tensor, grid: Size, size: Size) -> bool:
    rows, columns = indices // grid[1], indices % grid[1]
    whole = itertools.product(
        range(int(rows.min()), int(rows.max()) + 1), range(int(columns.min()), int(columns.max()) + 1)
    )
    told = (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1)
    return told == size and indices.tolist() == [row * grid[1] + column for row, column in whole]


# --- sizes ----------------------------------------------------------------------------------


@given(grid=grids, low=st.floats(0.05, 0.5), more=st.floats(0, 0.5), chance=st.floats(0, 1))
def test_a_block_has_the_area_and_the_shape_it_was_told(grid: Size, low: float, more: float, chance: float) -> None:
    down, across = block_size(grid, (low, low + more), (0.75, 1.5), chance)
    assert 1 <= down < grid[0] and 1 <= across < grid[1]
    area, shape = math.prod(grid) * (low + chance * more), 0.75 + chance * 0.75
    for side, wanted, limit in (
        (down, math.sqrt(area * shape), grid[0] - 1),
        (across, math.sqrt(area / shape), grid[1] - 1),
    ):
        assert side == min(max(round(wanted), 1), limit)


def test_sizes_on_the_grid_of_the_paper_are_those_worked_out_by_hand() -> None:
    sizes = {BlockMasks((14, 14)).sizes(step) for step in range(300)}
    targets, contexts = {target for target, _ in sizes}, {context for _, context in sizes}
    # from 29.4 patches, 4.7 by 6.3, to 39.2 patches, 7.7 by 5.1; 6.5 down comes a little after 5.5 across
    assert targets == {(5, 6), (6, 6), (6, 5), (7, 5), (8, 5)}
    assert contexts == {(13, 13)}, "166.6 patches and more, at most 13 a side"


def test_area_and_shape_of_a_target_lie_the_same_way() -> None:
    for step in range(200):
        down, across = BlockMasks((1000, 1000)).sizes(step)[0]
        assert (down * across / 1e6 - 0.15) / 0.05 == pytest.approx((down / across - 0.75) / 0.75, abs=0.02)


def test_sizes_of_all_steps_spread_evenly() -> None:
    areas = torch.tensor([math.prod(BlockMasks((1000, 1000)).sizes(step)[0]) / 1e6 for step in range(2000)])
    assert (areas.histc(5, 0.15, 0.2) / 2000 - 0.2).abs().max() < 0.04


@given(step=st.integers(0, 10**7), seed=seeds)
def test_sizes_are_a_function_of_the_step_alone_and_disturb_no_random_state(step: int, seed: int) -> None:
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    sizes = BlockMasks((16, 16)).sizes(step)
    assert torch.equal(torch.get_rng_state(), before)
    assert sizes == BlockMasks((16, 16), num_targets=2, min_keep=0).sizes(step)


# --- masks ----------------------------------------------------------------------------------


@given(
    grid=grids,
    count=st.integers(1, 5),
    step=st.integers(0, 99),
    seed=seeds,
    targets=st.integers(1, 5),
    keep=st.integers(0, 12),
)
def test_targets_are_whole_blocks_and_the_context_what_a_block_leaves(
    grid: Size, count: int, step: int, seed: int, targets: int, keep: int
) -> None:
    masks = masks_of(grid, keep, num_targets=targets)
    torch.manual_seed(seed)
    context, blocks = masks.draw(count, step)
    target_size, context_size = masks.sizes(step)
    assert blocks.shape == (count, targets, math.prod(target_size))
    assert all(is_block(block, grid, target_size) for image in blocks for block in image)
    assert keep < context.shape[1] <= math.prod(context_size)
    for image in context:
        rows, columns = image // grid[1], image % grid[1]
        assert (image.diff() > 0).all(), "ascending, each once"
        assert int(rows.max() - rows.min()) < context_size[0] and int(columns.max() - columns.min()) < context_size[1]


@given(grid=grids, step=st.integers(0, 99), seed=seeds, keep=st.integers(0, 12))
def test_the_context_sees_a_target_only_where_no_place_would_leave_enough_without(
    grid: Size, step: int, seed: int, keep: int
) -> None:
    masks = masks_of(grid, keep)
    torch.manual_seed(seed)
    ((context, *_), (targets, *_)) = masks.draw(1, step)
    size = masks.sizes(step)[1]
    seen = [bool(set(context.tolist()) & set(target.tolist())) for target in targets]
    places = list(itertools.product(range(grid[0] - size[0] + 1), range(grid[1] - size[1] + 1)))
    for respected in range(len(targets), -1, -1):
        covered = set(targets[:respected].flatten().tolist())
        left = [set(block_at(place, size, grid)) - covered for place in places]
        if any(len(patches) > keep for patches in left):
            break
    assert not any(seen[:respected]), "the last ones are given up first"
    assert set(context.tolist()) in [patches for patches in left if len(patches) > keep]


def block_at(place: Size, size: Size, grid: Size) -> list[int]:
    return [(place[0] + i) * grid[1] + place[1] + j for i in range(size[0]) for j in range(size[1])]


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (10, 16)])
def test_on_usual_grids_the_context_hardly_ever_sees_a_target(grid: Size) -> None:
    overlaps = 0
    for step in range(20):
        context, targets = drawn(grid, count=16, step=step, seed=step)
        overlaps += sum(
            bool(set(c.tolist()) & set(t.flatten().tolist())) for c, t in zip(context, targets, strict=True)
        )
    assert overlaps <= (8 if grid == (8, 8) else 0)


@given(seed=seeds, step=st.integers(0, 99), count=st.integers(2, 8))
def test_every_image_keeps_its_first_patches_as_many_as_the_poorest_has(seed: int, step: int, count: int) -> None:
    masks = BlockMasks((10, 12))
    torch.manual_seed(seed)
    context, targets = masks.draw(count, step)
    torch.manual_seed(seed)
    for size in masks.sizes(step)[:1]:  # the same numbers once more: corners first, then the places of the contexts
        for side, block in zip(masks.grid, size, strict=True):
            torch.randint(side - block + 1, (count, 4))
    seen = masks.place_context(targets, masks.sizes(step)[1])
    whole = [image.nonzero().flatten() for image in seen]
    assert context.shape[1] == min(len(image) for image in whole)
    assert all(torch.equal(cut, image[: len(cut)]) for cut, image in zip(context, whole, strict=True))


def test_places_are_even_over_the_grid() -> None:
    _, targets = drawn((14, 14), count=4000)
    down, across = BlockMasks((14, 14)).sizes(0)[0]
    corners = targets[..., 0].flatten()
    counts = torch.bincount(corners, minlength=196).view(14, 14)[: 14 - down + 1, : 14 - across + 1]
    assert counts.sum() == len(corners)
    assert (counts / len(corners) * counts.numel() - 1).abs().max() < 0.3


def test_contexts_lie_at_every_place_there_is() -> None:
    seen = BlockMasks((14, 14)).place_context(torch.zeros(2000, 1, 1, dtype=torch.long), (13, 13))
    corner = seen.view(-1, 14, 14)[:, [0, 0, 13, 13], [1, 13, 0, 13]]  # which sides of the grid are reached
    assert corner.any(0).all() and not corner.all(0).any()
    first = (seen.int().argmax(1)).bincount(minlength=16)
    assert first[[1, 14, 15]].sum() == 2000 and (first[[14, 15]] / 2000 - 0.25).abs().max() < 0.05


@given(seed=seeds, step=st.integers(0, 99))
def test_masks_follow_the_random_state_and_images_differ(seed: int, step: int) -> None:
    first, again, other = (drawn((14, 14), step=step, seed=s) for s in (seed, seed, seed + 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.targets, other.targets)
    assert len({tuple(image.flatten().tolist()) for image in first.targets}) == 4


# --- what cannot be masked ------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "keep"), [((2, 2), 10), ((4, 4), 10), ((1, 30), 0), ((30, 1), 0), ((14, 14), 169)])
def test_a_grid_that_cannot_leave_enough_is_refused(grid: Size, keep: int) -> None:
    with pytest.raises(UsageError, match=r"too small to mask: .* take a larger --size, a smaller patch or a smaller"):
        BlockMasks(grid, min_keep=keep)


@pytest.mark.parametrize(("grid", "keep"), [((2, 2), 0), ((5, 5), 10), ((4, 4), 8), ((14, 14), 168)])
def test_the_smallest_grids_that_can_are_served(grid: Size, keep: int) -> None:
    for step in range(30):
        assert drawn(grid, count=3, step=step, min_keep=keep).context.shape[1] > keep
