"""Neighbors vote as spelled out by hand, a probe tells what is there to tell, and it leaves no trace."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones import backbone
from pretrain.methods import Facts, Method, method
from pretrain.probing import probe as page
from pretrain.probing.probe import Probe, Vectors, check_k, eval_mode, knn_votes, nearest_neighbors, shares_right
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS

NEUTRAL = PIXEL_STATS["neutral"]


def some(count: int, width: int = 5, classes: int = 4, seed: int = 0) -> Vectors:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=rng)
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return Vectors(centers[labels] + torch.randn(count, width, generator=rng), labels)


# --- neighbors -------------------------------------------------------------------------------


def votes_by_hand(bank: Vectors, query: Tensor, classes: int, k: int, temperature: float) -> list[float]:
    """One query, one neighbor at a time."""
    cosines = []
    for vector, label in zip(bank.values.double().tolist(), bank.labels.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(vector, query.double().tolist(), strict=True))
        lengths = math.sqrt(sum(a * a for a in vector)) * math.sqrt(sum(b * b for b in query.double().tolist()))
        cosines.append((dot / lengths, label))
    votes = [0.0] * classes
    for cosine, label in sorted(cosines, reverse=True)[:k]:
        votes[label] += math.exp(cosine / temperature)
    return votes


@given(
    k=st.integers(1, 12), temperature=st.sampled_from([0.07, 0.5, 3.0]), count=st.integers(12, 40), seed=st.integers(0)
)
def test_votes_are_those_counted_by_hand(k: int, temperature: float, count: int, seed: int) -> None:
    bank, queries = some(count, seed=seed % 2**31), some(6, seed=seed % 2**31 + 1).values
    votes = knn_votes(bank, queries, 4, k=k, temperature=temperature)
    wanted = torch.tensor([votes_by_hand(bank, query, 4, k, temperature) for query in queries])
    torch.testing.assert_close(votes.clamp(min=0), wanted, rtol=1e-4, atol=1e-4)
    assert ((votes > 0) == (wanted > 0)).all()


def test_nearer_neighbors_weigh_more_so_the_temperature_can_outvote_the_majority() -> None:
    bank = Vectors(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.1]]), torch.tensor([0, 1, 1]))
    query = torch.tensor([[3.0, 0.1]])
    assert knn_votes(bank, query, 2, k=3, temperature=0.07).argmax() == 0
    assert knn_votes(bank, query, 2, k=3, temperature=10.0).argmax() == 1


@pytest.mark.slow  # lightly takes seconds to import
def test_predictions_are_those_of_lightly() -> None:
    theirs = pytest.importorskip("lightly.utils.benchmarking.knn").knn_predict
    bank, queries = some(200, 16, 10, seed=3), some(80, 16, 10, seed=4).values
    unit = torch.nn.functional.normalize
    wanted = theirs(unit(queries), unit(bank.values).T, bank.labels, 10, knn_k=20, knn_t=0.07)[:, 0]
    votes = knn_votes(bank, queries, 10, k=20, temperature=0.07)
    best, second = votes.topk(2).values.unbind(1)
    clear = best > 1.001 * second  # of equal votes, rounding decides
    assert clear.sum() > 70 and torch.equal(votes.argmax(1)[clear], wanted[clear])


@given(cut=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_processes_that_share_the_bank_find_the_neighbors_of_the_whole(cut: int, seed: int) -> None:
    bank, queries = some(30, seed=seed), some(8, seed=seed + 1).values
    first, second = Vectors(bank.values[:cut], bank.labels[:cut]), Vectors(bank.values[cut:], bank.labels[cut:])
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.dist, "gather", lambda mine: told.append(mine) or [mine])
        knn_votes(second, queries, 4, k=min(9, 30 - cut), temperature=0.07) if cut < 30 else None
        other = told or [(torch.zeros(8, 0), torch.zeros(8, 0, dtype=torch.int64))]
        patch.setattr(page.dist, "gather", lambda mine: [mine, other[0]])
        shared = knn_votes(first, queries, 4, k=9, temperature=0.07)
    torch.testing.assert_close(shared, knn_votes(bank, queries, 4, k=9, temperature=0.07), rtol=1e-5, atol=1e-5)


def test_queries_are_taken_in_parts_that_fit_into_memory_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = some(50), some(17, seed=1)
    whole = nearest_neighbors(bank, queries, 4)
    monkeypatch.setattr(page, "AT_ONCE", 120)  # two queries at a time
    assert nearest_neighbors(bank, queries, 4) == whole


def test_top_five_counts_classes_that_have_votes_and_is_left_out_where_there_are_five_or_fewer() -> None:
    bank = Vectors(torch.eye(3), torch.tensor([0, 1, 2]))
    votes = knn_votes(bank, torch.eye(3)[:1], 9, k=2, temperature=1.0)
    assert shares_right(votes, torch.tensor([0]), "knn") == {"knn": 1.0, "knn_top5": 1.0}
    assert shares_right(votes, torch.tensor([8]), "knn") == {"knn": 0.0, "knn_top5": 0.0}
    assert shares_right(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), "knn") == {"knn": 1.0}


def test_more_neighbors_than_images_are_refused_with_the_flag_that_helps() -> None:
    check_k(20, 20)
    with pytest.raises(UsageError, match=r"21 nearest neighbors .* 20 images; give a smaller --probe-k"):
        check_k(21, 20, "--probe-k")


# --- the probe --------------------------------------------------------------------------------


class Color(Method):
    """A method whose backbone is a layer over the mean color; nothing in it learns here."""

    def __init__(self, gain: float = 1.0, shift: float = 0.0, expander: float | None = None) -> None:
        super().__init__()
        self.backbone: Any = Mean(gain, shift)
        self.expander = expander

    def view(self) -> Any: ...

    def val_view(self) -> Any: ...

    def embed(self, vectors: Tensor) -> Tensor | None:
        return None if self.expander is None else self.expander * vectors


class Mean(nn.Module):
    """(B, 3, H, W) -> (B, 3): mean colors through a batch norm."""

    width = 3

    def __init__(self, gain: float, shift: float) -> None:
        super().__init__()
        self.norm, self.gain, self.shift = nn.BatchNorm1d(3), gain, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.norm(x.mean((2, 3))) + self.shift


@pytest.fixture
def colored() -> Callable[..., list[tuple[Tensor, Tensor]]]:
    """Batches of pictures in one of three colors, and which."""

    def make(count: int = 60, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        rng = torch.Generator().manual_seed(seed)
        labels = torch.randint(3, (count,), generator=rng)
        pictures = torch.randint(60, (count, 3, 4, 4), generator=rng, dtype=torch.uint8)
        pictures[torch.arange(count), labels] += 180
        return list(zip(pictures.split(16), labels.split(16), strict=True))

    return make


def probe_of(colored: Callable) -> Probe:
    return Probe(colored(), colored(30, 1), 3, NEUTRAL, torch.device("cpu"))


def test_a_probe_of_colors_tells_colored_pictures_apart(colored: Callable) -> None:
    metrics = probe_of(colored)(Color())
    assert list(metrics) == ["knn", "std", "covariance", "rank"]
    assert metrics["knn"] == 1.0 and metrics["rank"] == pytest.approx(3, rel=0.2)
    assert probe_of(colored)(Color()) == metrics


@pytest.mark.parametrize(
    ("task", "word"),
    [
        (Color(), None),
        (Color(expander=3.0), None),
        (Color(gain=1e-3, shift=1.0), "one direction"),
        (Color(expander=0.01), "its target 1"),
    ],
)
def test_a_probe_warns_of_a_collapse_and_of_nothing_else(
    task: Color, word: str | None, colored: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        metrics = probe_of(colored)(task)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if word else [])
    assert word is None or word in caplog.text
    assert ("embedding_std" in metrics) == (task.expander is not None)


def test_a_probe_leaves_statistics_weights_modes_and_gradients_as_they_were(colored: Callable) -> None:
    task = Color()
    task.train()
    task.backbone.norm.eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    probe_of(colored)(task)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert (task.training, task.backbone.training, task.backbone.norm.training) == (True, True, False)
    assert all(p.grad is None and p.requires_grad for p in task.parameters())


def test_the_exported_encoder_is_the_one_that_is_probed(colored: Callable) -> None:
    class Taught(Color):
        def __init__(self) -> None:
            super().__init__(gain=0.0, shift=1.0)
            self.teacher = Mean(1.0, 0.0)

        def exports(self) -> dict[str, nn.Module]:
            return {"backbone": self.teacher}

    assert probe_of(colored)(Taught().train()) == probe_of(colored)(Color())


def test_rest_sees_weights_as_they_are_now() -> None:
    """TinyViT keeps what it made of its weights in eval mode until it is set to train."""
    net = backbone.build("tiny_vit_5m").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(image)
        for name, value in net.named_parameters():
            if "attention_bias" in name:
                value.add_(torch.randn_like(value))
        with eval_mode(net):
            after = net(image)
    assert not torch.allclose(before, after) and not net.training


@pytest.mark.parametrize("name", method.names())
def test_what_methods_compare_is_one_row_for_each_vector_or_nothing(name: str) -> None:
    torch.manual_seed(0)
    net = backbone.build("test_vit")
    needed = {"teacher": "untrained:test_vit"} if name == "distill" else {}
    task = method.build(name, net, Facts((128, 128), 4, NEUTRAL), **needed).eval()
    made = task.embed(torch.randn(5, net.width))
    assert made is None or (made.dim() == 2 and len(made) == 5)
