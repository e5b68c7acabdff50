"""The three numbers are what their papers say, on any matrix, in any order and however shared out; and they warn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backbones import backbone
from pretrain.probing import health as page
from pretrain.probing.health import Health, Moments, collapse, deviation, directions, effective_rank, health, health_of


def random_vectors(count: int = 60, width: int = 7, seed: int = 0, mean: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=rng) * torch.linspace(0.2, 3, width) + mean


def both_ways(width: int) -> Tensor:
    """(2 * width, width): every axis and its opposite, which is what evenly spread looks like."""
    return torch.cat((torch.eye(width), -torch.eye(width)))


# --- effective rank ---------------------------------------------------------------------------


def rank_of(matrix: Tensor) -> float:
    """RankMe as written in the paper, by an SVD."""
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize(
    ("values", "rank"), [([1, 1, 1, 1, 1], 5), ([3, 0, 0], 1), ([2, 2, 0, 0], 2), ([7, 7, 7, 0], 3)]
)
def test_effective_rank_counts_the_directions_of_a_matrix_that_uses_some_evenly(values: list, rank: int) -> None:
    turned, _ = torch.linalg.qr(torch.randn(9, len(values), dtype=torch.float64))
    z = turned * torch.tensor(values)
    assert effective_rank(z.T @ z) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_singular_values_two_to_one_is_the_exponential_of_their_entropy() -> None:
    z = torch.diag(torch.tensor([2.0, 1.0]).double())
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert effective_rank(z.T @ z) == pytest.approx(np.exp(entropy))


@given(count=st.integers(1, 40), width=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_effective_rank_is_the_paper_s_whichever_side_is_longer(count: int, width: int, seed: int) -> None:
    z = random_vectors(count, width, seed).double()
    assert effective_rank(z.T @ z) == pytest.approx(rank_of(z), rel=1e-3)


# --- the numbers ------------------------------------------------------------------------------


def test_images_of_one_direction_have_no_deviation_and_rank_one() -> None:
    found = health(torch.ones(20, 6) * torch.rand(20, 1))
    assert found.std == pytest.approx(0, abs=1e-6)
    assert found.covariance == pytest.approx(0, abs=1e-6)
    assert found.rank == pytest.approx(1)


def test_directions_that_fill_the_space_evenly_deviate_by_one_and_use_every_dimension() -> None:
    found = health(torch.cat([both_ways(6)] * 40))
    assert found.std == pytest.approx(1, rel=2e-3)
    assert found.covariance == pytest.approx(0, abs=1e-9)
    assert found.rank == pytest.approx(6)


def test_the_numbers_are_the_formulas_spelled_out() -> None:
    z = random_vectors(seed=3).double().numpy()
    unit = z / np.linalg.norm(z, axis=1, keepdims=True) * np.sqrt(z.shape[1])
    covariance = np.cov(unit, rowvar=False)
    between = (covariance**2).sum() - (np.diag(covariance) ** 2).sum()
    found = health(torch.from_numpy(z))
    assert found.std == pytest.approx(unit.std(0, ddof=1).mean())
    assert found.covariance == pytest.approx(between / z.shape[1])
    assert found.rank == pytest.approx(rank_of(torch.from_numpy(unit)), rel=1e-4)


@pytest.mark.slow  # lightly takes seconds to import
def test_the_covariance_term_is_that_of_lightly_s_vicreg() -> None:
    theirs = pytest.importorskip("lightly.loss.vicreg_loss").covariance_loss
    vectors = random_vectors(seed=5)
    unit = directions(vectors)
    assert health(vectors).covariance == pytest.approx(float(theirs(unit - unit.mean(0))), rel=1e-5)


@given(seed=st.integers(0, 2**31))
def test_lengths_of_vectors_do_not_matter(seed: int) -> None:
    vectors = random_vectors(seed=seed)
    longer = vectors * torch.rand(len(vectors), 1, generator=torch.Generator().manual_seed(seed)).add(0.01) * 1e-3
    assert tuple(health(longer)) == pytest.approx(tuple(health(vectors)), rel=1e-4)


@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 2**31))
def test_moments_are_the_same_in_any_parts(cuts: list[int], seed: int) -> None:
    vectors = directions(random_vectors(seed=seed))
    whole, parted = Moments(7), Moments(7)
    whole.add(vectors)
    for part in torch.tensor_split(vectors, sorted(cuts)):
        parted.add(part)
    assert tuple(health_of(parted)) == pytest.approx(tuple(health_of(whole)), rel=1e-9)


def test_processes_share_the_vectors_out_and_get_the_numbers_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors()
    alone = health(vectors)

    def with_another(share: tuple) -> list[tuple]:
        other = Moments(7)
        other.add(directions(vectors[40:]))
        return [share, (other.count, other.sum, other.products)]

    monkeypatch.setattr(page.dist, "gather", with_another)
    assert tuple(health(vectors[:40])) == pytest.approx(tuple(alone), rel=1e-9)


def test_a_process_without_a_share_counts_for_nothing() -> None:
    assert tuple(health(torch.zeros(0, 5))) == (0.0, 0.0, 0.0)


def test_what_the_loss_compares_deviates_by_its_mean_deviation_and_not_at_all_where_it_compares_nothing() -> None:
    vectors = random_vectors()
    assert deviation(lambda x: x[:, :3] * 2, vectors, rows=16) == pytest.approx(float(2 * vectors[:, :3].std(0).mean()))
    assert deviation(lambda x: None, vectors) is None


# --- the warning ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "compared", "word"),
    [
        (Health(0.001, 0.0, 5.0), None, "one direction"),
        (Health(0.5, 9.0, 1.5), 1.0, "one direction"),
        (Health(0.7, 1.0, 40.0), 0.02, "its target 1"),
    ],
)
def test_a_collapse_is_told_in_one_sentence_with_a_way_out(found: Health, compared: float | None, word: str) -> None:
    sentence = collapse(found, 64, compared)
    assert sentence is not None and word in sentence and "--lr" in sentence
    assert "\n" not in sentence and sentence.count(". ") == 0


def test_a_living_representation_is_not_warned_of() -> None:
    assert collapse(Health(0.3, 10.0, 20.0), 64, None) is None
    assert collapse(Health(0.3, 10.0, 20.0), 64, 0.3) is None


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_networks_at_random_weights_are_not_taken_for_collapsed_and_constant_ones_are(arch: str) -> None:
    net = backbone.build(arch).eval()
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = images + torch.randn(64, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        vectors = net(images)
    assert collapse(health(vectors), net.width, None) is None
    noisy = vectors.mean(0) + 1e-3 * vectors.std() * torch.randn_like(vectors)
    assert collapse(health(noisy), net.width, None) is not None
