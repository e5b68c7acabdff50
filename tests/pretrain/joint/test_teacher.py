"""Teachers that follow: schedules are lightly's, and so is the average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.joint.teacher import copied, cosine, follow


@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.04, 0.07), (1.0, 0.0)])
def test_schedule_is_that_of_lightly(start: float, end: float) -> None:
    from lightly.utils.scheduler import cosine_schedule

    for step in range(11):
        assert cosine(start, end, step / 10) == pytest.approx(cosine_schedule(step, 11, start, end), abs=1e-12)


def test_following_is_that_of_lightly() -> None:
    from lightly.models.utils import update_momentum

    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = copied(student)
    theirs = copied(student)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    follow(ours, student, 0.25)
    update_momentum(student, theirs, m=0.75)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
