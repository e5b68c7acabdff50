"""A batch in one buffer opens as it was: any nest, any fields, any types of numbers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.devices.ahead import ahead
from shared.devices.device import kept_apart, to_device
from shared.devices.flat import ALIGNED, LARGE, Flat, flatten, opened, shared_memory

DTYPES = [
    torch.uint8,
    torch.bool,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


class Pair(NamedTuple):
    first: Any
    second: Any


def same(one: Any, other: Any) -> bool:
    """Equal types, shapes and values all through a nest; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def target(count: int, **more: Any) -> dict[str, Any]:
    return {"boxes": torch.rand(count, 4), "labels": torch.arange(count), "image_id": 10**12 + count, **more}


def batch() -> Any:
    """Three images of their own sizes with targets of which each has other fields, as several data sets give them."""
    masks = torch.zeros(2, 90, 70, dtype=torch.uint8)
    masks[0, 3:40, 5:60] = masks[1, 80:, 60:] = 1
    images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in ((5, 7), (90, 70), (1, 1))]
    return images, [
        target(0, dataset=1, known=torch.tensor([True, False, True])),
        target(2, masks=masks, mirrored=(1, 0), proposals=torch.rand(5, 5), absent=torch.tensor([4])),
        target(
            1, keypoints=torch.rand(1, 17, 3), unfinished=torch.zeros(0, dtype=torch.int64), proposals=torch.rand(0, 5)
        ),
    ]


def test_a_batch_with_fields_that_only_some_images_have_opens_as_it_was() -> None:
    before = batch()
    flat = flatten(before)
    assert flat.buffer.dtype is torch.uint8 and flat.buffer.dim() == 1
    assert same(opened(flat), before)


leaves = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.builds(
        lambda dtype, shape: (torch.arange(torch.Size(shape).numel()) % 5 - 1).reshape(shape).to(dtype),
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 3), max_size=3),
    ),
)
nests = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.lists(st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_size=4),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=12,
)


@given(nests)
def test_any_nest_opens_as_it_was(nest: Any) -> None:
    assert same(opened(flatten(nest)), nest)


def test_tensors_of_other_layouts_keep_their_values() -> None:
    square = torch.arange(12.0).view(3, 4)
    nest = (
        [square.T, square[:, ::2], square[1:, 1:].expand(2, 3)],
        square.view(1, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    )
    assert same(opened(flatten(nest)), nest)


def test_tensors_of_a_list_lie_one_after_another_and_columns_are_aligned() -> None:
    flat = flatten(([torch.rand(3, 4), torch.rand(1, 4)], [torch.zeros(5, dtype=torch.uint8)], torch.rand(2).double()))
    (one, two), (third,), fourth = opened(flat)
    assert two.data_ptr() == one.data_ptr() + one.nbytes
    start = flat.buffer.data_ptr()
    assert all((tensor.data_ptr() - start) % ALIGNED == 0 for tensor in (one, third, fourth))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_large_masks_take_a_bit_for_each_pixel(dtype: torch.dtype) -> None:
    masks = [(torch.rand(n, 61, 53) < 0.3).to(dtype) for n in (2, 0, 1)]
    flat = flatten(masks)
    assert len(flat.buffer) < 3 * 61 * 53 / 8 + 2 * ALIGNED
    assert same(opened(flat), masks)


def test_a_tensor_with_a_single_two_in_it_is_not_taken_for_a_mask() -> None:
    values = torch.zeros(LARGE + 100, dtype=torch.uint8)
    for place in (1, LARGE // 3, LARGE + 99):
        assert same(
            opened(flatten(values.index_fill(0, torch.tensor(place), 2))), values.index_fill(0, torch.tensor(place), 2)
        )


def test_a_batch_in_shared_memory_is_written_there_at_once() -> None:
    before = batch()
    flat = flatten(before, shared_memory)
    assert flat.buffer.is_shared() and same(opened(flat), before)


def test_layout_can_be_pickled_and_pinning_looks_no_further_than_the_buffer() -> None:
    flat = flatten(batch())
    again = Flat(flat.buffer, pickle.loads(pickle.dumps(flat.layout)))  # noqa: S301 - our own
    assert same(opened(again), opened(flat))
    assert not isinstance(flat.layout, dict | list | tuple) and not hasattr(flat.layout, "pin_memory")


def test_to_device_and_ahead_open_batches_and_lists_of_them() -> None:
    one, two, device = batch(), {"x": torch.ones(2)}, torch.device("cpu")
    assert same(to_device(flatten(one), device), one)
    steps = [[flatten(one), flatten(two)], [two]]
    assert same(list(ahead(steps, device)), [[one, two], [two]])


def test_a_batch_kept_apart_is_saved_and_read_without_running_anything(tmp_path: Path) -> None:
    before = batch()
    torch.save(kept_apart(flatten(before)), tmp_path / "batch.pt")
    assert same(torch.load(tmp_path / "batch.pt", weights_only=True), before)
