"""The pieces of bilinear looks: hats, their slopes, the cells they stand on, and where gradients are gathered."""

from __future__ import annotations

import torch

from detection.parts.query.bilinear import dot_products, grid_of, hat, located, slope, spread, to_rows


def test_a_hat_is_1_at_its_place_and_0_from_the_next_one_on() -> None:
    assert hat(torch.tensor([-2.0, -1, -0.25, 0, 0.5, 1, 7])).tolist() == [0, 0, 0.75, 1, 0.5, 0, 0]


def test_a_slope_is_the_hats_derivative_and_that_to_the_right_where_there_are_two() -> None:
    s = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    assert {-1.0, 0.0, 1.0} <= set(s.tolist())
    torch.testing.assert_close(slope(s), (hat(s + 1e-6) - hat(s)) / 1e-6)


def test_a_place_lies_between_the_four_rows_around_it() -> None:
    """Two heads; a map of 2 x 3 before one of 1 x 1, which has no other corners."""
    grid = grid_of([(2, 3), (1, 1)], heads=2, points=1, like=torch.zeros(1))
    places = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).repeat(2, 1)[None]  # (Q, N, 2)
    taps = located(places, grid)
    corners = torch.stack(taps.rows, -1)[0].tolist()
    upper_left = [2 * 1, 2 * 6, 2 * 1 + 1, 2 * 6 + 1]  # of head 0 in both maps, then of head 1
    assert [c[0] for c in corners] == upper_left
    assert corners[0] == [2, 4, 8, 10] and corners[1] == [12] * 4 and corners[2] == [3, 5, 9, 11]
    assert taps.near[0, 0].tolist() == [0, 0.5] and taps.far[0, 0].tolist() == [-1, -0.5]
    shares = torch.stack(spread(torch.ones(1, 4), hat(taps.near), hat(taps.far)), -1)[0].tolist()
    assert shares[0] == [0.5, 0, 0.5, 0] and shares[1] == [1, 0, 0, 0]


def test_dot_products_and_gathered_gradients_are_those_of_dense_matrices() -> None:
    rows, vectors, table = torch.randint(9, (5, 4), dtype=torch.int32), torch.randn(5, 3), torch.randn(9, 3)
    torch.testing.assert_close(
        dot_products(rows, table, vectors), (table[rows.long()] * vectors[:, None]).sum(-1).flatten()
    )
    shares = [torch.rand(5, 4) for _ in range(4)]
    corners = [rows, (rows + 1) % 9, (rows + 3) % 9, (rows + 4) % 9]
    wanted = torch.ones(9, 3)
    for corner, share in zip(corners, shares, strict=True):
        for query in range(5):
            for look in range(4):
                wanted[corner[query, look]] += share[query, look] * vectors[query]
    found = torch.ones(9, 3)
    to_rows(found, corners, shares, vectors, looks=4)
    torch.testing.assert_close(found, wanted)
