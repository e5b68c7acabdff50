"""Detections of two programs compared as sets, since rounding decides in which order nearly equal scores come."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def pairs_of_same(ours: Any, theirs: Any, first_label: int = 0) -> tuple[Tensor, Tensor]:
    """(N,), (N,): the rows that both found: same label, score within 1e-4, corners within a hundredth of a pixel.

    Of two overlapping boxes with nearly equal scores, rounding decides which one suppresses the other, and at the last
    place which one is kept; so nine tenths must be the same, not all.

    Args:
        first_label: the number that `theirs` calls label 0.
    """
    count, other = len(ours["scores"]), len(theirs["scores"])
    assert count > 5 and abs(count - other) <= 0.1 * other, f"{count} detections for {other}"
    close = (
        (ours["labels"][:, None] == theirs["labels"] - first_label)
        & ((ours["scores"][:, None] - theirs["scores"]).abs() < 1e-4)
        & ((ours["boxes"][:, None] - theirs["boxes"]).abs().amax(2) < 1e-2)
    )
    mine, same = close.nonzero().unbind(1)
    for rows, of in ((mine, count), (same, other)):
        assert len(rows.unique()) >= 0.9 * of, f"only {len(rows.unique())} of {of} detections are the same"
    return mine, same
