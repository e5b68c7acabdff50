"""Classes that a file does not annotate: without an object nothing is said of them; elsewhere all is as usual."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.parts.dense.focal import NOTHING, focal_loss
from detection.parts.known import hidden, unknown_of
from detection.types import Target

KNOWN = torch.tensor([True, False, True, True])


def target(known: Tensor | None) -> Target:
    one = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return one if known is None else Target(**{**one, "known": known})


def test_without_files_that_lack_classes_the_logits_are_the_same_object() -> None:
    logits = torch.randn(2, 3, 4)
    assert unknown_of([target(None)] * 2) is None
    assert hidden(logits, torch.ones(2, 3, dtype=torch.bool), unknown_of([target(None)] * 2)) is logits


def test_sigmoids_lose_the_columns_of_empty_places_of_that_image_alone() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.tensor([[NOTHING, 2, NOTHING], [NOTHING, NOTHING, 0]])
    seen = hidden(logits, labels < 0, unknown_of([target(KNOWN), target(None)]))
    loss = focal_loss(seen.flatten(0, 1), labels.flatten())
    loss.backward()
    assert logits.grad is not None
    silent = (logits.grad == 0).nonzero().tolist()
    assert silent == [[0, 0, 1], [0, 2, 1]]
    parts = [
        focal_loss(logits[0, [0, 2]][:, KNOWN], labels[0, [0, 2]]),
        focal_loss(logits[0, [1]], labels[0, [1]]),
        focal_loss(logits[1], labels[1]),
    ]
    assert torch.allclose(loss, torch.stack(parts).sum())


@pytest.mark.parametrize("background", ["first", "last"])
def test_a_softmax_chooses_among_background_and_known_classes(background: str) -> None:
    logits = torch.randn(1, 2, 5, requires_grad=True)
    own = slice(1, None) if background == "first" else slice(0, -1)
    seen = hidden(logits, torch.tensor([[True, False]]), unknown_of([target(KNOWN)]), background=background)  # type: ignore[arg-type]
    columns = torch.ones(5, dtype=torch.bool)
    columns[own] = KNOWN
    expected = logits[0, 0, columns].log_softmax(0)
    assert torch.allclose(F.log_softmax(seen, -1)[0, 0, columns], expected)
    assert torch.equal(seen[0, 1], logits[0, 1])
    F.cross_entropy(seen[0], torch.zeros(2, dtype=torch.int64)).backward()
    assert logits.grad is not None and (logits.grad[0, 0] == 0).tolist() == (~columns).tolist()


def test_regions_of_several_images() -> None:
    logits = torch.zeros(3, 5)
    images, empty = torch.tensor([1, 0, 0]), torch.tensor([True, True, False])
    seen = hidden(logits, empty, unknown_of([target(KNOWN), target(None)]), background="first", image_of=images)
    assert (seen < 0).nonzero().tolist() == [[1, 2]]


def test_half_precision_holds_never() -> None:
    seen = hidden(
        torch.zeros(1, 1, 4, dtype=torch.float16), torch.ones(1, 1, dtype=torch.bool), unknown_of([target(KNOWN)])
    )
    assert seen.isfinite().all() and seen.sigmoid()[0, 0, 1] == 0
